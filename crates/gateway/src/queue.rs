//! The queue before one agent's connections. Whoever finds none free waits in the
//! order of coming, for a bounded time and among a bounded number.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use wire::fault::{Code, Fault};

use crate::Limits;
use crate::limit::{Crowd, Place};
use crate::refusal::Refusal;
use crate::streams::Asker;

/// One address gets one part in so many of the visitors' places to wait.
const ADDRESS_PART: u32 = 2;

/// Who may ask one agent, and who waits.
pub(crate) struct Queue {
    all: Arc<Semaphore>,
    visitors: Arc<Semaphore>,
    addresses: Crowd<u128>,
    waiting_holders: Arc<Semaphore>,
    waiting_visitors: Arc<Semaphore>,
    waiting_addresses: Crowd<u128>,
}

/// The right to one connection; given on when dropped.
#[derive(Debug)]
#[expect(dead_code, reason = "holding it holds the places")]
pub(crate) enum Turn {
    Holder(OwnedSemaphorePermit),
    Visitor(OwnedSemaphorePermit, OwnedSemaphorePermit, Place<u128>),
}

impl Queue {
    pub(crate) fn new(limits: &Limits) -> Self {
        let places = |count: u32| usize::try_from(count).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        let semaphore = |count| Arc::new(Semaphore::new(places(count)));
        let visitors = limits.for_visitors(limits.agent_connections);
        Self {
            all: semaphore(limits.agent_connections),
            visitors: semaphore(visitors),
            addresses: Crowd::new(limits.agent_connections_per_address.min(visitors)),
            waiting_holders: semaphore(limits.agent_waiting),
            waiting_visitors: semaphore(limits.agent_waiting),
            waiting_addresses: Crowd::new(limits.agent_waiting.div_ceil(ADDRESS_PART)),
        }
    }

    /// Waits for one's turn, until then.
    pub(crate) async fn turn(&self, asker: Asker, until: Instant) -> Result<Turn, Refusal> {
        let turn = match asker {
            Asker::Holder => {
                let _waits = self.waiting_holders.try_acquire().map_err(|_| busy())?;
                timeout_at(until, self.holder()).await
            }
            Asker::Visitor(address) => {
                let _waits = self.waiting_visitors.try_acquire().map_err(|_| busy())?;
                let _here = self.waiting_addresses.enter(address).ok_or_else(busy)?;
                timeout_at(until, self.visitor(address)).await
            }
        };
        turn.ok().flatten().ok_or_else(busy)
    }

    // The semaphores are never closed: `None` stands for what cannot be.
    async fn holder(&self) -> Option<Turn> {
        Arc::clone(&self.all).acquire_owned().await.ok().map(Turn::Holder)
    }

    async fn visitor(&self, address: u128) -> Option<Turn> {
        let place = self.addresses.wait(address).await?;
        let visitor = Arc::clone(&self.visitors).acquire_owned().await.ok()?;
        let any = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(Turn::Visitor(any, visitor, place))
    }
}

/// The agent has as many requests as it may.
pub(crate) fn busy() -> Refusal {
    metrics::counter!("palatine_gateway_agent_busy_total").increment(1);
    Fault::new(Code::AgentBusy, "the agent has as many requests as it may; try again").retry_after(1).into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

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

    async fn turns(queue: &Queue, asker: Asker) -> Vec<Turn> {
        let mut turns = Vec::new();
        while let Ok(turn) = queue.turn(asker, soon()).await {
            turns.push(turn);
        }
        turns
    }

    #[tokio::test(start_paused = true)]
    async fn fault_2_12_visitors_leave_the_holder_connections_and_each_other_a_share() {
        let queue = queue();
        let first = turns(&queue, Asker::Visitor(1)).await;
        let second = turns(&queue, Asker::Visitor(2)).await;
        let third = turns(&queue, Asker::Visitor(3)).await;
        let holder = turns(&queue, Asker::Holder).await;
        assert_eq!([first.len(), second.len(), third.len(), holder.len()], [3, 3, 0, 2]);
        drop(first);
        assert_eq!(turns(&queue, Asker::Visitor(3)).await.len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn fault_2_4_a_few_addresses_do_not_take_an_agent_from_all_others() {
        let queue = Queue::new(&Limits::default());
        let mut held = Vec::new();
        for address in 0..5 {
            held.push(turns(&queue, Asker::Visitor(address)).await);
        }
        assert!(held.iter().all(|turns| turns.len() == 8), "{held:?}");
        assert_eq!(turns(&queue, Asker::Visitor(9)).await.len(), 8);
    }

    #[tokio::test(start_paused = true)]
    async fn fault_2_12_who_waits_is_served_in_order_and_who_is_too_many_is_told_at_once() {
        let queue = queue();
        let mut held = turns(&queue, Asker::Holder).await;
        let began = Instant::now();
        let waiting: Vec<_> = (0..4).map(|_| Box::pin(queue.turn(Asker::Holder, soon()))).collect();
        let mut all = futures_util::future::join_all(waiting);
        assert!(futures_util::poll!(&mut all).is_pending());
        let fault = Fault::from(queue.turn(Asker::Holder, soon()).await.unwrap_err());
        assert_eq!((fault.code, fault.retry_after), (Code::AgentBusy, Some(1)));
        assert_eq!(began.elapsed(), Duration::ZERO);
        held.truncate(6);
        let served = all.await;
        assert_eq!(served.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false, false]);
        assert_eq!(began.elapsed(), Duration::from_millis(1_000));
    }
}
