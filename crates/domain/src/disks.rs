//! Metering of disk: from what a node holds of whom to what a wallet used of it.
//!
//! A node writes one [`DiskMark`] when what it holds of a disk becomes more or less, in the one
//! order of its journal. A volume takes what is promised to it, its size; a snapshot,
//! and data that is kept of a POD that does not run, what they really take of the node's disk, by the host's own
//! count of blocks: no guest is asked. What is less than a MiB is nobody's bill. The disks of a
//! POD that runs are its run's, which is billed by its tier.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{PodId, SnapshotId, UnixMillis, VolumeId};

const BYTES_PER_MIB: u128 = 1024 * 1024;
const MS_PER_HOUR: u128 = 3_600_000;

/// A disk that is metered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MeteredDisk {
    /// A volume, by its size.
    Volume(VolumeId),
    /// A snapshot of a volume, by what it takes.
    Snapshot(SnapshotId),
    /// What is kept of a POD that does not run, by what it takes.
    Data(PodId),
}

/// What a node saw of its disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DiskChange {
    /// From here on it holds so much of this one.
    Level {
        /// Which.
        disk: MeteredDisk,
        /// In MiB; 0 of what is there no more.
        mib: u64,
    },
    /// It was down, and nobody pays for that: from then until this mark.
    Down {
        /// When it last lived.
        since: UnixMillis,
    },
}

/// One durable, numbered observation of a node about its disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiskMark {
    /// Place in the node's own order, which it shares with the marks of agents.
    pub seq: u64,
    /// The node's clock. May lie: no time is counted below nothing.
    pub at: UnixMillis,
    /// What was seen.
    pub change: DiskChange,
}

/// What a node holds, by disk, in MiB. What is not named is not there.
pub type DiskLevels = BTreeMap<MeteredDisk, u64>;

/// What has changed from what was last marked to what is there now, and when that is marked:
/// what became more from now on, what became less from when it was last looked at.
#[must_use]
pub fn disk_changes(
    marked: &DiskLevels,
    found: &DiskLevels,
    looked: UnixMillis,
    now: UnixMillis,
) -> Vec<(UnixMillis, DiskChange)> {
    let level = |levels: &DiskLevels, disk| levels.get(disk).copied().unwrap_or(0);
    let less = marked.iter().filter(|(disk, mib)| level(found, disk) < **mib);
    let less = less.map(|(disk, _)| (looked.min(now), DiskChange::Level { disk: *disk, mib: level(found, disk) }));
    let more = found.iter().filter(|(disk, mib)| level(marked, disk) < **mib);
    let more = more.map(|(disk, mib)| (now, DiskChange::Level { disk: *disk, mib: *mib }));
    less.chain(more).collect()
}

/// What so many MiB take in the time from `since` to `until`, in MiB × milliseconds.
#[must_use]
pub const fn disk_used(mib: u64, since: UnixMillis, until: UnixMillis) -> u64 {
    mib.saturating_mul(until.since(since))
}

/// Whole bytes × hours of so many MiB × milliseconds, rounded down.
#[must_use]
pub fn byte_hours(mib_ms: u64) -> u64 {
    u64::try_from(u128::from(mib_ms) * BYTES_PER_MIB / MS_PER_HOUR).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: u64 = 3_600_000;

    fn volume(n: u64) -> MeteredDisk {
        MeteredDisk::Volume(VolumeId::from_bits(n))
    }

    fn levels() -> impl Strategy<Value = DiskLevels> {
        proptest::collection::btree_map((0_u64..6).prop_map(volume), 1_u64..9, 0..6)
    }

    #[test]
    fn a_gib_for_an_hour_is_so_many_byte_hours_and_no_time_is_none() {
        let used = |until| disk_used(1024, UnixMillis(5), UnixMillis(until));
        assert_eq!(byte_hours(used(5 + HOUR)), 1 << 30);
        assert_eq!((used(5), used(0)), (0, 0), "a clock that goes back counts nothing");
        assert_eq!(byte_hours(u64::MAX), u64::try_from(u128::from(u64::MAX) * (1 << 20) / 3_600_000).unwrap());
    }

    #[test]
    fn more_counts_from_now_and_less_from_when_it_was_last_seen() {
        let marked = DiskLevels::from([(volume(1), 5), (volume(2), 5), (volume(3), 5)]);
        let found = DiskLevels::from([(volume(2), 9), (volume(3), 5), (volume(4), 1)]);
        let level = |n, mib| DiskChange::Level { disk: volume(n), mib };
        let (looked, now) = (UnixMillis(10), UnixMillis(20));
        let changes = disk_changes(&marked, &found, looked, now);
        assert_eq!(changes, [(looked, level(1, 0)), (now, level(2, 9)), (now, level(4, 1))]);
        assert_eq!(disk_changes(&found, &found, looked, now), []);
    }

    proptest! {
        #[test]
        fn after_its_changes_what_is_marked_is_what_was_found(marked in levels(), found in levels()) {
            let mut after = marked.clone();
            for (_, change) in disk_changes(&marked, &found, UnixMillis(1), UnixMillis(2)) {
                let DiskChange::Level { disk, mib } = change else { panic!("{change:?}") };
                if mib == 0 { after.remove(&disk); } else { after.insert(disk, mib); }
            }
            prop_assert_eq!(after, found);
        }
    }
}
