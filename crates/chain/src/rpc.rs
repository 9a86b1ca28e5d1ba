//! JSON-RPC over HTTP: one call to one endpoint, and several endpoints as one.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use backon::ExponentialBuilder;
use reqwest::header::RETRY_AFTER;
use reqwest::redirect::Policy;
use reqwest::{Client, Response};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::Endpoint;

/// The longest pause between two rounds.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Idle connections that are kept to an endpoint.
const IDLE_CONNECTIONS: usize = 4;

/// The longest part of an endpoint's own words that is kept.
const MAX_WORDS: usize = 200;

/// What an endpoint did wrong. Never holds its URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EndpointError {
    #[error("no connection: {0}")]
    Unreachable(String),
    #[error("no whole answer within {0} ms")]
    TimedOut(u128),
    #[error("status {status}")]
    Status { status: u16, retry_after_s: Option<u64> },
    #[error("more than {0} bytes")]
    TooLarge(usize),
    #[error("RPC error {}: {}", .0.code, .0.message)]
    Rpc(RpcError),
    #[error("not an answer: {0}")]
    Garbage(String),
}

impl EndpointError {
    /// A bounded name, for metrics.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::TimedOut(_) => "timed_out",
            Self::Status { status: 429, .. } => "rate_limited",
            Self::Status { .. } => "status",
            Self::TooLarge(_) => "too_large",
            Self::Rpc(_) => "rpc_error",
            Self::Garbage(_) => "garbage",
        }
    }
}

impl From<reqwest::Error> for EndpointError {
    fn from(error: reqwest::Error) -> Self {
        // The URL may hold a key.
        let error = error.without_url();
        let mut words = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(inner) = cause {
            words = format!("{words}: {inner}");
            cause = inner.source();
        }
        Self::Unreachable(short(&words))
    }
}

#[derive(Deserialize)]
#[serde(bound(deserialize = "T: Deserialize<'de>"))]
struct Answer<T> {
    /// `null` is an answer where `T` says so, and no answer where there is none.
    #[serde(default, deserialize_with = "present")]
    result: Option<T>,
    error: Option<RpcError>,
}

fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// An endpoint's refusal, in its own words.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct RpcError {
    pub(crate) code: i64,
    #[serde(default)]
    pub(crate) message: String,
    /// What a reverted call returned, for instance.
    pub(crate) data: Option<Value>,
}

/// How endpoints are called, and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RetryPolicy {
    /// For one call to one endpoint.
    pub(crate) timeout: Duration,
    /// For which an endpoint that failed is tried last.
    pub(crate) cooldown: Duration,
    /// Rounds over all endpoints, at least one.
    pub(crate) rounds: u64,
    /// The pause before the second round; doubles, with jitter.
    pub(crate) backoff: Duration,
    /// Bytes of an answer at most.
    pub(crate) max_answer: usize,
}

impl RetryPolicy {
    /// The pauses between rounds.
    pub(crate) fn pauses(&self) -> ExponentialBuilder {
        ExponentialBuilder::default()
            .with_min_delay(self.backoff)
            .with_max_delay(LONGEST_PAUSE)
            .with_jitter()
            .with_max_times(usize::try_from(self.rounds.saturating_sub(1)).unwrap_or(usize::MAX))
    }
}

/// All endpoints, and how they did lately.
#[derive(Debug)]
pub(crate) struct Pool {
    http: Client,
    endpoints: Vec<PooledEndpoint>,
    policy: RetryPolicy,
}

/// One endpoint; after a failure it cools down, and is tried last until then.
#[derive(Debug)]
pub(crate) struct PooledEndpoint {
    endpoint: Endpoint,
    cooling_until: Mutex<Option<Instant>>,
    known: AtomicBool,
    height: AtomicU64,
}

impl PooledEndpoint {
    /// What may be shown of it.
    pub(crate) fn host(&self) -> String {
        self.endpoint.host()
    }

    /// Whether it has said since its last failure which chain it serves.
    pub(crate) fn is_verified(&self) -> bool {
        self.known.load(Ordering::Relaxed)
    }

    /// It has said which chain it serves.
    pub(crate) fn mark_verified(&self) {
        self.known.store(true, Ordering::Relaxed);
    }

    /// The height it said it has.
    pub(crate) fn height(&self) -> u64 {
        self.height.load(Ordering::Relaxed)
    }

    /// It said that it has this height.
    pub(crate) fn reached(&self, height: u64) {
        self.height.store(height, Ordering::Relaxed);
    }

    fn is_cooling_down(&self, now: Instant) -> bool {
        self.cooling_until.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| now < until)
    }

    fn cool_down(&self, until: Option<Instant>) {
        *self.cooling_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

impl Pool {
    /// # Errors
    /// When the machine has no TLS roots, for instance.
    pub(crate) fn new(endpoints: &[Endpoint], policy: RetryPolicy) -> Result<Self, reqwest::Error> {
        let http = Client::builder()
            .connect_timeout(policy.timeout)
            .redirect(Policy::none())
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .user_agent(concat!("palatine/", env!("CARGO_PKG_VERSION")))
            .build()?;
        let pooled = |endpoint: &Endpoint| PooledEndpoint {
            endpoint: endpoint.clone(),
            cooling_until: Mutex::new(None),
            known: AtomicBool::new(false),
            height: AtomicU64::new(0),
        };
        Ok(Self { http, endpoints: endpoints.iter().map(pooled).collect(), policy })
    }

    pub(crate) const fn policy(&self) -> &RetryPolicy {
        &self.policy
    }

    /// As configured, but those that cool down last.
    pub(crate) fn in_order(&self) -> Vec<&PooledEndpoint> {
        let now = Instant::now();
        let mut endpoints: Vec<&PooledEndpoint> = self.endpoints.iter().collect();
        endpoints.sort_by_key(|endpoint| endpoint.is_cooling_down(now));
        endpoints
    }

    /// Remembers that an endpoint failed, or that it did not.
    pub(crate) fn record_outcome(&self, endpoint: &PooledEndpoint, failed: bool) {
        endpoint.cool_down(failed.then(|| Instant::now() + self.policy.cooldown));
        endpoint.known.fetch_and(!failed, Ordering::Relaxed);
    }

    /// Calls a method; the deadline covers the last byte of the answer.
    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        endpoint: &PooledEndpoint,
        method: &str,
        params: &Value,
    ) -> Result<T, EndpointError> {
        let late = EndpointError::TimedOut(self.policy.timeout.as_millis());
        let exchange = exchange(&self.http, &endpoint.endpoint, self.policy.max_answer, method, params);
        let body = tokio::time::timeout(self.policy.timeout, exchange).await.unwrap_or(Err(late))?;
        let answer: Answer<T> =
            serde_json::from_slice(&body).map_err(|error| EndpointError::Garbage(short(&error.to_string())))?;
        match (answer.result, answer.error) {
            (_, Some(error)) => Err(EndpointError::Rpc(RpcError { message: short(&error.message), ..error })),
            (Some(result), None) => Ok(result),
            (None, None) => Err(EndpointError::Garbage("neither a result nor an error".to_owned())),
        }
    }
}

async fn exchange(
    http: &Client,
    endpoint: &Endpoint,
    most: usize,
    method: &str,
    params: &Value,
) -> Result<Vec<u8>, EndpointError> {
    let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    let response = http.post(&endpoint.0).json(&request).send().await?;
    let status = response.status();
    if !status.is_success() {
        return Err(EndpointError::Status { status: status.as_u16(), retry_after_s: retry_after(&response) });
    }
    bounded(response, most).await
}

async fn bounded(mut response: Response, most: usize) -> Result<Vec<u8>, EndpointError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > most {
            return Err(EndpointError::TooLarge(most));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn retry_after(response: &Response) -> Option<u64> {
    response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()
}

fn short(words: &str) -> String {
    words.chars().filter(|c| !c.is_control()).take(MAX_WORDS).collect()
}
