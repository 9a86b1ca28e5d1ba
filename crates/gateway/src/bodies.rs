//! Places for the bodies of requests that are paid for: each is held whole until the
//! agent has it, so they are counted by their bytes, all together and by address.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wire::fault::{Code, Fault};

use crate::Limits;
use crate::limit::{Crowd, Place};
use crate::refusal::Refusal;

/// Bytes are counted in units of so many.
const UNIT: u64 = 1024;
/// Seconds after which there may be room again.
const SOON_S: u64 = 1;

/// How much may be held.
pub(crate) struct Bodies {
    all: Arc<Semaphore>,
    addresses: Crowd<u128>,
}

/// The room that one body takes; free again when dropped.
#[derive(Debug)]
#[expect(dead_code, reason = "holding it holds the room")]
pub(crate) struct Room(Place<u128>, OwnedSemaphorePermit);

impl Bodies {
    pub(crate) fn new(limits: &Limits) -> Self {
        let all = usize::try_from(units(limits.paid_bodies_bytes.into())).unwrap_or(usize::MAX);
        Self {
            all: Arc::new(Semaphore::new(all.min(Semaphore::MAX_PERMITS))),
            addresses: Crowd::new(units(limits.paid_bodies_per_address_bytes.into())),
        }
    }

    /// Room for a body of so many bytes that comes from this address.
    pub(crate) fn enter(&self, address: u128, bytes: u64) -> Result<Room, Refusal> {
        let units = units(bytes);
        let own = self.addresses.enter_many(address, units).ok_or_else(full)?;
        Arc::clone(&self.all).try_acquire_many_owned(units).map(|all| Room(own, all)).map_err(|_| full())
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

fn full() -> Refusal {
    metrics::counter!("palatine_gateway_paid_bodies_refused_total").increment(1);
    let said = "too many bodies of paid requests are under way; nothing was charged by this request";
    Fault::new(Code::PaymentsUnavailable, said).retry_after(SOON_S).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_2_2_bodies_are_counted_by_their_bytes_together_and_by_address() {
        let limits =
            Limits { paid_bodies_bytes: 10 * 1024, paid_bodies_per_address_bytes: 4 * 1024, ..Limits::default() };
        let bodies = Bodies::new(&limits);
        let held = [bodies.enter(1, 3 * 1024).unwrap(), bodies.enter(1, 0).unwrap(), bodies.enter(1, 1).unwrap()];
        let fault = Fault::from(bodies.enter(1, 1).unwrap_err());
        assert_eq!((fault.code, fault.retry_after), (Code::PaymentsUnavailable, Some(SOON_S)));
        let _second = bodies.enter(2, 4 * 1024).unwrap();
        assert!(bodies.enter(3, 3 * 1024).is_err(), "all together");
        drop(held);
        assert!(bodies.enter(3, 3 * 1024).is_ok() && bodies.enter(1, 4 * 1024).is_ok());
    }
}
