//! Memory for the bodies of paid requests. Each is held whole until the agent has it, so
//! they are counted by their bytes: all together, by address and by payer.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wire::fault::{Code, Fault};

use crate::Limits;
use crate::edge::requester::{QuotaKey, Requester};
use crate::edge::semaphore::{KeyedPermit, KeyedSemaphore};
use crate::error::ApiError;

/// Bytes are counted in units of so many.
const UNIT: u64 = 1024;
/// Seconds after which there may be room again.
const SOON_S: u64 = 1;

/// How many bytes may be held.
pub(crate) struct BodyBudget {
    all: Arc<Semaphore>,
    quotas: KeyedSemaphore<QuotaKey>,
}

/// The bytes of one body; given back when dropped.
#[derive(Debug)]
#[expect(dead_code, reason = "holding it is what it is for")]
pub(crate) struct BodyPermit(Vec<KeyedPermit<QuotaKey>>, OwnedSemaphorePermit);

impl BodyBudget {
    pub(crate) fn new(limits: &Limits) -> Self {
        let all = usize::try_from(units(limits.paid_bodies_bytes.into())).unwrap_or(usize::MAX);
        Self {
            all: Arc::new(Semaphore::new(all.min(Semaphore::MAX_PERMITS))),
            quotas: KeyedSemaphore::new(units(limits.paid_bodies_per_address_bytes.into())),
        }
    }

    /// Takes so many bytes for a body of this payer's.
    pub(crate) fn try_acquire(&self, payer: Requester, bytes: u64) -> Result<BodyPermit, ApiError> {
        let units = units(bytes);
        let own = payer.quotas().map(|key| self.quotas.try_acquire_many(key, units).ok_or_else(full));
        let own = own.collect::<Result<_, _>>()?;
        Arc::clone(&self.all).try_acquire_many_owned(units).map(|all| BodyPermit(own, all)).map_err(|_| full())
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

fn full() -> ApiError {
    metrics::counter!("palatine_gateway_paid_bodies_refused_total").increment(1);
    let said = "too many bodies of paid requests are under way; nothing was charged by this request";
    Fault::new(Code::PaymentsUnavailable, said).retry_after(SOON_S).into()
}

#[cfg(test)]
mod tests {
    use domain::Address;

    use super::*;

    #[test]
    fn fault_2_2_bodies_are_counted_by_their_bytes_together_by_address_and_by_payer() {
        let limits =
            Limits { paid_bodies_bytes: 10 * 1024, paid_bodies_per_address_bytes: 4 * 1024, ..Limits::default() };
        let bodies = BodyBudget::new(&limits);
        let enter = |address: u128, payer, bytes| {
            bodies.try_acquire(Requester::Payer(address, Address::repeat_byte(payer)), bytes)
        };
        let held = [enter(1, 1, 3 * 1024).unwrap(), enter(1, 1, 0).unwrap(), enter(1, 1, 1).unwrap()];
        let fault = Fault::from(enter(1, 2, 1).unwrap_err());
        assert_eq!((fault.code, fault.retry_after), (Code::PaymentsUnavailable, Some(SOON_S)));
        assert!(enter(2, 1, 1).is_err(), "his share, wherever he comes from");
        let _second = enter(2, 2, 4 * 1024).unwrap();
        assert!(enter(3, 3, 3 * 1024).is_err(), "all together");
        drop(held);
        assert!(enter(3, 3, 3 * 1024).is_ok() && enter(1, 1, 4 * 1024).is_ok());
    }
}
