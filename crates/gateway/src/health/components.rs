//! How each part that the gateway works with was when it was last asked.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use domain::UnixMillis;
use wire::v1::public::{Component, ComponentState, ComponentStatus};

/// What is said of a part before its first answer.
const NOT_ASKED: &str = "it was not asked yet";
/// What everybody is told of the parts. Of the EVM chain the treasury says it.
pub(crate) const NOT_WRITTEN: &str = "the store cannot be written: its disk is full, or does not answer";
pub(crate) const NO_NODE: &str = "no node answers";
pub(crate) const NO_DISK: &str = "no node has disk for another agent";
pub(crate) const NO_BALANCE: &str = "no Solana endpoint gives a balance";

/// How the parts were when they were last asked.
#[derive(Debug)]
pub(crate) struct ComponentsHealth(Mutex<BTreeMap<Component, Health>>);

/// How a part was, and since when it does what it is for, or does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Health {
    since: UnixMillis,
    outage: Option<&'static str>,
}

/// What a part does not do: as everybody may read it, and with all that is known.
pub(crate) struct ProbeFailure {
    public: &'static str,
    detail: String,
}

impl ProbeFailure {
    pub(crate) fn new(public: &'static str, detail: impl ToString) -> Self {
        Self { public, detail: detail.to_string() }
    }
}

impl Health {
    /// Whether the gateway is not ready meanwhile. On a full disk agents that run can still be
    /// reached, and stopped, which makes room.
    fn blocks_readiness(&self, part: Component) -> bool {
        self.outage.is_some_and(|public| is_needed(part) && public != NO_DISK)
    }
}

impl ComponentsHealth {
    /// Nothing was asked before `now`.
    pub(crate) fn new(with_evm: bool, now: UnixMillis) -> Self {
        let parts = [Component::Store, Component::Node, Component::Solana]
            .into_iter()
            .chain(with_evm.then_some(Component::Evm));
        let fresh = Health { since: now, outage: Some(NOT_ASKED) };
        Self(Mutex::new(parts.map(|part| (part, fresh)).collect()))
    }

    /// Records how a part is. A change is logged, with all that is known of it.
    pub(crate) fn record(&self, part: Component, outcome: Result<(), ProbeFailure>, now: UnixMillis) {
        let outage = outcome.as_ref().err().map(|outage| outage.public);
        metrics::gauge!("palatine_part_up", "part" => part.name()).set(if outcome.is_ok() { 1.0 } else { 0.0 });
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(health) = all.get_mut(&part) else { return };
        if health.outage == outage {
            return;
        }
        let since = if health.outage.is_some() && outage.is_some() { health.since } else { now };
        *health = Health { since, outage };
        match outcome {
            Ok(()) => tracing::info!(part = part.name(), "a part works"),
            Err(ProbeFailure { public, detail }) => {
                tracing::error!(
                    part = part.name(),
                    outage = public,
                    detail,
                    "a part does not work; while one that is needed does not, /ready is 503"
                )
            }
        }
    }

    /// Whether every part that is needed does what it is for.
    pub(crate) fn are_ready(&self) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        !all.iter().any(|(part, health)| health.blocks_readiness(*part))
    }

    pub(crate) fn reports(&self) -> Vec<ComponentStatus> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let report = |(part, health): (&Component, &Health)| ComponentStatus {
            part: *part,
            state: if health.outage.is_some() { ComponentState::Failing } else { ComponentState::Ok },
            since: health.since,
            why: health.outage.map(str::to_owned),
        };
        all.iter().map(report).collect()
    }
}

/// Whether nothing can be spawned without it.
pub(crate) const fn is_needed(part: Component) -> bool {
    match part {
        Component::Store | Component::Node | Component::Solana => true,
        Component::Evm => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_begins_when_it_is_first_seen_and_ends_with_the_first_answer() {
        let parts = ComponentsHealth::new(false, UnixMillis(1));
        let solana = || parts.reports().into_iter().find(|report| report.part == Component::Solana).unwrap();
        let solana_then = solana();
        assert_eq!((solana_then.state, solana_then.since), (ComponentState::Failing, UnixMillis(1)));
        assert_eq!(solana_then.why.as_deref(), Some(NOT_ASKED));
        parts.record(Component::Solana, Ok(()), UnixMillis(1));
        let silence = |public, detail| Err(ProbeFailure::new(public, detail));
        parts.record(Component::Solana, silence(NO_BALANCE, "silence"), UnixMillis(2));
        parts.record(Component::Solana, silence(NO_BALANCE, "another silence"), UnixMillis(3));
        assert_eq!((solana().state, solana().since), (ComponentState::Failing, UnixMillis(2)));
        assert_eq!(solana().why.as_deref(), Some("no Solana endpoint gives a balance"));
        parts.record(Component::Solana, Ok(()), UnixMillis(4));
        assert_eq!((solana().state, solana().since), (ComponentState::Ok, UnixMillis(4)));
        // Without a chain of vaults nothing is said of one.
        parts.record(Component::Evm, Ok(()), UnixMillis(5));
        assert!(parts.reports().iter().all(|report| report.part != Component::Evm));
    }

    #[test]
    fn fault_1_0_a_part_that_fails_otherwise_says_so_and_its_outage_began_before() {
        let parts = ComponentsHealth::new(true, UnixMillis(1));
        let evm = || parts.reports().into_iter().find(|report| report.part == Component::Evm).unwrap();
        parts.record(Component::Evm, Ok(()), UnixMillis(2));
        for (at, public) in [(3, "no EVM endpoint gives a block"), (4, "the EVM endpoints contradict each other")] {
            parts.record(Component::Evm, Err(ProbeFailure::new(public, "one.example")), UnixMillis(at));
            assert_eq!((evm().since, evm().why.as_deref()), (UnixMillis(3), Some(public)));
        }
    }
}
