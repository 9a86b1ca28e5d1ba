//! What is copied of the node's volumes just now.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use domain::{SnapshotId, VolumeId};
use tokio::sync::Notify;

use super::VolumeError;
use crate::turns::Turns;

/// Disks that are copied at once: each takes the node's disk as fast as it is.
const COPIES: usize = 2;

/// The volumes that are copied, and copies that failed, until somebody asks how they are.
pub(crate) struct Copies {
    active: Mutex<BTreeMap<VolumeId, Copying>>,
    pub(super) places: Turns,
    /// One has ended.
    pub(super) ended: Notify,
}

struct Copying {
    work: Work,
    /// Why it failed, once it has.
    failed: Option<VolumeError>,
}

/// What is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Make(SnapshotId),
    Restore { from: SnapshotId, order: u64 },
}

impl Default for Copies {
    fn default() -> Self {
        Self { active: Mutex::default(), places: Turns::new(COPIES), ended: Notify::new() }
    }
}

impl Copies {
    /// Whether a volume is copied just now.
    pub(crate) fn are_of(&self, volume: VolumeId) -> bool {
        self.active().get(&volume).is_some_and(|copy| copy.failed.is_none())
    }

    /// Whether a snapshot is made or put back just now.
    pub(super) fn use_snapshot(&self, id: SnapshotId) -> bool {
        let uses = |work: Work| match work {
            Work::Make(of) | Work::Restore { from: of, .. } => of == id,
        };
        self.active().values().any(|copy| copy.failed.is_none() && uses(copy.work))
    }

    /// Whether this is being done; a failure of the same is told once, and forgotten.
    pub(super) fn is_underway(&self, volume: VolumeId, work: Work) -> Result<bool, VolumeError> {
        let mut active = self.active();
        let Some(copy) = active.get_mut(&volume) else { return Ok(false) };
        let failed = copy.failed.take();
        let same = copy.work == work;
        match failed {
            None if same => Ok(true),
            None => Err(VolumeError::Copying(volume)),
            Some(why) => {
                active.remove(&volume);
                if same { Err(why) } else { Ok(false) }
            }
        }
    }

    pub(super) fn begin(&self, volume: VolumeId, work: Work) {
        self.active().insert(volume, Copying { work, failed: None });
    }

    pub(super) fn end(&self, volume: VolumeId, done: Result<(), VolumeError>) {
        let mut active = self.active();
        match done {
            Ok(()) => drop(active.remove(&volume)),
            Err(why) => {
                tracing::error!(%volume, error = &why as &dyn std::error::Error, "a volume is not copied");
                if let Some(copy) = active.get_mut(&volume) {
                    copy.failed = Some(why);
                }
            }
        }
        drop(active);
        self.ended.notify_waiters();
    }

    fn active(&self) -> MutexGuard<'_, BTreeMap<VolumeId, Copying>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
