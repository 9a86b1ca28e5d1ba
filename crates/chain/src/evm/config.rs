//! `[evm]`: the chain of the vaults, how it is read, and what may be paid for gas.

use domain::{Address, BoundedSetting, OutOfBounds, check_bounds};
use serde::{Deserialize, Serialize};

use crate::Endpoint;

/// `[evm]`. Without this section no chain is configured: no vaults, no relayer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvmConfig {
    /// JSON-RPC endpoints, in the order they are tried; at most 8. They may hold
    /// keys: only their hosts are ever shown. Required.
    pub endpoints: Vec<Endpoint>,
    /// EIP-155 id of the chain: 25 is Cronos, 338 its testnet. Required.
    pub chain_id: u64,
    /// The USDC token. Required.
    pub usdc: Address,
    /// Our `PODVaultFactory`. Required.
    pub factory: Address,
    /// The `ERC2771Forwarder` that the factory's vaults trust. Required.
    pub forwarder: Address,
    /// The code behind the vaults. Default: as the factory says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub implementation: Option<Address>,
    /// The token's name in its EIP-712 domain. Default `Bridged USDC (Stargate)`.
    #[serde(default = "default::usdc_name")]
    pub usdc_name: String,
    /// The token's version in its EIP-712 domain. Default: whichever of `1` and
    /// `2` gives the token's own `DOMAIN_SEPARATOR()`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usdc_version: Option<String>,
    /// Endpoints that must say the same before a receipt, a block or a range of
    /// logs is believed. Default: 2 if there are two endpoints or more, else 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum: Option<u64>,
    /// Blocks in which a transaction must be buried to count, its own included: 1
    /// believes the newest block. Default 2.
    #[serde(default = "default::confirmations")]
    pub confirmations: u64,
    /// Blocks that a re-organisation may undo; a deeper one stops the indexer.
    /// Default 64.
    #[serde(default = "default::reorg_depth")]
    pub reorg_depth: u64,
    /// The first block to read events from: the factory's own. Default 0.
    #[serde(default)]
    pub start_block: u64,
    /// Blocks asked for at once in `eth_getLogs`; fewer when an endpoint finds
    /// that too many. Default 2000.
    #[serde(default = "default::log_range")]
    pub log_range: u64,
    /// Milliseconds between two looks at the chain. Default 2000.
    #[serde(default = "default::poll_ms")]
    pub poll_ms: u64,
    /// Blocks by which an endpoint may lag behind the newest head of the last
    /// ten minutes; 0 does not ask. Default 20.
    #[serde(default = "default::max_lag_blocks")]
    pub max_lag_blocks: u64,
    /// Gwei per unit of gas that are paid at most. Default 10000.
    #[serde(default = "default::max_fee_gwei")]
    pub max_fee_gwei: u64,
    /// Gwei per unit of gas offered to the block's maker, where the chain has a
    /// base fee. Default 1.
    #[serde(default = "default::tip_gwei")]
    pub tip_gwei: u64,
    /// Per cent added to the estimate of the gas of a transaction. Default 20.
    #[serde(default = "default::gas_margin_percent")]
    pub gas_margin_percent: u64,
    /// Gas that one transaction may use at most. Default 3000000.
    #[serde(default = "default::max_gas")]
    pub max_gas: u64,
    /// Milliseconds after which a transaction that is in no block is offered more
    /// gas. Default 30000.
    #[serde(default = "default::stuck_ms")]
    pub stuck_ms: u64,
    /// Milliseconds one call to one endpoint may take. Default 5000.
    #[serde(default = "default::timeout_ms")]
    pub timeout_ms: u64,
    /// Milliseconds one question may take, over all endpoints and rounds. Default
    /// 20000.
    #[serde(default = "default::deadline_ms")]
    pub deadline_ms: u64,
    /// Rounds over all endpoints. Default 2.
    #[serde(default = "default::attempts")]
    pub attempts: u64,
    /// Milliseconds of pause before the second round; doubles each round, with
    /// jitter. Default 200.
    #[serde(default = "default::backoff_ms")]
    pub backoff_ms: u64,
    /// Milliseconds for which an endpoint that failed is tried last. Default
    /// 10000.
    #[serde(default = "default::bench_ms")]
    pub bench_ms: u64,
}

mod default {
    pub(super) fn usdc_name() -> String {
        "Bridged USDC (Stargate)".to_owned()
    }
    pub(super) const fn confirmations() -> u64 {
        2
    }
    pub(super) const fn reorg_depth() -> u64 {
        64
    }
    pub(super) const fn log_range() -> u64 {
        2000
    }
    pub(super) const fn poll_ms() -> u64 {
        2000
    }
    pub(super) const fn max_lag_blocks() -> u64 {
        20
    }
    pub(super) const fn max_fee_gwei() -> u64 {
        10_000
    }
    pub(super) const fn tip_gwei() -> u64 {
        1
    }
    pub(super) const fn gas_margin_percent() -> u64 {
        20
    }
    pub(super) const fn max_gas() -> u64 {
        3_000_000
    }
    pub(super) const fn stuck_ms() -> u64 {
        30_000
    }
    pub(super) const fn timeout_ms() -> u64 {
        5000
    }
    pub(super) const fn deadline_ms() -> u64 {
        20_000
    }
    pub(super) const fn attempts() -> u64 {
        2
    }
    pub(super) const fn backoff_ms() -> u64 {
        200
    }
    pub(super) const fn bench_ms() -> u64 {
        10_000
    }
}

/// Why `[evm]` is refused. Never shows an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvmConfigError {
    /// None, or too many.
    #[error("[evm] endpoints: from 1 to {most} are needed, not {0}", most = EvmConfig::MAX_ENDPOINTS)]
    Endpoints(usize),
    /// Not an HTTP URL.
    #[error("[evm] endpoints: one is not a URL like https://host")]
    Endpoint,
    /// The zero address.
    #[error("[evm] {0} is the zero address")]
    Address(&'static str),
    /// Two of the contracts are one.
    #[error("[evm] usdc, factory and forwarder are three contracts: two have the same address")]
    Same,
    /// A number out of its bounds.
    #[error(transparent)]
    Bounds(#[from] OutOfBounds),
}

impl EvmConfig {
    /// Endpoints at most.
    pub const MAX_ENDPOINTS: usize = 8;

    /// The defaults, for this chain and these contracts.
    #[must_use]
    pub fn new(endpoints: Vec<Endpoint>, chain_id: u64, usdc: Address, factory: Address, forwarder: Address) -> Self {
        Self {
            endpoints,
            chain_id,
            usdc,
            factory,
            forwarder,
            implementation: None,
            usdc_name: default::usdc_name(),
            usdc_version: None,
            quorum: None,
            confirmations: default::confirmations(),
            reorg_depth: default::reorg_depth(),
            start_block: 0,
            log_range: default::log_range(),
            poll_ms: default::poll_ms(),
            max_lag_blocks: default::max_lag_blocks(),
            max_fee_gwei: default::max_fee_gwei(),
            tip_gwei: default::tip_gwei(),
            gas_margin_percent: default::gas_margin_percent(),
            max_gas: default::max_gas(),
            stuck_ms: default::stuck_ms(),
            timeout_ms: default::timeout_ms(),
            deadline_ms: default::deadline_ms(),
            attempts: default::attempts(),
            backoff_ms: default::backoff_ms(),
            bench_ms: default::bench_ms(),
        }
    }

    /// How many endpoints must agree.
    #[must_use]
    pub fn quorum(&self) -> usize {
        let most = self.endpoints.len();
        self.quorum.map_or(most.min(2), |quorum| usize::try_from(quorum).unwrap_or(most))
    }

    /// Checks every key.
    ///
    /// # Errors
    /// Names the first key that is wrong.
    pub fn check(&self) -> Result<(), EvmConfigError> {
        if !(1..=Self::MAX_ENDPOINTS).contains(&self.endpoints.len()) {
            return Err(EvmConfigError::Endpoints(self.endpoints.len()));
        }
        if !self.endpoints.iter().all(Endpoint::is_valid) {
            return Err(EvmConfigError::Endpoint);
        }
        self.check_addresses()?;
        Ok(check_bounds("evm", self.bounds())?)
    }

    fn check_addresses(&self) -> Result<(), EvmConfigError> {
        let named = [("usdc", self.usdc), ("factory", self.factory), ("forwarder", self.forwarder)];
        if let Some((key, _)) = named.into_iter().find(|(_, address)| address.is_zero()) {
            return Err(EvmConfigError::Address(key));
        }
        let same = self.usdc == self.factory || self.usdc == self.forwarder || self.factory == self.forwarder;
        if same { Err(EvmConfigError::Same) } else { Ok(()) }
    }

    fn bounds(&self) -> [BoundedSetting; 17] {
        let endpoints = u64::try_from(self.endpoints.len()).unwrap_or(u64::MAX);
        [
            ("chain_id", self.chain_id, 1..=u64::MAX / 2 - 36),
            ("quorum", self.quorum.unwrap_or(1), 1..=endpoints),
            ("confirmations", self.confirmations, 1..=10_000),
            ("reorg_depth", self.reorg_depth, self.confirmations..=10_000),
            ("log_range", self.log_range, 1..=1_000_000),
            ("poll_ms", self.poll_ms, 10..=600_000),
            ("max_lag_blocks", self.max_lag_blocks, 0..=1_000_000),
            ("max_fee_gwei", self.max_fee_gwei, 1..=1_000_000_000),
            ("tip_gwei", self.tip_gwei, 0..=self.max_fee_gwei),
            ("gas_margin_percent", self.gas_margin_percent, 0..=400),
            ("max_gas", self.max_gas, 21_000..=100_000_000),
            ("stuck_ms", self.stuck_ms, 100..=86_400_000),
            ("timeout_ms", self.timeout_ms, 100..=60_000),
            ("deadline_ms", self.deadline_ms, self.timeout_ms..=300_000),
            ("attempts", self.attempts, 1..=10),
            ("backoff_ms", self.backoff_ms, 1..=10_000),
            ("bench_ms", self.bench_ms, 0..=600_000),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "endpoints = ['https://evm.example/hush']\nchain_id = 25\n\
        usdc = '0xf951eC28187D9E5Ca673Da8FE6757E6f0Be5F77C'\n\
        factory = '0x00000000000000000000000000000000000000f1'\n\
        forwarder = '0x00000000000000000000000000000000000000f2'\n";

    fn read(more: &str) -> EvmConfig {
        toml::from_str(&format!("{LEAST}{more}")).unwrap()
    }

    #[test]
    fn the_least_that_must_be_said_passes_and_survives_a_round_trip() {
        let config = read("");
        config.check().unwrap();
        assert_eq!(toml::from_str::<EvmConfig>(&toml::to_string(&config).unwrap()).unwrap(), config);
        let EvmConfig { endpoints, chain_id, usdc, factory, forwarder, .. } = config.clone();
        assert_eq!(EvmConfig::new(endpoints, chain_id, usdc, factory, forwarder), config);
    }

    #[test]
    fn what_is_wrong_is_refused_by_its_key() {
        let refused = |more: &str| read(more).check().unwrap_err().to_string();
        assert_eq!(refused("quorum = 2"), "[evm] quorum must be from 1 to 1, not 2");
        assert!(refused("confirmations = 0").contains("confirmations"));
        assert!(refused("confirmations = 65").contains("reorg_depth"));
        assert!(refused("tip_gwei = 10001").contains("tip_gwei"));
        let mut config = read("");
        config.usdc = config.factory;
        assert_eq!(config.check(), Err(EvmConfigError::Same));
        config.usdc = Address::ZERO;
        assert_eq!(config.check(), Err(EvmConfigError::Address("usdc")));
        config.endpoints[0] = Endpoint("ws://evm.example".into());
        assert_eq!(config.check(), Err(EvmConfigError::Endpoint));
        config.endpoints.clear();
        assert_eq!(config.check(), Err(EvmConfigError::Endpoints(0)));
    }

    #[test]
    fn a_misspelt_or_missing_key_is_refused() {
        assert!(toml::from_str::<EvmConfig>(&format!("{LEAST}endpoint = []")).is_err());
        assert!(toml::from_str::<EvmConfig>("chain_id = 25").is_err());
    }

    #[test]
    fn an_endpoints_key_is_never_printed() {
        let said = format!("{:?}", read(""));
        assert!(!said.contains("hush") && said.contains("evm.example:443"), "{said}");
    }

    #[test]
    fn two_endpoints_must_agree_unless_told_otherwise() {
        let mut config = read("");
        assert_eq!(config.quorum(), 1);
        config.endpoints.extend([config.endpoints[0].clone(), config.endpoints[0].clone()]);
        assert_eq!(config.quorum(), 2);
        config.quorum = Some(3);
        assert_eq!(config.quorum(), 3);
    }
}
