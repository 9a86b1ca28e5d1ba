//! Whether what the gateway works with works: each part is asked, now and then,
//! for what it is for. `/ready` tells what was found, and asks nobody but the
//! store: anybody may call it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::UnixMillis;
use http::StatusCode;
use tokio::time::MissedTickBehavior;
use wire::public::{Part, PartReport, PartState, ReadyResponse};

use crate::state::Gateway;

/// What is said of a part before its first answer.
const NOT_ASKED: &str = "it was not asked yet";
/// What everybody is told of the parts. Of the EVM chain the treasury says it.
const NOT_WRITTEN: &str = "the store cannot be written: its disk is full, or does not answer";
const NO_NODE: &str = "no node answers";
const NO_DISK: &str = "no node has disk for another agent";
const NO_BALANCE: &str = "no Solana endpoint gives a balance";

/// How the parts were when they were last asked.
#[derive(Debug)]
pub(crate) struct Vitals(Mutex<BTreeMap<Part, Found>>);

/// How a part was, and since when it does what it is for, or does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    since: UnixMillis,
    trouble: Option<&'static str>,
}

/// What a part does not do: as everybody may read it, and with all that is known.
struct Trouble {
    said: &'static str,
    why: String,
}

impl Trouble {
    fn new(said: &'static str, why: impl ToString) -> Self {
        Self { said, why: why.to_string() }
    }
}

impl Found {
    /// Whether the gateway is of no use meanwhile. On a full disk what runs is still to be
    /// reached, and to be stopped, which makes room.
    fn is_in_the_way(&self, part: Part) -> bool {
        self.trouble.is_some_and(|said| is_needed(part) && said != NO_DISK)
    }
}

impl Vitals {
    /// Nothing was asked before `now`.
    pub(crate) fn new(with_evm: bool, now: UnixMillis) -> Self {
        let parts = [Part::Store, Part::Node, Part::Solana].into_iter().chain(with_evm.then_some(Part::Evm));
        let fresh = Found { since: now, trouble: Some(NOT_ASKED) };
        Self(Mutex::new(parts.map(|part| (part, fresh)).collect()))
    }

    /// Notes how a part is. A change is logged, with the part's own words.
    fn note(&self, part: Part, outcome: Result<(), Trouble>, now: UnixMillis) {
        let trouble = outcome.as_ref().err().map(|trouble| trouble.said);
        metrics::gauge!("palatine_part_up", "part" => part.name()).set(if outcome.is_ok() { 1.0 } else { 0.0 });
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(found) = all.get_mut(&part) else { return };
        if found.trouble == trouble {
            return;
        }
        let since = if found.trouble.is_some() && trouble.is_some() { found.since } else { now };
        *found = Found { since, trouble };
        match outcome {
            Ok(()) => tracing::info!(part = part.name(), "a part does what it is for"),
            Err(Trouble { said, why }) => {
                tracing::error!(part = part.name(), said, why, "a part does not do what it is for")
            }
        }
    }

    /// Whether every part that is needed does what it is for.
    fn are_good(&self) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        !all.iter().any(|(part, found)| found.is_in_the_way(*part))
    }

    fn reports(&self) -> Vec<PartReport> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let report = |(part, found): (&Part, &Found)| PartReport {
            part: *part,
            state: if found.trouble.is_some() { PartState::Failing } else { PartState::Ok },
            since: found.since,
            why: found.trouble.map(str::to_owned),
        };
        all.iter().map(report).collect()
    }
}

/// Whether nothing can be spawned without it.
const fn is_needed(part: Part) -> bool {
    match part {
        Part::Store | Part::Node | Part::Solana => true,
        Part::Evm => false,
    }
}

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
        let note = |part, outcome| self.vitals.note(part, outcome, self.now());
        let node = async {
            let outcome = if !self.parts.images.refresh().await {
                Err(Trouble::new(NO_NODE, "no node answered"))
            } else if !self.parts.images.has_disk() {
                Err(Trouble::new(NO_DISK, "on all of them the disk is full up to node.disk_free_mib"))
            } else {
                Ok(())
            };
            note(Part::Node, outcome);
        };
        let solana = async {
            let read = self.parts.balances.probe().await;
            note(Part::Solana, read.map_err(|error| Trouble::new(NO_BALANCE, error)));
        };
        let evm = async {
            if let Some(treasury) = &self.parts.treasury {
                note(Part::Evm, treasury.probe().await.map_err(|found| Trouble::new(found.said, found.why)));
            }
        };
        tokio::join!(node, solana, evm);
    }

    /// What `/ready` says.
    pub(crate) async fn readiness(&self) -> (StatusCode, ReadyResponse) {
        let stored = self.parts.store.check().await;
        self.vitals.note(Part::Store, stored.map_err(|error| Trouble::new(NOT_WRITTEN, error)), self.now());
        let parts = self.vitals.reports();
        let failing = |report: &&PartReport| report.state == PartState::Failing;
        let ready = self.vitals.are_good() && !self.draining.is_cancelled();
        let status = if self.draining.is_cancelled() {
            "shutting down".to_owned()
        } else {
            // What is needed is named first.
            let mut troubles: Vec<_> = parts.iter().filter(failing).collect();
            troubles.sort_by_key(|report| !is_needed(report.part));
            troubles.first().map_or_else(|| "ok".to_owned(), |report| sentence(report))
        };
        let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        (code, ReadyResponse { status, version: env!("CARGO_PKG_VERSION").to_owned(), parts })
    }
}

fn sentence(report: &PartReport) -> String {
    format!("{}: {}", report.part.name(), report.why.as_deref().unwrap_or("failing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_dated_by_its_first_sight_and_ends_with_the_first_answer() {
        let vitals = Vitals::new(false, UnixMillis(1));
        let solana = || vitals.reports().into_iter().find(|report| report.part == Part::Solana).unwrap();
        let solana_then = solana();
        assert_eq!((solana_then.state, solana_then.since), (PartState::Failing, UnixMillis(1)));
        assert_eq!(solana_then.why.as_deref(), Some(NOT_ASKED));
        vitals.note(Part::Solana, Ok(()), UnixMillis(1));
        let silence = |said, why| Err(Trouble::new(said, why));
        vitals.note(Part::Solana, silence(NO_BALANCE, "silence"), UnixMillis(2));
        vitals.note(Part::Solana, silence(NO_BALANCE, "another silence"), UnixMillis(3));
        assert_eq!((solana().state, solana().since), (PartState::Failing, UnixMillis(2)));
        assert_eq!(solana().why.as_deref(), Some("no Solana endpoint gives a balance"));
        vitals.note(Part::Solana, Ok(()), UnixMillis(4));
        assert_eq!((solana().state, solana().since), (PartState::Ok, UnixMillis(4)));
        // Without a chain of vaults nothing is said of one.
        vitals.note(Part::Evm, Ok(()), UnixMillis(5));
        assert!(vitals.reports().iter().all(|report| report.part != Part::Evm));
    }

    #[test]
    fn fault_1_0_a_part_that_fails_otherwise_says_so_and_is_sick_since_it_began() {
        let vitals = Vitals::new(true, UnixMillis(1));
        let evm = || vitals.reports().into_iter().find(|report| report.part == Part::Evm).unwrap();
        vitals.note(Part::Evm, Ok(()), UnixMillis(2));
        for (at, said) in [(3, "no EVM endpoint gives a block"), (4, "the EVM endpoints contradict each other")] {
            vitals.note(Part::Evm, Err(Trouble::new(said, "one.example")), UnixMillis(at));
            assert_eq!((evm().since, evm().why.as_deref()), (UnixMillis(3), Some(said)));
        }
    }
}
