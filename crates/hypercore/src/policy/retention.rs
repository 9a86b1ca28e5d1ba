//! When disks that outlived their sandbox may be erased.

use domain::UnixMillis;
use wire::node::KeptDisk;

/// Until when these disks are kept. What was announced when they were set aside is
/// held; a retention that was made longer since holds too. `None`: what was announced
/// cannot be read, so there is no end.
pub(crate) fn kept_until(disk: &KeptDisk, retention_ms: u64) -> Option<UnixMillis> {
    disk.retention.map(|kept| kept.until.max(kept.since.plus(retention_ms)))
}

/// Whether they may be erased now.
pub(crate) fn is_over(disk: &KeptDisk, retention_ms: u64, now: UnixMillis) -> bool {
    kept_until(disk, retention_ms).is_some_and(|until| until <= now)
}

#[cfg(test)]
mod tests {
    use domain::AgentId;
    use wire::node::{KeptCause, Retention};

    use super::*;

    const DAY: u64 = 86_400_000;

    fn disk(retention: Option<(u64, u64)>) -> KeptDisk {
        let retention = retention.map(|(since, until)| Retention {
            since: UnixMillis(since),
            until: UnixMillis(until),
            cause: KeptCause::Deleted,
        });
        KeptDisk { name: "one".to_owned(), id: AgentId::from_bits(1), bytes: 1, retention }
    }

    #[test]
    fn fault_1_1_nothing_is_erased_before_what_was_announced() {
        let month = disk(Some((0, 30 * DAY)));
        assert!(!is_over(&month, 30 * DAY, UnixMillis(30 * DAY - 1)));
        assert!(is_over(&month, 30 * DAY, UnixMillis(30 * DAY)));
        // A shorter retention takes nothing back; a longer one is given to all.
        assert!(!is_over(&month, DAY, UnixMillis(29 * DAY)));
        assert!(!is_over(&month, 60 * DAY, UnixMillis(59 * DAY)));
    }

    #[test]
    fn fault_1_2_disks_whose_note_cannot_be_read_are_kept_for_ever() {
        assert!(!is_over(&disk(None), DAY, UnixMillis(u64::MAX)));
    }
}
