//! What is checked of a chain before anything is done with it.

use alloy::sol_types::Eip712Domain;
use domain::{Address, B256};

use super::abi::{ERC2771Forwarder as Forwarder, PODVaultFactory as Factory, TestUSDC as Token};
use super::endpoints::{EvmReadError, Quantity, RpcRequest};
use super::node::BlockTag;
use super::{Evm, EvmConfig, EvmConfigError, EvmError, typed};

/// Decimals of USDC.
const DECIMALS: u8 = 6;
/// Versions of the token's domain that are met with.
const VERSIONS: [&str; 2] = ["2", "1"];

/// Why a chain is not used.
#[derive(Debug, thiserror::Error)]
pub enum ChainStartError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] EvmConfigError),
    /// No HTTP client could be made.
    #[error("make a client of the EVM endpoints")]
    Client(#[source] reqwest::Error),
    /// An endpoint serves another chain.
    #[error("[evm] endpoints: {host} serves chain {is}, and [evm] chain_id is {wanted}")]
    OtherChain {
        /// The endpoint's host.
        host: String,
        /// What it serves.
        is: u64,
        /// What is configured.
        wanted: u64,
    },
    /// The chain cannot be asked.
    #[error(transparent)]
    Evm(#[from] EvmError),
    /// There is no contract.
    #[error("[evm] {key}: there is no contract at {address} on chain {chain_id}")]
    NoCode {
        /// The key.
        key: &'static str,
        /// Its value.
        address: Address,
        /// The chain.
        chain_id: u64,
    },
    /// The token is not USDC.
    #[error("[evm] usdc: the token has {0} decimals, and USDC has 6")]
    Decimals(u8),
    /// The token's domain is another one: nothing signed in it would be good.
    #[error(
        "[evm] usdc_name and usdc_version: they give the domain separator {ours}, and the token says {tokens}; \
         see what the token's name() and version() say"
    )]
    Separator {
        /// What the configuration gives.
        ours: B256,
        /// What the token says.
        tokens: B256,
    },
    /// The forwarder's domain is not one that its requests could be signed in.
    #[error("[evm] forwarder: it says that its domain is of chain {chain_id} and contract {contract}")]
    Forwarder {
        /// The chain it names.
        chain_id: u64,
        /// The contract it names.
        contract: Address,
    },
    /// The factory was made with other contracts.
    #[error("[evm] {key}: {configured} is configured, and the factory has {is}")]
    Factory {
        /// The key.
        key: &'static str,
        /// Its value.
        configured: Address,
        /// What the factory says.
        is: Address,
    },
}

/// A chain that was checked, with our contracts on it.
#[derive(Debug)]
pub struct CheckedChain {
    /// The chain.
    pub evm: Evm,
    /// The code behind the vaults.
    pub implementation: Address,
    /// The token's EIP-712 domain, as the token's own separator proves.
    pub usdc_domain: Eip712Domain,
    /// The forwarder's EIP-712 domain, its name as it says.
    pub forwarder_domain: Eip712Domain,
}

impl CheckedChain {
    /// Checks the configuration, every endpoint's chain id (those that answer; at
    /// least as many as must agree), that there is code at the token, the factory
    /// and the forwarder, the token's decimals and domain separator, and that the
    /// factory was made with that token and that forwarder. A TLS provider must be
    /// installed.
    ///
    /// # Errors
    /// [`ChainStartError`] names the key to look at.
    pub async fn connect(config: &EvmConfig) -> Result<Self, ChainStartError> {
        config.check()?;
        let evm = Evm::unchecked(config).map_err(ChainStartError::Client)?;
        check_chain_id(&evm).await?;
        check_code(&evm).await?;
        let usdc_domain = check_token(&evm).await?;
        let implementation = check_factory(&evm).await?;
        let forwarder_domain = check_forwarder(&evm).await?;
        tracing::info!(chain_id = config.chain_id, factory = %config.factory, "the EVM chain is checked");
        Ok(Self { evm, implementation, usdc_domain, forwarder_domain })
    }
}

pub(super) async fn check_chain_id(evm: &Evm) -> Result<(), ChainStartError> {
    let request = RpcRequest::new("eth_chainId", serde_json::json!([]));
    let mut answered = 0;
    let mut last = String::from("none");
    for (_, answer) in evm.endpoints.each::<Quantity>(&request).await {
        match answer {
            Ok(_) => answered += 1,
            Err(EvmReadError::OtherChain { host, is, wanted }) => {
                return Err(ChainStartError::OtherChain { host, is, wanted });
            }
            Err(fault) => last = fault.to_string(),
        }
    }
    if answered >= evm.endpoints.quorum() {
        return Ok(());
    }
    Err(EvmError::Unknown { method: "eth_chainId", why: last }.into())
}

async fn check_code(evm: &Evm) -> Result<(), ChainStartError> {
    let config = evm.config();
    for (key, address) in [("usdc", config.usdc), ("factory", config.factory), ("forwarder", config.forwarder)] {
        if evm.code(address).await?.is_empty() {
            return Err(ChainStartError::NoCode { key, address, chain_id: config.chain_id });
        }
    }
    Ok(())
}

async fn check_token(evm: &Evm) -> Result<Eip712Domain, ChainStartError> {
    let config = evm.config();
    let decimals = evm.read_agreed(config.usdc, &Token::decimalsCall {}, BlockTag::Latest).await?;
    if decimals != DECIMALS {
        return Err(ChainStartError::Decimals(decimals));
    }
    let tokens = evm.read_agreed(config.usdc, &Token::DOMAIN_SEPARATORCall {}, BlockTag::Latest).await?;
    let versions = config.usdc_version.as_deref().map_or_else(|| VERSIONS.to_vec(), |version| vec![version]);
    let domain = |version: &&str| typed::token_domain(config, version);
    let domains: Vec<Eip712Domain> = versions.iter().map(domain).collect();
    let ours = domains.first().map_or(B256::ZERO, Eip712Domain::separator);
    let fitting = domains.into_iter().find(|domain| domain.separator() == tokens);
    fitting.ok_or(ChainStartError::Separator { ours, tokens })
}

async fn check_factory(evm: &Evm) -> Result<Address, ChainStartError> {
    let config = evm.config();
    let same = |key, configured, is| {
        if configured == is { Ok(()) } else { Err(ChainStartError::Factory { key, configured, is }) }
    };
    let factory = config.factory;
    same("usdc", config.usdc, evm.read_agreed(factory, &Factory::usdcCall {}, BlockTag::Latest).await?)?;
    let forwarder = evm.read_agreed(factory, &Factory::trustedForwarderCall {}, BlockTag::Latest).await?;
    same("forwarder", config.forwarder, forwarder)?;
    let implementation = evm.read_agreed(factory, &Factory::implementationCall {}, BlockTag::Latest).await?;
    same("implementation", config.implementation.unwrap_or(implementation), implementation)?;
    Ok(implementation)
}

async fn check_forwarder(evm: &Evm) -> Result<Eip712Domain, ChainStartError> {
    let config = evm.config();
    let said = evm.read_agreed(config.forwarder, &Forwarder::eip712DomainCall {}, BlockTag::Latest).await?;
    let chain_id = said.chainId.saturating_to();
    if chain_id != config.chain_id || said.verifyingContract != config.forwarder {
        return Err(ChainStartError::Forwarder { chain_id, contract: said.verifyingContract });
    }
    Ok(typed::forwarder_domain(config, &said.name, &said.version))
}
