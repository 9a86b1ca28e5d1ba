//! Streams: answers and connections that do not end by themselves. Whoever opens
//! them has a share, and none can take what is kept for the agents' holders.

use std::hash::Hash;
use std::sync::Arc;

use domain::{Address, PodId, Wallet};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wire::fault::{Code, Fault};

use crate::Limits;
use crate::edge::limits::{Crowd, Place};
use crate::refusal::Refusal;

/// Who talks to an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    /// Who holds the agent's token.
    Holder,
    /// Who brings a payment that was found good, by address ([`crate::edge::limits::client_key`])
    /// and purse.
    Payer(u128, Address),
    /// Anybody else.
    Visitor {
        /// As above.
        address: u128,
        /// Whether the agent has prices: some of its places are left to who pays.
        beside_payers: bool,
    },
}

/// Whose share a place is of. Those who pay nothing take none of the share of those who
/// do at the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Share {
    /// Who pays nothing, by address.
    Visitor(u128),
    /// Who pays, by address.
    Client(u128),
    /// Who pays, by purse.
    Payer(Address),
}

impl Asker {
    /// The shares that these places are of: the payer's before that of its address, which
    /// others have too, so that who waits for one holds nobody else up.
    pub(crate) fn shares(self) -> impl Iterator<Item = Share> {
        let shares = match self {
            Self::Holder => [None, None],
            Self::Payer(address, payer) => [Some(Share::Payer(payer)), Some(Share::Client(address))],
            Self::Visitor { address, .. } => [Some(Share::Visitor(address)), None],
        };
        shares.into_iter().flatten()
    }
}

/// The streams of one gateway.
pub(crate) struct Streams {
    all: Arc<Semaphore>,
    visitors: Arc<Semaphore>,
    unpaid: Arc<Semaphore>,
    wallets: Crowd<Wallet>,
    /// Each agent's streams, those of its visitors, and those of who pays nothing.
    agents: Crowd<PodId>,
    visited: Crowd<PodId>,
    visited_unpaid: Crowd<PodId>,
    shares: Crowd<Share>,
}

/// A stream's places; freed when dropped.
#[derive(Debug)]
#[expect(dead_code, reason = "holding them holds the places")]
pub(crate) enum StreamPlace {
    Wallet(OwnedSemaphorePermit, Place<Wallet>),
    Agent(Vec<OwnedSemaphorePermit>, Vec<Place<PodId>>, Vec<Place<Share>>),
}

impl Streams {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            all: semaphore(limits.streams),
            visitors: semaphore(limits.for_visitors(limits.streams)),
            unpaid: semaphore(limits.for_unpaid(limits.streams)),
            wallets: Crowd::new(limits.streams_per_wallet),
            agents: Crowd::new(limits.streams_per_agent),
            visited: Crowd::new(limits.for_visitors(limits.streams_per_agent)),
            visited_unpaid: Crowd::new(limits.for_unpaid(limits.streams_per_agent)),
            shares: Crowd::new(limits.streams_per_address),
        }
    }

    /// A place for a holder's own reading: logs, events, commands.
    pub(crate) fn for_wallet(&self, wallet: Wallet) -> Result<StreamPlace, Refusal> {
        let own = share(&self.wallets, wallet, "your wallet")?;
        Ok(StreamPlace::Wallet(part(&self.all)?, own))
    }

    /// A place for a connection to an agent whose protocol has changed.
    pub(crate) fn to_agent(&self, id: PodId, asker: Asker) -> Result<StreamPlace, Refusal> {
        let shares = asker.shares().map(|whose| share(&self.shares, whose, whose.name()));
        let shares = shares.collect::<Result<_, _>>()?;
        let (agents, parts) = self.groups(asker);
        let agents = agents.iter().map(|crowd| share(crowd, id, "this agent"));
        let agents = agents.collect::<Result<_, _>>()?;
        let parts = parts.iter().map(|places| part(places));
        Ok(StreamPlace::Agent(parts.collect::<Result<_, _>>()?, agents, shares))
    }

    /// Of which places he takes one: of an agent's, and of the gateway's.
    fn groups(&self, asker: Asker) -> (Vec<&Crowd<PodId>>, Vec<&Arc<Semaphore>>) {
        match asker {
            Asker::Holder => (vec![&self.agents], vec![&self.all]),
            Asker::Payer(..) => (vec![&self.visited, &self.agents], vec![&self.visitors, &self.all]),
            Asker::Visitor { beside_payers, .. } => {
                let unpaid = beside_payers.then_some(&self.visited_unpaid);
                let agents = unpaid.into_iter().chain([&self.visited, &self.agents]);
                (agents.collect(), vec![&self.unpaid, &self.visitors, &self.all])
            }
        }
    }
}

impl Share {
    const fn name(self) -> &'static str {
        match self {
            Self::Visitor(_) | Self::Client(_) => "your address",
            Self::Payer(_) => "this payer",
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
    use domain::RunId;

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
            payer_percent: 0,
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
        let (one, other) = (PodId::minted(RunId::from_bits(1)), PodId::minted(RunId::from_bits(2)));
        let visit = |agent, address| drain_of(&streams, agent, visitor(address));
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
            drain(&mut held, drain_of(&streams, PodId::minted(RunId::from_bits(address)), visitor(address.into())));
        }
        assert_eq!(held.len(), 12);
        assert_eq!(drain(&mut held, || streams.for_wallet(Wallet([1; 32]))), 4);
    }

    #[test]
    fn fault_2_3_who_pays_finds_a_stream_whatever_visitors_and_another_payer_hold() {
        let (streams, mut held) = (streams(Limits { payer_percent: 50, ..limits() }), Vec::new());
        let one = PodId::minted(RunId::from_bits(1));
        let mut drain = |asker| drain(&mut held, drain_of(&streams, one, asker));
        assert_eq!(drain(Asker::Visitor { address: 1, beside_payers: true }), 2, "of an agent that has prices");
        assert_eq!(drain(Asker::Visitor { address: 2, beside_payers: true }), 0);
        let payer = |address, purse| Asker::Payer(address, Address::repeat_byte(purse));
        assert_eq!(drain(payer(1, 1)), 3, "his share");
        assert_eq!((drain(payer(2, 1)), drain(payer(1, 2))), (0, 0), "by purse and by address");
        assert_eq!(drain(payer(2, 2)), 1);
        assert_eq!(drain(Asker::Holder), 2);
    }

    #[test]
    fn fault_2_3_visitors_of_all_agents_together_leave_streams_to_who_pays() {
        let (streams, mut held) = (streams(Limits { payer_percent: 25, ..limits() }), Vec::new());
        for address in 0..20 {
            drain(&mut held, drain_of(&streams, PodId::minted(RunId::from_bits(address)), visitor(address.into())));
        }
        assert_eq!(held.len(), 8);
        let payer = Asker::Payer(1, Address::repeat_byte(1));
        assert_eq!(drain(&mut held, drain_of(&streams, PodId::minted(RunId::from_bits(90)), payer)), 3);
    }

    fn visitor(address: u128) -> Asker {
        Asker::Visitor { address, beside_payers: false }
    }

    fn drain_of(streams: &Streams, id: PodId, asker: Asker) -> impl Fn() -> Result<StreamPlace, Refusal> + use<'_> {
        move || streams.to_agent(id, asker)
    }
}
