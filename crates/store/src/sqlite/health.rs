//! Whether the disk takes what is written, and room for when it does not.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use durable::BallastFile;

use crate::error::StoreError;

/// The size of the room that is kept: a thousand transactions.
const BYTES: usize = 8 * 1024 * 1024;
/// Between two looks for whether it can be.
const PAUSE: Duration = Duration::from_secs(1);

/// How the disk is.
#[derive(Debug)]
pub(crate) struct Health {
    reserve: BallastFile,
    /// The reserve is in use.
    starved: AtomicBool,
    last_error: Mutex<Option<StoreError>>,
    looked: Mutex<Option<Instant>>,
}

impl Health {
    pub(crate) fn of(directory: &Path) -> Self {
        Self {
            reserve: BallastFile::at(directory, BYTES),
            starved: AtomicBool::new(false),
            last_error: Mutex::default(),
            looked: Mutex::default(),
        }
    }

    pub(crate) fn works(&self) {
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(crate) fn fails(&self, error: &StoreError) {
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
    }

    /// Why nothing can be written, as long as that is so.
    pub(crate) fn last_error(&self) -> Option<StoreError> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives the room up: from now on nothing but what is essential is written.
    pub(crate) fn release(&self) {
        if self.reserve.release() {
            tracing::error!("the store's disk is full: the room that was kept for stopping agents is in use now");
            metrics::counter!("palatine_store_reserve_releases_total").increment(1);
            self.starved.store(true, Ordering::Relaxed);
        }
    }

    /// Why only what is essential may be written, as long as that is so.
    pub(crate) fn starved(&self) -> Option<StoreError> {
        if !self.starved.load(Ordering::Relaxed) {
            return None;
        }
        self.refill();
        if self.reserve.is_kept() {
            self.starved.store(false, Ordering::Relaxed);
            tracing::info!("the store's disk has room again");
            return None;
        }
        self.last_error()
    }

    /// Makes the reserve again, now and then, if it was given up.
    pub(crate) fn refill(&self) {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.is_some_and(|at| at.elapsed() < PAUSE) {
            return;
        }
        *looked = Some(Instant::now());
        if let Err(error) = self.reserve.refill() {
            tracing::warn!(%error, "room for when the store's disk is full cannot be kept");
        }
    }
}
