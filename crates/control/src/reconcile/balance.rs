//! Whether a running agent's holder still holds enough.
//!
//! A reading that fails is no reading. Below the tier for long enough, and seen
//! so often enough, the agent is stopped; one reading at or above forgives all.

use std::sync::Arc;
use std::time::Duration;

use chain::BalanceError;
use domain::{Event, State, StopReason, Tiers, TokenAmount, UnixMillis};
use futures_util::{StreamExt, stream};
use store::{BelowTier, RunRecord};

use crate::config::Config;
use crate::context::Context;

/// Holders asked about at once.
const AT_ONCE: usize = 8;

/// What follows from a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It runs on; this is what to remember.
    Keep(BelowTier),
    /// It was below for too long.
    Stop(BelowTier),
}

fn judge(before: BelowTier, enough: bool, now: UnixMillis, config: &Config) -> Verdict {
    if enough {
        return Verdict::Keep(BelowTier::default());
    }
    let since = before.since.unwrap_or(now);
    let below = BelowTier { readings: before.readings.saturating_add(1), since: Some(since) };
    let long = now.since(since) >= config.below_grace_s.saturating_mul(1000);
    if below.readings >= config.below_readings && long { Verdict::Stop(below) } else { Verdict::Keep(below) }
}

/// What the agent's tier asks for: what it asked at spawn, or less if the
/// operator has lowered it since.
fn needed(record: &RunRecord, tiers: &Tiers) -> u64 {
    let today = tiers.iter().find(|(name, _)| **name == record.tier).map(|(_, tier)| tier.min);
    today.map_or(record.tier_config.min, |min| min.min(record.tier_config.min))
}

impl Context {
    pub(crate) async fn recheck_for_ever(self: &Arc<Self>) {
        loop {
            self.recheck().await;
            tokio::time::sleep(Duration::from_secs(self.config.recheck_period_s)).await;
        }
    }

    /// Reads every running agent's holder once.
    async fn recheck(self: &Arc<Self>) {
        let live = match self.store.live().await {
            Ok(live) => live,
            Err(error) => {
                tracing::error!(%error, "the running agents cannot be listed to check their balances");
                return;
            }
        };
        let running =
            live.into_iter().filter(|record| matches!(record.state, State::Booting | State::Waiting(_) | State::Ready));
        stream::iter(running).for_each_concurrent(AT_ONCE, |record| self.recheck_one(record)).await;
    }

    async fn recheck_one(self: &Arc<Self>, record: RunRecord) {
        let outcome = match self.balances.balance(&record.wallet).await {
            Ok(balance) => self.judge_one(&record, balance).await,
            Err(BalanceError::Unknown { why, .. }) => {
                tracing::warn!(agent = %record.id, why, "a running agent's balance is not known");
                "unknown"
            }
        };
        metrics::counter!("palatine_balance_checks_total", "outcome" => outcome).increment(1);
    }

    async fn judge_one(self: &Arc<Self>, record: &RunRecord, balance: TokenAmount) -> &'static str {
        let enough = balance >= TokenAmount::from_whole(needed(record, &self.tiers), self.balances.decimals());
        let (below, outcome) = match judge(record.below, enough, self.clock.now(), &self.config) {
            Verdict::Keep(below) => (below, if enough { "enough" } else { "below" }),
            Verdict::Stop(below) => (below, "stop"),
        };
        if below != record.below
            && let Err(error) = self.store.note_balance(record.id, below).await
        {
            tracing::error!(agent = %record.id, %error, "a balance cannot be noted");
            return "error";
        }
        if outcome == "stop" {
            tracing::info!(agent = %record.id, readings = below.readings, "the holder stayed below the tier: stopped");
            match self.store.advance(record.id, Event::Stop(StopReason::Balance), self.clock.now()).await {
                Ok(_) => self.tear_down_later(record.id),
                Err(error) => tracing::error!(agent = %record.id, %error, "an agent below its tier cannot be stopped"),
            }
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config() -> Config {
        Config { below_readings: 3, below_grace_s: 600, ..Config::default() }
    }

    #[test]
    fn an_agent_is_stopped_after_enough_readings_and_enough_time() {
        let mut below = BelowTier::default();
        for (at_s, stops) in [(0, false), (300, false), (599, false), (600, true)] {
            let verdict = judge(below, false, UnixMillis(at_s * 1000), &config());
            assert_eq!(matches!(verdict, Verdict::Stop(_)), stops, "after {at_s} s");
            if let Verdict::Keep(next) = verdict {
                below = next;
            }
        }
    }

    #[test]
    fn one_good_reading_forgives_all() {
        let long = BelowTier { readings: 99, since: Some(UnixMillis(0)) };
        assert_eq!(judge(long, true, UnixMillis(1 << 40), &config()), Verdict::Keep(BelowTier::default()));
    }

    proptest! {
        #[test]
        fn nobody_is_stopped_sooner_than_promised(readings in proptest::collection::vec((any::<bool>(), 0_u64..400), 1..60)) {
            let config = config();
            let (mut below, mut now, mut low_since, mut low_count) = (BelowTier::default(), 0, None, 0);
            for (enough, wait_s) in readings {
                now += wait_s * 1000;
                (low_since, low_count) = if enough { (None, 0) } else { (low_since.or(Some(now)), low_count + 1) };
                match judge(below, enough, UnixMillis(now), &config) {
                    Verdict::Keep(next) => below = next,
                    Verdict::Stop(_) => {
                        prop_assert!(low_count >= 3);
                        prop_assert!(now - low_since.unwrap() >= 600_000);
                        break;
                    }
                }
                let due = low_count >= 3 && low_since.is_some_and(|since| now - since >= 600_000);
                prop_assert!(!due, "it should have been stopped");
            }
        }
    }
}
