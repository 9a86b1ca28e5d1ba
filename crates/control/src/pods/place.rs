//! Finding a node that takes a run.

use std::sync::Arc;

use client::NodeError;
use domain::{FailReason, ImageDigest, PlacementError, ResourceRequest, RunId};
use store::RunRecord;
use wire::fault::Code;
use wire::v1::node::{DataDisk, Sandbox, SandboxSpec};

use crate::context::Context;
use crate::fleet::inventory::{Claim, Scope};
use crate::fleet::node::{Node, within};
use crate::pods::error::{SpawnError, SpawnFailure};
use crate::pods::spawn::ReservedRun;

/// A search for a node, which each refusal narrows.
#[derive(Default)]
struct Search {
    scope: Scope,
    /// The nodes in scope were asked how they are.
    asked: bool,
    /// A node had no room after all.
    full: bool,
}

impl Search {
    fn refused_by(&mut self, node: &str) {
        self.scope.except.push(node.to_owned());
        // What the others said may be old by now, or be doubted for another's refusal.
        self.asked = false;
    }

    fn failure(&self, why: PlacementError, image: ImageDigest) -> SpawnFailure {
        match why {
            _ if self.full => SpawnFailure::no_room(PlacementError::Full),
            PlacementError::NoNodes if !self.scope.except.is_empty() => {
                SpawnFailure::new(FailReason::NodeRefused, SpawnError::NoImage(image))
            }
            PlacementError::NoNodes | PlacementError::TooLarge { .. } | PlacementError::Full => {
                SpawnFailure::no_room(why)
            }
        }
    }
}

impl Context {
    /// Finds a node that takes the run. A node is written down before it is told.
    pub(super) async fn place(&self, run: ReservedRun) -> Result<(Arc<dyn Node>, Sandbox), SpawnFailure> {
        let ReservedRun { record, env, traceparent } = run;
        let keeper = self.keeper(&record);
        let data = if keeper.is_some() { DataDisk::Kept } else { DataDisk::KeptOrEmpty };
        let mut search = Search { scope: Scope { only: keeper, except: Vec::new() }, ..Search::default() };
        let spec = SandboxSpec {
            pod: record.pod,
            data,
            generation: record.generation,
            image: record.image,
            cores: record.tier_config.cores,
            memory_mib: u64::from(record.tier_config.memory),
            env,
        };
        loop {
            let claim = self.claim(record.id, record.ask(), record.image, &mut search).await?;
            let node = Arc::clone(&claim.node);
            self.store.place(record.id, node.name(), self.clock.now()).await?;
            let creation = node.create(record.id, &spec, traceparent.as_deref());
            match within("create the sandbox", self.config.node_timeout(), creation).await {
                Ok(sandbox) => return Ok((node, sandbox)),
                // Others were quicker, or it holds other than was thought.
                Err(error) if error.code() == Some(Code::NoCapacity) => {
                    claim.refused();
                    search.full = true;
                }
                // Another may have what this one lacks.
                Err(error) if error.code() == Some(Code::NoImage) => {
                    claim.withdraw();
                    tracing::warn!(agent = %record.id, node = node.name(), image = %record.image, "a node lacks an image");
                }
                Err(error) => return Err(self.not_created(record.id, node.name(), error)),
            }
            search.refused_by(node.name());
        }
    }

    /// The node that keeps the POD's data, which no other has.
    fn keeper(&self, record: &RunRecord) -> Option<String> {
        let kept = record.data.is_some_and(|data| !data.is_over(self.clock.now()));
        record.data_node.clone().filter(|_| kept)
    }

    /// Chooses a node by the inventory. Where that is old, or knows of no room, the nodes
    /// are asked.
    async fn claim(
        &self,
        id: RunId,
        ask: ResourceRequest,
        image: ImageDigest,
        search: &mut Search,
    ) -> Result<Claim, SpawnFailure> {
        if let Ok(claim) = self.fleet.claim(id, ask, &search.scope) {
            return Ok(claim);
        }
        if !search.asked {
            self.ask_nodes(&search.scope).await?;
            search.asked = true;
        }
        self.fleet.claim_asked(id, ask, &search.scope).map_err(|why| search.failure(why, image))
    }

    async fn ask_nodes(&self, scope: &Scope) -> Result<(), SpawnFailure> {
        let asked = self.fleet.ask(scope).await;
        let silent = |error| SpawnFailure::new(FailReason::Interrupted, error);
        match (asked, &scope.only) {
            // Those that answered before have refused.
            _ if !scope.except.is_empty() => Ok(()),
            (Err(_), Some(keeper)) => Err(silent(SpawnError::DataAway(keeper.clone()))),
            (Ok(()), Some(keeper)) if self.fleet.node(keeper).is_none() => {
                Err(silent(SpawnError::DataAway(keeper.clone())))
            }
            (Err(error), None) => Err(silent(SpawnError::NodeUnavailable(Some(error)))),
            (Ok(()), _) => Ok(()),
        }
    }

    fn not_created(&self, id: RunId, node: &str, error: NodeError) -> SpawnFailure {
        tracing::warn!(agent = %id, node, %error, "a sandbox was not created");
        if error.code() == Some(Code::NoData) {
            return SpawnFailure::new(FailReason::NodeRefused, SpawnError::NoData(node.to_owned()));
        }
        if error.is_ambiguous() {
            self.unanswered.note(id);
            self.fleet.silent(node);
            return SpawnFailure::new(FailReason::Interrupted, SpawnError::NodeUnavailable(Some(Arc::new(error))));
        }
        SpawnFailure::of(FailReason::NodeRefused)
    }
}
