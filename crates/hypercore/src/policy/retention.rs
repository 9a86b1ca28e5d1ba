//! When disks that outlived their sandbox may be erased: when the clock says so, and
//! the node itself has kept them for as long. A clock can be set, before the first word
//! of a time server or by hand; what is erased never comes back.

use std::collections::BTreeMap;

use domain::UnixMillis;
use serde::{Deserialize, Serialize};
use wire::v1::node::KeptDisk;

/// Until when these disks are kept. What was announced when they were set aside is
/// held; a retention that was made longer since holds too. `None`: what was announced
/// cannot be read, so there is no end.
pub(crate) fn kept_until(disk: &KeptDisk, retention_ms: u64) -> Option<UnixMillis> {
    disk.retention.map(|kept| kept.until.max(kept.since.plus(retention_ms)))
}

/// The form of the file of ages. The first had no number, and no more than the ages.
const VERSION: u32 = 2;

/// For how long the node has kept disks while it ran, by a clock that nobody sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeptDiskAges(BTreeMap<String, Age>);

/// Their file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    kept: BTreeMap<String, Age>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Age {
    /// Which disks of that name.
    since: UnixMillis,
    kept_ms: u64,
}

impl KeptDiskAges {
    /// Reads the file, of this form or the one before.
    pub(crate) fn parse(text: &[u8]) -> serde_json::Result<Self> {
        let ages = match serde_json::from_slice::<File>(text) {
            Ok(File { version: ..=VERSION, kept }) => kept,
            Ok(File { version, .. }) => {
                let why = format!("it was written by a later version of this program (its form is {version})");
                return Err(serde::de::Error::custom(why));
            }
            Err(_) => serde_json::from_slice(text)?,
        };
        Ok(Self(ages))
    }

    pub(crate) fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&File { version: VERSION, kept: self.0.clone() })
    }

    /// Adds what has gone by since the last look. What was not seen then begins now,
    /// and what is not there any more is forgotten.
    pub(crate) fn look(&mut self, kept: &[KeptDisk], elapsed_ms: u64) {
        let before = std::mem::take(&mut self.0);
        let aged = |disk: &KeptDisk, since| {
            let known = before.get(&disk.name).filter(|age| age.since == since);
            known.map_or(0, |age| age.kept_ms.saturating_add(elapsed_ms))
        };
        let known = kept.iter().filter_map(|disk| Some((disk, disk.retention?.since)));
        self.0 = known.map(|(disk, since)| (disk.name.clone(), Age { since, kept_ms: aged(disk, since) })).collect();
    }

    /// Whether these disks may be erased now.
    pub(crate) fn is_over(&self, disk: &KeptDisk, retention_ms: u64, now: UnixMillis) -> bool {
        let (Some(until), Some(age)) = (kept_until(disk, retention_ms), self.0.get(&disk.name)) else { return false };
        until <= now && age.kept_ms >= until.since(age.since)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use domain::{PodId, RunId};
    use proptest::prelude::*;
    use wire::v1::node::{KeptCause, Retention};

    use super::*;

    const DAY: u64 = 86_400_000;

    fn disk(retention: Option<(u64, u64)>) -> KeptDisk {
        let retention = retention.map(|(since, until)| Retention {
            since: UnixMillis(since),
            until: UnixMillis(until),
            cause: KeptCause::Deleted,
        });
        KeptDisk { name: "one".to_owned(), pod: PodId::minted(RunId::from_bits(1)), bytes: 1, retention }
    }

    /// A node that has kept them for so long.
    fn aged(disk: &KeptDisk, kept_ms: u64) -> KeptDiskAges {
        let mut ages = KeptDiskAges::default();
        ages.look(std::slice::from_ref(disk), 5 * DAY);
        ages.look(std::slice::from_ref(disk), kept_ms);
        ages
    }

    #[test]
    fn fault_1_1_nothing_is_erased_before_what_was_announced() {
        let month = disk(Some((0, 30 * DAY)));
        let ages = aged(&month, 90 * DAY);
        assert!(!ages.is_over(&month, 30 * DAY, UnixMillis(30 * DAY - 1)));
        assert!(ages.is_over(&month, 30 * DAY, UnixMillis(30 * DAY)));
        // A shorter retention takes nothing back; a longer one is given to all.
        assert!(!ages.is_over(&month, DAY, UnixMillis(29 * DAY)));
        assert!(!ages.is_over(&month, 60 * DAY, UnixMillis(59 * DAY)));
    }

    #[test]
    fn ages_of_the_last_version_are_read_and_those_of_a_later_one_refused() {
        let before = include_bytes!("../../tests/formats/ages-1.json");
        let ages = KeptDiskAges::parse(before).unwrap();
        assert_eq!(ages.0.values().map(|age| age.kept_ms).collect::<Vec<_>>(), [90_000]);
        let written = ages.to_json().unwrap();
        assert_eq!(KeptDiskAges::parse(&written).unwrap(), ages);
        // The last version takes nothing of this one for an age: it counts anew.
        assert!(serde_json::from_slice::<BTreeMap<String, Age>>(&written).is_err());
        let later = String::from_utf8(written).unwrap().replace("\"version\":2", "\"version\":3");
        assert!(KeptDiskAges::parse(later.as_bytes()).is_err_and(|error| error.to_string().contains("later version")));
    }

    #[test]
    fn fault_1_2_disks_whose_note_cannot_be_read_are_kept_for_ever() {
        let unread = disk(None);
        assert!(!aged(&unread, 90 * DAY).is_over(&unread, DAY, UnixMillis(u64::MAX)));
    }

    #[test]
    fn fault_1_1_other_disks_of_the_same_name_begin_anew() {
        let mut ages = aged(&disk(Some((0, DAY))), 9 * DAY);
        let other = disk(Some((5, DAY + 5)));
        ages.look(std::slice::from_ref(&other), 9 * DAY);
        assert!(!ages.is_over(&other, DAY, UnixMillis(9 * DAY)));
    }

    proptest! {
        #[test]
        fn fault_1_1_no_steps_of_the_clock_erase_earlier_than_the_node_has_kept_them(
            since in 0..100 * DAY, steps in proptest::collection::vec((0..200 * DAY, 0..3 * DAY, any::<bool>()), 1..40),
        ) {
            let (month, mut ages, mut kept_ms) = (disk(Some((since, since + 30 * DAY))), KeptDiskAges::default(), 0);
            let mut seen = false;
            for (clock, elapsed, restarted) in steps {
                if restarted {
                    ages = KeptDiskAges::parse(&ages.to_json().unwrap()).unwrap();
                }
                ages.look(std::slice::from_ref(&month), elapsed);
                kept_ms += if std::mem::replace(&mut seen, true) { elapsed } else { 0 };
                let over = ages.is_over(&month, 30 * DAY, UnixMillis(clock));
                prop_assert_eq!(over, kept_ms >= 30 * DAY && clock >= since + 30 * DAY);
            }
        }
    }
}
