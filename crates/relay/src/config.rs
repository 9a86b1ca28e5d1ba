//! `[relayer]`: whether to relay, with which key, for whom, and for how much.

use std::collections::BTreeSet;
use std::path::PathBuf;

use domain::{Address, BoundedSetting, OutOfBounds, Usdc, check_bounds};
use serde::{Deserialize, Serialize};

use crate::budget::Budgets;
use crate::calls;

/// `[relayer]`. It needs `[evm]`, which names the chain and its contracts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Whether to relay at all. Default false.
    pub enabled: bool,
    /// The relayer's own key: a Web3 keystore, v3. Needs CRO, and no other rights.
    /// Default `/var/lib/palatine/gateway/relayer.json`.
    pub key: PathBuf,
    /// The file that holds the keystore's password. Default
    /// `/var/lib/palatine/gateway/relayer.password`.
    pub password_file: PathBuf,
    /// Functions of our vaults that a forward request may call, by name. Default:
    /// all that a creator, owner, agent or arbiter calls.
    pub vault_calls: BTreeSet<String>,
    /// Functions that may be called for anyone without a forward request, since
    /// they carry a signature of their own or need none. Of `createPODVault`,
    /// `createTaskWithAuthorization`, `createTaskWithPermit`, `refund`, `claim`,
    /// `defaultResolve`, `transferWithAuthorization`. Default: all but the last.
    pub sponsored_calls: BTreeSet<String>,
    /// Further contracts that trust the forwarder; at most 64. Default none.
    pub targets: Vec<TargetContract>,
    /// Whether calls cost anything. Default `waived`.
    pub fee: FeePolicy,
    /// Where fees go. Default: the relayer's own account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receiving_wallet: Option<Address>,
    /// Micro-dollars per CRO: fees are reckoned with it, no oracle is asked.
    /// Default 100000, ten cents.
    pub cro_usd_micros: u64,
    /// What is added to the cost, in hundredths of a per cent. Default 2000.
    pub margin_bps: u64,
    /// The least fee. Default 1000 micro-USDC.
    pub min_fee: Usdc,
    /// Seconds for which a quoted price is kept. Default 60.
    pub quote_s: u64,
    /// Gas that a call may ask for at most. Default 1000000.
    pub max_gas: u64,
    /// Bytes that a call may have at most. Default 16384.
    pub max_data_bytes: u64,
    /// Wei of the relayer's that a call may move at most. Default 0: none.
    pub max_value_wei: u64,
    /// Seconds that a request must still be good for. Default 30.
    pub min_window_s: u64,
    /// Seconds that a request may be good for at most. Default 86400.
    pub max_window_s: u64,
    /// Requests of one wallet per day (UTC), in each class of calls. Default 200.
    pub per_sender_day: u64,
    /// Vaults of one owner, and vaults of one holder of agents, that are deployed per
    /// day (UTC). Default 8.
    pub deploys_per_owner_day: u64,
    /// Requests of one client address (of an IPv6 /64) per day, in each class of
    /// calls. Default 1000.
    pub per_client_day: u64,
    /// `[relayer.budgets]`: what each class of calls may cost a day. Defaults below.
    pub budgets: Budgets,
    /// Requests of one client address per minute. Default 30.
    pub per_client_minute: u64,
    /// Calls under way at once; more are refused. Default 16.
    pub queue: u64,
    /// Milliseconds that an answer waits for the chain before it says `pending`.
    /// Default 30000.
    pub wait_ms: u64,
    /// Whole CRO below which the relayer calls itself degraded. Default 10.
    pub low_balance_cro: u64,
}

/// A contract of the operator's choice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetContract {
    /// Its address.
    pub address: Address,
    /// Functions that may be called, as Solidity signs them:
    /// `"transfer(address,uint256)"`. At most 64.
    pub calls: BTreeSet<String>,
}

/// Whether calls cost anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeePolicy {
    /// The operator pays.
    #[default]
    Waived,
    /// Callers pay in USDC, before the call.
    Charged,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: false,
            key: "/var/lib/palatine/gateway/relayer.json".into(),
            password_file: "/var/lib/palatine/gateway/relayer.password".into(),
            vault_calls: names(calls::VAULT_CALLS),
            sponsored_calls: names(calls::SPONSORED_BY_DEFAULT),
            targets: Vec::new(),
            fee: FeePolicy::Waived,
            receiving_wallet: None,
            cro_usd_micros: 100_000,
            margin_bps: 2000,
            min_fee: Usdc(1000),
            quote_s: 60,
            max_gas: 1_000_000,
            max_data_bytes: 16_384,
            max_value_wei: 0,
            min_window_s: 30,
            max_window_s: 86_400,
            per_sender_day: 200,
            deploys_per_owner_day: 8,
            per_client_day: 1000,
            budgets: Budgets::default(),
            per_client_minute: 30,
            queue: 16,
            wait_ms: 30_000,
            low_balance_cro: 10,
        }
    }
}

fn names(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(|&name| name.to_owned()).collect()
}

/// Why `[relayer]` is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A function that no vault has, or that nobody may call.
    #[error("[relayer] vault_calls: {0:?} is no function of a vault that may be relayed")]
    VaultCall(String),
    /// A function that needs its sender.
    #[error("[relayer] sponsored_calls: {0:?} is not one of {known}", known = calls::SPONSORED.join(", "))]
    SponsoredCall(String),
    /// Too many.
    #[error("[relayer] targets: at most {most} targets of at most {most} calls", most = Config::MAX_TARGETS)]
    Targets,
    /// Not a signature.
    #[error("[relayer] targets: {0:?} is not a signature like \"transfer(address,uint256)\"")]
    Signature(String),
    /// A number out of its bounds.
    #[error(transparent)]
    Bounds(#[from] OutOfBounds),
}

impl Config {
    /// Targets at most, and calls of one target.
    pub const MAX_TARGETS: usize = 64;

    /// Checks every key.
    ///
    /// # Errors
    /// Names the first key that is wrong.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.check_names()?;
        self.check_targets()?;
        Ok(check_bounds("relayer", self.bounds())?)
    }

    fn check_names(&self) -> Result<(), ConfigError> {
        if let Some(name) = self.vault_calls.iter().find(|name| !calls::VAULT_CALLS.contains(&name.as_str())) {
            return Err(ConfigError::VaultCall(name.clone()));
        }
        match self.sponsored_calls.iter().find(|name| !calls::SPONSORED.contains(&name.as_str())) {
            Some(name) => Err(ConfigError::SponsoredCall(name.clone())),
            None => Ok(()),
        }
    }

    fn check_targets(&self) -> Result<(), ConfigError> {
        let crowded = |target: &TargetContract| target.calls.len() > Self::MAX_TARGETS;
        if self.targets.len() > Self::MAX_TARGETS || self.targets.iter().any(crowded) {
            return Err(ConfigError::Targets);
        }
        let mut calls = self.targets.iter().flat_map(|target| &target.calls);
        match calls.find(|call| calls::selector_of(call).is_none()) {
            Some(call) => Err(ConfigError::Signature(call.clone())),
            None => Ok(()),
        }
    }

    fn bounds(&self) -> [BoundedSetting; 19] {
        [
            ("cro_usd_micros", self.cro_usd_micros, 1..=1_000_000_000),
            ("margin_bps", self.margin_bps, 0..=100_000),
            ("min_fee", self.min_fee.0, 0..=100_000_000),
            ("quote_s", self.quote_s, 1..=3600),
            ("max_gas", self.max_gas, 21_000..=30_000_000),
            ("max_data_bytes", self.max_data_bytes, 4..=131_072),
            ("max_value_wei", self.max_value_wei, 0..=u64::MAX),
            ("min_window_s", self.min_window_s, 1..=3600),
            ("max_window_s", self.max_window_s, self.min_window_s.saturating_add(60)..=31_536_000),
            ("per_sender_day", self.per_sender_day, 1..=1_000_000),
            ("per_client_day", self.per_client_day, 1..=10_000_000),
            ("deploys_per_owner_day", self.deploys_per_owner_day, 0..=1_000_000),
            ("per_client_minute", self.per_client_minute, 1..=100_000),
            ("queue", self.queue, 1..=1024),
            ("wait_ms", self.wait_ms, 0..=300_000),
            ("low_balance_cro", self.low_balance_cro, 0..=1_000_000_000),
            ("budgets.wallet_percent", self.budgets.wallet_percent, 1..=100),
            ("budgets.payee_percent", self.budgets.payee_percent, 1..=100),
            ("budgets.client_percent", self.budgets.client_percent, 1..=100),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        toml::from_str::<Config>(text).unwrap().check().unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_pass_their_own_check_and_survive_a_round_trip() {
        let config = Config::default();
        config.check().unwrap();
        assert_eq!(toml::from_str::<Config>(&toml::to_string(&config).unwrap()).unwrap(), config);
        assert!(!config.enabled && !config.sponsored_calls.contains("transferWithAuthorization"));
    }

    #[test]
    fn what_is_wrong_is_refused_by_its_key() {
        assert!(refused("vault_calls = ['initialize']").contains("vault_calls"));
        assert!(refused("sponsored_calls = ['withdraw']").contains("sponsored_calls"));
        assert!(refused("queue = 0").contains("queue"));
        assert!(refused("max_window_s = 31").contains("max_window_s"));
        assert!(refused("[budgets]\npayee_percent = 0").contains("payee_percent"));
        let target = "[[targets]]\naddress = '0x00000000000000000000000000000000000000aa'\ncalls = ['transfer']";
        assert!(refused(target).contains("transfer(address,uint256)"));
        assert!(toml::from_str::<Config>("quota = 1").is_err());
    }
}
