//! Streams: answers and connections that do not end by themselves. Whoever opens them has
//! a quota, and some are kept for the agents' holders.

use std::hash::Hash;
use std::io;
use std::sync::Arc;

use axum::body::Body;
use domain::{PodId, Wallet};
use futures_util::{StreamExt, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use wire::fault::{Code, Fault};

use crate::Limits;
use crate::edge::guarded::GuardedBody;
use crate::edge::requester::{QuotaKey, Requester};
use crate::edge::semaphore::{KeyedPermit, KeyedSemaphore};
use crate::error::ApiError;

/// Files of one agent that are read and written at once by who has a signed URL, and of those the
/// ones by one address. They take places for calls at the agent's node and in its guest, of which
/// there are some three times as many: the rest is its holder's, whoever has such a URL.
const SIGNED: u32 = 16;
const SIGNED_PER_ADDRESS: u32 = 8;
/// Why what goes on breaks off.
pub(crate) const GOES_DOWN: &str = "the gateway goes down";

/// How many streams one gateway has open at once.
pub(crate) struct StreamLimiter {
    all: Arc<Semaphore>,
    visitors: Arc<Semaphore>,
    unpaid: Arc<Semaphore>,
    wallets: KeyedSemaphore<Wallet>,
    /// Each agent's streams, those of its visitors, and those of who pays nothing.
    agents: KeyedSemaphore<PodId>,
    visited: KeyedSemaphore<PodId>,
    visited_unpaid: KeyedSemaphore<PodId>,
    signed: KeyedSemaphore<PodId>,
    signed_addresses: KeyedSemaphore<(PodId, u128)>,
    quotas: KeyedSemaphore<QuotaKey>,
}

/// The permits of one stream; given back when dropped.
#[derive(Debug)]
#[expect(dead_code, reason = "holding them is what they are for")]
pub(crate) enum StreamPermit {
    Wallet(OwnedSemaphorePermit, KeyedPermit<Wallet>),
    Agent(Vec<OwnedSemaphorePermit>, Vec<KeyedPermit<PodId>>, Vec<KeyedPermit<QuotaKey>>),
    Signed(Box<StreamPermit>, KeyedPermit<PodId>, KeyedPermit<(PodId, u128)>),
}

impl StreamLimiter {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            all: semaphore(limits.streams),
            visitors: semaphore(limits.for_visitors(limits.streams)),
            unpaid: semaphore(limits.for_unpaid(limits.streams)),
            wallets: KeyedSemaphore::new(limits.streams_per_wallet),
            agents: KeyedSemaphore::new(limits.streams_per_agent),
            visited: KeyedSemaphore::new(limits.for_visitors(limits.streams_per_agent)),
            visited_unpaid: KeyedSemaphore::new(limits.for_unpaid(limits.streams_per_agent)),
            signed: KeyedSemaphore::new(SIGNED),
            signed_addresses: KeyedSemaphore::new(SIGNED_PER_ADDRESS),
            quotas: KeyedSemaphore::new(limits.streams_per_address),
        }
    }

    /// A permit for a holder's own stream: logs, events, commands.
    pub(crate) fn for_wallet(&self, wallet: Wallet) -> Result<StreamPermit, ApiError> {
        let own = try_acquire(&self.wallets, wallet, "your wallet")?;
        Ok(StreamPermit::Wallet(try_acquire_one(&self.all)?, own))
    }

    /// A permit for an upgraded connection to an agent.
    pub(crate) fn for_agent(&self, id: PodId, requester: Requester) -> Result<StreamPermit, ApiError> {
        let quotas = requester.quotas().map(|key| try_acquire(&self.quotas, key, key.name()));
        let quotas = quotas.collect::<Result<_, _>>()?;
        let (agents, all) = self.groups(requester);
        let agents = agents.iter().map(|limiter| try_acquire(limiter, id, "this agent"));
        let agents = agents.collect::<Result<_, _>>()?;
        let all = all.iter().map(|semaphore| try_acquire_one(semaphore));
        Ok(StreamPermit::Agent(all.collect::<Result<_, _>>()?, agents, quotas))
    }

    /// A permit for one file of an agent, for who has a URL that was signed for it.
    pub(crate) fn for_signed(&self, id: PodId, address: u128) -> Result<StreamPermit, ApiError> {
        let of_address = try_acquire(&self.signed_addresses, (id, address), QuotaKey::Visitor(address).name())?;
        let of_agent = try_acquire(&self.signed, id, "this agent by signed URLs")?;
        let visitor = Requester::Visitor { address, beside_payers: false };
        Ok(StreamPermit::Signed(Box::new(self.for_agent(id, visitor)?), of_agent, of_address))
    }

    /// Where a permit is taken: among the agent's, and among the gateway's.
    fn groups(&self, requester: Requester) -> (Vec<&KeyedSemaphore<PodId>>, Vec<&Arc<Semaphore>>) {
        match requester {
            Requester::Holder => (vec![&self.agents], vec![&self.all]),
            Requester::Payer(..) => (vec![&self.visited, &self.agents], vec![&self.visitors, &self.all]),
            Requester::Visitor { beside_payers, .. } => {
                let unpaid = beside_payers.then_some(&self.visited_unpaid);
                let agents = unpaid.into_iter().chain([&self.visited, &self.agents]);
                (agents.collect(), vec![&self.unpaid, &self.visitors, &self.all])
            }
        }
    }
}

/// The same body, which breaks off when the gateway goes down and holds its permit until then.
pub(crate) fn until_drained(body: Body, permit: StreamPermit, draining: &CancellationToken) -> Body {
    let held = Body::new(GuardedBody::new(body, permit));
    broken_off(held, draining.clone().cancelled_owned(), GOES_DOWN)
}

/// The same body, which breaks off once `over` comes: whoever reads it takes what came for no more
/// than a part, also where no length was told.
pub(crate) fn broken_off(body: Body, over: impl Future<Output = ()> + Send + 'static, why: &'static str) -> Body {
    let open = Some((body.into_data_stream(), Box::pin(over)));
    Body::from_stream(stream::unfold(open, move |open| async move {
        let (mut pieces, mut over) = open?;
        tokio::select! {
            biased;
            () = &mut over => Some((Err(axum::Error::new(io::Error::other(why))), None)),
            piece = pieces.next() => piece.map(|piece| (piece, Some((pieces, over)))),
        }
    }))
}

fn semaphore(permits: u32) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(usize::try_from(permits).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS)))
}

fn try_acquire<K: Clone + Eq + Hash>(
    limiter: &KeyedSemaphore<K>,
    key: K,
    whose: &str,
) -> Result<KeyedPermit<K>, ApiError> {
    limiter.try_acquire(key).ok_or_else(|| too_many(&format!("too many streams of {whose} are open")))
}

fn try_acquire_one(semaphore: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, ApiError> {
    Arc::clone(semaphore).try_acquire_owned().map_err(|_| too_many("too many streams are open on this gateway"))
}

fn too_many(said: &str) -> ApiError {
    Fault::new(Code::RateLimited, said).retry_after(1).into()
}

#[cfg(test)]
mod tests {
    use domain::Address;
    use domain::RunId;

    use super::*;

    fn streams(limits: Limits) -> StreamLimiter {
        StreamLimiter::new(&limits)
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
    fn drain(held: &mut Vec<StreamPermit>, take: impl Fn() -> Result<StreamPermit, ApiError>) -> usize {
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
        assert_eq!(drain(&mut held, drain_of(&streams, one, Requester::Holder)), 2, "the rest of an agent");
        assert_eq!(drain(&mut held, visit(other, 4)), 3, "another agent");
        assert_eq!(drain(&mut held, || streams.for_wallet(Wallet([1; 32]))), 4, "a wallet");
        assert_eq!(drain(&mut held, visit(other, 5)), 1, "the whole gateway");
        held.clear();
        assert_eq!(drain(&mut held, visit(one, 1)), 3);
    }

    #[tokio::test]
    async fn a_body_that_is_ended_is_not_taken_for_a_whole_one() {
        let read = async |over: bool| {
            let pieces = stream::iter([Ok::<_, io::Error>("one")]);
            let pieces =
                pieces.chain(stream::once(async move { if over { std::future::pending().await } else { Ok(" two") } }));
            let ends = async move { if over { tokio::task::yield_now().await } else { std::future::pending().await } };
            axum::body::to_bytes(broken_off(Body::from_stream(pieces), ends, "over"), 100).await
        };
        assert_eq!(read(false).await.unwrap(), "one two");
        assert!(read(true).await.is_err());
    }

    #[test]
    fn who_has_a_signed_url_leaves_the_agents_calls_to_its_holder() {
        let (streams, mut held) = (streams(Limits::default()), Vec::new());
        let [one, other] = [1, 2].map(|n| PodId::minted(RunId::from_bits(n)));
        let of_address = usize::try_from(SIGNED_PER_ADDRESS).unwrap();
        assert_eq!(drain(&mut held, || streams.for_signed(one, 1)), of_address);
        assert_eq!(drain(&mut held, || streams.for_signed(other, 1)), of_address, "of another agent");
        let rest = usize::try_from(SIGNED).unwrap() - of_address;
        assert_eq!((2..20).map(|address| drain(&mut held, || streams.for_signed(one, address))).sum::<usize>(), rest);
        assert!(streams.for_agent(one, Requester::Holder).is_ok());
        held.clear();
        assert_eq!(drain(&mut held, || streams.for_signed(one, 1)), of_address);
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
        let mut drain = |requester| drain(&mut held, drain_of(&streams, one, requester));
        assert_eq!(drain(Requester::Visitor { address: 1, beside_payers: true }), 2, "of an agent that has prices");
        assert_eq!(drain(Requester::Visitor { address: 2, beside_payers: true }), 0);
        let payer = |address, payer| Requester::Payer(address, Address::repeat_byte(payer));
        assert_eq!(drain(payer(1, 1)), 3, "his share");
        assert_eq!((drain(payer(2, 1)), drain(payer(1, 2))), (0, 0), "by payer and by address");
        assert_eq!(drain(payer(2, 2)), 1);
        assert_eq!(drain(Requester::Holder), 2);
    }

    #[test]
    fn fault_2_3_visitors_of_all_agents_together_leave_streams_to_who_pays() {
        let (streams, mut held) = (streams(Limits { payer_percent: 25, ..limits() }), Vec::new());
        for address in 0..20 {
            drain(&mut held, drain_of(&streams, PodId::minted(RunId::from_bits(address)), visitor(address.into())));
        }
        assert_eq!(held.len(), 8);
        let payer = Requester::Payer(1, Address::repeat_byte(1));
        assert_eq!(drain(&mut held, drain_of(&streams, PodId::minted(RunId::from_bits(90)), payer)), 3);
    }

    fn visitor(address: u128) -> Requester {
        Requester::Visitor { address, beside_payers: false }
    }

    fn drain_of(
        streams: &StreamLimiter,
        id: PodId,
        requester: Requester,
    ) -> impl Fn() -> Result<StreamPermit, ApiError> + use<'_> {
        move || streams.for_agent(id, requester)
    }
}
