//! What opens an agent's guest to many calls: its token, or an API key of its holder's.
//!
//! A wallet signs once, to be shown the token; commands, files and ports follow by it. All of
//! them go to the port of E2B's in-guest API, which an agent is named at by headers.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use domain::PodId;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, RequestBuilder};
use wire::Secret;
use wire::v1::pod::PORT;
use wire::v1::public::TokenResponse;

use super::http::Call;
use super::{ClientError, GatewayClient};

const OPERATION: &str = "open the agent";
/// By which the gateway knows the agent, what of it is meant, and who asks.
const SANDBOX_ID: HeaderName = HeaderName::from_static("e2b-sandbox-id");
const SANDBOX_PORT: HeaderName = HeaderName::from_static("e2b-sandbox-port");
const ACCESS_TOKEN: HeaderName = HeaderName::from_static("x-access-token");

/// The guest of one agent, opened. Cheap to clone.
#[derive(Clone)]
pub struct AgentAccess {
    pub(super) client: GatewayClient,
    pub(super) agent: PodId,
    headers: HeaderMap,
}

impl fmt::Debug for AgentAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentAccess").finish_non_exhaustive()
    }
}

impl GatewayClient {
    /// The token of one's own agent, again: by one signature. No API key is shown it.
    ///
    /// # Errors
    /// See [`ClientError`]; of an agent that does not run it is refused with `wrong_state`.
    pub async fn token(&self, agent: PodId) -> Result<TokenResponse, ClientError> {
        let call = Call::get("read the agent's token", format!("/agents/{agent}/token"), self.limits.read);
        self.signed(call).await
    }

    /// Opens one's own agent: by the API key that this client carries, or by one signature.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn access(&self, agent: PodId) -> Result<AgentAccess, ClientError> {
        match self.key() {
            Some(key) => self.access_by(agent, key),
            None => self.access_by(agent, &self.token(agent).await?.token),
        }
    }

    /// Opens an agent by its token, or by an API key of its holder's. Nobody is asked yet.
    ///
    /// # Errors
    /// It is neither: it holds what no header may.
    pub fn access_by(&self, agent: PodId, token: &Secret) -> Result<AgentAccess, ClientError> {
        let value = |text: &str| HeaderValue::from_str(text).map_err(|error| ClientError::protocol(OPERATION, error));
        let mut secret = value(token.expose())?;
        secret.set_sensitive(true);
        let headers = [(SANDBOX_ID, value(&agent.to_string())?), (SANDBOX_PORT, PORT.into()), (ACCESS_TOKEN, secret)];
        Ok(AgentAccess { client: self.clone(), agent, headers: headers.into_iter().collect() })
    }
}

impl AgentAccess {
    /// The same as another user of the image than the agent's own.
    ///
    /// # Errors
    /// The name cannot be one.
    pub fn as_user(mut self, name: &str) -> Result<Self, ClientError> {
        if name.is_empty() || name.contains(':') {
            return Err(ClientError::protocol(OPERATION, format!("{name:?} is no user's name")));
        }
        // As E2B's SDKs name one.
        let value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(format!("{name}:"))));
        self.headers.insert(AUTHORIZATION, value.map_err(|error| ClientError::protocol(OPERATION, error))?);
        Ok(self)
    }

    /// A request to the guest's port.
    pub(super) fn request(
        &self,
        operation: &'static str,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<RequestBuilder, ClientError> {
        self.request_by(&self.client.http, operation, method, path, query)
    }

    /// The same over another HTTP client than usual.
    pub(super) fn request_by(
        &self,
        http: &reqwest::Client,
        operation: &'static str,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<RequestBuilder, ClientError> {
        let mut url = self.client.url(operation, path)?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(http.request(method, url).headers(self.headers.clone()))
    }
}
