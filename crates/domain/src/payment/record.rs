//! The durable record of payments: what makes one payment buy one answer.

use alloy_primitives::keccak256;
use async_trait::async_trait;

use super::{PaymentKey, SignedAuthorization};
use crate::{B256, UnixMillis};

/// What a payment is bound to: the hash of the request it came with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PaidRequestHash(pub B256);

impl PaidRequestHash {
    /// Of a request's method, its URL (path and query included) and its whole
    /// body. Headers are not part of it: a retry may differ in them.
    #[must_use]
    pub fn of(method: &str, url: &str, body: &[u8]) -> Self {
        let body = keccak256(body);
        let parts: [&[u8]; 5] = [method.as_bytes(), &[0], url.as_bytes(), &[0], body.as_slice()];
        Self(keccak256(parts.concat()))
    }
}

/// A payment for a request: verified, and about to be settled or settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payment {
    /// What its payer signed.
    pub signed: SignedAuthorization,
    /// The request that it came with.
    pub request: PaidRequestHash,
    /// What is bought: an agent's id, or [`Payment::FACILITATOR`]. At most
    /// [`Payment::MAX_RESOURCE`] bytes.
    pub resource: String,
    /// When it was seen first.
    pub seen_at: UnixMillis,
}

impl Payment {
    /// The resource of what is settled for other sellers.
    pub const FACILITATOR: &str = "facilitator";
    /// Bytes of a resource at most.
    pub const MAX_RESOURCE: usize = 128;

    /// What makes it itself.
    #[must_use]
    pub const fn key(&self) -> PaymentKey {
        self.signed.authorization.key()
    }

    /// Whether this is the same payment for the same thing. Two signatures of one
    /// authorization are as good as each other, and when it came does not matter.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.signed.authorization, self.request, &self.resource)
            == (&other.signed.authorization, other.request, &other.resource)
    }
}

/// The right to work on one payment, held by one request until it ends. It keeps
/// copies of a payment apart, and falls back by itself when its holder dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PaymentLease {
    /// Random, of this holder alone.
    pub id: u64,
    /// Until when it holds.
    pub until: UnixMillis,
}

/// Where a payment stands: `Reserved → Settled → Answered`, or `Reserved →
/// Failed`. No other step exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PaymentState {
    /// Not known to be paid; it may be on its way.
    Reserved,
    /// Paid by this transaction, and not answered yet.
    Settled {
        /// The transaction.
        tx: B256,
    },
    /// Paid, and its one answer has begun to leave.
    Answered {
        /// The transaction.
        tx: B256,
    },
    /// Certain never to be paid.
    Failed {
        /// Why, in a word of x402's list.
        reason: String,
    },
}

impl PaymentState {
    /// Its name, as stores and errors have it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Settled { .. } => "settled",
            Self::Answered { .. } => "answered",
            Self::Failed { .. } => "failed",
        }
    }
}

/// What [`Payments::reserve`] met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PaymentReservation {
    /// Never seen before. The row is there, with the lease.
    New,
    /// Seen with this same request, not settled, and nobody is at work on it
    /// (its holder died, or gave up): the lease is now the caller's.
    Resumed,
    /// Settled for this same request, not answered, and nobody is at work on it:
    /// the lease is now the caller's.
    Settled {
        /// The transaction.
        tx: B256,
    },
    /// Somebody is at work on it for this same request.
    InFlight,
    /// It has bought its answer.
    Answered {
        /// The transaction.
        tx: B256,
    },
    /// It failed for this same request.
    Failed {
        /// Why.
        reason: String,
    },
    /// The authorization is bound to another request, resource or fee.
    Conflict,
}

/// Why the record cannot be asked or told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PaymentsError {
    /// The database does not work at the moment. For the log, not for clients.
    #[error("the record of payments is unavailable: {0}")]
    Unavailable(String),
    /// The step is not one of [`PaymentState`]'s.
    #[error("payment {key} cannot become {wanted}: it is not recorded, or is in a state that has no such step")]
    Step {
        /// The payment.
        key: Box<PaymentKey>,
        /// The state that was wanted.
        wanted: &'static str,
    },
}

/// Where payments are recorded. Each call is one transaction, on disk before it
/// returns.
///
/// The order of calls is: `reserve`; then, when it gave `New` or `Resumed`,
/// `settled` or `failed` or `release`; then, with `Settled`, `answered` or
/// `release`. A row may be forgotten once `valid_before` is long over: the token
/// itself takes no such authorization any more.
#[async_trait]
pub trait Payments: Send + Sync {
    /// Reserves a payment for its request, or says what it met. Unique is
    /// [`Payment::key`]; *same* is [`Payment::is_same`]. A lease whose `until` is not
    /// after `now` is nobody's. `New`, `Resumed` and `Settled` leave `lease` in the row.
    async fn reserve(
        &self,
        payment: &Payment,
        lease: PaymentLease,
        now: UnixMillis,
    ) -> Result<PaymentReservation, PaymentsError>;

    /// `Reserved → Settled`, the lease unchanged. Again with the same
    /// transaction changes nothing, also when it is `Answered` by now.
    async fn settled(&self, key: &PaymentKey, tx: B256) -> Result<(), PaymentsError>;

    /// `Reserved → Failed`. Again changes nothing.
    async fn failed(&self, key: &PaymentKey, reason: &str) -> Result<(), PaymentsError>;

    /// `Settled → Answered` if the row still has the lease with this id; says
    /// whether it did. Called right before an answer's first byte leaves.
    async fn answered(&self, key: &PaymentKey, lease: u64) -> Result<bool, PaymentsError>;

    /// Takes the lease with this id off the row, if it is still there.
    async fn release(&self, key: &PaymentKey, lease: u64) -> Result<(), PaymentsError>;

    /// What is recorded of a payment.
    async fn find(&self, key: &PaymentKey) -> Result<Option<(Payment, PaymentState)>, PaymentsError>;

    /// At most `limit` payments that are `Reserved` and that nobody has a lease
    /// on at `now`: those first that this has not given for longest, so that each
    /// has its turn however many stay open; of those never given, the oldest.
    async fn pending(&self, now: UnixMillis, limit: usize) -> Result<Vec<Payment>, PaymentsError>;
}
