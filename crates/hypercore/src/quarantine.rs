//! Sandboxes whose records cannot be read: neither known nor gone.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use domain::{PodId, RunId};
use sandbox::ObservedRun;
use wire::v1::node::Quarantined;

/// One of them.
#[derive(Clone, Debug)]
pub(crate) struct QuarantinedSandbox {
    /// What the machine holds of it.
    pub(crate) presence: ObservedRun,
    /// Host memory its guest takes, in MiB.
    pub(crate) memory_mib: u64,
    /// What is wrong, and the repair.
    pub(crate) cause: String,
}

/// All of them. What is here is touched by nothing but a deletion.
#[derive(Debug, Default)]
pub(crate) struct Quarantine(Mutex<BTreeMap<RunId, QuarantinedSandbox>>);

impl Quarantine {
    pub(crate) fn hold(&self, id: RunId, held: QuarantinedSandbox) {
        self.held().insert(id, held);
    }

    pub(crate) fn get(&self, id: RunId) -> Option<QuarantinedSandbox> {
        self.held().get(&id).cloned()
    }

    /// The run of this POD that is here, if one is.
    pub(crate) fn run_of(&self, pod: PodId) -> Option<QuarantinedSandbox> {
        self.held().values().find(|held| held.presence.pod == Some(pod)).cloned()
    }

    pub(crate) fn release(&self, id: RunId) {
        self.held().remove(&id);
    }

    /// As the API shows them.
    pub(crate) fn list(&self) -> Vec<Quarantined> {
        let held = self.held();
        let shown = held.iter();
        shown.map(|(id, held)| Quarantined { id: *id, runs: held.presence.runs, cause: held.cause.clone() }).collect()
    }

    /// The slots and the memory that are taken by guests which run.
    pub(crate) fn taken(&self) -> Vec<(Option<u16>, u64)> {
        let held = self.held();
        held.values().filter(|held| held.presence.runs).map(|held| (held.presence.slot, held.memory_mib)).collect()
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<RunId, QuarantinedSandbox>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
