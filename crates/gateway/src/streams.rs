//! Streams: answers and connections that do not end by themselves. Whoever opens
//! them has a share, and none can take what is kept for the agents' holders.

use std::hash::Hash;
use std::sync::Arc;

use domain::{AgentId, Wallet};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wire::fault::{Code, Fault};

use crate::Limits;
use crate::limit::{Crowd, Place};
use crate::refusal::Refusal;

/// Who talks to an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    /// Who holds the agent's token.
    Holder,
    /// Anybody else, by address ([`crate::limit::client_key`]).
    Visitor(u128),
}

/// The streams of one gateway.
pub(crate) struct Streams {
    all: Arc<Semaphore>,
    visitors: Arc<Semaphore>,
    wallets: Crowd<Wallet>,
    agents: Crowd<AgentId>,
    visited: Crowd<AgentId>,
    addresses: Crowd<u128>,
}

/// A stream's places; freed when dropped.
#[derive(Debug)]
#[expect(dead_code, reason = "holding them holds the places")]
pub(crate) enum StreamPlace {
    Wallet(OwnedSemaphorePermit, Place<Wallet>),
    Holder(OwnedSemaphorePermit, Place<AgentId>),
    Visitor(OwnedSemaphorePermit, OwnedSemaphorePermit, Place<AgentId>, Place<AgentId>, Place<u128>),
}

impl Streams {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            all: semaphore(limits.streams),
            visitors: semaphore(limits.for_visitors(limits.streams)),
            wallets: Crowd::new(limits.streams_per_wallet),
            agents: Crowd::new(limits.streams_per_agent),
            visited: Crowd::new(limits.for_visitors(limits.streams_per_agent)),
            addresses: Crowd::new(limits.streams_per_address),
        }
    }

    /// A place for a holder's own reading: logs, events, commands.
    pub(crate) fn for_wallet(&self, wallet: Wallet) -> Result<StreamPlace, Refusal> {
        let own = share(&self.wallets, wallet, "your wallet")?;
        Ok(StreamPlace::Wallet(part(&self.all)?, own))
    }

    /// A place for a connection to an agent whose protocol has changed.
    pub(crate) fn to_agent(&self, id: AgentId, asker: Asker) -> Result<StreamPlace, Refusal> {
        const AGENT: &str = "this agent";
        match asker {
            Asker::Holder => {
                let agent = share(&self.agents, id, AGENT)?;
                Ok(StreamPlace::Holder(part(&self.all)?, agent))
            }
            Asker::Visitor(address) => {
                let address = share(&self.addresses, address, "your address")?;
                let visited = share(&self.visited, id, AGENT)?;
                let agent = share(&self.agents, id, AGENT)?;
                let visitor = part(&self.visitors)?;
                Ok(StreamPlace::Visitor(part(&self.all)?, visitor, agent, visited, address))
            }
        }
    }
}

fn semaphore(places: u32) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(usize::try_from(places).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS)))
}

fn share<K: Clone + Eq + Hash>(places: &Crowd<K>, key: K, whose: &str) -> Result<Place<K>, Refusal> {
    places.enter(key).ok_or_else(|| too_many(&format!("too many streams of {whose} are open")))
}

fn part(places: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Refusal> {
    Arc::clone(places).try_acquire_owned().map_err(|_| too_many("too many streams are open on this gateway"))
}

fn too_many(said: &str) -> Refusal {
    Fault::new(Code::RateLimited, said).retry_after(1).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streams(limits: Limits) -> Streams {
        Streams::new(&limits)
    }

    fn limits() -> Limits {
        Limits {
            streams: 16,
            streams_per_agent: 8,
            streams_per_wallet: 4,
            streams_per_address: 3,
            owner_percent: 25,
            ..Limits::default()
        }
    }

    /// Takes until none is left; says how many there were.
    fn drain(held: &mut Vec<StreamPlace>, take: impl Fn() -> Result<StreamPlace, Refusal>) -> usize {
        let before = held.len();
        held.extend(std::iter::from_fn(|| take().ok()));
        held.len() - before
    }

    #[test]
    fn fault_2_4_each_has_a_share_and_visitors_leave_the_holders_theirs() {
        let (streams, mut held) = (streams(limits()), Vec::new());
        let (one, other) = (AgentId::from_bits(1), AgentId::from_bits(2));
        let visit = |agent, address| drain_of(&streams, agent, Asker::Visitor(address));
        assert_eq!(drain(&mut held, visit(one, 1)), 3, "an address");
        assert_eq!(drain(&mut held, visit(one, 2)), 3, "visitors of an agent");
        assert_eq!(drain(&mut held, visit(one, 3)), 0, "visitors of an agent");
        assert_eq!(drain(&mut held, drain_of(&streams, one, Asker::Holder)), 2, "the rest of an agent");
        assert_eq!(drain(&mut held, visit(other, 4)), 3, "another agent");
        assert_eq!(drain(&mut held, || streams.for_wallet(Wallet([1; 32]))), 4, "a wallet");
        assert_eq!(drain(&mut held, visit(other, 5)), 1, "the whole gateway");
        held.clear();
        assert_eq!(drain(&mut held, visit(one, 1)), 3);
    }

    #[test]
    fn fault_2_4_visitors_of_all_agents_together_leave_room_for_holders() {
        let (streams, mut held) = (streams(limits()), Vec::new());
        for address in 0..20 {
            drain(&mut held, drain_of(&streams, AgentId::from_bits(address), Asker::Visitor(u128::from(address))));
        }
        assert_eq!(held.len(), 12);
        assert_eq!(drain(&mut held, || streams.for_wallet(Wallet([1; 32]))), 4);
    }

    fn drain_of(streams: &Streams, id: AgentId, asker: Asker) -> impl Fn() -> Result<StreamPlace, Refusal> + use<'_> {
        move || streams.to_agent(id, asker)
    }
}
