//! What a relayer holds while it runs. What it does with that lies in the files beside.

use std::collections::{HashMap, VecDeque};
use std::hash::RandomState;
use std::sync::{Arc, Mutex, PoisonError};

use alloy_primitives::B256;
use domain::relay::{RelayEntry, RelayJournal};
use domain::{Address, Clock, UnixMillis, Usdc};
use governor::DefaultKeyedRateLimiter;
use moka::future::Cache;
use tokio::sync::{Semaphore, watch};

use crate::allow::AllowRules;
use crate::chain::Chain;
use crate::config::Config;
use crate::price::FeeRates;
use crate::sponsor::SponsorPolicy;

/// Calls whose duration is remembered.
const REMEMBERED: usize = 64;

/// An answer that is no refusal: 200, or 202 while the chain has not decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayResponse<T> {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: T,
}

/// The relayer. Cheap to clone; needs a tokio runtime. A call that was taken on goes
/// on when its caller goes away.
#[derive(Clone)]
pub struct Relayer(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) rules: AllowRules,
    pub(crate) rates: FeeRates,
    pub(crate) payee: Address,
    pub(crate) chain: Arc<dyn Chain>,
    pub(crate) journal: Arc<dyn RelayJournal>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) sponsor: Arc<dyn SponsorPolicy>,
    pub(crate) quotes: Cache<B256, CachedPrice>,
    pub(crate) vaults: Cache<Address, ()>,
    pub(crate) running: Mutex<HashMap<B256, watch::Receiver<EntryProgress>>>,
    pub(crate) latency: Latency,
    pub(crate) slots: Arc<Semaphore>,
    pub(crate) rate: DefaultKeyedRateLimiter<u64>,
    pub(crate) hasher: RandomState,
}

impl std::fmt::Debug for Relayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relayer").field("facts", self.0.chain.facts()).finish_non_exhaustive()
    }
}

/// How far an entry is.
#[derive(Clone, Debug)]
pub(crate) struct EntryProgress {
    pub(crate) entry: RelayEntry,
    /// The newest transaction that carries it, while it is not mined.
    pub(crate) tx: Option<B256>,
}

/// How long the last calls took, from being taken on to their end.
#[derive(Debug, Default)]
pub(crate) struct Latency(Mutex<VecDeque<u64>>);

impl Latency {
    pub(crate) fn note(&self, millis: u64) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() == REMEMBERED {
            last.pop_front();
        }
        last.push_back(millis);
    }

    /// The median in whole seconds, for people.
    pub(crate) fn told(&self) -> String {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sorted: Vec<u64> = last.iter().copied().collect();
        sorted.sort_unstable();
        sorted
            .get(sorted.len() / 2)
            .map_or_else(|| "not measured yet".to_owned(), |median| format!("~{} sec", median.div_ceil(1000).max(1)))
    }
}

/// A price, and until when it is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CachedPrice {
    pub(crate) fee: Usdc,
    pub(crate) gas_price: u128,
    pub(crate) until: UnixMillis,
}
