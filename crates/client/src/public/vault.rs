//! The financial layer's calls.

use domain::vault::TaskId;
use domain::{Address, PodId};
use reqwest::Method;
use serde::Serialize;
use wire::v1::vault::{
    AgentVault, ChainResponse, DeployRequest, LinkRequest, LinkResponse, Prices, SubmitTaskRequest, TasksResponse,
    TxResponse, VaultResponse,
};

use super::http::Call;
use super::{ClientError, GatewayClient};

const JSON: &str = "application/json";

impl GatewayClient {
    /// The chain that the gateway works on.
    ///
    /// # Errors
    /// See [`ClientError`]; a gateway without a chain refuses with `no_chain`.
    pub async fn chain(&self) -> Result<ChainResponse, ClientError> {
        self.open(Call::get("read the gateway's chain", "/chain", self.limits.read)).await
    }

    /// Links one's own wallet to an owner.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn link(&self, link: &LinkRequest) -> Result<LinkResponse, ClientError> {
        let call = Call::post("link the wallet", "/links", self.limits.read);
        self.signed(with_json(call, link)?).await
    }

    /// Whom one's own wallet is linked to.
    ///
    /// # Errors
    /// See [`ClientError`]; a wallet without a link is refused with `not_linked`.
    pub async fn own_link(&self) -> Result<LinkResponse, ClientError> {
        self.signed(Call::get("read the wallet's link", "/links", self.limits.read)).await
    }

    /// The vault of one's own agent.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn agent_vault(&self, agent: PodId) -> Result<AgentVault, ClientError> {
        // An agent's own key may have to be made first.
        let path = format!("/agents/{agent}/vault");
        self.signed(Call::get("read the agent's vault", path, self.limits.read)).await
    }

    /// Has the vault of one's own agent deployed.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn deploy_vault(&self, agent: PodId, consent: &DeployRequest) -> Result<AgentVault, ClientError> {
        let call = Call::post("deploy the agent's vault", format!("/agents/{agent}/vault"), self.limits.read);
        self.signed(with_json(call, consent)?).await
    }

    /// A vault's ledger.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn vault(&self, address: Address) -> Result<VaultResponse, ClientError> {
        self.open(Call::get("read the vault", format!("/vaults/{address}"), self.limits.read)).await
    }

    /// A vault's tasks, newest first.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn tasks(&self, vault: Address) -> Result<TasksResponse, ClientError> {
        self.open(Call::get("list the vault's tasks", format!("/vaults/{vault}/tasks"), self.limits.read)).await
    }

    /// Hands a result in, as one's own agent. The agent's key signs; the answer
    /// comes when the chain has it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn submit(
        &self,
        agent: PodId,
        task: TaskId,
        work: &SubmitTaskRequest,
    ) -> Result<TxResponse, ClientError> {
        let call = Call::post("hand the result in", format!("/agents/{agent}/tasks/{task}/submit"), self.limits.stop);
        self.signed(with_json(call, work)?).await
    }

    /// Turns a task down, as one's own agent.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn decline(&self, agent: PodId, task: TaskId) -> Result<TxResponse, ClientError> {
        let path = format!("/agents/{agent}/tasks/{task}/decline");
        self.signed(Call::post("turn the task down", path, self.limits.stop)).await
    }

    /// What requests to one's own agent cost.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn prices(&self, agent: PodId) -> Result<Prices, ClientError> {
        let path = format!("/agents/{agent}/prices");
        self.signed(Call::get("read the agent's prices", path, self.limits.read)).await
    }

    /// Sets what requests to one's own agent cost.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn set_prices(&self, agent: PodId, prices: &Prices) -> Result<Prices, ClientError> {
        let mut call = Call::get("set the agent's prices", format!("/agents/{agent}/prices"), self.limits.read);
        call.method = Method::PUT;
        self.signed(with_json(call, prices)?).await
    }
}

fn with_json(call: Call, body: &impl Serialize) -> Result<Call, ClientError> {
    let operation = call.operation;
    let body = serde_json::to_vec(body).map_err(|error| ClientError::protocol(operation, error))?;
    Ok(call.body(JSON, body))
}
