//! The durable record of payments: what makes one payment buy one answer.

use async_trait::async_trait;
use domain::{B256, UnixMillis};

use crate::{PaymentKey, RequestHash, Signed};

/// A payment that is about to be settled for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The payment, verified.
    pub payment: Signed,
    /// The request that it came with.
    pub request: RequestHash,
    /// What is bought: an agent's id, or [`Reservation::FACILITATOR`]. At most
    /// [`Reservation::MAX_RESOURCE`] bytes.
    pub resource: String,
    /// When it was seen first.
    pub at: UnixMillis,
}

impl Reservation {
    /// The resource of what is settled for other sellers.
    pub const FACILITATOR: &str = "facilitator";
    /// Bytes of a resource at most.
    pub const MAX_RESOURCE: usize = 128;

    /// The payment's key.
    #[must_use]
    pub const fn key(&self) -> PaymentKey {
        self.payment.authorization.key()
    }
}

/// The right to work on one payment, held by one request until it ends. It keeps
/// copies of a payment apart, and falls back by itself when its holder dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
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

/// What became of a wish to reserve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reserved {
    /// Never seen before. The row is there, with the claim.
    New,
    /// Seen with this same request, not settled, and nobody is at work on it
    /// (its holder died, or gave up): the claim is now the caller's.
    Resumed,
    /// Settled for this same request, not answered, and nobody is at work on it:
    /// the claim is now the caller's.
    Paid {
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
    /// It is bound to another request, resource or authorization.
    Other,
}

/// Why the record cannot be asked or told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The database does not work at the moment.
    #[error("the record of payments is unavailable: {0}")]
    Unavailable(String),
    /// The step is not one of [`PaymentState`]'s.
    #[error("the payment {key} cannot become {wanted}")]
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
    /// [`Reservation::key`]; *same* means that request, resource and the whole
    /// authorization are equal. A claim whose `until` is not after `now` is
    /// nobody's. `New`, `Resumed` and `Paid` leave `claim` in the row.
    async fn reserve(&self, reservation: &Reservation, claim: Claim, now: UnixMillis) -> Result<Reserved, RecordError>;

    /// `Reserved → Settled`, the claim unchanged. Again with the same
    /// transaction changes nothing, also when it is `Answered` by now.
    async fn settled(&self, key: &PaymentKey, tx: B256) -> Result<(), RecordError>;

    /// `Reserved → Failed`. Again changes nothing.
    async fn failed(&self, key: &PaymentKey, reason: &str) -> Result<(), RecordError>;

    /// `Settled → Answered` if the row still has the claim with this id; says
    /// whether it did. Called right before an answer's first byte leaves.
    async fn answered(&self, key: &PaymentKey, claim: u64) -> Result<bool, RecordError>;

    /// Takes the claim with this id off the row, if it is still there.
    async fn release(&self, key: &PaymentKey, claim: u64) -> Result<(), RecordError>;

    /// What is recorded of a payment.
    async fn find(&self, key: &PaymentKey) -> Result<Option<(Reservation, PaymentState)>, RecordError>;

    /// At most `limit` payments that are `Reserved` and that nobody has a claim
    /// on at `now`: those first that this has not given for longest, so that each
    /// has its turn however many stay open; of those never given, the oldest.
    async fn pending(&self, now: UnixMillis, limit: usize) -> Result<Vec<Reservation>, RecordError>;
}
