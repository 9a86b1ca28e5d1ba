//! The hosted Cronos facilitator as a [`Transfers`].
//!
//! Its word is not taken: what it says it has settled is looked up in the token
//! before anything is served.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::{Client, Response, StatusCode, Url};

use domain::B256;

use crate::wire::{CronosRequest, CronosSettleResult, to_json};
use crate::{AuthorizationState, SignedAuthorization, SubmissionState, TokenReader, Tokens, TransferError, Transfers};

/// Bytes of an answer that are read.
const MAX_ANSWER: usize = 64 * 1024;
/// How long an endpoint may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A client of the hosted facilitator.
pub struct HostedFacilitator {
    client: Client,
    settle: Url,
    tokens: Arc<Tokens>,
    chain: Arc<dyn TokenReader>,
    max_timeout_s: u64,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum HostedClientError {
    /// Not an HTTP URL.
    #[error("the facilitator's address is not a URL like https://host/v2/x402")]
    Url,
    /// TLS is not set up.
    #[error("the facilitator's client cannot be built")]
    Client(#[source] reqwest::Error),
}

impl HostedFacilitator {
    /// A client of the facilitator whose routes begin at `base` (with
    /// `/v2/x402`). `timeout` bounds one call, its body included.
    ///
    /// # Errors
    /// A base that is no HTTP URL; a process without a TLS provider.
    pub fn new(
        base: &str,
        timeout: Duration,
        max_timeout_s: u64,
        tokens: Arc<Tokens>,
        chain: Arc<dyn TokenReader>,
    ) -> Result<Self, HostedClientError> {
        let settle =
            Url::parse(&format!("{}/settle", base.trim_end_matches('/'))).map_err(|_| HostedClientError::Url)?;
        if !matches!(settle.scheme(), "http" | "https") || !settle.has_host() {
            return Err(HostedClientError::Url);
        }
        let client = Client::builder()
            .timeout(timeout)
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(HostedClientError::Client)?;
        Ok(Self { client, settle, tokens, chain, max_timeout_s })
    }

    async fn ask(&self, payment: &SignedAuthorization) -> Result<CronosSettleResult, TransferError> {
        let authorization = &payment.authorization;
        let token = self
            .tokens
            .at(authorization.chain_id, authorization.asset)
            .ok_or_else(|| TransferError::unavailable("the token is not known"))?;
        let body = to_json(&CronosRequest::new(token, payment, self.max_timeout_s));
        let request = self
            .client
            .post(self.settle.clone())
            .header("content-type", "application/json")
            .header("x402-version", "1")
            .body(body);
        let response = request.send().await.map_err(sending)?;
        read(response).await
    }
}

/// A connection that was never made has sent nothing; whatever else fails may
/// have settled.
fn sending(error: reqwest::Error) -> TransferError {
    let error = error.without_url();
    if error.is_connect() {
        TransferError::unavailable(error.to_string())
    } else {
        TransferError::Unknown(error.to_string())
    }
}

async fn read(mut response: Response) -> Result<CronosSettleResult, TransferError> {
    let status = response.status();
    if status == StatusCode::TOO_MANY_REQUESTS {
        return Err(TransferError::unavailable("the facilitator's quota is used up"));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(sending)? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(TransferError::Unknown("the facilitator's answer is too long".into()));
        }
        body.extend_from_slice(&chunk);
    }
    CronosSettleResult::parse(&body)
        .ok_or_else(|| TransferError::Unknown(format!("the facilitator answered {status} in no known shape")))
}

#[async_trait]
impl Transfers for HostedFacilitator {
    async fn transfer(&self, payment: &SignedAuthorization, _: crate::ClientAddr) -> Result<B256, TransferError> {
        let verdict = self.ask(payment).await?;
        let state = self
            .chain
            .state(&payment.authorization)
            .await
            .map_err(|error| TransferError::Unknown(error.to_string()))?;
        match (state, verdict) {
            (AuthorizationState::Paid { tx }, _) => Ok(tx),
            (AuthorizationState::Void, _) => Err(TransferError::Refused("the nonce is used up".into())),
            (AuthorizationState::Unused { .. }, CronosSettleResult::Failed(error)) => {
                Err(TransferError::Refused(error))
            }
            (AuthorizationState::Unused { .. }, CronosSettleResult::Settled(tx)) => {
                Err(TransferError::Unknown(format!("the facilitator says {tx} settled it; the token does not")))
            }
        }
    }

    /// It does not tell what it sends before that is settled.
    async fn submission(&self, _: &SignedAuthorization) -> SubmissionState {
        SubmissionState::Unknown
    }
}
