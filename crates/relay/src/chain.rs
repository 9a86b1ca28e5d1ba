//! What the relayer needs of a chain.

use std::time::Duration;

use alloy_primitives::{Address, B256, Bytes, Log, U256};
use alloy_sol_types::Eip712Domain;
use async_trait::async_trait;
use chain::evm::Revert;
use domain::payment::{Authorization, AuthorizationState};
use domain::relay::RelayTransaction;

/// Why the chain gave no answer. This says nothing about the call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// No endpoint gave an answer that can be used.
    #[error("the chain does not answer: {0}")]
    Unavailable(String),
    /// The chain, or our own sender, will never take this.
    #[error("the chain refused it: {0}")]
    Refused(String),
}

/// What never changes while the process runs: read and checked once, at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainParameters {
    /// EIP-155.
    pub chain_id: u64,
    /// OpenZeppelin's `ERC2771Forwarder`.
    pub forwarder: Address,
    /// The name in the forwarder's EIP-712 domain; its version is `1`.
    pub forwarder_name: String,
    /// The factory of vaults.
    pub factory: Address,
    /// USDC.
    pub token: Address,
    /// The name in the token's EIP-712 domain.
    pub token_name: String,
    /// The version in the token's EIP-712 domain.
    pub token_version: String,
    /// Who sends, and pays the gas.
    pub relayer: Address,
}

impl ChainParameters {
    /// The separator of the token's EIP-712 domain.
    #[must_use]
    pub fn token_separator(&self) -> B256 {
        let (name, version) = (self.token_name.clone().into(), self.token_version.clone().into());
        let chain_id = U256::from(self.chain_id);
        Eip712Domain::new(Some(name), Some(version), Some(chain_id), Some(self.token), None).separator()
    }
}

/// A call, as `eth_call` takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EthCall {
    /// Who calls.
    pub from: Address,
    /// Who is called.
    pub to: Address,
    /// Wei.
    pub value: U256,
    /// The call.
    pub data: Bytes,
    /// Gas at most; the endpoint's own bound where none is given.
    pub gas: Option<u64>,
}

/// What a call would do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Simulation<T> {
    /// It would succeed.
    Done(T),
    /// It would revert, for this reason.
    Reverted(Revert),
}

/// A transaction in a block that is as deep as the chain's settings ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionReceipt {
    /// Its hash: the one that was mined, of all that were tried.
    pub tx: B256,
    /// Its block.
    pub block: u64,
    /// Gas of all of it.
    pub gas_used: u64,
    /// Wei per gas.
    pub gas_price: u128,
    /// Whether it ran to its end. Says nothing about calls inside it.
    pub succeeded: bool,
    /// What it logged.
    pub logs: Vec<Log>,
}

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransactionState {
    /// Nothing was ever submitted under this key.
    Unknown,
    /// Not known yet; the hash of the newest try, if it was sent.
    Pending(Option<B256>),
    /// It is on the chain, deep enough.
    Mined(TransactionReceipt),
    /// It will never be on the chain: given up, and its nonce used otherwise.
    Dropped(String),
}

/// What the relayer's account has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccountBalances {
    /// Wei of the relayer's own account.
    pub wei: U256,
    /// Micro-USDC of the receiving wallet.
    pub usdc: U256,
}

/// The chain, as the relayer sees it. Every method is bounded in time.
#[async_trait]
pub trait Chain: Send + Sync {
    /// What never changes.
    fn facts(&self) -> &ChainParameters;

    /// The forwarder's next nonce of this address.
    async fn nonce(&self, from: Address) -> Result<U256, ChainError>;

    /// Whether our factory made the vault at this address.
    async fn is_vault(&self, address: Address) -> Result<bool, ChainError>;

    /// `eth_call`, at the newest block.
    async fn simulate(&self, call: &EthCall) -> Result<Simulation<Bytes>, ChainError>;

    /// `eth_estimateGas`, with a margin: the limit of such a transaction.
    async fn estimate(&self, call: &EthCall) -> Result<Simulation<u64>, ChainError>;

    /// Wei per gas that a transaction sent now would pay at most.
    async fn gas_price(&self) -> Result<u128, ChainError>;

    /// What the relayer has in its account and in this wallet.
    async fn holdings(&self, wallet: Address) -> Result<AccountBalances, ChainError>;

    /// EIP-3009's `authorizationState`: used or cancelled.
    async fn spent(&self, payer: Address, nonce: B256) -> Result<bool, ChainError>;

    /// What became of an authorization, whoever used it. `Unused` is never said of one
    /// that the newest block shows as used.
    async fn authorization(&self, authorization: &Authorization) -> Result<AuthorizationState, ChainError>;

    /// Takes a transaction on, durably: once this returns `Ok`, it will be sent,
    /// and replaced when stuck, by this life of the process or the next. Whatever is
    /// submitted under one key becomes at most one transaction on the chain, however
    /// often and from however many lives of the process it is submitted.
    async fn submit(&self, key: B256, transaction: &RelayTransaction) -> Result<(), ChainError>;

    /// What became of a submitted transaction; waits for `TransactionReceipt` or `Dropped` at
    /// most this long.
    async fn outcome(&self, key: B256, wait: Duration) -> Result<TransactionState, ChainError>;

    /// `eth_sendRawTransaction` of somebody else's transaction. One that is known
    /// already is no error. Answers with its hash.
    async fn broadcast(&self, raw: &[u8]) -> Result<B256, ChainError>;

    /// Waits, at most this long, until a transaction is this deep: 1 is its own
    /// block.
    async fn mined(
        &self,
        tx: B256,
        confirmations: u64,
        wait: Duration,
    ) -> Result<Option<TransactionReceipt>, ChainError>;
}
