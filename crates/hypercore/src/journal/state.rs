//! The journal's contents. Pure.

use std::collections::{BTreeMap, VecDeque};

use domain::{Mark, MarkKind, RunId, UnixMillis};
use serde::{Deserialize, Serialize};
use wire::v1::node::AgentMark;

/// The form of the file. The first one did not say so.
pub(super) const VERSION: u32 = 1;

/// The first line of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct JournalHeader {
    /// The form of the file.
    #[serde(default = "first")]
    pub(super) version: u32,
    /// Which journal it is.
    pub(super) journal: String,
    /// Everything up to here was fetched and is not in the file any more.
    pub(super) fetched: u64,
    /// How those agents stood that are not gone.
    pub(super) standing: BTreeMap<RunId, MarkKind>,
}

const fn first() -> u32 {
    1
}

impl JournalHeader {
    /// Of a journal that begins.
    pub(super) const fn new(journal: String) -> Self {
        Self { version: VERSION, journal, fetched: 0, standing: BTreeMap::new() }
    }

    /// Whether there are numbers left for more marks than anybody makes.
    pub(super) fn may_go_on(&self) -> bool {
        i64::try_from(self.fetched).is_ok()
    }
}

/// The marks that nobody has fetched yet, and how each agent stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JournalState {
    head: JournalHeader,
    marks: VecDeque<AgentMark>,
    standing: BTreeMap<RunId, MarkKind>,
}

impl JournalState {
    pub(super) fn new(head: JournalHeader) -> Self {
        Self { standing: head.standing.clone(), head, marks: VecDeque::new() }
    }

    pub(super) fn journal(&self) -> &str {
        &self.head.journal
    }

    /// The last number given.
    pub(crate) fn last(&self) -> u64 {
        self.marks.back().map_or(self.head.fetched, |mark| mark.mark.seq)
    }

    pub(crate) fn waiting(&self) -> usize {
        self.marks.len()
    }

    pub(super) fn standing(&self, agent: RunId) -> Option<MarkKind> {
        self.standing.get(&agent).copied()
    }

    /// The mark that would record this, unless it says nothing new: then a daemon
    /// that repeats itself after a crash changes nobody's bill.
    pub(super) fn next(&self, agent: RunId, kind: MarkKind, at: UnixMillis) -> Option<AgentMark> {
        let news = match (self.standing(agent), kind) {
            (None, MarkKind::Booting) => true,
            (None, MarkKind::Ready | MarkKind::Unready | MarkKind::Gone) => false,
            (Some(before), MarkKind::Unready) => before == MarkKind::Ready,
            (Some(before), now) => before != now,
        };
        news.then_some(AgentMark { agent, mark: Mark { seq: self.last() + 1, at, kind } })
    }

    /// Takes a mark in; `false` if it is not the next one.
    pub(super) fn take(&mut self, mark: AgentMark) -> bool {
        if mark.mark.seq != self.last() + 1 {
            return false;
        }
        match mark.mark.kind {
            MarkKind::Gone => self.standing.remove(&mark.agent),
            kind @ (MarkKind::Booting | MarkKind::Ready | MarkKind::Unready) => self.standing.insert(mark.agent, kind),
        };
        self.marks.push_back(mark);
        true
    }

    /// Forgets what was fetched.
    pub(super) fn fetched(&mut self, up_to: u64) {
        while let Some(mark) = self.marks.front().copied().filter(|mark| mark.mark.seq <= up_to) {
            self.marks.pop_front();
            self.head.fetched = mark.mark.seq;
            match mark.mark.kind {
                MarkKind::Gone => self.head.standing.remove(&mark.agent),
                kind @ (MarkKind::Booting | MarkKind::Ready | MarkKind::Unready) => {
                    self.head.standing.insert(mark.agent, kind)
                }
            };
        }
    }

    /// What comes after this number, at most so many.
    pub(super) fn after(&self, after: u64, most: usize) -> Vec<AgentMark> {
        self.marks.iter().filter(|mark| mark.mark.seq > after).take(most).copied().collect()
    }

    /// The file's lines, as if written anew.
    pub(super) fn lines(&self) -> impl Iterator<Item = serde_json::Result<String>> + '_ {
        std::iter::once(serde_json::to_string(&self.head)).chain(self.marks.iter().map(serde_json::to_string))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn state() -> JournalState {
        JournalState::new(JournalHeader::new("j".to_owned()))
    }

    fn kind() -> impl Strategy<Value = MarkKind> {
        prop_oneof![Just(MarkKind::Booting), Just(MarkKind::Ready), Just(MarkKind::Unready), Just(MarkKind::Gone)]
    }

    fn write(state: &mut JournalState, agent: u64, kind: MarkKind) {
        if let Some(mark) = state.next(RunId::from_bits(agent), kind, UnixMillis(0)) {
            assert!(state.take(mark));
        }
    }

    proptest! {
        #[test]
        fn numbers_have_no_gaps_and_a_rewritten_file_stands_as_before(
            story in proptest::collection::vec((0_u64..4, kind(), any::<bool>()), 0..80),
        ) {
            let mut state = state();
            for (agent, kind, fetch) in story {
                write(&mut state, agent, kind);
                if fetch {
                    state.fetched(state.last().saturating_sub(1));
                }
                let numbers: Vec<u64> = state.after(0, usize::MAX).iter().map(|mark| mark.mark.seq).collect();
                prop_assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1));
                let mut again = JournalState::new(state.head.clone());
                for mark in &state.marks {
                    prop_assert!(again.take(*mark));
                }
                prop_assert_eq!(&again, &state);
            }
        }
    }

    #[test]
    fn what_is_known_already_gets_no_second_mark() {
        let mut state = state();
        for kind in
            [MarkKind::Gone, MarkKind::Ready, MarkKind::Booting, MarkKind::Booting, MarkKind::Ready, MarkKind::Ready]
        {
            write(&mut state, 1, kind);
        }
        for _ in 0..2 {
            write(&mut state, 1, MarkKind::Gone);
        }
        let kinds: Vec<MarkKind> = state.after(0, 9).iter().map(|mark| mark.mark.kind).collect();
        assert_eq!(kinds, [MarkKind::Booting, MarkKind::Ready, MarkKind::Gone]);
    }
}
