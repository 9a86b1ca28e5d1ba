//! `[control]`: deadlines and periods of the control plane.

use std::time::Duration;

use domain::{OutOfBounds, check_bounds};
use serde::{Deserialize, Serialize};

/// The longest wait for how a node is.
const LOOK: Duration = Duration::from_secs(5);

/// `[control]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Milliseconds in which a new agent must be ready. Default 60000.
    pub spawn_timeout_ms: u64,
    /// Holders for whom an agent is started at the same time, at most. Default 16384.
    pub spawns_at_once: u32,
    /// Milliseconds between the stop signal and force. Default 10000.
    pub stop_grace_ms: u64,
    /// Milliseconds in which a node must answer. Default 30000.
    pub node_timeout_ms: u64,
    /// Milliseconds between two questions to a node how much room it has and which
    /// images; an answer is relied on for twice as long. Default 2000.
    pub inventory_ms: u64,
    /// Milliseconds between two looks at the nodes when nothing happens.
    /// Default 2000.
    pub reconcile_ms: u64,
    /// Milliseconds for which a node must go on saying that it does not know a
    /// running agent before the agent counts as lost. Default 10000.
    pub lost_after_ms: u64,
    /// Milliseconds for which a request to a node may be under way after its
    /// sender has given up. Default 2000.
    pub settle_ms: u64,
    /// Milliseconds for which a node holds a question for new marks. Default 20000.
    pub marks_wait_ms: u64,
    /// Seconds between two readings of a running agent's holder. Default 300.
    pub recheck_period_s: u64,
    /// Readings below the tier, in a row, before an agent is stopped. Default 3.
    pub below_readings: u32,
    /// Seconds below the tier before an agent is stopped. Default 600.
    pub below_grace_s: u64,
    /// Seconds between two rounds of forgetting what is old. Default 60.
    pub prune_period_s: u64,
    /// Seconds that a holder may give an agent to live, at most; one that is given none
    /// lives until it is stopped. Default 2592000.
    pub lifetime_max_s: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            spawn_timeout_ms: 60_000,
            spawns_at_once: 16_384,
            stop_grace_ms: 10_000,
            node_timeout_ms: 30_000,
            inventory_ms: 2_000,
            reconcile_ms: 2_000,
            lost_after_ms: 10_000,
            settle_ms: 2_000,
            marks_wait_ms: 20_000,
            recheck_period_s: 300,
            below_readings: 3,
            below_grace_s: 600,
            prune_period_s: 60,
            lifetime_max_s: 30 * 86_400,
        }
    }
}

impl Config {
    /// Checks the bounds.
    ///
    /// # Errors
    /// Names the first key out of bounds.
    pub fn check(&self) -> Result<(), OutOfBounds> {
        const MINUTE_MS: u64 = 60_000;
        const HOUR_MS: u64 = 3_600_000;
        const DAY_S: u64 = 86_400;
        check_bounds(
            "control",
            [
                ("spawn_timeout_ms", self.spawn_timeout_ms, 100..=HOUR_MS),
                ("spawns_at_once", u64::from(self.spawns_at_once), 1..=1_000_000),
                ("stop_grace_ms", self.stop_grace_ms, 0..=HOUR_MS),
                ("node_timeout_ms", self.node_timeout_ms, 100..=HOUR_MS),
                ("inventory_ms", self.inventory_ms, 50..=MINUTE_MS),
                ("reconcile_ms", self.reconcile_ms, 50..=HOUR_MS),
                ("lost_after_ms", self.lost_after_ms, 0..=HOUR_MS),
                ("settle_ms", self.settle_ms, 0..=HOUR_MS),
                ("marks_wait_ms", self.marks_wait_ms, 0..=25_000),
                ("recheck_period_s", self.recheck_period_s, 1..=DAY_S),
                ("below_readings", u64::from(self.below_readings), 1..=1_000),
                ("below_grace_s", self.below_grace_s, 0..=30 * DAY_S),
                ("prune_period_s", self.prune_period_s, 1..=DAY_S),
                ("lifetime_max_s", self.lifetime_max_s, 1..=36_500 * DAY_S),
            ],
        )
    }

    pub(crate) const fn spawn_timeout(&self) -> Duration {
        Duration::from_millis(self.spawn_timeout_ms)
    }

    pub(crate) const fn stop_grace(&self) -> Duration {
        Duration::from_millis(self.stop_grace_ms)
    }

    pub(crate) const fn node_timeout(&self) -> Duration {
        Duration::from_millis(self.node_timeout_ms)
    }

    pub(crate) const fn inventory(&self) -> Duration {
        Duration::from_millis(self.inventory_ms)
    }

    /// For a question that a node answers out of its memory: one that hangs must
    /// not hold up what concerns the others.
    pub(crate) fn look(&self) -> Duration {
        self.node_timeout().min(LOOK)
    }

    pub(crate) const fn settle(&self) -> Duration {
        Duration::from_millis(self.settle_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_pass_and_values_out_of_bounds_are_named() {
        assert_eq!(Config::default().check(), Ok(()));
        let said = Config { below_readings: 0, ..Config::default() }.check().unwrap_err().to_string();
        assert_eq!(said, "[control] below_readings must be from 1 to 1000, not 0");
    }
}
