//! The queue before one agent's connections. Whoever finds none free waits, first come,
//! first served, for a bounded time and among a bounded number. Each has a quota, and who
//! pays does not wait behind who does not.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use wire::fault::{Code, Fault};

use crate::Limits;
use crate::edge::requester::{QuotaKey, Requester};
use crate::edge::semaphore::{KeyedPermit, KeyedSemaphore};
use crate::error::ApiError;

/// The permits for one agent's connections, and those to wait for one.
pub(crate) struct Queue {
    all: Arc<Semaphore>,
    visitors: Arc<Semaphore>,
    unpaid: Arc<Semaphore>,
    quotas: KeyedSemaphore<QuotaKey>,
    waiting_holders: Arc<Semaphore>,
    waiting_payers: Arc<Semaphore>,
    waiting_visitors: Arc<Semaphore>,
    waiting_quotas: KeyedSemaphore<QuotaKey>,
}

/// A permit for one connection; given back when dropped.
#[derive(Debug)]
#[expect(dead_code, reason = "holding it is what it is for")]
pub(crate) struct AgentConnectionPermit(Vec<OwnedSemaphorePermit>, Vec<KeyedPermit<QuotaKey>>);

impl Queue {
    pub(crate) fn new(limits: &Limits) -> Self {
        let permits = |count: u32| usize::try_from(count).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        let semaphore = |count| Arc::new(Semaphore::new(permits(count)));
        let visitors = limits.for_visitors(limits.agent_connections);
        Self {
            all: semaphore(limits.agent_connections),
            visitors: semaphore(visitors),
            unpaid: semaphore(limits.for_unpaid(limits.agent_connections)),
            quotas: KeyedSemaphore::new(limits.agent_connections_per_address.min(visitors)),
            waiting_holders: semaphore(limits.agent_waiting),
            waiting_payers: semaphore(limits.agent_waiting),
            waiting_visitors: semaphore(limits.agent_waiting),
            waiting_quotas: KeyedSemaphore::new(limits.agent_waiting_per_address),
        }
    }

    /// Waits for a permit until then.
    pub(crate) async fn acquire(
        &self,
        requester: Requester,
        until: Instant,
    ) -> Result<AgentConnectionPermit, ApiError> {
        let waiting = match requester {
            Requester::Holder => &self.waiting_holders,
            Requester::Payer(..) => &self.waiting_payers,
            Requester::Visitor { .. } => &self.waiting_visitors,
        };
        let _waiting = waiting.try_acquire().map_err(|_| busy())?;
        let own = requester.quotas().map(|key| self.waiting_quotas.try_acquire(key).ok_or_else(busy));
        let _own = own.collect::<Result<Vec<_>, _>>()?;
        timeout_at(until, self.connection(requester)).await.ok().flatten().ok_or_else(busy)
    }

    // The semaphores are never closed: `None` stands for what cannot be.
    async fn connection(&self, requester: Requester) -> Option<AgentConnectionPermit> {
        // One's own quota first: who waits for that holds up nobody else.
        let mut quotas = Vec::new();
        for key in requester.quotas() {
            quotas.push(self.quotas.acquire(key).await?);
        }
        let groups: &[_] = match requester {
            Requester::Holder => &[&self.all],
            Requester::Payer(..) | Requester::Visitor { beside_payers: false, .. } => &[&self.visitors, &self.all],
            Requester::Visitor { beside_payers: true, .. } => &[&self.unpaid, &self.visitors, &self.all],
        };
        let mut permits = Vec::with_capacity(groups.len());
        for group in groups {
            permits.push(Arc::clone(group).acquire_owned().await.ok()?);
        }
        Some(AgentConnectionPermit(permits, quotas))
    }
}

/// Too many requests to the agent are under way.
pub(crate) fn busy() -> ApiError {
    metrics::counter!("palatine_gateway_agent_busy_total").increment(1);
    Fault::new(Code::AgentBusy, "the agent has as many requests as it may; try again").retry_after(1).into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use domain::Address;

    use super::*;

    fn visitor(address: u128) -> Requester {
        Requester::Visitor { address, beside_payers: false }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(1_000)
    }

    fn queue() -> Queue {
        let limits = Limits {
            agent_connections: 8,
            agent_connections_per_address: 3,
            agent_waiting: 4,
            owner_percent: 25,
            ..Limits::default()
        };
        Queue::new(&limits)
    }

    async fn permits_of(queue: &Queue, requester: Requester) -> Vec<AgentConnectionPermit> {
        let mut permits_of = Vec::new();
        while let Ok(acquire) = queue.acquire(requester, soon()).await {
            permits_of.push(acquire);
        }
        permits_of
    }

    #[tokio::test(start_paused = true)]
    async fn fault_2_12_visitors_leave_the_holder_connections_and_each_other_a_share() {
        let queue = queue();
        let first = permits_of(&queue, visitor(1)).await;
        let second = permits_of(&queue, visitor(2)).await;
        let third = permits_of(&queue, visitor(3)).await;
        let holder = permits_of(&queue, Requester::Holder).await;
        assert_eq!([first.len(), second.len(), third.len(), holder.len()], [3, 3, 0, 2]);
        drop(first);
        assert_eq!(permits_of(&queue, visitor(3)).await.len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn fault_2_4_a_few_addresses_do_not_take_an_agent_from_all_others() {
        let queue = Queue::new(&Limits::default());
        let mut held = Vec::new();
        for address in 0..5 {
            held.push(permits_of(&queue, visitor(address)).await);
        }
        assert!(held.iter().all(|permits_of| permits_of.len() == 8), "{held:?}");
        assert_eq!(permits_of(&queue, visitor(9)).await.len(), 8);
    }

    #[tokio::test(start_paused = true)]
    async fn fault_2_12_who_waits_is_served_in_order_and_who_is_too_many_is_told_at_once() {
        let queue = queue();
        let mut held = permits_of(&queue, Requester::Holder).await;
        let began = Instant::now();
        let waiting: Vec<_> = (0..4).map(|_| Box::pin(queue.acquire(Requester::Holder, soon()))).collect();
        let mut all = futures_util::future::join_all(waiting);
        assert!(futures_util::poll!(&mut all).is_pending());
        let fault = Fault::from(queue.acquire(Requester::Holder, soon()).await.unwrap_err());
        assert_eq!((fault.code, fault.retry_after), (Code::AgentBusy, Some(1)));
        assert_eq!(began.elapsed(), Duration::ZERO);
        held.truncate(6);
        let served = all.await;
        assert_eq!(served.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false, false]);
        assert_eq!(began.elapsed(), Duration::from_millis(1_000));
    }

    #[tokio::test(start_paused = true)]
    async fn fault_2_3_who_pays_finds_a_connection_whatever_visitors_and_another_payer_hold() {
        let limits = Limits {
            agent_connections: 16,
            agent_connections_per_address: 2,
            owner_percent: 25,
            payer_percent: 25,
            ..Limits::default()
        };
        let queue = Queue::new(&limits);
        let mut held = Vec::new();
        let mut visitors = 0;
        for address in 0..9 {
            held.push(permits_of(&queue, Requester::Visitor { address, beside_payers: true }).await);
            visitors += held.last().unwrap().len();
        }
        assert_eq!(visitors, 8);
        let payer = |address, payer| Requester::Payer(address, Address::repeat_byte(payer));
        for address in 0..3 {
            held.push(permits_of(&queue, payer(address, 1)).await);
        }
        held.push(permits_of(&queue, payer(0, 3)).await);
        // One payer from three addresses, and one address with two payers.
        assert_eq!(held.iter().skip(9).map(Vec::len).collect::<Vec<_>>(), [2, 0, 0, 0]);
        assert_eq!(permits_of(&queue, payer(3, 2)).await.len(), 2, "another one, who pays too");
    }

    #[tokio::test(start_paused = true)]
    async fn fault_2_3_who_pays_waits_among_those_who_pay_and_takes_no_more_than_his_share_of_that() {
        let limits =
            Limits { agent_connections: 1, agent_waiting: 4, agent_waiting_per_address: 2, ..Limits::default() };
        let queue = Queue::new(&limits);
        let held = permits_of(&queue, Requester::Holder).await;
        let payer = |address, payer| Requester::Payer(address, Address::repeat_byte(payer));
        let visitors = (0..8).map(|address| Requester::Visitor { address, beside_payers: true });
        let greedy = (0..8).map(|address| payer(address, 1));
        let waiting = visitors.chain(greedy).map(|requester| queue.acquire(requester, soon()));
        let mut waiting = futures_util::future::join_all(waiting.map(Box::pin));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        let honest = queue.acquire(payer(9, 2), soon());
        tokio::pin!(honest);
        assert!(futures_util::poll!(&mut honest).is_pending(), "there is a place to wait");
        let began = Instant::now();
        assert!(queue.acquire(payer(10, 1), soon()).await.is_err() && began.elapsed() == Duration::ZERO);
        drop((waiting, held));
        assert!(honest.await.is_ok());
    }
}
