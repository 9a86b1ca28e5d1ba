//! From the nodes' journals to what a wallet used.
//!
//! A mark is named by (node, journal, seq). The cursor of a journal moves in the
//! transaction that counts, so each mark counts once, whatever is sent again.

use std::collections::BTreeMap;

use domain::{DiskMark, Mark, RunId, UnixMillis, Usage, Wallet, disk_used};

use crate::codec::{integer, millis};
use crate::port::port;

/// A journal that says nothing new is noted as heard at most this often.
pub(crate) const HEARD_EVERY_MS: u64 = 1000;
/// What the clocks of a node and a gateway may differ by, and what is told of some time after it was.
pub(crate) const CLOCKS_APART_MS: u64 = 10 * 60 * 1000;

/// A mark of a node's journal, and the run that it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunMark {
    /// The run.
    pub run: RunId,
    /// What was seen.
    pub mark: Mark,
}

/// How far a node's journal is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkCursor {
    /// The journal.
    pub journal: String,
    /// The last mark counted.
    pub seq: u64,
}

/// What came of a stretch of marks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MarksOutcome {
    /// The last mark counted, ever.
    pub seq: u64,
    /// Marks counted now.
    pub new: u64,
    /// Marks that were counted before.
    pub repeated: u64,
    /// Marks about runs and disks that this store does not have on that node.
    pub foreign: u64,
    /// Marks that never came: their numbers were skipped.
    pub missing: u64,
}

port! {
    /// What the nodes' marks make of the wallets' usage.
    UsageStore {
        /// Counts marks of a node's journal, of runs and of disks, each exactly once, whatever is
        /// sent again. An empty stretch says that the journal was heard of.
        fn count_marks(
            &self,
            node: &str,
            journal: &str,
            marks: Vec<RunMark>,
            disks: Vec<DiskMark>,
            now: UnixMillis,
        ) -> MarksOutcome;

        /// How far a node's journal is counted.
        fn mark_cursor(&self, node: &str) -> Option<MarkCursor>;

        /// What a wallet used up to `now`, the live run included, and how many of its
        /// runs were ever ready. A disk counts until its node was last heard of: of one that
        /// is lost nobody pays for what nobody can reach.
        fn usage(&self, wallet: Wallet, now: UnixMillis) -> (Usage, u64);
    }
}

/// A mark of either kind.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NodeMark {
    Run(RunMark),
    Disk(DiskMark),
}

impl NodeMark {
    pub(crate) const fn seq(&self) -> u64 {
        match self {
            Self::Run(said) => said.mark.seq,
            Self::Disk(said) => said.seq,
        }
    }
}

/// All marks of a stretch, in the order of the journal.
pub(crate) fn in_order(marks: &[RunMark], disks: &[DiskMark]) -> Vec<NodeMark> {
    let runs = marks.iter().copied().map(NodeMark::Run);
    let mut all: Vec<_> = runs.chain(disks.iter().copied().map(NodeMark::Disk)).collect();
    all.sort_by_key(NodeMark::seq);
    all
}

/// A disk as its rows name it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DiskKey {
    pub(crate) kind: &'static str,
    pub(crate) id: i64,
}

impl DiskKey {
    pub(crate) const fn volume(id: domain::VolumeId) -> Self {
        Self { kind: "volume", id: id.bits().cast_signed() }
    }

    pub(crate) const fn snapshot(id: domain::SnapshotId) -> Self {
        Self { kind: "snapshot", id: id.bits().cast_signed() }
    }

    pub(crate) const fn data(pod: crate::record::PodRowId) -> Self {
        Self { kind: "data", id: pod.0.cast_signed() }
    }
}

/// When a journal was heard of: what a node's clock says of its disks is held between, give or take
/// [`CLOCKS_APART_MS`]. A clock that stood years back or ahead until somebody set it makes nobody pay for those.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeardTimes {
    /// The last time before; the beginning of time, where it was not.
    pub(crate) before: UnixMillis,
    pub(crate) now: UnixMillis,
}

impl HeardTimes {
    /// When something began that was not told of before.
    pub(crate) fn start(&self, said: UnixMillis) -> UnixMillis {
        let first = self.before.min(self.now).0.saturating_sub(CLOCKS_APART_MS);
        millis(integer(said.0)).max(UnixMillis(first))
    }

    /// When something ended that is told of now.
    pub(crate) fn end(&self, said: UnixMillis) -> UnixMillis {
        said.min(self.now.plus(CLOCKS_APART_MS))
    }
}

/// What is held of a disk, since when, and of whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeldDisk {
    pub(crate) wallet: Wallet,
    pub(crate) mib: u64,
    pub(crate) since: UnixMillis,
}

impl HeldDisk {
    pub(crate) const fn used(&self, until: UnixMillis) -> u64 {
        disk_used(self.mib, self.since, until)
    }
}

/// What disks took that are to be added to the wallets' totals, in MiB × milliseconds. In the
/// order of the wallets, as whoever else adds to several does.
#[derive(Debug, Default)]
pub(crate) struct DiskSums(pub(crate) BTreeMap<[u8; 32], u64>);

impl DiskSums {
    pub(crate) fn add(&mut self, held: &HeldDisk, until: UnixMillis) {
        let sum = self.0.entry(held.wallet.0).or_default();
        *sum = sum.saturating_add(held.used(until));
    }

    /// What each wallet is to be charged.
    pub(crate) fn charges(&self) -> impl Iterator<Item = (Wallet, Usage)> + '_ {
        let some = self.0.iter().filter(|(_, mib_ms)| **mib_ms > 0);
        some.map(|(wallet, mib_ms)| (Wallet(*wallet), Usage { disk_mib_ms: *mib_ms, ..Usage::default() }))
    }
}

impl MarksOutcome {
    /// Goes on to this mark; whether it is a new one.
    pub(crate) const fn is_next(&mut self, seq: u64) -> bool {
        if seq <= self.seq {
            self.repeated += 1;
            return false;
        }
        self.missing += seq - self.seq - 1;
        self.seq = seq;
        true
    }
}

/// A clock past what the database can hold is held at its end.
pub(crate) fn clamped(mark: Mark) -> Mark {
    Mark { at: millis(integer(mark.at.0)), ..mark }
}
