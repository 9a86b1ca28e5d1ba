//! Metering: from a node's durable marks to what a wallet used.
//!
//! A node writes one [`Mark`] for each change that matters, numbered without
//! gaps in its own order. Time counts between `Ready` and the next mark that
//! ends it; the rest (boot, restart, being taken down) is nobody's bill. The fold is
//! exact under replays: a mark at or before the last one seen changes nothing.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Tier, UnixMillis};

/// What a node saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MarkKind {
    /// The node starts the agent, for the first time or again. Not billed.
    Booting,
    /// The agent answers: billing starts.
    Ready,
    /// The agent stopped answering: billing ends.
    Unready,
    /// Nothing of the agent is left on the node: billing ends.
    Gone,
}

/// One durable, numbered observation of a node about one agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Mark {
    /// Place in the node's own order, from 1, without gaps.
    pub seq: u64,
    /// The node's clock. May lie: the fold never counts a negative time.
    pub at: UnixMillis,
    /// What was seen.
    pub kind: MarkKind,
}

/// What was used, in integers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// Milliseconds in which the agent was ready.
    pub uptime_ms: u64,
    /// Ready milliseconds × cores.
    pub core_ms: u64,
    /// Ready milliseconds × MiB.
    pub mib_ms: u64,
    /// Milliseconds × MiB of disk that was held for the wallet, whether an agent ran or not.
    pub disk_mib_ms: u64,
}

impl Usage {
    /// What `millis` of readiness in this tier cost.
    #[must_use]
    pub const fn of(tier: &Tier, millis: u64) -> Self {
        Self {
            uptime_ms: millis,
            core_ms: millis.saturating_mul(tier.cores as u64),
            mib_ms: millis.saturating_mul(tier.memory as u64),
            disk_mib_ms: 0,
        }
    }

    /// The sum of two usages.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            uptime_ms: self.uptime_ms.saturating_add(other.uptime_ms),
            core_ms: self.core_ms.saturating_add(other.core_ms),
            mib_ms: self.mib_ms.saturating_add(other.mib_ms),
            disk_mib_ms: self.disk_mib_ms.saturating_add(other.disk_mib_ms),
        }
    }

    /// Whole core-seconds, rounded down.
    #[must_use]
    pub const fn core_seconds(&self) -> u64 {
        self.core_ms / 1000
    }

    /// Whole GiB-seconds, rounded down.
    #[must_use]
    pub const fn gib_seconds(&self) -> u64 {
        self.mib_ms / (1000 * 1024)
    }
}

/// The running bill of one agent: a fold over its marks, in their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meter {
    /// Milliseconds of readiness that have ended.
    pub closed_ms: u64,
    /// Since when the agent is ready, if it is.
    pub ready_since: Option<UnixMillis>,
    /// The last mark counted.
    pub last_seq: u64,
}

impl Meter {
    /// Counts one mark. A mark already counted changes nothing.
    #[must_use]
    pub fn count(self, mark: Mark) -> Self {
        if mark.seq <= self.last_seq {
            return self;
        }
        let (closed_ms, ready_since) = match (self.ready_since, mark.kind) {
            (None, MarkKind::Ready) => (self.closed_ms, Some(mark.at)),
            (Some(since), MarkKind::Ready) => (self.closed_ms, Some(since)),
            (Some(since), MarkKind::Booting | MarkKind::Unready | MarkKind::Gone) => {
                (self.closed_ms.saturating_add(mark.at.since(since)), None)
            }
            (None, MarkKind::Booting | MarkKind::Unready | MarkKind::Gone) => (self.closed_ms, None),
        };
        Self { closed_ms, ready_since, last_seq: mark.seq }
    }

    /// Milliseconds of readiness up to `now`, the running stretch included.
    #[must_use]
    pub fn uptime_ms(&self, now: UnixMillis) -> u64 {
        let running = self.ready_since.map_or(0, |since| now.since(since));
        self.closed_ms.saturating_add(running)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kind() -> impl Strategy<Value = MarkKind> {
        prop_oneof![Just(MarkKind::Booting), Just(MarkKind::Ready), Just(MarkKind::Unready), Just(MarkKind::Gone)]
    }

    fn marks() -> impl Strategy<Value = Vec<Mark>> {
        proptest::collection::vec((kind(), 0_u64..10_000), 0..50).prop_map(|steps| {
            let mut at = 0;
            let story = steps.into_iter().zip(1..);
            story
                .map(|((kind, wait), seq)| {
                    at += wait;
                    Mark { seq, at: UnixMillis(at), kind }
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn replayed_marks_count_once(story in marks(), cut in 0_usize..50) {
            let once = story.iter().fold(Meter::default(), |meter, mark| meter.count(*mark));
            let again = story.iter().take(cut).chain(&story).fold(Meter::default(), |meter, mark| meter.count(*mark));
            prop_assert_eq!(once, again);
        }

        #[test]
        fn uptime_is_the_time_spent_ready(story in marks()) {
            let end = story.last().map_or(UnixMillis(0), |mark| mark.at);
            let spent: u64 = story.windows(2).filter(|pair| pair[0].kind == MarkKind::Ready).map(|pair| pair[1].at.since(pair[0].at)).sum();
            let meter = story.iter().fold(Meter::default(), |meter, mark| meter.count(*mark));
            prop_assert_eq!(meter.uptime_ms(end), spent);
        }

        #[test]
        fn a_lying_clock_never_makes_a_bill_fall(times in proptest::collection::vec((kind(), any::<u64>()), 0..50)) {
            let mut meter = Meter::default();
            for (seq, (kind, at)) in (1..).zip(times) {
                let next = meter.count(Mark { seq, at: UnixMillis(at), kind });
                prop_assert!(next.closed_ms >= meter.closed_ms);
                meter = next;
            }
        }
    }
}
