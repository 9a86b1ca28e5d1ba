//! The relayer's chain, over the endpoints and the durable sender of `chain::evm`.

use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{Address, B256, Bytes, U256};
use async_trait::async_trait;
use chain::evm::{At, Broadcast, Evm, EvmError, Landed, SendError, Sender, Sighting};
use domain::evm::{Entry, IntentKey};
use domain::payment::{Authorization, AuthorizationState};
use domain::relay::Transaction;
use tokio::time::{Instant, sleep, timeout};

use crate::abi::ERC2771Forwarder::noncesCall;
use crate::chain::{Call, Chain, ChainError, Facts, Holdings, Mined, Outcome, Simulation};

/// Pause between two looks for a transaction of somebody else.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A chain that was checked, and the relayer's account on it.
#[derive(Debug)]
pub struct EvmChain {
    chain: Arc<chain::evm::Chain>,
    sender: Sender,
    facts: Facts,
}

impl EvmChain {
    /// The relayer of this sender's account, on this chain.
    #[must_use]
    pub fn new(chain: Arc<chain::evm::Chain>, sender: Sender) -> Self {
        let facts = facts(&chain, sender.account().address);
        Self { chain, sender, facts }
    }

    fn evm(&self) -> &Evm {
        &self.chain.evm
    }

    async fn landed(&self, tx: B256) -> Result<Option<Landed>, ChainError> {
        match self.evm().sighting(tx).await.map_err(unavailable)? {
            Sighting::Deep(landed) => Ok(Some(landed)),
            Sighting::Absent | Sighting::Shallow { .. } => Ok(None),
        }
    }

    /// As deep as `[evm] confirmations` ask, and as this asks.
    async fn at_depth(&self, tx: B256, confirmations: u64) -> Result<Option<Mined>, ChainError> {
        let Some(landed) = self.landed(tx).await? else { return Ok(None) };
        let deep_at = landed.mined.block.number.saturating_add(confirmations).saturating_sub(1);
        let head = self.evm().head().await.map_err(unavailable)?;
        Ok((head.number >= deep_at).then(|| mined(landed)))
    }
}

/// What the checked chain says of itself, for this relayer.
#[must_use]
pub fn facts(chain: &chain::evm::Chain, relayer: Address) -> Facts {
    let config = chain.evm.config();
    let said = |text: &Option<std::borrow::Cow<'static, str>>| text.as_deref().unwrap_or_default().to_owned();
    Facts {
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
    fn facts(&self) -> &Facts {
        &self.facts
    }

    async fn nonce(&self, from: Address) -> Result<U256, ChainError> {
        let asked = noncesCall { owner: from };
        self.evm().read(self.facts.forwarder, &asked, At::Latest).await.map_err(unavailable)
    }

    async fn is_vault(&self, address: Address) -> Result<bool, ChainError> {
        self.chain.is_vault(address).await.map_err(unavailable)
    }

    async fn simulate(&self, call: &Call) -> Result<Simulation<Bytes>, ChainError> {
        simulated(self.evm().call(&plain(call), Some(call.from), At::Latest).await)
    }

    async fn estimate(&self, call: &Call) -> Result<Simulation<u64>, ChainError> {
        simulated(self.evm().gas_limit(&plain(call), call.from).await)
    }

    async fn gas_price(&self) -> Result<u128, ChainError> {
        Ok(self.evm().price().await.map_err(unavailable)?.max_fee())
    }

    async fn holdings(&self, wallet: Address) -> Result<Holdings, ChainError> {
        let (wei, usdc) =
            tokio::try_join!(self.evm().coins(self.facts.relayer), self.chain.usdc_of(wallet, At::Latest))
                .map_err(unavailable)?;
        Ok(Holdings { wei, usdc: usdc.to_u256() })
    }

    async fn spent(&self, payer: Address, nonce: B256) -> Result<bool, ChainError> {
        self.chain.is_authorization_used(payer, nonce, At::Latest).await.map_err(unavailable)
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

    async fn submit(&self, key: B256, transaction: &Transaction) -> Result<(), ChainError> {
        let Transaction { to, value, data, .. } = transaction;
        let call = domain::evm::Call { to: *to, data: data.clone(), value: *value };
        self.sender.send(&self::key(key)?, &call).await.map(drop).map_err(unsent)
    }

    async fn outcome(&self, key: B256, wait: Duration) -> Result<Outcome, ChainError> {
        let key = self::key(key)?;
        let Some(entry) = self.sender.find(&key).await.map_err(unsent)? else { return Ok(Outcome::Unknown) };
        let Ok(settled) = timeout(wait, self.sender.settled(&key)).await else { return Ok(pending(&entry)) };
        match settled.map_err(unsent)? {
            domain::evm::Outcome::Mined(it) => {
                let landed = self.landed(it.hash).await?;
                Ok(landed.map_or_else(|| pending(&entry), |landed| Outcome::Mined(mined(landed))))
            }
            domain::evm::Outcome::Lost { .. } => {
                Ok(Outcome::Dropped("another transaction used the relayer's nonce".to_owned()))
            }
        }
    }

    async fn broadcast(&self, raw: &[u8]) -> Result<B256, ChainError> {
        let hash = alloy_primitives::keccak256(raw);
        match self.evm().broadcast(&Bytes::copy_from_slice(raw)).await.map_err(unavailable)? {
            Broadcast::Taken => Ok(hash),
            Broadcast::NonceUsed => Err(ChainError::Refused("its nonce is used".to_owned())),
            Broadcast::Refused(why) => Err(ChainError::Refused(why)),
        }
    }

    async fn mined(&self, tx: B256, confirmations: u64, wait: Duration) -> Result<Option<Mined>, ChainError> {
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

fn plain(call: &Call) -> domain::evm::Call {
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

fn mined(landed: Landed) -> Mined {
    let Landed { mined, logs } = landed;
    Mined {
        tx: mined.hash,
        block: mined.block.number,
        gas_used: mined.gas_used,
        gas_price: mined.gas_price,
        succeeded: mined.success,
        logs,
    }
}

fn pending(entry: &Entry) -> Outcome {
    Outcome::Pending(entry.attempts.last().map(|attempt| attempt.hash))
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
