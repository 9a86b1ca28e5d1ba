//! What the control plane's tasks share.

use std::sync::{Arc, Mutex};

use chain::Balances;
use domain::{Clock, RunId, Tiers, UnixMillis, Wallet};
use store::Store;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::fleet::inventory::Fleet;
use crate::pods::inflight::Inflight;
use crate::pods::locks::{RunLocks, UnansweredCreations};
use crate::reconcile::collector::MarkCollector;
use crate::reconcile::plan::{LastWaiting, MissingSince};

pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) collectors: Vec<MarkCollector>,
    pub(crate) balances: Arc<dyn Balances>,
    pub(crate) tiers: Tiers,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) started_at: UnixMillis,
    /// Each holder counts once, whatever it asks for: one of its runs at most comes to be.
    pub(crate) spawning: Inflight<Wallet>,
    /// Being taken down on reconciliation's behalf.
    pub(crate) leaving: Inflight<RunId>,
    pub(crate) locks: RunLocks,
    pub(crate) unanswered: UnansweredCreations,
    pub(crate) missing: Mutex<MissingSince>,
    pub(crate) waiting: Mutex<LastWaiting>,
    /// Something has happened that reconciliation should look at.
    pub(crate) signal: Notify,
    pub(crate) stopping: CancellationToken,
    pub(crate) tasks: TaskTracker,
}
