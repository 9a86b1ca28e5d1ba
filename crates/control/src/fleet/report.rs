//! What one node said of itself last, and what was placed on it since. Pure.

use std::collections::HashMap;
use std::time::Duration;

use domain::{NodeView, ResourceRequest, RunId};
use tokio::time::Instant;
use wire::v1::node::NodeInfo;

/// What is known of one node.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// What it said last, however long ago.
    info: Option<NodeInfo>,
    /// When the question was asked that it answered so; `None` once it may be otherwise.
    asked_at: Option<Instant>,
    /// When that answer came; `None` once it is known to be otherwise.
    answered_at: Option<Instant>,
    placed: HashMap<RunId, Placed>,
    /// The sum of what those ask for: a burst of spawns places thousands.
    taken: Taken,
}

/// What is taken of a node besides what it has counted itself.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    runs: u64,
    cores: u64,
    memory_mib: u64,
}

impl Taken {
    const fn plus(self, ask: ResourceRequest) -> Self {
        Self {
            runs: self.runs.saturating_add(1),
            cores: self.cores.saturating_add(ask.cores as u64),
            memory_mib: self.memory_mib.saturating_add(ask.memory_mib),
        }
    }
}

/// A run that was placed, and that the node may not have counted yet.
#[derive(Clone, Copy, Debug)]
struct Placed {
    ask: ResourceRequest,
    /// When the node's answer to the creation, or the end of waiting for it, came.
    settled_at: Option<Instant>,
}

impl Report {
    /// What the node said last.
    pub(crate) const fn info(&self) -> Option<&NodeInfo> {
        self.info.as_ref()
    }

    /// The node answered now a question that was asked then.
    pub(crate) fn answered(&mut self, info: NodeInfo, asked_at: Instant, now: Instant) {
        self.info = Some(info);
        self.asked_at = Some(asked_at);
        self.answered_at = Some(now);
        // What was settled before the question is counted in the answer.
        self.placed.retain(|_, placed| placed.settled_at.is_none_or(|at| at >= asked_at));
        self.sum();
    }

    /// It is otherwise, or does not answer: it has to answer before it is relied on.
    pub(crate) const fn doubt(&mut self) {
        self.late();
        self.answered_at = None;
    }

    /// It takes long to answer: it is relied on by whoever has just had an answer, if that
    /// comes, and by nobody else.
    pub(crate) const fn late(&mut self) {
        self.asked_at = None;
    }

    /// Whether its last answer is not older than this, and nobody doubts it.
    pub(crate) fn is_fresh(&self, now: Instant, fresh_for: Duration) -> bool {
        self.asked_at.is_some_and(|asked_at| now.duration_since(asked_at) <= fresh_for)
    }

    /// Whether it has answered since, however long the answer took.
    pub(crate) fn has_answered_since(&self, since: Instant) -> bool {
        self.answered_at.is_some_and(|at| at >= since)
    }

    /// The node as it described itself last.
    pub(crate) fn view(&self, name: &str) -> Option<NodeView> {
        self.info.as_ref().map(|info| view(name, info))
    }

    /// The same less what was placed on it since.
    pub(crate) fn remaining(&self, name: &str) -> Option<NodeView> {
        let view = self.view(name)?;
        let cores = u32::try_from(self.taken.cores).unwrap_or(u32::MAX);
        Some(NodeView {
            free_cores: view.free_cores.saturating_sub(cores),
            free_memory_mib: view.free_memory_mib.saturating_sub(self.taken.memory_mib),
            free_disk_mib: view.free_disk_mib.saturating_sub(view.agent_disk_mib.saturating_mul(self.taken.runs)),
            ..view
        })
    }

    /// A run is placed here, and its node is about to be told.
    pub(crate) fn place(&mut self, id: RunId, ask: ResourceRequest) {
        self.taken = self.taken.plus(ask);
        self.placed.insert(id, Placed { ask, settled_at: None });
    }

    /// The node was told of a run: a question that is asked from now on counts it.
    pub(crate) fn settle(&mut self, id: RunId, now: Instant) {
        if let Some(placed) = self.placed.get_mut(&id) {
            placed.settled_at = Some(now);
        }
    }

    /// The node did not take a run.
    pub(crate) fn withdraw(&mut self, id: RunId) {
        self.placed.remove(&id);
        self.sum();
    }

    fn sum(&mut self) {
        self.taken = self.placed.values().fold(Taken::default(), |taken, placed| taken.plus(placed.ask));
    }
}

/// A node as placement sees it, under the name the configuration gives it.
fn view(name: &str, info: &NodeInfo) -> NodeView {
    NodeView {
        name: name.to_owned(),
        schedulable: true,
        cores: info.cores,
        free_cores: info.free_cores,
        memory_mib: info.most_memory_mib.unwrap_or(info.memory_mib),
        free_memory_mib: info.free_memory_mib,
        // An older node admits by its disk alone, without a word.
        agent_disk_mib: info.disk.map_or(0, |disk| disk.sandbox_mib),
        free_disk_mib: info.disk.map_or(u64::MAX, |disk| disk.promisable_mib),
        weakness: 0,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use wire::v1::node::RuntimeName;

    use super::*;

    const FRESH: Duration = Duration::from_secs(4);
    const ASK: ResourceRequest = ResourceRequest { cores: 2, memory_mib: 1_024 };

    fn info() -> NodeInfo {
        NodeInfo {
            name: "one".to_owned(),
            version: "1".to_owned(),
            runtime: RuntimeName::QemuTcg,
            runtime_reason: "a test".to_owned(),
            runtimes: Vec::new(),
            cores: 8,
            free_cores: 8,
            memory_mib: 8_192,
            free_memory_mib: 4_096,
            most_memory_mib: None,
            disk: None,
            sandboxes: 0,
            images: BTreeMap::new(),
            image_needs: BTreeMap::new(),
        }
    }

    fn free(report: &Report) -> (u32, u64) {
        let view = report.remaining("one").unwrap();
        (view.free_cores, view.free_memory_mib)
    }

    #[test]
    fn a_report_is_relied_on_while_it_is_fresh_and_nobody_doubts_it() {
        let (mut report, start) = (Report::default(), Instant::now());
        assert!(!report.is_fresh(start, FRESH));
        report.answered(info(), start, start);
        assert!(report.is_fresh(start + FRESH, FRESH));
        assert!(!report.is_fresh(start + FRESH + Duration::from_millis(1), FRESH));
        report.doubt();
        assert!(!report.is_fresh(start, FRESH));
        assert!(report.info().is_some(), "its images are still those");
    }

    #[test]
    fn a_late_node_is_relied_on_by_whoever_has_just_had_its_answer() {
        let (mut report, start) = (Report::default(), Instant::now());
        let second = |n| start + Duration::from_secs(n);
        report.answered(info(), start, second(9));
        // It is asked again, and takes long again.
        report.late();
        assert!(!report.is_fresh(second(9), FRESH));
        assert!(report.has_answered_since(second(9)));
        assert!(!report.has_answered_since(second(10)));
        report.doubt();
        assert!(!report.has_answered_since(second(9)));
    }

    #[test]
    fn what_was_placed_is_subtracted_until_an_answer_counts_it() {
        let (mut report, start) = (Report::default(), Instant::now());
        let second = |n| start + Duration::from_secs(n);
        let [settled, under_way, refused] = [1, 2, 3].map(RunId::from_bits);
        report.answered(info(), start, start);
        for id in [settled, under_way, refused] {
            report.place(id, ASK);
        }
        assert_eq!(free(&report), (2, 1_024));
        report.withdraw(refused);
        report.settle(settled, second(2));
        // Asked before it was settled: the answer may not count it yet.
        report.answered(info(), second(1), second(2));
        assert_eq!(free(&report), (4, 2_048));
        report.answered(info(), second(3), second(3));
        assert_eq!(free(&report), (6, 3_072));
        assert_eq!(report.view("one").unwrap().free_cores, 8, "what it said itself");
        report.settle(under_way, second(3));
        report.answered(info(), second(4), second(4));
        assert_eq!(free(&report), (8, 4_096));
    }
}
