//! Several endpoints as one: in order, those that failed lately last, in rounds.

use std::time::Duration;

use backon::Retryable;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::Instant;

use super::answer::InvalidAnswer;
use crate::SolanaConfig;
use crate::rpc::{EndpointError, Pool, PooledEndpoint, RetryPolicy};

/// Bytes of an answer at most: some 6,000 token accounts of one wallet.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// Why the endpoints gave no answer to rely on. Never holds their URLs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SolanaReadError {
    #[error(transparent)]
    Call(#[from] EndpointError),
    #[error("{0}")]
    Invalid(#[from] InvalidAnswer),
    #[error("{0} slots behind")]
    Behind(u64),
    #[error("the program ends")]
    Ending,
}

impl SolanaReadError {
    /// A bounded name, for metrics.
    const fn name(&self) -> &'static str {
        match self {
            Self::Call(fault) => fault.name(),
            Self::Invalid(_) => "invalid_answer",
            Self::Behind(_) => "behind",
            Self::Ending => "ending",
        }
    }
}

/// All endpoints, and what they did lately.
#[derive(Debug)]
pub(super) struct Endpoints(Pool);

impl Endpoints {
    /// # Errors
    /// When the machine has no TLS roots, for instance.
    pub(super) fn new(config: &SolanaConfig) -> Result<Self, reqwest::Error> {
        let policy = RetryPolicy {
            timeout: Duration::from_millis(config.timeout_ms),
            cooldown: Duration::from_millis(config.bench_ms),
            rounds: config.attempts,
            backoff: Duration::from_millis(config.backoff_ms),
            max_answer: MAX_ANSWER,
        };
        Pool::new(&config.endpoints, policy).map(Self)
    }

    /// The first answer that `accept` takes.
    ///
    /// # Errors
    /// What the endpoint tried last did, when all failed in all rounds.
    pub(super) async fn ask<T: DeserializeOwned, U>(
        &self,
        method: &'static str,
        params: &Value,
        accept: impl Fn(T) -> Result<U, SolanaReadError>,
    ) -> Result<U, SolanaReadError> {
        (|| self.round(method, params, &accept)).retry(self.0.policy().pauses()).await
    }

    async fn round<T: DeserializeOwned, U>(
        &self,
        method: &'static str,
        params: &Value,
        accept: &impl Fn(T) -> Result<U, SolanaReadError>,
    ) -> Result<U, SolanaReadError> {
        let mut last = SolanaReadError::Call(EndpointError::Unreachable("no endpoint".to_owned()));
        for endpoint in self.0.in_order() {
            match self.try_one(endpoint, method, params, accept).await {
                Ok(answer) => return Ok(answer),
                Err(fault) => last = fault,
            }
        }
        Err(last)
    }

    async fn try_one<T: DeserializeOwned, U>(
        &self,
        endpoint: &PooledEndpoint,
        method: &'static str,
        params: &Value,
        accept: &impl Fn(T) -> Result<U, SolanaReadError>,
    ) -> Result<U, SolanaReadError> {
        let begun = Instant::now();
        let answer = self.0.call(endpoint, method, params).await.map_err(SolanaReadError::from).and_then(accept);
        let outcome = answer.as_ref().map_or_else(SolanaReadError::name, |_| "ok");
        metrics::counter!("palatine_solana_calls_total", "outcome" => outcome).increment(1);
        metrics::histogram!("palatine_solana_call_seconds").record(begun.elapsed().as_secs_f64());
        if let Err(fault) = &answer {
            tracing::warn!(endpoint = %endpoint.host(), method, %fault, "a Solana endpoint failed");
        }
        self.0.record_outcome(endpoint, answer.is_err());
        answer
    }
}
