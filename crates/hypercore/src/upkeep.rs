//! What the node does by itself, now and then, as long as it runs.

use std::time::Duration;

use domain::UnixMillis;
use durable::BallastFile;
use sandbox::Runtime;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use crate::context::NodeContext;
use crate::node::Node;
use crate::retention::{expire, read_ages, write_ages};

/// Between two looks for disks whose time is over.
const PERIOD: Duration = Duration::from_secs(60);
/// Between two looks at what is held of disks, where nothing says that it has changed. Of what is
/// gone then, so much is not paid for at most.
const METER_PERIOD: Duration = Duration::from_secs(10);
/// Between two looks at what the guests' networks need of the machine. For so long, at
/// most, guests may be without a way out and without the host's own rules against them,
/// when an operator has loaded others; the rules in their namespaces stand meanwhile.
const NETWORK_PERIOD: Duration = Duration::from_secs(2);

/// Erases disks whose retention is over, and keeps room for the node's own records.
pub(crate) async fn keep_disks(node: &NodeContext, reserve: BallastFile) {
    let path = node.config.state.join("kept.ages");
    let (mut ages, mut looked) = (read_ages(&path), Instant::now());
    loop {
        let reserve = reserve.clone();
        if let Ok(Err(error)) = spawn_blocking(move || reserve.refill()).await {
            tracing::warn!(%error, "room for the node's own records cannot be kept");
        }
        let elapsed = looked.elapsed();
        looked += elapsed;
        if let Err(error) = expire(node, &mut ages, elapsed).await {
            tracing::error!(error = &error as &dyn std::error::Error, "disks whose retention is over cannot be erased");
        }
        if let Err(error) = write_ages(path.clone(), ages.clone()).await {
            tracing::warn!(%error, "for how long disks were kept cannot be recorded; trying again");
        }
        sleep(PERIOD).await;
    }
}

/// Has marked what is held of disks, at once when that has changed: what was erased is paid for up
/// to the last look, and no longer. `last_alive` is when the daemon before last lived.
pub(crate) async fn keep_meter(node: &Node, last_alive: Option<UnixMillis>) {
    let mut looked = last_alive.unwrap_or_else(|| node.shared.clock.now());
    loop {
        match node.meter_disks(looked).await {
            Ok(began) => looked = began,
            Err(error) => tracing::warn!(error = &*error, "what is held of disks cannot be marked yet"),
        }
        let _ = tokio::time::timeout(METER_PERIOD, node.shared.disks_changed.notified()).await;
    }
}

/// Removes images that were forgotten and that nothing runs from.
pub(crate) async fn keep_images(node: &Node) {
    loop {
        // Whoever forgets one does not wait for the next minute.
        let _ = tokio::time::timeout(PERIOD, node.forgotten.notified()).await;
        node.sweep().await;
    }
}

/// Has the guests' networks looked at. What cannot be mended is told once, until it can.
pub(crate) async fn keep_network(runtime: &dyn Runtime) {
    let mut told = false;
    loop {
        sleep(NETWORK_PERIOD).await;
        let mended = runtime.reconcile_network().await;
        if let Err(error) = &mended
            && !told
        {
            tracing::error!(error = error as &dyn std::error::Error, "what the guests' networks need is not there");
        }
        told = mended.is_err();
    }
}
