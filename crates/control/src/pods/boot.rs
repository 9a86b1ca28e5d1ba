//! Waiting until an agent is ready for the first time.

use std::time::Duration;

use domain::{Backoff, Event, FailReason, NodeShortage, RunId};
use store::{AgentObservation, RunRecord};
use tokio::time::Instant;
use tokio::try_join;
use wire::v1::node::{GuestReport, Sandbox, SandboxPhase};

use crate::context::Context;
use crate::fleet::node::{Node, within};
use crate::pods::error::{SpawnError, SpawnFailure};

/// How long one question for readiness is held.
const WAIT: Duration = Duration::from_secs(20);
/// How much longer than another agent one may take whose volumes are checked: its node gives up first.
const LONGEST_CHECK: Duration = Duration::from_hours(24);
/// When a node that did not answer is asked again.
const ASK_AGAIN: Backoff = Backoff { first: Duration::from_millis(200), longest: Duration::from_secs(1) };

impl Context {
    pub(super) async fn until_ready(
        &self,
        node: &dyn Node,
        mut sandbox: Sandbox,
        mut deadline: Instant,
    ) -> Result<RunRecord, SpawnFailure> {
        let (id, mut at) = (sandbox.id, Instant::now());
        let longest = deadline + LONGEST_CHECK;
        let mut written = None;
        loop {
            // The check of its volumes takes as long as they are large; its node sees that it ends.
            let passed = std::mem::replace(&mut at, Instant::now()).elapsed();
            if sandbox.guest.as_ref().is_some_and(|guest| guest.checked.is_some()) {
                deadline = (deadline + passed).min(longest);
            }
            let lacks = match sandbox.phase {
                SandboxPhase::Ready => return self.observe(id, Event::Ready, &sandbox).await,
                SandboxPhase::Failed { reason } => return Err(SpawnFailure::said(reason, sandbox.guest)),
                SandboxPhase::Stopping => return Err(SpawnFailure::of(FailReason::Lost)),
                SandboxPhase::Waiting { lacks, .. } => Some(lacks),
                SandboxPhase::Booting | SandboxPhase::Backoff { .. } => None,
            };
            let event = lacks.map_or(Event::Booting, Event::Waiting);
            let write = async {
                if written != Some(lacks) {
                    self.observe(id, event, &sandbox).await?;
                }
                Ok::<_, SpawnFailure>(())
            };
            // The guest boots meanwhile: its readiness does not wait for this write.
            let ((), next) = try_join!(write, self.ask_until(node, &sandbox, lacks, deadline))?;
            written = Some(lacks);
            sandbox = next;
        }
    }

    /// What the node says next; patient with one that does not answer, for its
    /// guests outlive its daemon.
    async fn ask_until(
        &self,
        node: &dyn Node,
        last: &Sandbox,
        lacks: Option<NodeShortage>,
        deadline: Instant,
    ) -> Result<Sandbox, SpawnFailure> {
        let id = last.id;
        let mut pauses = ASK_AGAIN.pauses();
        loop {
            let rest = deadline.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return Err(self.overdue(lacks, last.guest.clone()));
            }
            let wait = rest.min(WAIT);
            let limit = wait + self.config.node_timeout();
            match within("wait for the sandbox", limit, node.wait_ready(id, wait)).await {
                Ok(Some(sandbox)) => return Ok(sandbox),
                Ok(None) => return Err(SpawnFailure::of(FailReason::Lost)),
                Err(error) => {
                    tracing::debug!(agent = %id, node = node.name(), %error, "the node does not say how a sandbox is");
                    self.fleet.silent(node.name());
                    tokio::time::sleep(pauses.failed().min(rest)).await;
                }
            }
        }
    }

    fn overdue(&self, lacks: Option<NodeShortage>, guest: Option<GuestReport>) -> SpawnFailure {
        let (after_ms, guest) = (self.config.spawn_timeout_ms, guest.map(Box::new));
        match lacks {
            // Whoever asked for it is not kept waiting for what may take days.
            Some(lack) => SpawnFailure::new(FailReason::NodeRefused, SpawnError::NodeLacks(lack)),
            None => SpawnFailure::new(FailReason::BootTimeout, SpawnError::Timeout { after_ms, guest }),
        }
    }

    /// Writes down what its node says of a run.
    pub(super) async fn observe(&self, id: RunId, event: Event, sandbox: &Sandbox) -> Result<RunRecord, SpawnFailure> {
        let seen = AgentObservation { runtime: sandbox.runtime.as_str().to_owned(), restarts: sandbox.restarts };
        Ok(self.store.settle(id, event, seen, self.clock.now()).await?.record)
    }
}
