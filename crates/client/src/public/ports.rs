//! Connections to any port of an agent's guest.

use reqwest::header::{CONNECTION, HeaderMap, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use reqwest::{Client, Method, StatusCode, Upgraded};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::handshake::{client::generate_key, derive_accept_key};

use super::http::{accepted, http_builder, within};
use super::{AgentAccess, ClientError};
use crate::carry::{CarryError, Role, carry};

const OPERATION: &str = "connect to the agent's port";
/// Where the gateway has tunnels.
const TUNNEL: &str = "/tunnel";

/// The ports of one agent's guest. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AgentPorts {
    access: AgentAccess,
    /// Of HTTP/1.1 alone, of which a connection is upgraded.
    http: Client,
}

/// A connection to one of them, through the gateway.
#[derive(Debug)]
pub struct PortConnection(Upgraded);

impl AgentAccess {
    /// The ports of its guest.
    ///
    /// # Errors
    /// No HTTP client can be made.
    pub fn ports(&self) -> Result<AgentPorts, ClientError> {
        let http = http_builder(self.client.gateway(), self.client.limits.connect).http1_only().build();
        Ok(AgentPorts { access: self.clone(), http: http.map_err(|error| ClientError::Setup(error.into()))? })
    }
}

impl AgentPorts {
    /// Connects to a port, on the guest's link or its loopback.
    ///
    /// # Errors
    /// See [`ClientError`]; a port where nothing listens is refused with status 502.
    pub async fn connect(&self, port: u16) -> Result<PortConnection, ClientError> {
        within(OPERATION, self.access.client.limits.read, self.open(port)).await
    }

    async fn open(&self, port: u16) -> Result<PortConnection, ClientError> {
        let key = generate_key();
        let query = [("port", port.to_string())];
        let query = query.each_ref().map(|(name, value)| (*name, value.as_str()));
        let request = self.access.request_by(&self.http, OPERATION, Method::GET, TUNNEL, &query)?;
        let request = request.header(CONNECTION, "upgrade").header(UPGRADE, "websocket");
        let request = request.header(SEC_WEBSOCKET_VERSION, "13").header(SEC_WEBSOCKET_KEY, &key);
        let answer = request.send().await.map_err(|error| ClientError::transport(OPERATION, error))?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            let status = accepted(OPERATION, answer).await?.status();
            return Err(ClientError::protocol(OPERATION, format!("status {status} in place of 101")));
        }
        if !is_granted(answer.headers(), &key) {
            return Err(ClientError::protocol(OPERATION, "what answered is no WebSocket"));
        }
        let upgraded = answer.upgrade().await.map_err(|error| ClientError::transport(OPERATION, error))?;
        Ok(PortConnection(upgraded))
    }
}

fn is_granted(answer: &HeaderMap, key: &str) -> bool {
    let accept = derive_accept_key(key.as_bytes());
    answer.get(SEC_WEBSOCKET_ACCEPT).is_some_and(|said| said.as_bytes() == accept.as_bytes())
}

impl PortConnection {
    /// Carries a connection of one's own over it, until both directions have ended.
    ///
    /// # Errors
    /// See [`CarryError`]: what came is not all.
    pub async fn carry(self, stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<(), CarryError> {
        carry(self.0, Role::Client, stream).await
    }
}
