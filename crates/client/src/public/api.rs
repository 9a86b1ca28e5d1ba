//! Romulus's calls, and ours beside them, whose answers are read whole.

use domain::PodId;
use wire::v1::public::{
    Agent, AgentsResponse, HealthResponse, IDEMPOTENCY_KEY, SpawnRequest, SpawnResponse, StatusResponse, StopResponse,
    TiersResponse, TimeoutRequest, TimeoutResponse, UsageResponse,
};

use super::http::Call;
use super::{ClientError, GatewayClient};

const JSON: &str = "application/json";

/// How to spawn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpawnOptions {
    /// Return as soon as the agent is reserved, before it is usable.
    pub detached: bool,
    /// Makes a repeated spawn return the first answer.
    pub idempotency_key: Option<String>,
}

impl GatewayClient {
    /// The tiers, the token's mint and the known agent types.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn tiers(&self) -> Result<TiersResponse, ClientError> {
        self.open(Call::get("read the tiers", "/tiers", self.limits.read)).await
    }

    /// Whether the gateway is up.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn health(&self) -> Result<HealthResponse, ClientError> {
        self.open(Call::get("check the gateway's health", "/health", self.limits.read)).await
    }

    /// Spawns an agent. Its token is in this answer alone.
    ///
    /// # Errors
    /// See [`ClientError`]; a wallet with a live agent is refused with
    /// `agent_exists`.
    pub async fn spawn(&self, request: &SpawnRequest, options: &SpawnOptions) -> Result<SpawnResponse, ClientError> {
        let operation = "spawn an agent";
        let body = serde_json::to_vec(request).map_err(|error| ClientError::protocol(operation, error))?;
        let (path, deadline) =
            if options.detached { ("/spawn?wait=false", self.limits.read) } else { ("/spawn", self.limits.spawn) };
        let mut call = Call::post(operation, path, deadline).body(JSON, body);
        if let Some(key) = &options.idempotency_key {
            call = call.header(IDEMPOTENCY_KEY, key)?;
        }
        self.signed(call).await
    }

    /// Removes one's own agent with all that is of it; its id stays one's own.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn remove(&self, id: PodId) -> Result<StopResponse, ClientError> {
        self.signed(Call::delete("remove the agent", format!("/agents/{id}"), self.limits.stop)).await
    }

    /// Stops one's own agent; its data is kept.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn stop(&self, id: PodId) -> Result<StopResponse, ClientError> {
        self.signed(Call::post("stop the agent", format!("/stop/{id}"), self.limits.stop)).await
    }

    /// Gives one's own agent, which runs, so many seconds to live from now on, or no end.
    ///
    /// # Errors
    /// See [`ClientError`]; one that does not run is refused with `wrong_state`.
    pub async fn set_timeout(&self, id: PodId, seconds: Option<u64>) -> Result<TimeoutResponse, ClientError> {
        let operation = "set how long the agent has to live";
        let body = serde_json::to_vec(&TimeoutRequest { timeout_seconds: seconds })
            .map_err(|error| ClientError::protocol(operation, error))?;
        let path = format!("/agents/{id}/timeout");
        self.signed(Call::post(operation, path, self.limits.read).body(JSON, body)).await
    }

    /// One's own agent, as it is.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn status(&self, id: PodId) -> Result<StatusResponse, ClientError> {
        self.signed(Call::get("read the agent", format!("/status/{id}"), self.limits.read)).await
    }

    /// One's own agents, newest first.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn agents(&self) -> Result<Vec<Agent>, ClientError> {
        let all: AgentsResponse = self.signed(Call::get("list the agents", "/agents", self.limits.read)).await?;
        Ok(all.agents)
    }

    /// What one's own wallet used.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn usage(&self) -> Result<UsageResponse, ClientError> {
        let operation = "read the usage";
        let wallet = match (self.wallet(), self.key()) {
            (Some(wallet), _) => wallet,
            (None, Some(_)) => self.own_key().await?.wallet,
            (None, None) => return Err(ClientError::Unsigned(operation)),
        };
        self.signed(Call::get(operation, format!("/usage/{wallet}"), self.limits.read)).await
    }
}
