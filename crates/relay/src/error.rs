//! How the relayer says no.

use domain::Address;
use serde::Serialize;
use wire::v1::relay::{MAX_BATCH, PaymentRequired, RelayRefusal};

use crate::chain::ChainError;
use crate::payment::PaymentError;
use crate::request::RequestError;
use crate::text::ParseError;
use domain::relay::RelayJournalError;

/// Why nothing was relayed. Nothing was sent and nothing was taken, unless it says
/// so.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RelayError {
    /// The body is not the JSON of this route.
    #[error("the body is not what this route takes: {0}")]
    Body(String),
    /// The body is larger than allowed.
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    /// A parameter or a field has the wrong shape.
    #[error("{field} {error}")]
    Field {
        /// Which.
        field: &'static str,
        /// What it should be.
        error: ParseError,
    },
    /// None, or too many.
    #[error("a batch has from 1 to {MAX_BATCH} requests, not {0}")]
    Batch(usize),
    /// The requests of one signer do not follow each other.
    #[error("the requests of {0} do not have consecutive nonces, each once")]
    Sequence(Address),
    /// The request itself.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// This relayer does not call that contract.
    #[error("this relayer makes no such call to {0}")]
    Target(Address),
    /// Nobody pays for this vault: it is not that of a live agent whose holder is
    /// linked to its owner.
    #[error(
        "vaults are deployed for agents that are live or being created, whose holder is linked to the vault's owner; ask for it by POST /agents/{{id}}/vault"
    )]
    NotSponsored,
    /// A transfer from a wallet to itself.
    #[error("a transfer from a wallet to itself is not relayed")]
    SelfPayment,
    /// The forwarder's nonce is another one.
    #[error("the forwarder's nonce of {from} is {expected}, not {given}")]
    Nonce {
        /// Who signed.
        from: Address,
        /// The next one.
        expected: alloy_primitives::U256,
        /// The request's.
        given: alloy_primitives::U256,
    },
    /// Another request with this nonce is under way, or was carried out.
    #[error("another request of {0} with this nonce is under way or was carried out")]
    NonceInUse(Address),
    /// It would revert.
    #[error("the call would revert: {0}")]
    WouldRevert(String),
    /// It needs more gas than allowed.
    #[error("the transaction would need {0} gas; at most {1} is spent")]
    TooMuchGas(u64, u64),
    /// Terms, for a request that came without a payment.
    #[error("payment is required")]
    PaymentRequired(Box<PaymentRequired>),
    /// What is wrong with the payment, and the terms.
    #[error("{0}")]
    Payment(#[source] PaymentError, Option<Box<PaymentRequired>>),
    /// No price can be named.
    #[error("no price can be named for this much gas")]
    NoPrice,
    /// Asked too often today, or what calls of this class may cost is used up.
    #[error("no more is relayed for {subject} today")]
    OverQuota {
        /// Who asked too often, by class: `task:sender:0x…`, `deploy:client:…`; or the
        /// class whose budget is used up: `deploy:budget`.
        subject: String,
        /// Seconds until the next day.
        retry_after_s: u64,
    },
    /// Asked too often just now.
    #[error("too many requests; try again in {0} seconds")]
    TooOften(u64),
    /// Too much under way.
    #[error("too many calls are under way; try again")]
    Busy,
    /// The raw transaction is not one.
    #[error("signedTx is not a signed transaction: {0}")]
    Transaction(String),
    /// Of another chain.
    #[error("the transaction is for another chain than {0}")]
    WrongChain(u64),
    /// It creates a contract.
    #[error("a transaction that creates a contract is not relayed")]
    Creation,
    /// The network did not take it.
    #[error("the network did not take the transaction: {0}")]
    Broadcast(String),
    /// The chain does not answer.
    #[error("the chain does not answer just now")]
    Chain(#[source] ChainError),
    /// Our fault.
    #[error("the relayer cannot keep its journal just now")]
    Journal(#[from] RelayJournalError),
    /// One request of a batch.
    #[error("request {index}: {error}")]
    At {
        /// Which, from 0.
        index: usize,
        /// What is wrong with it.
        #[source]
        error: Box<RelayError>,
    },
}

/// What a refusal looks like on the wire.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum ErrorBody {
    /// Any but a 402 with terms.
    Refusal(RelayRefusal),
    /// A 402 with terms.
    Payment(Box<PaymentRequired>),
}

impl From<ChainError> for RelayError {
    fn from(error: ChainError) -> Self {
        Self::Chain(error)
    }
}

impl RelayError {
    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::Body(_)
            | Self::Field { .. }
            | Self::Batch(_)
            | Self::Sequence(_)
            | Self::Request(_)
            | Self::WouldRevert(_)
            | Self::TooMuchGas(..)
            | Self::NoPrice
            | Self::SelfPayment
            | Self::Transaction(_)
            | Self::WrongChain(_)
            | Self::Creation
            | Self::Broadcast(_) => 400,
            Self::Payment(PaymentError::Shape | PaymentError::Field { .. }, _) => 400,
            Self::PaymentRequired(_) | Self::Payment(..) => 402,
            Self::Target(_) | Self::NotSponsored => 403,
            Self::Nonce { .. } | Self::NonceInUse(_) => 409,
            Self::TooLarge(_) => 413,
            Self::OverQuota { .. } | Self::TooOften(_) => 429,
            Self::Journal(_) => 500,
            Self::Busy | Self::Chain(_) => 503,
            Self::At { error, .. } => error.status(),
        }
    }

    /// A stable code for programs; CroGas's where it has one.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Body(_) | Self::Field { .. } | Self::Batch(_) | Self::Sequence(_) => "INVALID_REQUEST",
            Self::TooLarge(_) => "BODY_TOO_LARGE",
            Self::Request(RequestError::Signature) => "INVALID_SIGNATURE",
            Self::Request(RequestError::Late(_) | RequestError::Early(_)) => "INVALID_DEADLINE",
            Self::Request(RequestError::Gas(..)) | Self::TooMuchGas(..) => "GAS_TOO_HIGH",
            Self::Request(_) => "INVALID_REQUEST",
            Self::Target(_) => "CALL_NOT_ALLOWED",
            Self::NotSponsored => "DEPLOYMENT_NOT_SPONSORED",
            Self::Nonce { .. } => "NONCE_MISMATCH",
            Self::NonceInUse(_) => "NONCE_IN_USE",
            Self::WouldRevert(_) => "TX_SIMULATION_FAILED",
            Self::PaymentRequired(_) => "Payment Required",
            Self::Payment(PaymentError::Shape | PaymentError::Field { .. }, _) => "INVALID_PAYMENT",
            Self::Payment(PaymentError::Failed(_), _) => "PAYMENT_FAILED",
            Self::Payment(..) => "PAYMENT_INVALID",
            Self::NoPrice => "NO_PRICE",
            Self::SelfPayment => "SELF_PAYMENT",
            Self::OverQuota { .. } => "QUOTA_EXCEEDED",
            Self::TooOften(_) => "RATE_LIMITED",
            Self::Busy => "BUSY",
            Self::Transaction(_) => "TX_INVALID_SIGNATURE",
            Self::WrongChain(_) => "TX_WRONG_CHAIN",
            Self::Creation => "TX_WILL_REVERT",
            Self::Broadcast(_) => "TX_BROADCAST_FAILED",
            Self::Chain(_) => "CHAIN_UNAVAILABLE",
            Self::Journal(_) => "INTERNAL_ERROR",
            Self::At { error, .. } => error.code(),
        }
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> ErrorBody {
        match self {
            Self::PaymentRequired(terms) => ErrorBody::Payment(terms.clone()),
            Self::Payment(_, Some(terms)) => {
                let (error, message) = (self.code().to_owned(), Some(self.to_string()));
                ErrorBody::Payment(Box::new(PaymentRequired { error, message, ..(**terms).clone() }))
            }
            _ => ErrorBody::Refusal(self.refusal()),
        }
    }

    fn refusal(&self) -> RelayRefusal {
        RelayRefusal {
            error: self.code().to_owned(),
            message: self.to_string(),
            index: if let Self::At { index, .. } = self { Some(*index) } else { None },
            retry_after: self.retry_after(),
        }
    }

    /// Whole seconds after which to try again, where that helps.
    #[must_use]
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            Self::TooOften(seconds) | Self::OverQuota { retry_after_s: seconds, .. } => Some(*seconds),
            Self::Busy | Self::Chain(_) | Self::Journal(_) => Some(RETRY_AFTER_S),
            Self::At { error, .. } => error.retry_after(),
            _ => None,
        }
    }

    pub(crate) fn at(self, index: usize) -> Self {
        Self::At { index, error: Box::new(self) }
    }
}

/// What callers are told to wait while something is out of order here.
const RETRY_AFTER_S: u64 = 5;
