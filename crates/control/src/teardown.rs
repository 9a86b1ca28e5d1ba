//! Taking an agent down.
//!
//! Its record is ended by the node's word alone. What was sent to the node and
//! may still be under way is waited for, and taken down again.

use std::sync::Arc;
use std::time::Duration;

use domain::{AgentId, Event, State, StopReason};
use store::{Record, StoreError};
use tracing::Instrument;

use crate::node::{Node, within};
use crate::service::Inner;

/// How much longer than the grace of a stop its caller waits for the node.
const ANSWER: Duration = Duration::from_secs(5);
/// Agents taken down on reconciliation's behalf at once.
const LEAVING: usize = 64;

impl Inner {
    /// Writes down that the agent is to end, then takes it down. If its node
    /// does not answer, the record stays `stopping`, and reconciliation goes on.
    pub(crate) async fn stop(self: &Arc<Self>, id: AgentId, reason: StopReason) -> Result<Record, StoreError> {
        let advanced = self.store.advance(id, Event::Stop(reason), self.clock.now()).await?;
        if !advanced.record.state.is_live() {
            return Ok(advanced.record);
        }
        let record = self.tear_down_in_time(id).await?;
        let outcome = if record.state.is_live() { "delayed" } else { "done" };
        metrics::counter!("palatine_stops_total", "outcome" => outcome).increment(1);
        Ok(record)
    }

    /// Takes an agent down, and says how it is after a time that a caller can
    /// wait. A node that takes longer is waited for by a task of its own.
    pub(crate) async fn tear_down_in_time(self: &Arc<Self>, id: AgentId) -> Result<Record, StoreError> {
        let inner = Arc::clone(self);
        let work = async move { inner.tear_down(id).await };
        let work = self.tasks.spawn(work.in_current_span());
        match tokio::time::timeout(self.config.stop_grace() + ANSWER, work).await {
            Ok(Ok(done)) => done,
            Ok(Err(_)) | Err(_) => self.store.get(id).await?.ok_or(StoreError::Unknown(id)),
        }
    }

    /// Has this done by a task of its own, unless one is at that agent already or
    /// too many are at others: the next look asks again.
    pub(crate) fn later<F: Future<Output = ()> + Send + 'static>(
        self: &Arc<Self>,
        id: AgentId,
        work: impl FnOnce(Arc<Self>) -> F,
    ) {
        if let Ok(leaving) = self.leaving.enter(id, LEAVING) {
            let work = work(Arc::clone(self));
            self.tasks.spawn(async move {
                work.await;
                drop(leaving);
            });
        }
    }

    /// Takes an agent down, by and by.
    pub(crate) fn tear_down_later(self: &Arc<Self>, id: AgentId) {
        self.later(id, |inner| async move {
            if let Err(error) = inner.tear_down(id).await {
                tracing::error!(agent = %id, %error, "an agent cannot be taken down");
            }
        });
    }

    /// Takes down an agent that is to end, and ends its record if its node says
    /// that nothing is left. Of any other agent, only says how it is.
    pub(crate) async fn tear_down(&self, id: AgentId) -> Result<Record, StoreError> {
        let _turn = self.locks.turn(id).await;
        let record = self.store.get(id).await?.ok_or(StoreError::Unknown(id))?;
        if !matches!(record.state, State::Stopping(_)) {
            return Ok(record);
        }
        if let Some(name) = &record.node {
            let Some(node) = self.node(name) else {
                tracing::warn!(agent = %id, node = name, "the agent's node is not configured: it cannot be taken down");
                return Ok(record);
            };
            if !self.clear(node.as_ref(), id).await {
                return Ok(record);
            }
            self.last_marks(name).await;
        }
        let ended = self.store.advance(id, Event::Gone, self.clock.now()).await?;
        self.unsettled.forget(id);
        Ok(ended.record)
    }

    /// Whether the node says that nothing of the agent is left, and nothing can
    /// come any more.
    async fn clear(&self, node: &dyn Node, id: AgentId) -> bool {
        if !self.delete(node, id).await {
            return false;
        }
        let Some(rest) = self.unsettled.rest(id, self.config.settle()) else { return true };
        tokio::time::sleep(rest).await;
        self.delete(node, id).await
    }

    /// Deletes on the node; says whether it confirmed.
    pub(crate) async fn delete(&self, node: &dyn Node, id: AgentId) -> bool {
        let grace = self.config.stop_grace();
        let deadline = grace + self.config.node_timeout();
        match within("delete the sandbox", deadline, node.delete(id, grace)).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(agent = %id, node = node.name(), %error, "a sandbox cannot be taken down yet");
                false
            }
        }
    }

    /// Brings the marks of the agent's end, so that its bill is exact as soon as
    /// it has ended. Should they not come, they are counted when they do.
    async fn last_marks(&self, node: &str) {
        let Some(journal) = self.journals.iter().find(|journal| journal.name() == node) else { return };
        if let Err(error) = journal.drain().await {
            tracing::warn!(node, %error, "the last marks of an agent are not counted yet");
        }
    }
}
