//! Several endpoints as one: in order, those that failed lately last, in rounds.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use reqwest::Client;
use reqwest::redirect::Policy;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::Instant;

use super::call::{Fault, call};
use crate::{Config, Endpoint};

/// The longest pause between two rounds.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Idle connections that are kept to an endpoint.
const IDLE_CONNECTIONS: usize = 4;

/// All endpoints, and what they did lately.
#[derive(Debug)]
pub(super) struct Endpoints {
    http: Client,
    seats: Vec<Seat>,
    timeout: Duration,
    bench: Duration,
    rounds: ExponentialBuilder,
}

/// One endpoint; on the bench until the instant it holds.
#[derive(Debug)]
struct Seat {
    endpoint: Endpoint,
    benched_until: Mutex<Option<Instant>>,
}

impl Seat {
    fn is_benched(&self, now: Instant) -> bool {
        self.benched_until.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| now < until)
    }

    fn bench(&self, until: Option<Instant>) {
        *self.benched_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

impl Endpoints {
    /// # Errors
    /// When the machine has no TLS roots, for instance.
    pub(super) fn new(config: &Config) -> Result<Self, reqwest::Error> {
        let timeout = Duration::from_millis(config.timeout_ms);
        let http = Client::builder()
            .connect_timeout(timeout)
            .redirect(Policy::none())
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .user_agent(concat!("palatine/", env!("CARGO_PKG_VERSION")))
            .build()?;
        let seat = |endpoint: &Endpoint| Seat { endpoint: endpoint.clone(), benched_until: Mutex::new(None) };
        Ok(Self {
            http,
            seats: config.endpoints.iter().map(seat).collect(),
            timeout,
            bench: Duration::from_millis(config.bench_ms),
            rounds: ExponentialBuilder::default()
                .with_min_delay(Duration::from_millis(config.backoff_ms))
                .with_max_delay(LONGEST_PAUSE)
                .with_jitter()
                .with_max_times(usize::try_from(config.attempts - 1).unwrap_or(usize::MAX)),
        })
    }

    /// The first answer that `accept` takes.
    ///
    /// # Errors
    /// What the endpoint tried last did, when all failed in all rounds.
    pub(super) async fn ask<T: DeserializeOwned, U>(
        &self,
        method: &'static str,
        params: &Value,
        accept: impl Fn(T) -> Result<U, Fault>,
    ) -> Result<U, Fault> {
        (|| self.round(method, params, &accept)).retry(self.rounds).await
    }

    async fn round<T: DeserializeOwned, U>(
        &self,
        method: &'static str,
        params: &Value,
        accept: &impl Fn(T) -> Result<U, Fault>,
    ) -> Result<U, Fault> {
        let mut last = Fault::Unreachable("no endpoint".to_owned());
        for seat in self.order() {
            match self.try_one(seat, method, params, accept).await {
                Ok(answer) => return Ok(answer),
                Err(fault) => last = fault,
            }
        }
        Err(last)
    }

    /// As configured, but those on the bench last.
    fn order(&self) -> Vec<&Seat> {
        let now = Instant::now();
        let mut seats: Vec<&Seat> = self.seats.iter().collect();
        seats.sort_by_key(|seat| seat.is_benched(now));
        seats
    }

    async fn try_one<T: DeserializeOwned, U>(
        &self,
        seat: &Seat,
        method: &'static str,
        params: &Value,
        accept: &impl Fn(T) -> Result<U, Fault>,
    ) -> Result<U, Fault> {
        let begun = Instant::now();
        let answer = call(&self.http, &seat.endpoint, self.timeout, method, params).await.and_then(accept);
        let outcome = answer.as_ref().map_or_else(Fault::name, |_| "ok");
        metrics::counter!("palatine_solana_calls_total", "outcome" => outcome).increment(1);
        metrics::histogram!("palatine_solana_call_seconds").record(begun.elapsed().as_secs_f64());
        if let Err(fault) = &answer {
            tracing::warn!(endpoint = %seat.endpoint.host(), method, %fault, "a Solana endpoint failed");
        }
        seat.bench(answer.is_err().then(|| Instant::now() + self.bench));
        answer
    }
}
