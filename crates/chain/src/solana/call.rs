//! One call to one endpoint.

use std::time::Duration;

use reqwest::header::RETRY_AFTER;
use reqwest::{Client, Response};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::answer::Nonsense;
use crate::Endpoint;

/// Bytes of an answer at most: some 6,000 token accounts of one wallet.
pub(super) const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// The longest part of an endpoint's own words that is kept.
const MAX_WORDS: usize = 200;

/// What an endpoint did wrong. Never holds its URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("no connection: {0}")]
    Unreachable(String),
    #[error("no whole answer within {0} ms")]
    TimedOut(u128),
    #[error("status {status}")]
    Status { status: u16, retry_after_s: Option<u64> },
    #[error("more than {MAX_ANSWER} bytes")]
    TooLarge,
    #[error("RPC error {code}: {message}")]
    Rpc { code: i64, message: String },
    #[error("not an answer: {0}")]
    Garbage(String),
    #[error("{0}")]
    Nonsense(#[from] Nonsense),
    #[error("{0} slots behind")]
    Behind(u64),
}

impl Fault {
    /// A bounded name, for metrics.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::TimedOut(_) => "timed_out",
            Self::Status { status: 429, .. } => "rate_limited",
            Self::Status { .. } => "status",
            Self::TooLarge => "too_large",
            Self::Rpc { .. } => "rpc_error",
            Self::Garbage(_) => "garbage",
            Self::Nonsense(_) => "nonsense",
            Self::Behind(_) => "behind",
        }
    }
}

impl From<reqwest::Error> for Fault {
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
struct Answer<T> {
    result: Option<T>,
    error: Option<RpcError>,
}

#[derive(Deserialize)]
struct RpcError {
    code: i64,
    #[serde(default)]
    message: String,
}

/// Calls a method; the deadline covers the last byte of the answer.
pub(super) async fn call<T: DeserializeOwned>(
    http: &Client,
    endpoint: &Endpoint,
    timeout: Duration,
    method: &str,
    params: &Value,
) -> Result<T, Fault> {
    let late = Fault::TimedOut(timeout.as_millis());
    let body = tokio::time::timeout(timeout, exchange(http, endpoint, method, params)).await.unwrap_or(Err(late))?;
    let answer: Answer<T> = serde_json::from_slice(&body).map_err(|error| Fault::Garbage(short(&error.to_string())))?;
    match (answer.result, answer.error) {
        (_, Some(RpcError { code, message })) => Err(Fault::Rpc { code, message: short(&message) }),
        (Some(result), None) => Ok(result),
        (None, None) => Err(Fault::Garbage("neither a result nor an error".to_owned())),
    }
}

async fn exchange(http: &Client, endpoint: &Endpoint, method: &str, params: &Value) -> Result<Vec<u8>, Fault> {
    let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    let response = http.post(&endpoint.0).json(&request).send().await?;
    let status = response.status();
    if !status.is_success() {
        return Err(Fault::Status { status: status.as_u16(), retry_after_s: retry_after(&response) });
    }
    bounded(response).await
}

async fn bounded(mut response: Response) -> Result<Vec<u8>, Fault> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(Fault::TooLarge);
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
