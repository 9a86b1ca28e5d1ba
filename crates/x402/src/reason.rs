//! Why a payment is not taken, in x402's own words.

use crate::Dialect;

/// Why a payment is not taken. The codes are those of x402 (`invalidReason` and
/// `errorReason`; version 2 specification, section 9, and version 1's list), and our own
/// where it has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum InvalidReason {
    /// The message is no payment, or a field is not what it must be.
    #[error("the payment is malformed")]
    Payload,
    /// Neither version 1 nor version 2, or not the header's.
    #[error("the version is not the header's")]
    Version,
    /// A scheme other than `exact`.
    #[error("the scheme is not supported")]
    Scheme,
    /// A chain on which nothing is offered.
    #[error("the network is not one of the offered ones")]
    Network,
    /// The terms that were accepted are not the ones that were offered.
    #[error("the accepted terms are not the offered ones")]
    Requirements,
    /// It pays somebody else.
    #[error("the payment is to somebody else")]
    Recipient,
    /// It pays its own payer: it would cost gas and move nothing.
    #[error("the payment is to its own payer")]
    SelfPayment,
    /// It pays more or less than the price.
    #[error("the payment is not of the price")]
    Value,
    /// It is not valid yet.
    #[error("the payment is not valid yet")]
    ValidAfter,
    /// It is not valid any more, not for long enough, or for too long.
    #[error("the payment is not valid for the time it must be")]
    ValidBefore,
    /// The signature is not the payer's, or not in the one form that is taken.
    #[error("the signature is not the payer's")]
    Signature,
    /// The payer does not hold so much.
    #[error("the payer does not hold enough")]
    Funds,
    /// It was used before, here or elsewhere.
    #[error("the payment was used before")]
    Used,
    /// The token refuses the transfer.
    #[error("the token refuses the transfer")]
    Transfer,
    /// Whether it was settled is not known at the moment.
    #[error("the settlement is not known to have succeeded")]
    Unsettled,
    /// Its transfer was sent, and is not confirmed yet.
    #[error("the transfer was sent and is not confirmed yet")]
    Pending,
    /// The facilitator does not settle for this payee or this amount.
    #[error("this is not settled here")]
    Policy,
}

impl InvalidReason {
    /// The code in this dialect.
    #[must_use]
    pub const fn code(self, dialect: Dialect) -> &'static str {
        match self {
            Self::Payload => "invalid_payload",
            Self::Version => "invalid_x402_version",
            Self::Scheme => "unsupported_scheme",
            Self::Network => "invalid_network",
            Self::Requirements | Self::Policy => "invalid_payment_requirements",
            Self::Recipient => "invalid_exact_evm_payload_recipient_mismatch",
            Self::SelfPayment => "self_payment",
            Self::Value => match dialect {
                Dialect::V2 => "invalid_exact_evm_payload_authorization_value_mismatch",
                Dialect::V1 | Dialect::Cronos => "invalid_exact_evm_payload_authorization_value",
            },
            Self::ValidAfter => "invalid_exact_evm_payload_authorization_valid_after",
            Self::ValidBefore => "invalid_exact_evm_payload_authorization_valid_before",
            Self::Signature => "invalid_exact_evm_payload_signature",
            Self::Funds => "insufficient_funds",
            Self::Used => "duplicate_settlement",
            Self::Transfer => "invalid_transaction_state",
            Self::Unsettled => "unexpected_settle_error",
            Self::Pending => "settlement_pending",
        }
    }
}
