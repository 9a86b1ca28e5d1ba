//! `[solana]`: where balances are read, and how patiently.

use std::str::FromStr;

use domain::{BoundedSetting, OutOfBounds, Wallet, check_bounds};
use serde::{Deserialize, Serialize};

use crate::Endpoint;

/// `[solana]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SolanaConfig {
    /// JSON-RPC endpoints, in the order they are tried; at most 8. They may hold
    /// keys: only their hosts are ever logged. Default
    /// `["https://api.mainnet-beta.solana.com"]`.
    pub endpoints: Vec<Endpoint>,
    /// The token's mint. Default
    /// `5ruEtrHGgqxE3Zo1UdRAvVrdetLwq6SFJvLjgth6pump`.
    pub mint: String,
    /// The mint's token program, `spl-token` or `token-2022`. Default: read from
    /// the chain once, then kept to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<TokenProgram>,
    /// The mint's decimals; goes with `program`. Default: read with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decimals: Option<u8>,
    /// How sure of a block to be, `confirmed` or `finalized`. Default
    /// `confirmed`.
    pub commitment: Commitment,
    /// Milliseconds one call to one endpoint may take. Default 2500.
    pub timeout_ms: u64,
    /// Milliseconds one reading may take, over all endpoints and attempts, its
    /// wait for a free place included. Default 8000.
    pub deadline_ms: u64,
    /// Rounds over all endpoints. Default 2.
    pub attempts: u64,
    /// Milliseconds of pause before the second round; doubles each round, with
    /// jitter. Default 150.
    pub backoff_ms: u64,
    /// Milliseconds for which an endpoint that failed is tried last. Default
    /// 10000.
    pub bench_ms: u64,
    /// Milliseconds for which a wallet's balance is remembered. Default 5000.
    pub cache_ms: u64,
    /// Wallets that are remembered at once. Default 100000.
    pub cache_wallets: u64,
    /// Calls under way at once. Default 8.
    pub concurrency: u64,
    /// Slots by which an answer may lag behind the newest one of the last ten
    /// minutes; 0 does not ask. Default 150, about a minute.
    pub max_lag_slots: u64,
}

impl Default for SolanaConfig {
    fn default() -> Self {
        Self {
            endpoints: vec![Endpoint("https://api.mainnet-beta.solana.com".to_owned())],
            mint: "5ruEtrHGgqxE3Zo1UdRAvVrdetLwq6SFJvLjgth6pump".to_owned(),
            program: None,
            decimals: None,
            commitment: Commitment::Confirmed,
            timeout_ms: 2500,
            deadline_ms: 8000,
            attempts: 2,
            backoff_ms: 150,
            bench_ms: 10_000,
            cache_ms: 5000,
            cache_wallets: 100_000,
            concurrency: 8,
            max_lag_slots: 150,
        }
    }
}

/// How sure of a block to be. `processed` is not offered: it can be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Commitment {
    /// Voted for by two thirds of the stake.
    Confirmed,
    /// Never undone; some 13 seconds later.
    Finalized,
}

impl Commitment {
    /// The name as the RPC writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Finalized => "finalized",
        }
    }
}

/// The programs that keep tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenProgram {
    /// SPL Token.
    SplToken,
    /// Token-2022.
    #[serde(rename = "token-2022")]
    Token2022,
}

impl TokenProgram {
    /// The program's address.
    #[must_use]
    pub const fn address(self) -> &'static str {
        match self {
            Self::SplToken => "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA",
            Self::Token2022 => "TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb",
        }
    }

    /// The program at this address.
    #[must_use]
    pub fn at(address: &str) -> Option<Self> {
        [Self::SplToken, Self::Token2022].into_iter().find(|program| program.address() == address)
    }
}

/// Why `[solana]` is refused. Never shows an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SolanaConfigError {
    /// None, or too many.
    #[error("[solana] endpoints: from 1 to {most} are needed, not {0}", most = SolanaConfig::MAX_ENDPOINTS)]
    Endpoints(usize),
    /// Not an HTTP URL.
    #[error("[solana] endpoints: one is not a URL like https://host")]
    Endpoint,
    /// Not an address.
    #[error("[solana] mint: {0:?} is not the base58 of 32 bytes")]
    Mint(String),
    /// Half of a pair.
    #[error("[solana] program and decimals go together: give both, or neither")]
    Pair,
    /// A number out of its bounds.
    #[error(transparent)]
    Bounds(#[from] OutOfBounds),
}

impl SolanaConfig {
    /// Endpoints at most.
    pub const MAX_ENDPOINTS: usize = 8;

    /// Checks every key.
    ///
    /// # Errors
    /// Names the first key that is wrong.
    pub fn check(&self) -> Result<(), SolanaConfigError> {
        if !(1..=Self::MAX_ENDPOINTS).contains(&self.endpoints.len()) {
            return Err(SolanaConfigError::Endpoints(self.endpoints.len()));
        }
        if !self.endpoints.iter().all(Endpoint::is_valid) {
            return Err(SolanaConfigError::Endpoint);
        }
        Wallet::from_str(&self.mint).map_err(|_| SolanaConfigError::Mint(self.mint.clone()))?;
        if self.program.is_some() != self.decimals.is_some() {
            return Err(SolanaConfigError::Pair);
        }
        Ok(check_bounds("solana", self.bounds())?)
    }

    fn bounds(&self) -> [BoundedSetting; 9] {
        [
            ("timeout_ms", self.timeout_ms, 100..=60_000),
            ("deadline_ms", self.deadline_ms, self.timeout_ms..=300_000),
            ("attempts", self.attempts, 1..=10),
            ("backoff_ms", self.backoff_ms, 1..=10_000),
            ("bench_ms", self.bench_ms, 0..=600_000),
            ("cache_ms", self.cache_ms, 0..=60_000),
            ("cache_wallets", self.cache_wallets, 0..=10_000_000),
            ("concurrency", self.concurrency, 1..=1024),
            ("max_lag_slots", self.max_lag_slots, 0..=1_000_000),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        toml::from_str::<SolanaConfig>(text).unwrap().check().unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_pass_their_own_check_and_survive_a_round_trip() {
        let config = SolanaConfig::default();
        config.check().unwrap();
        assert_eq!(toml::from_str::<SolanaConfig>(&toml::to_string(&config).unwrap()).unwrap(), config);
    }

    #[test]
    fn what_is_wrong_is_refused_by_its_key() {
        assert!(refused("endpoints = []").contains("endpoints"));
        assert!(refused("endpoints = ['ftp://host']").contains("URL"));
        assert!(refused("mint = 'pump'").contains("mint"));
        assert!(refused("decimals = 6").contains("program and decimals"));
        assert_eq!(refused("attempts = 0"), "[solana] attempts must be from 1 to 10, not 0");
        assert!(refused("timeout_ms = 9000").contains("deadline_ms"));
    }

    #[test]
    fn a_misspelt_key_and_an_unsafe_commitment_are_refused() {
        assert!(toml::from_str::<SolanaConfig>("endpoint = []").is_err());
        assert!(toml::from_str::<SolanaConfig>("commitment = 'processed'").is_err());
    }

    #[test]
    fn an_endpoints_key_is_never_printed() {
        let config: SolanaConfig =
            toml::from_str("endpoints = ['https://user:hush@rpc.example/hush?api-key=hush', 'hush']").unwrap();
        let said = format!("{config:?} {}", config.check().unwrap_err());
        assert!(!said.contains("hush") && said.contains("rpc.example:443"), "{said}");
    }
}
