//! `[x402]`: what is sold and bought per request, and who settles it.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::Duration;

use domain::{Address, BoundedSetting, OutOfBounds, Usdc, check_bounds};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::{AllowedPayees, FacilitatorPolicy, SellerTiming, SettlementLimits, Token, Tokens};

/// `[x402]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Who is paid for agents that have no vault or wallet of their own. No
    /// other gateway may sell to this address from a record of its own. Default
    /// none: such agents cannot carry a price.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pay_to: Option<Address>,
    /// Who settles: `own`, or the base URL of the hosted Cronos facilitator
    /// (`https://facilitator.cronoslabs.org/v2/x402`). Default `own`.
    pub facilitator: String,
    /// Seconds for which a payment may be valid at most, sold or bought. Default
    /// 300.
    pub max_timeout_s: u64,
    /// Seconds that must be left of a payment for its settlement. Default 10.
    pub settle_margin_s: u64,
    /// Seconds by which a payer's clock may be ahead. Default 30.
    pub clock_skew_s: u64,
    /// Milliseconds one settlement may take before the token is asked. Default
    /// 60000.
    pub settle_timeout_ms: u64,
    /// Milliseconds from a settled payment to the answer's first byte. Default
    /// 120000.
    pub answer_timeout_ms: u64,
    /// Payments that are looked at or settled at once; more wait their turn. Default
    /// 64.
    pub max_settling: u64,
    /// Of these, those that one client address (of an IPv6 /64) has brought. Default
    /// 16.
    pub settling_per_client: u64,
    /// Of these, those of one payer. Default 8.
    pub settling_per_payer: u64,
    /// The tokens that are taken and paid. Default the Stargate USDC of Cronos
    /// and of its testnet. Their EIP-712 domains are compared with the chain's.
    pub tokens: Vec<TokenConfig>,
    /// `[x402.serve]`: whom the facilitator's endpoints settle for. Default: ourselves.
    pub serve: ServeConfig,
}

/// `[[x402.tokens]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// The chain.
    pub chain_id: u64,
    /// The chain's name in x402 version 1.
    pub network: String,
    /// The contract.
    pub address: Address,
    /// The name in its EIP-712 domain.
    pub name: String,
    /// The version in its EIP-712 domain.
    pub version: String,
}

/// `[x402.serve]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServeConfig {
    /// Settle for any payee. Each settlement costs the relayer gas. Default
    /// `false`.
    pub anyone: bool,
    /// Payees that are settled for, besides our own. Default none.
    pub payees: BTreeSet<Address>,
    /// The smallest payment, in USDC. Default `"0.001"`.
    pub least: String,
    /// The largest payment, in USDC. Default `"1000"`.
    pub most: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            pay_to: None,
            facilitator: Self::OWN.to_owned(),
            max_timeout_s: 300,
            settle_margin_s: 10,
            clock_skew_s: 30,
            settle_timeout_ms: 60_000,
            answer_timeout_ms: 120_000,
            max_settling: 64,
            settling_per_client: 16,
            settling_per_payer: 8,
            tokens: cronos(),
            serve: ServeConfig::default(),
        }
    }
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self { anyone: false, payees: BTreeSet::new(), least: "0.001".into(), most: "1000".into() }
    }
}

/// The bridged USDC of Cronos and of its testnet.
fn cronos() -> Vec<TokenConfig> {
    let token = |chain_id, network: &str, address| TokenConfig {
        chain_id,
        network: network.to_owned(),
        address,
        name: "Bridged USDC (Stargate)".to_owned(),
        version: "1".to_owned(),
    };
    let mainnet = alloy_primitives::address!("f951eC28187D9E5Ca673Da8FE6757E6f0Be5F77C");
    let testnet = alloy_primitives::address!("c01efAaF7C5C61bEbFAeb358E1161b537b8bC0e0");
    vec![token(25, "cronos-mainnet", mainnet), token(338, "cronos-testnet", testnet)]
}

/// Who settles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FacilitatorChoice {
    /// Our own relayer.
    Own,
    /// The hosted facilitator at this base URL.
    Hosted(String),
}

/// Why `[x402]` is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Neither `own` nor a URL.
    #[error("[x402] facilitator: {0:?} is neither own nor a URL like https://host/v2/x402")]
    Facilitator(String),
    /// None, too many, or two at one place.
    #[error("[[x402.tokens]]: {0}")]
    Tokens(String),
    /// Not an amount.
    #[error("[x402.serve] {key}: {given:?} is not an amount like 0.50")]
    Amount {
        /// The offending key.
        key: &'static str,
        /// What it was.
        given: String,
    },
    /// A zero address can be paid and never spends.
    #[error("[x402] pay_to is the zero address")]
    ZeroPayee,
    /// A number out of its bounds.
    #[error(transparent)]
    Bounds(#[from] OutOfBounds),
}

impl Config {
    /// `facilitator` of who settles himself.
    pub const OWN: &str = "own";
    /// Tokens at most.
    pub const MAX_TOKENS: usize = 8;

    /// Checks every key.
    ///
    /// # Errors
    /// Names the first key that is wrong.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.pay_to == Some(Address::ZERO) {
            return Err(ConfigError::ZeroPayee);
        }
        self.settler()?;
        self.check_tokens()?;
        self.serve.amounts()?;
        Ok(check_bounds("x402", self.bounds())?)
    }

    fn check_tokens(&self) -> Result<(), ConfigError> {
        let wrong = |why: &str| Err(ConfigError::Tokens(why.to_owned()));
        if !(1..=Self::MAX_TOKENS).contains(&self.tokens.len()) {
            return wrong("from 1 to 8 are needed");
        }
        for (at, token) in self.tokens.iter().enumerate() {
            let others = &self.tokens[..at];
            if others.iter().any(|other| other.chain_id == token.chain_id && other.address == token.address) {
                return wrong("two are at the same address of the same chain");
            }
            if others.iter().any(|other| (other.chain_id == token.chain_id) != (other.network == token.network)) {
                return wrong("a chain has one network name, and a name one chain");
            }
        }
        Ok(())
    }

    fn bounds(&self) -> [BoundedSetting; 8] {
        [
            ("max_timeout_s", self.max_timeout_s, 30..=3600),
            ("settle_margin_s", self.settle_margin_s, 1..=self.max_timeout_s / 2),
            ("clock_skew_s", self.clock_skew_s, 0..=600),
            ("settle_timeout_ms", self.settle_timeout_ms, 1000..=600_000),
            ("answer_timeout_ms", self.answer_timeout_ms, 1000..=3_600_000),
            ("max_settling", self.max_settling, 1..=10_000),
            ("settling_per_client", self.settling_per_client, 1..=10_000),
            ("settling_per_payer", self.settling_per_payer, 1..=10_000),
        ]
    }

    /// Who settles.
    ///
    /// # Errors
    /// Neither `own` nor an HTTP URL.
    pub fn settler(&self) -> Result<FacilitatorChoice, ConfigError> {
        let wrong = || ConfigError::Facilitator(self.facilitator.clone());
        if self.facilitator == Self::OWN {
            return Ok(FacilitatorChoice::Own);
        }
        let url = reqwest::Url::parse(&self.facilitator).map_err(|_| wrong())?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(wrong());
        }
        Ok(FacilitatorChoice::Hosted(self.facilitator.clone()))
    }

    /// The tokens.
    #[must_use]
    pub fn tokens(&self) -> Tokens {
        let token = |it: &TokenConfig| Token::new(it.chain_id, &it.network, it.address, &it.name, &it.version);
        self.tokens.iter().map(token).collect()
    }

    /// What bounds settlements.
    #[must_use]
    pub fn limits(&self) -> SettlementLimits {
        let places = |count: u64| usize::try_from(count).unwrap_or(Semaphore::MAX_PERMITS);
        SettlementLimits {
            settle_timeout: Duration::from_millis(self.settle_timeout_ms),
            max_settling: places(self.max_settling),
            per_client: places(self.settling_per_client),
            per_payer: places(self.settling_per_payer),
        }
    }

    /// How payments are taken.
    #[must_use]
    pub const fn timing(&self) -> SellerTiming {
        SellerTiming {
            settle_margin_s: self.settle_margin_s,
            clock_skew_s: self.clock_skew_s,
            lease_ms: self.settle_timeout_ms.saturating_add(self.answer_timeout_ms),
        }
    }

    /// What the facilitator's endpoints settle. `own` are our own payees.
    ///
    /// # Errors
    /// An amount that is none.
    pub fn policy(&self, own: impl IntoIterator<Item = Address>) -> Result<FacilitatorPolicy, ConfigError> {
        let (least, most) = self.serve.amounts()?;
        let payees = if self.serve.anyone {
            AllowedPayees::Anyone
        } else {
            AllowedPayees::Only(self.serve.payees.iter().copied().chain(self.pay_to).chain(own).collect())
        };
        Ok(FacilitatorPolicy { payees, least, most, max_timeout_s: self.max_timeout_s })
    }
}

impl ServeConfig {
    fn amounts(&self) -> Result<(Usdc, Usdc), ConfigError> {
        let read =
            |key, given: &str| Usdc::from_str(given).map_err(|_| ConfigError::Amount { key, given: given.to_owned() });
        Ok((read("least", &self.least)?, read("most", &self.most)?))
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
        assert_eq!(config.settler(), Ok(FacilitatorChoice::Own));
    }

    #[test]
    fn what_is_wrong_is_refused_by_its_key() {
        assert!(refused("facilitator = 'theirs'").contains("facilitator"));
        assert!(refused("facilitator = 'file:///x'").contains("facilitator"));
        assert!(refused("tokens = []").contains("tokens"));
        assert!(refused("max_timeout_s = 5").contains("max_timeout_s"));
        assert!(refused("settle_margin_s = 200").contains("settle_margin_s"));
        assert!(refused("serve = { least = '0.0000001' }").contains("least"));
        assert!(refused("pay_to = '0x0000000000000000000000000000000000000000'").contains("zero"));
    }

    #[test]
    fn a_chain_has_one_name_and_a_token_one_place() {
        let mut config = Config::default();
        config.tokens.push(config.tokens[0].clone());
        assert!(config.check().unwrap_err().to_string().contains("same address"));
        config.tokens[2].address = Address::repeat_byte(1);
        config.check().unwrap();
        config.tokens[2].network = "cronos".into();
        assert!(config.check().unwrap_err().to_string().contains("one network name"));
    }

    #[test]
    fn a_misspelt_key_is_refused() {
        assert!(toml::from_str::<Config>("payto = '0x'").is_err());
        assert!(toml::from_str::<Config>("serve = { any = true }").is_err());
    }

    #[test]
    fn our_own_payees_are_settled_for_and_strangers_are_not() {
        let own = Address::repeat_byte(7);
        let policy = Config::default().policy([own]).unwrap();
        assert_eq!(policy.payees, AllowedPayees::Only([own].into()));
        let open = Config { serve: ServeConfig { anyone: true, ..ServeConfig::default() }, ..Config::default() };
        assert_eq!(open.policy([]).unwrap().payees, AllowedPayees::Anyone);
    }
}
