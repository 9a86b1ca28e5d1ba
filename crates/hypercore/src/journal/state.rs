//! The journal's contents. Pure.

use std::collections::{BTreeMap, VecDeque};

use domain::{DiskChange, DiskLevels, DiskMark, Mark, MarkKind, MeteredDisk, RunId, UnixMillis, disk_changes};
use serde::{Deserialize, Serialize};
use wire::v1::node::AgentMark;

/// The form of the file. The first one did not say so, and knew no marks of disks.
pub(super) const VERSION: u32 = 2;

/// A line of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum JournalMark {
    /// Of an agent.
    Agent(AgentMark),
    /// Of disks.
    Disk(DiskMark),
}

impl JournalMark {
    pub(super) const fn seq(&self) -> u64 {
        match self {
            Self::Agent(said) => said.mark.seq,
            Self::Disk(said) => said.seq,
        }
    }
}

/// A disk that is held, in the first line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HeldDisk {
    disk: MeteredDisk,
    mib: u64,
}

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
    /// The disks that were held then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) disks: Vec<HeldDisk>,
}

const fn first() -> u32 {
    1
}

impl JournalHeader {
    /// Of a journal that begins.
    pub(super) const fn new(journal: String) -> Self {
        Self { version: VERSION, journal, fetched: 0, standing: BTreeMap::new(), disks: Vec::new() }
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
    marks: VecDeque<JournalMark>,
    standing: BTreeMap<RunId, MarkKind>,
    disks: DiskLevels,
}

impl JournalState {
    pub(super) fn new(head: JournalHeader) -> Self {
        let disks = head.disks.iter().map(|held| (held.disk, held.mib)).collect();
        Self { standing: head.standing.clone(), disks, head, marks: VecDeque::new() }
    }

    /// The form in which the file was found.
    pub(super) const fn version(&self) -> u32 {
        self.head.version
    }

    /// The same, in the form that is written today.
    pub(super) const fn renewed(mut self) -> Self {
        self.head.version = VERSION;
        self
    }

    pub(super) fn journal(&self) -> &str {
        &self.head.journal
    }

    /// The last number given.
    pub(crate) fn last(&self) -> u64 {
        self.marks.back().map_or(self.head.fetched, JournalMark::seq)
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

    /// The marks that would record that these disks are held now and no others, which were last
    /// looked at then: none where nothing is new.
    pub(super) fn next_disks(&self, found: &DiskLevels, looked: UnixMillis, at: UnixMillis) -> Vec<DiskMark> {
        let changes = disk_changes(&self.disks, found, looked, at);
        let marks = (self.last() + 1..).zip(changes);
        marks.map(|(seq, (at, change))| DiskMark { seq, at, change }).collect()
    }

    pub(super) fn holds_disks(&self) -> bool {
        !self.disks.is_empty()
    }

    /// The mark that would record that the node was down since then, if it held any disk.
    pub(super) fn next_down(&self, since: UnixMillis, at: UnixMillis) -> Option<DiskMark> {
        let change = DiskChange::Down { since };
        self.holds_disks().then_some(DiskMark { seq: self.last() + 1, at, change })
    }

    /// Takes a mark in; `false` if it is not the next one.
    pub(super) fn take(&mut self, mark: JournalMark) -> bool {
        if mark.seq() != self.last() + 1 {
            return false;
        }
        stand(&mut self.standing, &mut self.disks, &mark);
        self.marks.push_back(mark);
        true
    }

    /// Forgets what was fetched.
    pub(super) fn fetched(&mut self, up_to: u64) {
        let mut disks: DiskLevels = self.head.disks.iter().map(|held| (held.disk, held.mib)).collect();
        while let Some(mark) = self.marks.front().copied().filter(|mark| mark.seq() <= up_to) {
            self.marks.pop_front();
            self.head.fetched = mark.seq();
            stand(&mut self.head.standing, &mut disks, &mark);
        }
        self.head.disks = disks.into_iter().map(|(disk, mib)| HeldDisk { disk, mib }).collect();
    }

    /// What comes after this number, at most so many.
    pub(super) fn after(&self, after: u64, most: usize) -> Vec<JournalMark> {
        self.marks.iter().filter(|mark| mark.seq() > after).take(most).copied().collect()
    }

    /// The file's lines, as if written anew.
    pub(super) fn lines(&self) -> impl Iterator<Item = serde_json::Result<String>> + '_ {
        std::iter::once(serde_json::to_string(&self.head)).chain(self.marks.iter().map(serde_json::to_string))
    }
}

/// How agents and disks stand after a mark.
fn stand(agents: &mut BTreeMap<RunId, MarkKind>, disks: &mut DiskLevels, mark: &JournalMark) {
    match *mark {
        JournalMark::Agent(AgentMark { agent, mark: Mark { kind: MarkKind::Gone, .. } }) => {
            agents.remove(&agent);
        }
        JournalMark::Agent(AgentMark { agent, mark }) => {
            agents.insert(agent, mark.kind);
        }
        JournalMark::Disk(DiskMark { change: DiskChange::Level { disk, mib: 0 }, .. }) => {
            disks.remove(&disk);
        }
        JournalMark::Disk(DiskMark { change: DiskChange::Level { disk, mib }, .. }) => {
            disks.insert(disk, mib);
        }
        JournalMark::Disk(DiskMark { change: DiskChange::Down { .. }, .. }) => {}
    }
}

#[cfg(test)]
mod tests {
    use domain::VolumeId;
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
            assert!(state.take(JournalMark::Agent(mark)));
        }
    }

    fn write_disks(state: &mut JournalState, found: &DiskLevels, at: u64) {
        for mark in state.next_disks(found, UnixMillis(at.saturating_sub(5)), UnixMillis(at)) {
            assert!(state.take(JournalMark::Disk(mark)));
        }
        assert_eq!(state.disks, *found);
    }

    fn disks() -> impl Strategy<Value = DiskLevels> {
        let volume = (0_u64..3).prop_map(|n| MeteredDisk::Volume(VolumeId::from_bits(n)));
        proptest::collection::btree_map(volume, 1_u64..4, 0..3)
    }

    proptest! {
        #[test]
        fn numbers_have_no_gaps_and_a_rewritten_file_stands_as_before(
            story in proptest::collection::vec((0_u64..4, kind(), any::<bool>(), disks()), 0..80),
        ) {
            let mut state = state();
            for (at, (agent, kind, fetch, disks)) in (0..).zip(story) {
                write(&mut state, agent, kind);
                write_disks(&mut state, &disks, at);
                if fetch {
                    state.fetched(state.last().saturating_sub(1));
                }
                let numbers: Vec<u64> = state.after(0, usize::MAX).iter().map(JournalMark::seq).collect();
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
        let kind = |mark: &JournalMark| match mark {
            JournalMark::Agent(said) => said.mark.kind,
            JournalMark::Disk(said) => panic!("{said:?}"),
        };
        let kinds: Vec<MarkKind> = state.after(0, 9).iter().map(kind).collect();
        assert_eq!(kinds, [MarkKind::Booting, MarkKind::Ready, MarkKind::Gone]);
    }

    #[test]
    fn disks_are_marked_when_they_change_and_that_a_node_was_down_where_it_holds_any() {
        let (mut state, one) = (state(), MeteredDisk::Volume(VolumeId::from_bits(1)));
        assert_eq!(state.next_down(UnixMillis(1), UnixMillis(2)), None);
        write_disks(&mut state, &DiskLevels::from([(one, 64)]), 10);
        assert_eq!(state.next_disks(&DiskLevels::from([(one, 64)]), UnixMillis(10), UnixMillis(11)), []);
        let down = state.next_down(UnixMillis(12), UnixMillis(90)).unwrap();
        assert_eq!(down, DiskMark { seq: 2, at: UnixMillis(90), change: DiskChange::Down { since: UnixMillis(12) } });
        assert!(state.take(JournalMark::Disk(down)));
        write_disks(&mut state, &DiskLevels::new(), 100);
        let [.., last] = state.after(0, 9).try_into().unwrap_or([JournalMark::Disk(down); 3]);
        let gone = DiskChange::Level { disk: one, mib: 0 };
        assert_eq!(last, JournalMark::Disk(DiskMark { seq: 3, at: UnixMillis(95), change: gone }));
        assert_eq!(state.next_down(UnixMillis(1), UnixMillis(2)), None);
    }
}
