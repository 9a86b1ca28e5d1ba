//! The time that a holder gives a run to live: after it the run is stopped as its holder would
//! stop it.
//!
//! It begins when it is asked for, and is counted by the machines' steady clocks
//! ([`store::TimeStore`]): a clock that is set ends nobody early and keeps nobody for longer.

use std::sync::Arc;

use domain::RunId;
use store::{RunExpiry, RunRecord, StoreError};

use crate::context::Context;

/// Why a run gets no such time to live.
#[derive(Debug, thiserror::Error)]
pub enum LifetimeError {
    /// More than the operator allows, or nothing.
    #[error("a time to live must be from 1 to {most} seconds, not {asked}")]
    OutOfBounds {
        /// The most, in seconds.
        most: u64,
        /// What was asked for, in seconds.
        asked: u64,
    },
    /// Unknown run, or a fault of the store.
    #[error("the agent's record cannot be written")]
    Store(#[from] StoreError),
}

impl Context {
    /// When a time to live of so many seconds, from now on, is over.
    pub(crate) async fn expiry(&self, seconds: u64) -> Result<RunExpiry, LifetimeError> {
        let most = self.config.lifetime_max_s;
        if !(1..=most).contains(&seconds) {
            return Err(LifetimeError::OutOfBounds { most, asked: seconds });
        }
        let counted_ms = self.store.count_time(self.clock.steady()).await?;
        let lifetime_ms = seconds.saturating_mul(1000);
        Ok(RunExpiry { at: self.clock.now().plus(lifetime_ms), counted_ms: counted_ms.saturating_add(lifetime_ms) })
    }

    /// Gives a run so many seconds to live from now on, or no end; `None` of one that is ending
    /// or has ended.
    pub(crate) async fn set_lifetime(
        &self,
        id: RunId,
        seconds: Option<u64>,
    ) -> Result<Option<RunRecord>, LifetimeError> {
        let expiry = match seconds {
            Some(seconds) => Some(self.expiry(seconds).await?),
            None => None,
        };
        Ok(self.store.set_expiry(id, expiry).await?)
    }

    /// What was counted, if any of these runs has a time to live.
    pub(crate) async fn counted(&self, live: &[RunRecord]) -> Option<u64> {
        if live.iter().all(|record| record.expiry.is_none()) {
            return None;
        }
        let counted = self.store.count_time(self.clock.steady()).await;
        let failed = |error: &StoreError| tracing::error!(%error, "the time that runs have lived cannot be counted");
        counted.inspect_err(failed).ok()
    }

    /// Stops a run whose time to live is over, unless it was given more meanwhile.
    pub(crate) async fn expire(self: &Arc<Self>, id: RunId, counted_ms: u64) -> Result<(), StoreError> {
        if self.store.expire(id, counted_ms, self.clock.now()).await?.change.is_some() {
            tracing::info!(agent = %id, "the time that an agent's holder gave it to live is over: it is stopped");
            self.tear_down_later(id);
        }
        Ok(())
    }
}
