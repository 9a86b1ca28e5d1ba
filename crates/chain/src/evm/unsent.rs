//! Why a transaction is not sent, or its end not known.

use domain::evm::{IntentKey, MAX_PENDING, OutboxError};

use super::error::EvmError;
use super::sign::SignError;

/// Why a transaction is not sent, or its end not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The chain refuses it, or cannot be asked. Nothing was written.
    #[error(transparent)]
    Evm(#[from] EvmError),
    /// The storage failed, or another process sends from this account.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// The key cannot sign.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The key stands for another call.
    #[error("{0} was asked for before, with another call")]
    KeyReused(IntentKey),
    /// Nothing was ever asked for under this key.
    #[error("{0} was never asked for")]
    NoSuchKey(IntentKey),
    /// Too many wait to be mined.
    #[error("{most} transactions of this account wait already: try later", most = MAX_PENDING)]
    Busy,
    /// The chain knows fewer transactions than were settled: it is another chain of
    /// the same id, or its endpoint lost its memory.
    #[error("the chain has {chain} transactions of {account}, and up to {ours} are settled: is it the same chain?")]
    Forgotten {
        /// Whose.
        account: domain::Address,
        /// What the chain has.
        chain: u64,
        /// What the outbox has.
        ours: u64,
    },
    /// The account's task has ended.
    #[error("the sender has ended")]
    Ended,
}
