//! What is forgotten, and when. In small bites, so that nobody waits for long.

use std::collections::BTreeSet;

use domain::UnixMillis;

use crate::port::port;
use crate::record::GatewayEpoch;

/// Rows of each kind forgotten in one transaction.
pub(crate) const DELETE_BATCH: u32 = 500;
/// A spent message is kept this much longer than anyone accepts it, should the
/// clock be set back.
pub(crate) const SPENT_SLACK_MS: u64 = 10 * 60 * 1000;

/// What was forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// Spent messages that nobody would accept any more.
    pub spent_signatures: u64,
    /// Idempotency keys past their day.
    pub keys: u64,
    /// Ended runs past their retention, but the last of each POD; their usage went into
    /// the totals.
    pub runs: u64,
    /// Payments whose authorizations no token takes any more, and that are over.
    pub payments: u64,
    /// What authorizations paid for that no token takes any more.
    pub purposes: u64,
    /// API keys that have been over for a while.
    pub api_keys: u64,
    /// Whether there is more to forget.
    pub more: bool,
}

port! {
    /// The store itself: how it is, who uses it, what is forgotten.
    MaintenanceStore {
        /// Whether it can be written and read. A store that could not be written is
        /// tried again by this.
        fn check(&self) -> ();

        /// Forgets a batch of what is old. Call again while [`PruneReport::more`] says so.
        fn prune(&self, now: UnixMillis) -> PruneReport;

        /// The runs of gateways that use this store now, this one included: what another
        /// one reserved has lost the process that would complete it.
        fn live_epochs(&self) -> BTreeSet<GatewayEpoch>;
    }
}
