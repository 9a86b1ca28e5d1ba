//! The live runs that were written last, as they lie in the database: the next
//! step of one that is being spawned need not look it up.
//!
//! Only the writer has them. Who writes to a run's row in another way than by
//! [`RunCache::keep`] calls [`RunCache::forget`]; a transaction that fails forgets all.
//! Builds with debug assertions compare each row that is found with its database.

use std::cell::RefCell;

use domain::RunId;
use hashlink::LruCache;
use rusqlite::Connection;

use super::row::find;
use crate::error::StoreError;
use crate::record::RunRecord;

/// Agents remembered: about 2 MiB.
const MOST: usize = 4096;

pub(crate) struct RunCache(RefCell<LruCache<RunId, RunRecord>>);

impl Default for RunCache {
    fn default() -> Self {
        Self(RefCell::new(LruCache::new(MOST)))
    }
}

impl RunCache {
    /// The agent, remembered or read.
    pub(crate) fn find(
        &self,
        conn: &Connection,
        operation: &'static str,
        id: RunId,
    ) -> Result<Option<RunRecord>, StoreError> {
        let known = self.0.borrow_mut().get(&id).cloned();
        match known {
            None => find(conn, operation, id),
            Some(known) => {
                debug_assert_eq!(find(conn, operation, id)?.as_ref(), Some(&known), "a row was changed unnoticed");
                Ok(Some(known))
            }
        }
    }

    /// Remembers what was written. Whoever has ended changes no more.
    pub(crate) fn keep(&self, record: &RunRecord) {
        if record.state.is_live() {
            self.0.borrow_mut().insert(record.id, record.clone());
        } else {
            self.forget(record.id);
        }
    }

    /// The row was, or will be, changed by something else.
    pub(crate) fn forget(&self, id: RunId) {
        self.0.borrow_mut().remove(&id);
    }

    pub(crate) fn forget_all(&self) {
        self.0.borrow_mut().clear();
    }
}
