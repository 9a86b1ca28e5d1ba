//! A guest that was stopped where it is, for want of something.

use std::time::Duration;

use domain::{NodeShortage, RunId};
use sandbox::{GuestState, Runtime};
use tokio::time::sleep;

use crate::context::NodeContext;
use crate::ledger::SandboxRecord;

/// What a guest that runs is stopped for want of, if it is.
pub(super) async fn condition(runtime: &dyn Runtime, id: RunId) -> Option<NodeShortage> {
    match runtime.condition(id).await {
        Ok(GuestState::Paused(wait_reason)) => Some(wait_reason),
        Ok(GuestState::Running) | Err(_) => None,
    }
}

/// Ends when a container was stopped for want of something. A VMM stops its guest by itself, and the
/// guest is silent then; a container is stopped by whoever looks at it.
pub(super) async fn until_stopped(shared: &NodeContext, record: &SandboxRecord) -> NodeShortage {
    if !shared.runtime_of(record.desired.runtime).name.is_container() {
        return std::future::pending().await;
    }
    loop {
        sleep(Duration::from_millis(shared.config.health_period_ms)).await;
        if let Some(wait_reason) = condition(&*shared.runtime, record.id).await {
            return wait_reason;
        }
    }
}
