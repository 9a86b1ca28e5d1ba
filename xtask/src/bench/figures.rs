//! Figures: what was measured, and the bar it is held to.

use std::time::Duration;

use serde::Serialize;

/// One measured figure.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Figure {
    pub(super) name: String,
    pub(super) value: f64,
    pub(super) unit: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bar: Option<Bar>,
}

/// What a figure is held to.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Bar {
    pub(super) is: &'static str,
    pub(super) value: f64,
    pub(super) met: bool,
}

impl Figure {
    pub(super) fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { name: name.into(), value, unit, bar: None }
    }

    /// Holds it to a bar: `at least` or `at most` this much.
    pub(super) fn against(mut self, bar: f64, is: &'static str) -> Self {
        let met = if is == "at least" { self.value >= bar } else { self.value <= bar };
        self.bar = Some(Bar { is, value: bar, met });
        self
    }

    /// Whether it is held to a bar that it does not reach.
    pub(super) fn missed(&self) -> bool {
        self.bar.as_ref().is_some_and(|bar| !bar.met)
    }
}

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:<58} {:>12.2} {:<4}", self.name, self.value, self.unit)?;
        match &self.bar {
            Some(bar) => write!(f, " {} {} {}", if bar.met { "✓" } else { "✗" }, bar.is, bar.value),
            None => Ok(()),
        }
    }
}

/// The value that this share of the sorted values does not exceed (nearest rank).
pub(super) fn percentile(values: &[Duration], share: f64) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let last = sorted.len().saturating_sub(1);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a rank")]
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1).min(last)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_3_3_a_bar_that_is_not_reached_is_missed() {
        let figure = Figure::new("x", 7.0, "ms");
        assert!(!figure.missed());
        assert!(figure.clone().against(8.0, "at least").missed() && !figure.clone().against(7.0, "at least").missed());
        assert!(figure.clone().against(5.0, "at most").missed() && !figure.against(7.0, "at most").missed());
    }

    #[test]
    fn a_percentile_is_the_nearest_rank() {
        let values: Vec<_> = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile(&values, 0.5), Duration::from_millis(50));
        assert_eq!(percentile(&values, 0.99), Duration::from_millis(99));
        assert_eq!(percentile(&values[..1], 0.99), Duration::from_millis(100));
        assert_eq!(percentile(&[], 0.5), Duration::ZERO);
    }
}
