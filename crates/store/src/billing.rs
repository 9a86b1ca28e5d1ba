//! From the nodes' journals to what a wallet used.
//!
//! A mark is named by (node, journal, seq). The cursor of a journal moves in the
//! transaction that counts, so each mark counts once, whatever is sent again.

use domain::{Mark, RunId, UnixMillis, Usage, Wallet};

use crate::codec::{integer, millis};
use crate::port::port;

/// A journal that says nothing new is noted as heard at most this often.
pub(crate) const HEARD_EVERY_MS: u64 = 1000;

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
    /// Marks about runs that this store does not have on that node.
    pub foreign: u64,
    /// Marks that never came: their numbers were skipped.
    pub missing: u64,
}

port! {
    /// What the nodes' marks make of the wallets' usage.
    UsageStore {
        /// Counts marks of a node's journal, each exactly once, whatever is sent again.
        /// An empty stretch says that the journal was heard of.
        fn count_marks(&self, node: &str, journal: &str, marks: Vec<RunMark>, now: UnixMillis) -> MarksOutcome;

        /// How far a node's journal is counted.
        fn mark_cursor(&self, node: &str) -> Option<MarkCursor>;

        /// What a wallet used up to `now`, the live run included, and how many of its
        /// runs were ever ready.
        fn usage(&self, wallet: Wallet, now: UnixMillis) -> (Usage, u64);
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
