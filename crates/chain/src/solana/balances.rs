//! A wallet's balance: pinned mint, cache, single-flight, places.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::{TokenAmount, Wallet};
use moka::future::Cache;
use serde_json::json;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::Instant;

use super::answer::{self, AnswerAtSlot, Mint, MintInfo, ParsedAccount, TokenAccount};
use super::endpoints::{Endpoints, SolanaReadError};
use crate::lag::LagGuard;
use crate::rpc::EndpointError;
use crate::{BalanceError, Balances, Commitment, SolanaConfig, SolanaConfigError, TokenProgram};

/// What callers are told to wait when no endpoint says better.
const RETRY_AFTER_S: u64 = 5;
/// What the decimals are as long as the mint was not read: so many that no
/// amount reaches any tier.
const UNKNOWN_DECIMALS: u8 = u8::MAX;
/// The longest wait an endpoint can make us tell callers.
const MAX_RETRY_AFTER_S: u64 = 60;

/// Why balances cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum SolanaStartError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] SolanaConfigError),
    /// No HTTP client could be made.
    #[error("make a client of the Solana endpoints")]
    Client(#[source] reqwest::Error),
    /// No endpoint told of the mint.
    #[error("read the mint {mint} from Solana: {why}; set [solana] program and decimals to start without it")]
    Mint {
        /// The mint.
        mint: String,
        /// What the last endpoint did.
        why: String,
    },
}

/// Balances from Solana's JSON-RPC.
#[derive(Debug)]
pub struct SolanaBalances {
    endpoints: Endpoints,
    address: String,
    /// Whose balance a probe reads: the mint's own address, which holds little.
    probed: Wallet,
    mint: OnceCell<Mint>,
    commitment: Commitment,
    deadline: Duration,
    cache: Cache<Wallet, TokenAmount>,
    places: Semaphore,
    newest: LagGuard,
}

impl SolanaBalances {
    /// Balances of the configured mint. Nothing is asked yet: the mint's program
    /// and decimals are read (unless the configuration pins them) with the first
    /// balance, and kept to from then on. A TLS provider must be installed.
    ///
    /// # Errors
    /// [`SolanaStartError`], but never [`SolanaStartError::Mint`].
    pub fn new(config: &SolanaConfig) -> Result<Self, SolanaStartError> {
        config.check()?;
        let pinned = config.program.zip(config.decimals);
        let mint = pinned.map(|(program, decimals)| Mint { address: config.mint.clone(), program, decimals });
        Ok(Self {
            endpoints: Endpoints::new(config).map_err(SolanaStartError::Client)?,
            address: config.mint.clone(),
            probed: config.mint.parse().map_err(|_| SolanaConfigError::Mint(config.mint.clone()))?,
            mint: OnceCell::new_with(mint),
            commitment: config.commitment,
            deadline: Duration::from_millis(config.deadline_ms),
            cache: Cache::builder()
                .max_capacity(config.cache_wallets)
                .time_to_live(Duration::from_millis(config.cache_ms))
                .build(),
            places: Semaphore::new(usize::try_from(config.concurrency).unwrap_or(Semaphore::MAX_PERMITS)),
            newest: LagGuard::new(config.max_lag_slots),
        })
    }

    /// The same, with the mint read at once.
    ///
    /// # Errors
    /// [`SolanaStartError`]; [`SolanaStartError::Mint`] when no endpoint knows the mint.
    pub async fn connect(config: &SolanaConfig) -> Result<Self, SolanaStartError> {
        let balances = Self::new(config)?;
        balances.pin().await?;
        Ok(balances)
    }

    /// Reads the mint's program and decimals, if that was not done before.
    ///
    /// # Errors
    /// [`SolanaStartError::Mint`], when no endpoint knows the mint.
    pub async fn pin(&self) -> Result<(), SolanaStartError> {
        let read = self.pinned().await;
        read.map(drop).map_err(|fault| SolanaStartError::Mint { mint: self.address.clone(), why: fault.to_string() })
    }

    /// The token program that owns the mint, once it is known.
    #[must_use]
    pub fn program(&self) -> Option<TokenProgram> {
        self.mint.get().map(|mint| mint.program)
    }

    async fn pinned(&self) -> Result<&Mint, SolanaReadError> {
        self.mint.get_or_try_init(|| self.read_mint()).await
    }

    async fn read_mint(&self) -> Result<Mint, SolanaReadError> {
        let params = json!([self.address, {"encoding": "jsonParsed", "commitment": self.commitment.as_str()}]);
        let accept = |answer: AnswerAtSlot<Option<ParsedAccount<MintInfo>>>| {
            Ok(answer::mint(&self.address, answer.value.as_ref())?)
        };
        let mint = self.endpoints.ask("getAccountInfo", &params, accept).await?;
        tracing::info!(mint = %mint.address, program = ?mint.program, decimals = mint.decimals, "the token is pinned");
        Ok(mint)
    }

    async fn read(&self, wallet: &Wallet) -> Result<TokenAmount, BalanceError> {
        self.in_time(self.read_in_turn(wallet)).await
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T, BalanceError>>) -> Result<T, BalanceError> {
        let late = || unknown(&SolanaReadError::Call(EndpointError::TimedOut(self.deadline.as_millis())));
        tokio::time::timeout(self.deadline, work).await.unwrap_or_else(|_| Err(late()))
    }

    async fn read_in_turn(&self, wallet: &Wallet) -> Result<TokenAmount, BalanceError> {
        let Ok(_place) = self.places.acquire().await else {
            return Err(unknown(&SolanaReadError::Ending));
        };
        self.read_accounts(wallet).await.map_err(|fault| unknown(&fault))
    }

    async fn read_accounts(&self, wallet: &Wallet) -> Result<TokenAmount, SolanaReadError> {
        let mint = self.pinned().await?;
        let params = json!([
            wallet.to_string(),
            {"mint": mint.address},
            {"encoding": "jsonParsed", "commitment": self.commitment.as_str()},
        ]);
        let accept = |answer: AnswerAtSlot<Vec<TokenAccount>>| {
            let total = answer::sum(&answer.value, mint, wallet)?;
            self.newest.check(answer.context.slot, Instant::now()).map_err(SolanaReadError::Behind)?;
            Ok(total)
        };
        self.endpoints.ask("getTokenAccountsByOwner", &params, accept).await
    }
}

fn unknown(fault: &SolanaReadError) -> BalanceError {
    let asked = match fault {
        SolanaReadError::Call(EndpointError::Status { retry_after_s, .. }) => *retry_after_s,
        _ => None,
    };
    let retry_after_s = asked.unwrap_or(RETRY_AFTER_S).clamp(1, MAX_RETRY_AFTER_S);
    BalanceError::Unknown { why: fault.to_string(), retry_after_s }
}

#[async_trait]
impl Balances for SolanaBalances {
    async fn balance(&self, wallet: &Wallet) -> Result<TokenAmount, BalanceError> {
        let read = self.cache.try_get_with(*wallet, self.read(wallet)).await;
        read.map_err(Arc::unwrap_or_clone)
    }

    async fn probe(&self) -> Result<(), BalanceError> {
        let read = async { self.read_accounts(&self.probed).await.map_err(|fault| unknown(&fault)) };
        self.in_time(read).await.map(drop)
    }

    fn decimals(&self) -> u8 {
        self.mint.get().map_or(UNKNOWN_DECIMALS, |mint| mint.decimals)
    }

    fn mint(&self) -> &str {
        &self.address
    }
}
