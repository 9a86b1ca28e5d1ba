//! Asks each part that the gateway works with, now and then, for what it is for.
//! `/ready` tells what was found, and asks nobody but the store: anybody may call it.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::time::MissedTickBehavior;
use wire::v1::public::{Component, ComponentState, ComponentStatus, ReadyResponse};

use crate::health::components::{NO_BALANCE, NO_DISK, NO_NODE, NOT_WRITTEN, ProbeFailure, is_needed};
use crate::state::Gateway;

/// Asks the parts until the gateway goes down.
pub(crate) async fn watch(gateway: Arc<Gateway>) {
    let mut turn = tokio::time::interval(Duration::from_millis(gateway.config.probe_ms.max(1)));
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let rounds = async {
        loop {
            turn.tick().await;
            gateway.probe().await;
        }
    };
    gateway.draining.run_until_cancelled(rounds).await;
}

impl Gateway {
    /// Asks each part for what it is for, all at once.
    async fn probe(&self) {
        let record = |part, outcome| self.components_health.record(part, outcome, self.now());
        let node = async {
            let outcome = if !self.parts.control.fleet().answers().await {
                Err(ProbeFailure::new(NO_NODE, "no node answered"))
            } else if !self.parts.control.fleet().has_disk() {
                Err(ProbeFailure::new(NO_DISK, "on all of them the disk is full up to node.disk_free_mib"))
            } else {
                Ok(())
            };
            record(Component::Node, outcome);
        };
        let solana = async {
            let read = self.parts.balances.probe().await;
            record(Component::Solana, read.map_err(|error| ProbeFailure::new(NO_BALANCE, error)));
        };
        let evm = async {
            if let Some(treasury) = &self.parts.treasury {
                record(
                    Component::Evm,
                    treasury.probe().await.map_err(|found| ProbeFailure::new(found.summary, found.detail)),
                );
            }
        };
        tokio::join!(node, solana, evm);
    }

    /// What `/ready` says.
    pub(crate) async fn readiness(&self) -> (StatusCode, ReadyResponse) {
        let stored = self.parts.store.check().await;
        self.components_health.record(
            Component::Store,
            stored.map_err(|error| ProbeFailure::new(NOT_WRITTEN, error)),
            self.now(),
        );
        let parts = self.components_health.reports();
        let failing = |report: &&ComponentStatus| report.state == ComponentState::Failing;
        let ready = self.components_health.are_ready() && !self.draining.is_cancelled();
        let status = if self.draining.is_cancelled() {
            "shutting down".to_owned()
        } else {
            // What is needed is named first.
            let mut failing: Vec<_> = parts.iter().filter(failing).collect();
            failing.sort_by_key(|report| !is_needed(report.part));
            failing.first().map_or_else(|| "ok".to_owned(), |report| sentence(report))
        };
        let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        (code, ReadyResponse { status, version: env!("CARGO_PKG_VERSION").to_owned(), parts })
    }
}

fn sentence(report: &ComponentStatus) -> String {
    format!("{}: {}", report.part.name(), report.why.as_deref().unwrap_or("failing"))
}
