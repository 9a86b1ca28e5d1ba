//! What other crates ask of a chain.

use async_trait::async_trait;
use domain::{TokenAmount, Wallet};

/// Why there is no balance to decide by.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BalanceError {
    /// No endpoint gave an answer that can be used. This says nothing about the
    /// wallet.
    #[error("the balance is unknown: {why}")]
    Unknown {
        /// What the last endpoint did; for the log, not for clients.
        why: String,
        /// Seconds after which asking again makes sense.
        retry_after_s: u64,
    },
}

/// Where balances come from.
#[async_trait]
pub trait Balances: Send + Sync {
    /// The sum of a wallet's accounts, at most a few seconds old.
    async fn balance(&self, wallet: &Wallet) -> Result<TokenAmount, BalanceError>;

    /// Whether balances can be read at all: reads one from the chain, whatever is
    /// remembered, and in nobody's turn.
    async fn probe(&self) -> Result<(), BalanceError>;

    /// The mint's decimals: known as soon as a balance was read. Before that so
    /// many that no amount reaches any tier.
    fn decimals(&self) -> u8;

    /// The mint, in base58.
    fn mint(&self) -> &str;
}
