//! Finding a node that takes a run.

use std::sync::Arc;

use client::NodeError;
use domain::{FailReason, ImageDigest, PlacementError, ResourceRequest, RunId, VolumeMount};
use futures_util::StreamExt;
use store::{RunRecord, RunVolume};
use tokio::time::{Instant, timeout};
use wire::fault::Code;
use wire::v1::node::{DataDisk, Sandbox, SandboxSpec, SandboxVolume};

use crate::context::Context;
use crate::fleet::inventory::{Claim, NodeSelector, PROMPT};
use crate::fleet::node::{Node, within};
use crate::pods::error::{SpawnError, SpawnFailure};
use crate::pods::spawn::ReservedRun;

/// A search for a node, which each refusal narrows.
#[derive(Default)]
struct Search {
    selector: NodeSelector,
    /// A node had no room after all.
    full: bool,
    /// A node was not there after all.
    away: Option<Arc<NodeError>>,
}

impl Search {
    /// No node has the run: each that was told of it has said no.
    fn failure(&self, why: PlacementError, image: ImageDigest) -> SpawnFailure {
        match why {
            _ if self.full => SpawnFailure::no_room(PlacementError::Full),
            _ if self.away.is_some() => self.unavailable(self.away.clone()),
            PlacementError::NoNodes if !self.selector.except.is_empty() || !self.selector.unfit.is_empty() => {
                SpawnFailure::new(FailReason::NodeRefused, SpawnError::NoImage(image))
            }
            PlacementError::NoNodes | PlacementError::TooLarge { .. } | PlacementError::Full => {
                SpawnFailure::no_room(why)
            }
        }
        .on_no_node()
    }

    /// No selected node answers.
    fn unavailable(&self, error: Option<Arc<NodeError>>) -> SpawnFailure {
        let keeper = self.selector.only.clone();
        let error = keeper.map_or(SpawnError::NodeUnavailable(error), SpawnError::DataAway);
        SpawnFailure::new(FailReason::Interrupted, error).on_no_node()
    }
}

impl Context {
    /// Finds a node that takes the run. A node is written down before it is told.
    pub(super) async fn place(&self, run: ReservedRun) -> Result<(Arc<dyn Node>, Sandbox), SpawnFailure> {
        let volumes = self.volumes_of(&run).await?;
        let ReservedRun { record, env, mut runtimes, traceparent, .. } = run;
        let keeper = self.keeper(&record);
        let data = if keeper.is_some() { DataDisk::Kept } else { DataDisk::KeptOrEmpty };
        // All of a run's volumes are on one node.
        let keeper = keeper.or_else(|| Some(volumes.first()?.node.clone()));
        let has_volumes = !volumes.is_empty();
        if has_volumes {
            // What machines write to is mounted by no host.
            runtimes.retain(|runtime| !runtime.is_container());
        }
        let volumes = volumes
            .into_iter()
            .map(|RunVolume { id, mount: VolumeMount { name, path }, .. }| SandboxVolume { id, name, path });
        let unfit = self.fleet.unfit(&runtimes);
        if has_volumes && (runtimes.is_empty() || keeper.as_ref().is_some_and(|keeper| unfit.contains(keeper))) {
            return Err(SpawnFailure::new(FailReason::NodeRefused, SpawnError::VolumesNeedMachine).on_no_node());
        }
        let selector = NodeSelector { only: keeper, except: Vec::new(), unfit, runtimes };
        let mut search = Search { selector, ..Search::default() };
        let mut spec = SandboxSpec {
            pod: record.pod,
            data,
            generation: record.generation,
            image: record.image,
            cores: record.tier_config.cores,
            memory_mib: u64::from(record.tier_config.memory),
            volumes: volumes.collect(),
            runtime: None,
            env,
        };
        loop {
            let claim = self.claim(record.id, record.ask(), record.image, &search).await?;
            let node = Arc::clone(&claim.node);
            spec.runtime = claim.runtime;
            self.store.place(record.id, node.name(), self.clock.now()).await?;
            let creation = node.create(record.id, &spec, traceparent.as_deref());
            match within("create the sandbox", self.config.node_timeout(), creation).await {
                Ok(sandbox) => return Ok((node, sandbox)),
                // Others were quicker, or it holds other than was thought.
                Err(error) if error.code() == Some(Code::NoCapacity) => {
                    claim.refused();
                    search.full = true;
                }
                // Nothing was sent, and so nothing of the run can be there.
                Err(error @ NodeError::NotConnected { .. }) => {
                    claim.refused();
                    tracing::warn!(agent = %record.id, node = node.name(), %error, "a node is not there");
                    search.away = Some(Arc::new(error));
                }
                // Another may have what this one lacks.
                Err(error) if error.code() == Some(Code::NoImage) => {
                    claim.withdraw();
                    tracing::warn!(agent = %record.id, node = node.name(), image = %record.image, "a node lacks an image");
                }
                Err(error) => return Err(self.not_created(record.id, node.name(), error)),
            }
            search.selector.except.push(node.name().to_owned());
        }
    }

    /// The volumes that a run has.
    async fn volumes_of(&self, run: &ReservedRun) -> Result<Vec<RunVolume>, SpawnFailure> {
        if !run.may_have_volumes {
            return Ok(Vec::new());
        }
        Ok(self.store.run_volumes(run.record.id).await?)
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
        search: &Search,
    ) -> Result<Claim, SpawnFailure> {
        if let Ok(claim) = self.fleet.claim(id, ask, &search.selector) {
            return Ok(claim);
        }
        let since = Instant::now();
        match self.claim_answering(id, ask, search, since).await? {
            Some(claim) => Ok(claim),
            None => self.fleet.claim_asked(id, ask, &search.selector, since).map_err(|why| search.failure(why, image)),
        }
    }

    /// Asks the selected nodes. Those that answer promptly are compared with each other;
    /// one that takes longer may hang, and is waited for only while none of those that
    /// have answered has room. `None` once all have answered, or will not.
    async fn claim_answering(
        &self,
        id: RunId,
        ask: ResourceRequest,
        search: &Search,
        since: Instant,
    ) -> Result<Option<Claim>, SpawnFailure> {
        let (mut asked, mut answers) = (self.fleet.ask(&search.selector), Vec::new());
        let prompt = timeout(PROMPT, async {
            while let Some(answer) = asked.next().await {
                answers.push(answer);
            }
        });
        if prompt.await.is_err() {
            loop {
                if let Ok(claim) = self.fleet.claim_asked(id, ask, &search.selector, since) {
                    return Ok(Some(claim));
                }
                let Some(answer) = asked.next().await else { break };
                answers.push(answer);
            }
        }
        self.heard(search, answers).map(|()| None)
    }

    /// Whether it is worth looking at what the nodes have answered.
    fn heard(&self, search: &Search, answers: Vec<Result<(), Arc<NodeError>>>) -> Result<(), SpawnFailure> {
        // Those that answered before have refused.
        if !search.selector.except.is_empty() {
            return Ok(());
        }
        let is_silent = !answers.iter().any(Result::is_ok);
        let keeper_is_unknown = search.selector.only.as_ref().is_some_and(|keeper| self.fleet.node(keeper).is_none());
        match answers.into_iter().find_map(Result::err) {
            Some(error) if is_silent => Err(search.unavailable(Some(error))),
            _ if keeper_is_unknown => Err(search.unavailable(None)),
            _ => Ok(()),
        }
    }

    fn not_created(&self, id: RunId, node: &str, error: NodeError) -> SpawnFailure {
        tracing::warn!(agent = %id, node, %error, "a sandbox was not created");
        if error.code() == Some(Code::NoData) {
            return SpawnFailure::new(FailReason::NodeRefused, SpawnError::NoData(node.to_owned()));
        }
        if matches!(error.code(), Some(Code::NoVolume | Code::VolumeAttached)) {
            return SpawnFailure::new(FailReason::NodeRefused, SpawnError::NoVolume(node.to_owned()));
        }
        if error.is_ambiguous() {
            self.unanswered.note(id);
            self.fleet.silent(node);
            return SpawnFailure::new(FailReason::Interrupted, SpawnError::NodeUnavailable(Some(Arc::new(error))));
        }
        SpawnFailure::of(FailReason::NodeRefused)
    }
}
