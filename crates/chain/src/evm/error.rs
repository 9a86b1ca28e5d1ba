//! What goes wrong between us and a chain.

use domain::Address;

use super::revert::Revert;

/// Why there is no answer from the chain, or none that may be used. Never holds
/// an endpoint's URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvmError {
    /// No endpoint gave an answer that can be used. This says nothing about what
    /// was asked.
    #[error("{method}: no endpoint gave an answer that can be used: {why}")]
    Unknown {
        /// What was asked.
        method: &'static str,
        /// What the last endpoint did.
        why: String,
    },
    /// The last endpoint that was asked serves another chain by now.
    #[error("{method}: {host} serves chain {is}, not {wanted}")]
    OtherChain {
        /// What was asked.
        method: &'static str,
        /// The endpoint's host.
        host: String,
        /// What it serves.
        is: u64,
        /// What is configured.
        wanted: u64,
    },
    /// Two endpoints say what cannot both be true. Neither is believed.
    #[error("{method}: {one} and {other} contradict each other; neither is believed")]
    Disagreement {
        /// What was asked.
        method: &'static str,
        /// An endpoint's host.
        one: String,
        /// Another's.
        other: String,
    },
    /// An endpoint's answers do not fit each other, or the chain was re-organised
    /// between them.
    #[error("{method}: the answers do not fit each other: {what}")]
    Inconsistent {
        /// What was asked.
        method: &'static str,
        /// What does not fit.
        what: &'static str,
    },
    /// More logs than an endpoint gives at once.
    #[error("eth_getLogs: more than an endpoint gives at once: {why}")]
    TooMany {
        /// In the endpoint's words.
        why: String,
    },
    /// The contract refuses the call.
    #[error("refused: {0}")]
    Reverted(#[from] Revert),
    /// The sending account cannot pay for the gas.
    #[error("{account} holds {has} wei and needs {needs} wei for gas: send it some")]
    Unfunded {
        /// The account.
        account: Address,
        /// Its balance.
        has: u128,
        /// What the transaction may cost.
        needs: u128,
    },
    /// Gas costs more than `[evm] max_fee_gwei`.
    #[error("gas costs {now} wei and at most {cap} are paid: wait, or raise [evm] max_fee_gwei")]
    GasTooDear {
        /// Wei per unit of gas, now.
        now: u128,
        /// The cap.
        cap: u128,
    },
    /// The transaction uses more gas than `[evm] max_gas`.
    #[error("the transaction needs {gas} gas and at most {most} are allowed: see [evm] max_gas")]
    GasTooMuch {
        /// What it needs.
        gas: u64,
        /// What is allowed.
        most: u64,
    },
}

impl EvmError {
    /// Whether the same question may have an answer later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Unknown { .. }
            | Self::OtherChain { .. }
            | Self::Disagreement { .. }
            | Self::Inconsistent { .. }
            | Self::GasTooDear { .. } => true,
            Self::TooMany { .. } | Self::Reverted(_) | Self::Unfunded { .. } | Self::GasTooMuch { .. } => false,
        }
    }
}
