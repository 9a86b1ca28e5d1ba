//! Our contracts on a development chain.
//!
//! All are made through the deterministic deployment proxy, which development
//! chains bring along: their addresses follow from their code, so that a second
//! run finds what the first one made.

use std::time::Duration;

use alloy::primitives::keccak256;
use alloy::sol_types::{SolCall, SolConstructor};
use domain::evm::{Call, SenderAccount};
use domain::{Address, B256, Bytes, U256, Usdc};
use tokio::time::Instant;

use super::abi::{ERC2771Forwarder as Forwarder, PODVaultFactory as Factory, TestUSDC as Token};
use super::node::BlockTag;
use super::sign::{TransactionFields, attempt};
use super::start::check_chain_id;
use super::{Broadcast, ChainStartError, Evm, EvmConfig, EvmError, SignError, SigningKey, TransactionStatus};
use crate::Endpoint;

/// The deterministic deployment proxy, at the same address on every chain that has
/// it (github.com/Arachnid/deterministic-deployment-proxy).
const PROXY: Address = alloy::primitives::address!("4e59b44847b379578588920cA78FbF26c0B4956C");
/// The version in the test token's domain.
const TOKEN_VERSION: &str = "2";
/// The name in the forwarder's domain.
const FORWARDER_NAME: &str = "PalatineForwarder";
/// Gas that one deployment may use.
const MAX_GAS: u64 = 16_000_000;
/// How long one transaction may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often its receipt is asked for.
const LOOK: Duration = Duration::from_millis(25);
/// Chains on which nothing is deployed by accident: Ethereum, Cronos.
const REAL_CHAINS: [u64; 2] = [1, 25];

/// What a development chain has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalContracts {
    /// The test token.
    pub usdc: Address,
    /// The forwarder.
    pub forwarder: Address,
    /// The factory.
    pub factory: Address,
    /// The code behind the vaults.
    pub implementation: Address,
}

impl LocalContracts {
    /// `[evm]` for this chain, with the defaults; a development chain mines a block
    /// for each transaction, so one confirmation is all there is.
    #[must_use]
    pub fn config(&self, endpoint: Endpoint, chain_id: u64) -> EvmConfig {
        let config = EvmConfig::new(vec![endpoint], chain_id, self.usdc, self.factory, self.forwarder);
        EvmConfig { confirmations: 1, poll_ms: 200, ..config }
    }
}

/// Why nothing was deployed.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// It is a chain with real money on it.
    #[error("chain {0} is no development chain")]
    RealChain(u64),
    /// The chain brings no deployment proxy.
    #[error("chain {0} has no deterministic deployment proxy at {PROXY}: use anvil")]
    NoProxy(u64),
    /// The endpoint is wrong.
    #[error(transparent)]
    Start(#[from] ChainStartError),
    /// The chain refuses, or cannot be asked.
    #[error(transparent)]
    Evm(#[from] EvmError),
    /// The key cannot sign.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// A transaction was not mined, or had no effect.
    #[error("{what}: {why}")]
    Failed {
        /// What it was for.
        what: &'static str,
        /// What became of it.
        why: String,
    },
}

/// Puts the test token, the forwarder and the factory on a development chain, and
/// sees to it that `holder` has at least `funds` of the token. What is there
/// already stays. `key` pays the gas and is the token's minter; nobody else may
/// send from it meanwhile.
///
/// # Errors
/// [`DeployError`]; a second call goes on where the first one stopped.
pub async fn deploy_local(
    endpoint: Endpoint,
    chain_id: u64,
    key: &SigningKey,
    holder: Address,
    funds: Usdc,
) -> Result<LocalContracts, DeployError> {
    if REAL_CHAINS.contains(&chain_id) {
        return Err(DeployError::RealChain(chain_id));
    }
    let evm = local_chain(endpoint, chain_id)?;
    check_chain_id(&evm).await?;
    if evm.code(PROXY).await?.is_empty() {
        return Err(DeployError::NoProxy(chain_id));
    }
    let account = SenderAccount { chain_id, address: key.address() };
    let site = Site { evm, key, account };
    let usdc = site.make("the test token", token_code(key.address())).await?;
    let forwarder = site.make("the forwarder", forwarder_code()).await?;
    let factory = site.make("the factory", factory_code(usdc, forwarder)).await?;
    site.fund(usdc, holder, funds).await?;
    let implementation = site.evm.read(factory, &Factory::implementationCall {}, BlockTag::Latest).await?;
    Ok(LocalContracts { usdc, forwarder, factory, implementation })
}

/// The contracts are not there yet: the addresses stand in for them.
fn local_chain(endpoint: Endpoint, chain_id: u64) -> Result<Evm, ChainStartError> {
    let places = [1, 2, 3].map(Address::with_last_byte);
    let config = EvmConfig::new(vec![endpoint], chain_id, places[0], places[1], places[2]);
    let config = EvmConfig { confirmations: 1, max_gas: MAX_GAS, ..config };
    config.check()?;
    Evm::unchecked(&config).map_err(ChainStartError::Client)
}

fn token_code(minter: Address) -> Vec<u8> {
    let arguments = Token::constructorCall { version_: TOKEN_VERSION.to_owned(), minter_: minter };
    [Token::BYTECODE.as_ref(), &arguments.abi_encode()].concat()
}

fn forwarder_code() -> Vec<u8> {
    let arguments = Forwarder::constructorCall { name: FORWARDER_NAME.to_owned() };
    [Forwarder::BYTECODE.as_ref(), &arguments.abi_encode()].concat()
}

fn factory_code(usdc: Address, forwarder: Address) -> Vec<u8> {
    let arguments = Factory::constructorCall { usdc_: usdc, trustedForwarder_: forwarder };
    [Factory::BYTECODE.as_ref(), &arguments.abi_encode()].concat()
}

struct Site<'a> {
    evm: Evm,
    key: &'a SigningKey,
    account: SenderAccount,
}

impl Site<'_> {
    /// The contract with this code, made if it is not there.
    async fn make(&self, what: &'static str, code: Vec<u8>) -> Result<Address, DeployError> {
        let address = PROXY.create2(B256::ZERO, keccak256(&code));
        if self.evm.code(address).await?.is_empty() {
            let data = Bytes::from([B256::ZERO.as_slice(), &code].concat());
            self.send(what, &Call { to: PROXY, data, value: U256::ZERO }).await?;
        }
        Ok(address)
    }

    async fn fund(&self, usdc: Address, holder: Address, funds: Usdc) -> Result<(), DeployError> {
        let held = self.evm.read(usdc, &Token::balanceOfCall { account: holder }, BlockTag::Latest).await?;
        let missing = funds.to_u256().saturating_sub(held);
        if missing.is_zero() {
            return Ok(());
        }
        let data = Token::mintCall { to: holder, amount: missing }.abi_encode().into();
        self.send("test USDC", &Call { to: usdc, data, value: U256::ZERO }).await
    }

    /// Sends a transaction and waits for it.
    async fn send(&self, what: &'static str, call: &Call) -> Result<(), DeployError> {
        let gas_limit = self.evm.gas_limit(call, self.account.address).await?;
        let (price, nonce) = (self.evm.price().await?, self.evm.nonce(self.account.address).await?);
        let attempt = attempt(self.key, &TransactionFields { account: self.account, nonce, gas_limit, price }, call)?;
        if let Broadcast::Refused(why) = self.evm.broadcast(&attempt.raw).await? {
            return Err(DeployError::Failed { what, why });
        }
        self.mined(what, attempt.hash).await
    }

    async fn mined(&self, what: &'static str, hash: B256) -> Result<(), DeployError> {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            match self.evm.transaction_status(hash).await? {
                TransactionStatus::Confirmed(confirmed) if confirmed.mined.success => return Ok(()),
                TransactionStatus::Confirmed(_) => {
                    return Err(DeployError::Failed { what, why: "it was reverted".to_owned() });
                }
                TransactionStatus::Unconfirmed { .. } | TransactionStatus::NotFound => tokio::time::sleep(LOOK).await,
            }
        }
        Err(DeployError::Failed { what, why: format!("not mined within {} s", PATIENCE.as_secs()) })
    }
}
