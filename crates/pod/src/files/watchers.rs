//! The watches of this pod, and those of them that are asked for what they have heard.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use wire::process::{RpcCode, RpcError};

use super::watch::Watch;

/// Watches at the same time, of both kinds.
const MAX_WATCHES: usize = 32;
/// How long one that nobody asks keeps its place when another one wants it.
const FORGOTTEN: Duration = Duration::from_mins(10);

/// All watches. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Watchers {
    slots: Arc<Semaphore>,
    polled: Arc<Mutex<HashMap<String, Polled>>>,
}

#[derive(Debug)]
struct Polled {
    watch: Arc<Watch>,
    asked: Instant,
}

impl Default for Watchers {
    fn default() -> Self {
        Self { slots: Arc::new(Semaphore::new(MAX_WATCHES)), polled: Arc::default() }
    }
}

impl Watchers {
    /// A place for one more watch, if need be that of one that nobody has asked for long.
    ///
    /// # Errors
    /// All are taken.
    pub(crate) fn slot(&self) -> Result<OwnedSemaphorePermit, RpcError> {
        let taken = || Arc::clone(&self.slots).try_acquire_owned().ok();
        let slot = taken().or_else(|| {
            self.forget_oldest();
            taken()
        });
        let full = || fault(RpcCode::ResourceExhausted, format!("{MAX_WATCHES} folders are watched already"));
        slot.ok_or_else(full)
    }

    /// Keeps a watch under a name, by which it is asked.
    pub(crate) fn keep(&self, watch: Watch) -> Result<String, RpcError> {
        let number = getrandom::u64().map_err(|_| fault(RpcCode::Internal, "there is no entropy".to_owned()))?;
        let id = format!("w{number:016x}");
        self.polled().insert(id.clone(), Polled { watch: Arc::new(watch), asked: Instant::now() });
        Ok(id)
    }

    /// The watch of this name.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn find(&self, id: &str) -> Result<Arc<Watch>, RpcError> {
        let mut polled = self.polled();
        let found = polled.get_mut(id).ok_or_else(|| unknown(id))?;
        found.asked = Instant::now();
        Ok(Arc::clone(&found.watch))
    }

    /// Ends the watch of this name.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn remove(&self, id: &str) -> Result<(), RpcError> {
        self.polled().remove(id).map(drop).ok_or_else(|| unknown(id))
    }

    fn forget_oldest(&self) {
        let mut polled = self.polled();
        let oldest = polled.iter().min_by_key(|(_, watch)| watch.asked).map(|(id, watch)| (id.clone(), watch.asked));
        if let Some((id, asked)) = oldest
            && asked.elapsed() >= FORGOTTEN
        {
            polled.remove(&id);
        }
    }

    fn polled(&self) -> MutexGuard<'_, HashMap<String, Polled>> {
        self.polled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unknown(id: &str) -> RpcError {
    fault(RpcCode::NotFound, format!("there is no watcher {id:?}"))
}

fn fault(code: RpcCode, message: String) -> RpcError {
    RpcError { code, message }
}
