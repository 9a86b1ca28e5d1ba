//! A method for each route.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alloy_primitives::U256;
use domain::{ClientAddr, Clock};
use governor::RateLimiter;
use governor::clock::{Clock as _, DefaultClock};
use moka::future::Cache;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use wire::v1::relay::{
    BatchAnswer, BatchRequest, MAX_BATCH, RawTransactionRequest, RelayAnswer, RelayCallRequest, RelayRequest,
};

use crate::allow::AllowRules;
use crate::answer;
use crate::chain::Chain;
use crate::config::{Config, ConfigError};
use crate::error::RelayError;
use crate::prepare::PreparedCall;
use crate::price::FeeRates;
use crate::request::{RequestLimits, VerifiedRequest};
use crate::spend::GasSpend;
use crate::sponsor::{NoSponsor, SponsorPolicy};
use crate::state::{EntryProgress, Inner, Latency, RelayResponse, Relayer};
use domain::relay::{RelayAdmission, RelayEntry, RelayJournal, RelayState};

/// Groups of client addresses that are counted per minute.
const RATE_GROUPS: u64 = 16_384;
/// Quotes that are remembered at once.
const MAX_QUOTES: u64 = 10_000;
/// Vaults that are remembered as such.
const MAX_VAULTS: u64 = 10_000;
/// Entries that a start takes up again at most; more wait for the next look.
const MAX_RESUMED: usize = 1024;
/// Bytes of JSON around the data of one request.
const ENVELOPE: usize = 4096;

impl Relayer {
    /// A relayer on this chain, which deploys nobody's vault for nothing. Nothing is
    /// asked or sent yet; call [`Relayer::resume`] next.
    ///
    /// # Errors
    /// When the configuration is wrong.
    pub fn new(
        config: Config,
        chain: Arc<dyn Chain>,
        journal: Arc<dyn RelayJournal>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ConfigError> {
        Self::sponsoring(config, chain, journal, clock, Arc::new(NoSponsor))
    }

    /// The same, with somebody who says whose vaults are deployed for nothing.
    ///
    /// # Errors
    /// When the configuration is wrong.
    pub fn sponsoring(
        config: Config,
        chain: Arc<dyn Chain>,
        journal: Arc<dyn RelayJournal>,
        clock: Arc<dyn Clock>,
        sponsor: Arc<dyn SponsorPolicy>,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        let per_minute = u32::try_from(config.per_client_minute).ok().and_then(NonZeroU32::new);
        let quota = governor::Quota::per_minute(per_minute.unwrap_or(NonZeroU32::MIN));
        Ok(Self(Arc::new(Inner {
            rules: AllowRules::new(&config, chain.facts()),
            rates: FeeRates::new(&config),
            payee: config.receiving_wallet.unwrap_or(chain.facts().relayer),
            quotes: Cache::builder().max_capacity(MAX_QUOTES).time_to_live(Duration::from_secs(config.quote_s)).build(),
            vaults: Cache::new(MAX_VAULTS),
            running: Mutex::default(),
            latency: Latency::default(),
            slots: Arc::new(Semaphore::new(usize::try_from(config.queue).unwrap_or(Semaphore::MAX_PERMITS))),
            rate: RateLimiter::keyed(quota),
            hasher: RandomState::new(),
            config,
            chain,
            journal,
            clock,
            sponsor,
        })))
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// Bytes that a body may have at most, on any route.
    #[must_use]
    pub fn max_body(&self) -> usize {
        let data = usize::try_from(self.0.config.max_data_bytes).unwrap_or(usize::MAX / 64);
        MAX_BATCH * (2 * data + ENVELOPE)
    }

    /// Takes up again what was under way when the process ended. To be called at
    /// start and now and then: it starts nothing twice. Answers how many entries
    /// are open.
    ///
    /// # Errors
    /// When the journal does not answer.
    pub async fn resume(&self) -> Result<usize, RelayError> {
        let open = self.0.journal.open(MAX_RESUMED).await?;
        let count = open.len();
        for entry in open {
            Inner::start(&self.0, entry, None);
        }
        Ok(count)
    }

    /// `POST /meta/relay`: carries out one forward request.
    ///
    /// # Errors
    /// Says why it was not sent; see [`RelayError`].
    pub async fn relay(
        &self,
        body: &[u8],
        payment: Option<&str>,
        client: IpAddr,
    ) -> Result<RelayResponse<RelayAnswer>, RelayError> {
        let inner = &self.0;
        inner.admit_client(client)?;
        let RelayRequest { signed, priority } = self.read(body)?;
        let facts = inner.chain.facts();
        let request = VerifiedRequest::read(&signed, facts, &inner.bounds(), inner.now_s())?;
        let found = inner.journal.find(request.digest).await?;
        let progress = if let Some(entry) = found.as_ref().filter(|entry| !entry.is_replaceable()) {
            inner.watch(entry.clone())
        } else {
            let prepared = inner.prepare(&request, None, found.as_ref()).await?;
            let quotas = inner.quotas(client, &[&prepared]).await?;
            let mut all = inner.take_on(vec![prepared], quotas, payment, priority).await?;
            all.pop().ok_or(RelayError::Busy)?
        };
        let progress = inner.wait(progress).await;
        answer::single(&progress, Some(priority))
    }

    /// `POST /meta/batch`: carries out up to ten forward requests for one payment.
    ///
    /// Every request is checked before any is sent; one that is out of order
    /// refuses the batch. Each is then a transaction of its own, so that none takes
    /// another down with it. Those of one signer follow each other in the order of
    /// their nonces, each tried when its turn comes; if one leaves its nonce
    /// unspent, those after it are not sent.
    ///
    /// # Errors
    /// Says which request is wrong, and how.
    pub async fn batch(
        &self,
        body: &[u8],
        payment: Option<&str>,
        client: IpAddr,
    ) -> Result<RelayResponse<BatchAnswer>, RelayError> {
        let inner = &self.0;
        inner.admit_client(client)?;
        let BatchRequest { requests, priority } = self.read(body)?;
        let requests = inner.read_batch(&requests)?;
        let members = inner.prepare_batch(&requests).await?;
        let fresh: Vec<&PreparedCall> = members.iter().filter_map(|member| member.as_ref().err()).collect();
        let quotas = inner.quotas(client, &fresh).await?;
        let fresh = fresh.into_iter().cloned().collect();
        let mut started = inner.take_on(fresh, quotas, payment, priority).await?.into_iter();
        let mut all = Vec::with_capacity(members.len());
        for member in members {
            let watched = match member {
                Ok(known) => inner.watch(known),
                Err(_) => started.next().ok_or(RelayError::Busy)?,
            };
            all.push(watched);
        }
        let ended = inner.wait_all(all).await;
        answer::batch(&requests, &ended, priority)
    }

    /// `POST /meta/call`: pays for a call that needs no particular sender.
    ///
    /// # Errors
    /// Says why it was not sent.
    pub async fn call(
        &self,
        body: &[u8],
        payment: Option<&str>,
        client: IpAddr,
    ) -> Result<RelayResponse<RelayAnswer>, RelayError> {
        let inner = &self.0;
        inner.admit_client(client)?;
        let request: RelayCallRequest = self.read(body)?;
        let call = inner.read_call(&request)?;
        let found = inner.journal.find(inner.call_id(&call)).await?;
        let progress = if let Some(entry) = found.as_ref().filter(|entry| !entry.is_replaceable()) {
            inner.watch(entry.clone())
        } else {
            let prepared = inner.prepare_call(&call, found.as_ref()).await?;
            let quotas = inner.quotas(client, &[&prepared]).await?;
            let mut all = inner.take_on(vec![prepared], quotas, payment, wire::v1::relay::Priority::Normal).await?;
            all.pop().ok_or(RelayError::Busy)?
        };
        let progress = inner.wait(progress).await;
        answer::single(&progress, None)
    }

    /// `POST /relay`: passes on a whole transaction, whose signer pays for it.
    /// Costs nothing here, so no fee is asked.
    ///
    /// # Errors
    /// Says why it was not passed on.
    pub async fn raw(&self, body: &[u8], client: IpAddr) -> Result<RelayResponse<RelayAnswer>, RelayError> {
        self.0.admit_client(client)?;
        let request: RawTransactionRequest = self.read(body)?;
        self.0.pass_on(&request).await
    }

    /// Counts a call that this operator makes for somebody elsewhere than here, before
    /// it is sent: once under the name that it is sent under, however often it is tried.
    ///
    /// # Errors
    /// [`RelayError::OverQuota`], or the chain or the journal does not answer.
    pub async fn spend(&self, once: &str, spend: GasSpend, client: Option<ClientAddr>) -> Result<(), RelayError> {
        let quotas = self.0.count(&[spend], client).await?;
        match self.0.journal.count(once, &quotas).await? {
            None => Ok(()),
            Some(subject) => Err(self.0.over_quota(subject)),
        }
    }

    fn read<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, RelayError> {
        if body.len() > self.max_body() {
            return Err(RelayError::TooLarge(self.max_body()));
        }
        serde_json::from_slice(body).map_err(|error| RelayError::Body(crate::text::printable(&error.to_string())))
    }
}

impl Inner {
    pub(crate) fn now_s(&self) -> u64 {
        self.clock.now().0 / 1000
    }

    pub(crate) fn bounds(&self) -> RequestLimits {
        RequestLimits {
            max_gas: self.config.max_gas,
            max_data: usize::try_from(self.config.max_data_bytes).unwrap_or(usize::MAX),
            max_value: U256::from(self.config.max_value_wei),
            min_window_s: self.config.min_window_s,
            max_window_s: self.config.max_window_s,
        }
    }

    pub(crate) fn admit_client(&self, client: IpAddr) -> Result<(), RelayError> {
        let group = self.hasher.hash_one(ClientAddr::of(client)) % RATE_GROUPS;
        self.rate.check_key(&group).map_err(|until| {
            let wait = until.wait_time_from(DefaultClock::default().now());
            RelayError::TooOften(wait.as_secs().saturating_add(1))
        })
    }

    /// Collects what is to be paid, writes the entries down, and starts them.
    async fn take_on(
        self: &Arc<Self>,
        fresh: Vec<PreparedCall>,
        quotas: Vec<domain::relay::DailyQuota>,
        payment: Option<&str>,
        priority: wire::v1::relay::Priority,
    ) -> Result<Vec<watch::Receiver<EntryProgress>>, RelayError> {
        if fresh.is_empty() {
            return Ok(Vec::new());
        }
        let charge = self.charge(&fresh, payment, priority).await?;
        let permits = self.places(fresh.len())?;
        let state = if charge.is_some() { RelayState::Paying } else { RelayState::Sending { fee: None } };
        let at = self.clock.now();
        let entries: Vec<RelayEntry> =
            fresh.into_iter().map(|it| it.into_entry(charge.clone(), state.clone(), at)).collect();
        match self.journal.admit(&entries, &quotas).await? {
            RelayAdmission::New => {}
            // Somebody was faster with the same request: his is ours too.
            RelayAdmission::Known(entry) if entries.len() == 1 => return Ok(vec![self.watch(*entry)]),
            RelayAdmission::Known(_) => return Err(RelayError::Busy),
            RelayAdmission::NonceTaken(nonce) => return Err(RelayError::NonceInUse(nonce.from)),
            RelayAdmission::PaymentUsed => return Err(RelayError::Payment(crate::payment::PaymentError::Reused, None)),
            RelayAdmission::OverQuota(subject) => return Err(self.over_quota(subject)),
        }
        Ok(entries.into_iter().zip(permits).map(|(entry, permit)| Self::start(self, entry, Some(permit))).collect())
    }

    fn places(&self, count: usize) -> Result<Vec<OwnedSemaphorePermit>, RelayError> {
        let place = || Arc::clone(&self.slots).try_acquire_owned().map_err(|_| RelayError::Busy);
        (0..count).map(|_| place()).collect()
    }
}
