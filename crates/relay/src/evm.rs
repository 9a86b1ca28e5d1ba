//! The relayer's chain, over the endpoints and the durable sender of `chain::evm`.

use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{Address, B256, Bytes, U256};
use async_trait::async_trait;
use chain::evm::{BlockTag, Broadcast, ConfirmedTransaction, Evm, EvmError, SendError, Sender, TransactionStatus};
use domain::evm::{IntentKey, OutboxEntry};
use domain::payment::{Authorization, AuthorizationState};
use domain::relay::RelayTransaction;
use tokio::time::{Instant, sleep, timeout};

use crate::abi::ERC2771Forwarder::noncesCall;
use crate::chain::{
    AccountBalances, Chain, ChainError, ChainParameters, EthCall, Simulation, TransactionReceipt, TransactionState,
};

/// Pause between two looks for a transaction of somebody else.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A chain that was checked, and the relayer's account on it.
#[derive(Debug)]
pub struct EvmChain {
    chain: Arc<chain::evm::CheckedChain>,
    sender: Sender,
    facts: ChainParameters,
}

impl EvmChain {
    /// The relayer of this sender's account, on this chain.
    #[must_use]
    pub fn new(chain: Arc<chain::evm::CheckedChain>, sender: Sender) -> Self {
        let facts = facts(&chain, sender.account().address);
        Self { chain, sender, facts }
    }

    fn evm(&self) -> &Evm {
        &self.chain.evm
    }

    async fn confirmed(&self, tx: B256) -> Result<Option<ConfirmedTransaction>, ChainError> {
        match self.evm().transaction_status(tx).await.map_err(unavailable)? {
            TransactionStatus::Confirmed(confirmed) => Ok(Some(confirmed)),
            TransactionStatus::NotFound | TransactionStatus::Unconfirmed { .. } => Ok(None),
        }
    }

    /// As deep as `[evm] confirmations` ask, and as this asks.
    async fn at_depth(&self, tx: B256, confirmations: u64) -> Result<Option<TransactionReceipt>, ChainError> {
        let Some(confirmed) = self.confirmed(tx).await? else { return Ok(None) };
        let deep_at = confirmed.mined.block.number.saturating_add(confirmations).saturating_sub(1);
        let head = self.evm().head().await.map_err(unavailable)?;
        Ok((head.number >= deep_at).then(|| mined(confirmed)))
    }
}

/// What the checked chain says of itself, for this relayer.
#[must_use]
pub fn facts(chain: &chain::evm::CheckedChain, relayer: Address) -> ChainParameters {
    let config = chain.evm.config();
    let said = |text: &Option<std::borrow::Cow<'static, str>>| text.as_deref().unwrap_or_default().to_owned();
    ChainParameters {
        chain_id: config.chain_id,
        forwarder: config.forwarder,
        forwarder_name: said(&chain.forwarder_domain.name),
        factory: config.factory,
        token: config.usdc,
        token_name: said(&chain.usdc_domain.name),
        token_version: said(&chain.usdc_domain.version),
        relayer,
    }
}

#[async_trait]
impl Chain for EvmChain {
    fn facts(&self) -> &ChainParameters {
        &self.facts
    }

    async fn nonce(&self, from: Address) -> Result<U256, ChainError> {
        let asked = noncesCall { owner: from };
        self.evm().read(self.facts.forwarder, &asked, BlockTag::Latest).await.map_err(unavailable)
    }

    async fn is_vault(&self, address: Address) -> Result<bool, ChainError> {
        self.chain.is_vault(address).await.map_err(unavailable)
    }

    async fn simulate(&self, call: &EthCall) -> Result<Simulation<Bytes>, ChainError> {
        simulated(self.evm().call(&plain(call), Some(call.from), BlockTag::Latest).await)
    }

    async fn estimate(&self, call: &EthCall) -> Result<Simulation<u64>, ChainError> {
        simulated(self.evm().gas_limit(&plain(call), call.from).await)
    }

    async fn gas_price(&self) -> Result<u128, ChainError> {
        Ok(self.evm().price().await.map_err(unavailable)?.max_fee())
    }

    async fn holdings(&self, wallet: Address) -> Result<AccountBalances, ChainError> {
        let (wei, usdc) =
            tokio::try_join!(self.evm().balance_wei(self.facts.relayer), self.chain.usdc_of(wallet, BlockTag::Latest))
                .map_err(unavailable)?;
        Ok(AccountBalances { wei, usdc: usdc.to_u256() })
    }

    async fn spent(&self, payer: Address, nonce: B256) -> Result<bool, ChainError> {
        self.chain.is_authorization_used(payer, nonce, BlockTag::Latest).await.map_err(unavailable)
    }

    async fn authorization(&self, authorization: &Authorization) -> Result<AuthorizationState, ChainError> {
        let state = self.chain.authorization_state(authorization).await.map_err(unavailable)?;
        let unused = matches!(state, AuthorizationState::Unused { .. });
        if unused && self.spent(authorization.from, authorization.nonce).await? {
            return Err(ChainError::Unavailable(format!(
                "the authorization {} was used in a block that is not deep enough yet",
                authorization.key()
            )));
        }
        Ok(state)
    }

    async fn submit(&self, key: B256, transaction: &RelayTransaction) -> Result<(), ChainError> {
        let RelayTransaction { to, value, data, .. } = transaction;
        let call = domain::evm::Call { to: *to, data: data.clone(), value: *value };
        self.sender.send(&self::key(key)?, &call).await.map(drop).map_err(unsent)
    }

    async fn outcome(&self, key: B256, wait: Duration) -> Result<TransactionState, ChainError> {
        let key = self::key(key)?;
        let Some(entry) = self.sender.find(&key).await.map_err(unsent)? else { return Ok(TransactionState::Unknown) };
        let Ok(settled) = timeout(wait, self.sender.settled(&key)).await else { return Ok(pending(&entry)) };
        match settled.map_err(unsent)? {
            domain::evm::TransactionOutcome::Mined(it) => {
                let confirmed = self.confirmed(it.hash).await?;
                Ok(confirmed.map_or_else(|| pending(&entry), |confirmed| TransactionState::Mined(mined(confirmed))))
            }
            domain::evm::TransactionOutcome::Lost { .. } => {
                Ok(TransactionState::Dropped("another transaction used the relayer's nonce".to_owned()))
            }
        }
    }

    async fn broadcast(&self, raw: &[u8]) -> Result<B256, ChainError> {
        let hash = alloy_primitives::keccak256(raw);
        match self.evm().broadcast(&Bytes::copy_from_slice(raw)).await.map_err(unavailable)? {
            Broadcast::Accepted => Ok(hash),
            Broadcast::NonceUsed => Err(ChainError::Refused("its nonce is used".to_owned())),
            Broadcast::Refused(why) => Err(ChainError::Refused(why)),
        }
    }

    async fn mined(
        &self,
        tx: B256,
        confirmations: u64,
        wait: Duration,
    ) -> Result<Option<TransactionReceipt>, ChainError> {
        let until = Instant::now() + wait;
        loop {
            let found = self.at_depth(tx, confirmations).await?;
            if found.is_some() || Instant::now() + LOOK_EVERY > until {
                return Ok(found);
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

fn plain(call: &EthCall) -> domain::evm::Call {
    domain::evm::Call { to: call.to, data: call.data.clone(), value: call.value }
}

fn simulated<T>(answer: Result<T, EvmError>) -> Result<Simulation<T>, ChainError> {
    match answer {
        Ok(done) => Ok(Simulation::Done(done)),
        Err(EvmError::Reverted(why)) => Ok(Simulation::Reverted(why)),
        Err(error @ EvmError::GasTooMuch { .. }) => Err(ChainError::Refused(error.to_string())),
        Err(error) => Err(unavailable(error)),
    }
}

fn mined(confirmed: ConfirmedTransaction) -> TransactionReceipt {
    let ConfirmedTransaction { mined, logs } = confirmed;
    TransactionReceipt {
        tx: mined.hash,
        block: mined.block.number,
        gas_used: mined.gas_used,
        gas_price: mined.gas_price,
        succeeded: mined.success,
        logs,
    }
}

fn pending(entry: &OutboxEntry) -> TransactionState {
    TransactionState::Pending(entry.attempts.last().map(|attempt| attempt.hash))
}

fn key(key: B256) -> Result<IntentKey, ChainError> {
    format!("relay:{key}").parse().map_err(|_| ChainError::Refused("not a key".to_owned()))
}

fn unavailable(error: EvmError) -> ChainError {
    ChainError::Unavailable(error.to_string())
}

/// What will never be sent is refused; the rest may be tried again.
fn unsent(error: SendError) -> ChainError {
    match &error {
        SendError::Evm(EvmError::Reverted(_) | EvmError::GasTooMuch { .. }) | SendError::KeyReused(_) => {
            ChainError::Refused(error.to_string())
        }
        SendError::Evm(_)
        | SendError::Outbox(_)
        | SendError::Sign(_)
        | SendError::NoSuchKey(_)
        | SendError::Busy
        | SendError::Forgotten { .. }
        | SendError::Ended => ChainError::Unavailable(error.to_string()),
    }
}
