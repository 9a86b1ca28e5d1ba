//! The sandboxes of this node, by id.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::{AgentId, Ask, NoRoom};

use crate::policy::{Capacity, Load};
use crate::task::Handle;

/// All handles, and what they take of the machine.
pub(crate) struct Registry {
    capacity: Capacity,
    handles: Mutex<BTreeMap<AgentId, Arc<Handle>>>,
}

/// What became of a request to enter.
pub(crate) enum Entry {
    /// It is in, with this slot.
    New(Arc<Handle>),
    /// It was in already.
    Held(Arc<Handle>),
}

impl Registry {
    pub(crate) const fn new(capacity: Capacity) -> Self {
        Self { capacity, handles: Mutex::new(BTreeMap::new()) }
    }

    pub(crate) fn get(&self, id: AgentId) -> Option<Arc<Handle>> {
        self.handles().get(&id).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Handle>> {
        self.handles().values().cloned().collect()
    }

    /// Lets a sandbox in if there is room, with a slot nobody else has.
    pub(crate) fn enter(&self, id: AgentId, ask: Ask, make: impl FnOnce(u16) -> Arc<Handle>) -> Result<Entry, NoRoom> {
        let mut handles = self.handles();
        if let Some(held) = handles.get(&id) {
            return Ok(Entry::Held(Arc::clone(held)));
        }
        self.capacity.admit(load(&handles), ask)?;
        let taken: BTreeSet<u16> = handles.values().map(|handle| handle.seat.slot).collect();
        let slot = (0..self.capacity.slots).find(|slot| !taken.contains(slot)).ok_or(NoRoom::Full)?;
        let handle = make(slot);
        handles.insert(id, Arc::clone(&handle));
        Ok(Entry::New(handle))
    }

    /// Takes in a sandbox that was there before the daemon: there was room for it.
    pub(crate) fn admit(&self, handle: Arc<Handle>) {
        self.handles().insert(handle.id(), handle);
    }

    /// Frees its slot and its share.
    pub(crate) fn forget(&self, id: AgentId) {
        self.handles().remove(&id);
    }

    pub(crate) const fn capacity(&self) -> &Capacity {
        &self.capacity
    }

    pub(crate) fn load(&self) -> Load {
        load(&self.handles())
    }

    fn handles(&self) -> MutexGuard<'_, BTreeMap<AgentId, Arc<Handle>>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn load(handles: &BTreeMap<AgentId, Arc<Handle>>) -> Load {
    handles.values().fold(Load::default(), |load, handle| load.plus(handle.ask()))
}
