//! What is written down about an EVM chain: its blocks, what is sent to it, and who keeps that.

use std::fmt;
use std::str::FromStr;

use alloy_primitives::{Address, B256, Bytes, U256};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

/// Transactions of one account that may wait to be mined at once; nodes drop more.
pub const MAX_PENDING: usize = 16;

/// A block, told apart from every other one at its height.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BlockRef {
    /// Its height.
    pub number: u64,
    /// Its hash.
    pub hash: B256,
    /// When it was made, in Unix seconds.
    pub time: u64,
}

impl fmt::Display for BlockRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.number, self.hash)
    }
}

/// What a transaction does, as plain data: it can be sent as it is, or wrapped
/// into an ERC-2771 request and relayed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Call {
    /// The contract.
    pub to: Address,
    /// Its function and arguments.
    pub data: Bytes,
    /// Coins of the chain that go with it, in wei.
    pub value: U256,
}

/// A sending account on one chain: the owner of a row of nonces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SenderAccount {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Its address.
    pub address: Address,
}

/// What the one who wants a transaction calls it: the same key is the same
/// effect, however often it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct IntentKey(String);

/// The text is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key of an intent has from 1 to {most} printable ASCII characters", most = IntentKey::MAX)]
pub struct IntentKeyError;

impl IntentKey {
    /// Characters at most.
    pub const MAX: usize = 160;

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IntentKey {
    type Err = IntentKeyError;

    fn from_str(text: &str) -> Result<Self, IntentKeyError> {
        let sound = (1..=Self::MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if sound { Ok(Self(text.to_owned())) } else { Err(IntentKeyError) }
    }
}

impl fmt::Display for IntentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for IntentKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// One signed form of a transaction. All attempts of an entry have its nonce, so
/// at most one of them can ever be mined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionAttempt {
    /// The transaction's hash.
    pub hash: B256,
    /// The signed bytes, as they are broadcast. Public once sent.
    pub raw: Bytes,
    /// Wei per unit of gas, at most.
    pub max_fee: u128,
    /// Wei per unit of gas for the block's maker; `max_fee` again where the chain
    /// knows no base fee.
    pub tip: u128,
}

/// A transaction in a block, at the depth that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MinedTransaction {
    /// The attempt that was mined.
    pub hash: B256,
    /// Where.
    pub block: BlockRef,
    /// Whether it took effect; a reverted transaction did not.
    pub success: bool,
    /// Gas it used.
    pub gas_used: u64,
    /// Wei paid per unit of gas.
    pub gas_price: u128,
}

/// How an entry ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransactionOutcome {
    /// One of its attempts was mined.
    Mined(MinedTransaction),
    /// Its nonce was used by a transaction that is not ours: none of its attempts
    /// can ever be mined. Asking again takes another key.
    Lost {
        /// The block at which that was sure.
        at: BlockRef,
    },
}

/// Where an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutboxEntryState {
    /// One of its attempts may be mined, or has been but not deep enough.
    Pending,
    /// It is over.
    Settled(TransactionOutcome),
}

/// A transaction as it is written down before anybody hears of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxEntry {
    /// What it is for. One entry per account and key.
    pub key: IntentKey,
    /// Who sends it.
    pub account: SenderAccount,
    /// One entry per account and nonce.
    pub nonce: u64,
    /// What it does.
    pub call: Call,
    /// Gas it may use.
    pub gas_limit: u64,
    /// Oldest first; never empty.
    pub attempts: Vec<TransactionAttempt>,
    /// Where it stands.
    pub state: OutboxEntryState,
}

/// Why an outbox does not take what it is given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutboxError {
    /// The key or the nonce is taken already, or the entry is not what it is taken
    /// for: another process sends from the same account.
    #[error("the outbox has another entry there: another process sends from this account")]
    Conflict,
    /// The storage failed. For the log, not for clients.
    #[error("the outbox's storage failed: {0}")]
    Unavailable(String),
}

/// The transactions of our own accounts. Every call is one transaction of the
/// storage; what it has answered is durable. Unique: (account, key), (account,
/// nonce).
///
/// Order of calls, for one entry: `write`, any number of `add`, `settle`. Nothing is broadcast that was not written first.
#[async_trait]
pub trait Outbox: Send + Sync {
    /// The entry of a key, whatever its state.
    async fn find(&self, account: &SenderAccount, key: &IntentKey) -> Result<Option<OutboxEntry>, OutboxError>;

    /// All entries that are pending, by nonce. Bounded by [`MAX_PENDING`]: no more are ever written.
    async fn pending(&self, account: &SenderAccount) -> Result<Vec<OutboxEntry>, OutboxError>;

    /// The highest nonce of any entry, whatever its state.
    async fn highest_nonce(&self, account: &SenderAccount) -> Result<Option<u64>, OutboxError>;

    /// Writes a new entry, pending.
    ///
    /// # Errors
    /// [`OutboxError::Conflict`] when its key or its nonce is taken.
    async fn write(&self, entry: &OutboxEntry) -> Result<(), OutboxError>;

    /// Adds an attempt to a pending entry.
    ///
    /// # Errors
    /// [`OutboxError::Conflict`] when no pending entry has this nonce.
    async fn add(&self, account: &SenderAccount, nonce: u64, attempt: &TransactionAttempt) -> Result<(), OutboxError>;

    /// Ends a pending entry. Its attempts' raw bytes may be dropped.
    ///
    /// # Errors
    /// [`OutboxError::Conflict`] when no pending entry has this nonce.
    async fn settle(
        &self,
        account: &SenderAccount,
        nonce: u64,
        outcome: &TransactionOutcome,
    ) -> Result<(), OutboxError>;
}

impl fmt::Debug for dyn Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Outbox")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_short_and_printable() {
        assert_eq!("vault:7f".parse::<IntentKey>().unwrap().to_string(), "vault:7f");
        for text in ["", "a b", "a\n", "é", &"x".repeat(IntentKey::MAX + 1)] {
            assert_eq!(text.parse::<IntentKey>(), Err(IntentKeyError), "{text:?}");
        }
        assert!(serde_json::from_str::<IntentKey>("\"\"").is_err());
    }
}
