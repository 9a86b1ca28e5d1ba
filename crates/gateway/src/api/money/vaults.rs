//! The chain, the vaults and their tasks.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use domain::vault::{TaskId, TaskIdError};
use domain::{Address, PodId};
use http::{Response, StatusCode};
use wire::fault::{Code, Fault};
use wire::v1::vault::{
    AgentVault, ChainResponse, DeployRequest, SubmitTaskRequest, TasksResponse, TxResponse, VaultResponse, VaultState,
};
use wire::{EvmAddress, EvmHash};

use crate::api::extract::{PathParams, PodPath, json, parse_json};
use crate::auth::caller::{Holder, ReadOnlyHolder};
use crate::edge::source::RequestSource;
use crate::error::ApiError;
use crate::state::Gateway;

/// The chain this gateway works on.
#[utoipa::path(
    get,
    operation_id = "chain",
    tag = "payments",
    path = "/chain",
    responses((status = 200, description = "What a signature must be made for", body = ChainResponse), (status = "default", description = "What is wrong, by `code`", body = Fault))
)]
pub(crate) async fn chain(State(gateway): State<Arc<Gateway>>) -> Result<Response<Body>, ApiError> {
    json(StatusCode::OK, &gateway.treasury()?.chain()?)
}

/// An agent's vault: where it is or will be, and how far it is.
#[utoipa::path(
    get,
    operation_id = "agentVault",
    tag = "payments",
    path = "/agents/{id}/vault",
    params(("id" = PodId, Path, description = "The agent")),
    responses((status = 200, description = "Its vault", body = AgentVault), (status = "default", description = "What is wrong, by `code`", body = Fault)),
    security(
        ("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []),
        ("wallet" = [], "signature" = [], "timestamp" = []),
        ("bearer" = []),
        ("api_key" = [])
    )
)]
pub(crate) async fn agent_vault(
    State(gateway): State<Arc<Gateway>>,
    PodPath(id): PodPath,
    ReadOnlyHolder(holder): ReadOnlyHolder,
) -> Result<Response<Body>, ApiError> {
    let record = gateway.owned(id, holder.wallet).await?;
    let treasury = gateway.treasury()?;
    // Only who asked for this very vault has an agent's key made for it.
    let vault = if holder.is_bound() {
        treasury.agent_vault(record.pod, record.wallet).await?
    } else {
        treasury.known_vault(record.pod).await?
    };
    let none = || match holder.is_bound() {
        true => ApiError::not_linked(),
        false => {
            ApiError::new(Code::UnboundSignature, "the agent has no vault yet; ask with a signature of this request")
        }
    };
    json(StatusCode::OK, &vault.ok_or_else(none)?)
}

/// Deploys an agent's vault by its owner's signature. The gateway pays the gas,
/// and goes on when this has answered.
#[utoipa::path(
    post,
    operation_id = "deployVault",
    tag = "payments",
    path = "/agents/{id}/vault",
    params(("id" = PodId, Path, description = "The agent")),
    request_body = DeployRequest,
    responses(
        (status = 200, description = "It is on the chain already", body = AgentVault),
        (status = 202, description = "It is on its way; the agent's status tells how far", body = AgentVault),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    ),
    security(("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []))
)]
pub(crate) async fn deploy(
    State(gateway): State<Arc<Gateway>>,
    PodPath(id): PodPath,
    Extension(source): Extension<RequestSource>,
    holder: Holder,
) -> Result<Response<Body>, ApiError> {
    let record = gateway.owned(id, holder.wallet).await?;
    let request: DeployRequest = parse_json(&holder.body)?;
    if !record.state.is_live() {
        return Err(ApiError::new(Code::WrongState, "the agent has ended: vaults are deployed for those that live"));
    }
    let treasury = gateway.treasury()?;
    let vault = treasury.deploy(record.pod, record.wallet, &request, source.address, holder.now).await?;
    let status = if vault.state == VaultState::Deployed { StatusCode::OK } else { StatusCode::ACCEPTED };
    json(status, &vault)
}

/// A vault's ledger, as far as the chain was read.
#[utoipa::path(
    get,
    operation_id = "vault",
    tag = "payments",
    path = "/vaults/{address}",
    params(("address" = EvmAddress, Path, description = "The vault")),
    responses((status = 200, description = "Its ledger", body = VaultResponse), (status = "default", description = "What is wrong, by `code`", body = Fault))
)]
pub(crate) async fn vault(
    State(gateway): State<Arc<Gateway>>,
    PathParams(address): PathParams<String>,
) -> Result<Response<Body>, ApiError> {
    json(StatusCode::OK, &gateway.treasury()?.vault(read_address(&address)?).await?)
}

/// A vault's tasks, newest first, at most 500.
#[utoipa::path(
    get,
    operation_id = "tasks",
    tag = "payments",
    path = "/vaults/{address}/tasks",
    params(("address" = EvmAddress, Path, description = "The vault")),
    responses((status = 200, description = "Its tasks", body = TasksResponse), (status = "default", description = "What is wrong, by `code`", body = Fault))
)]
pub(crate) async fn tasks(
    State(gateway): State<Arc<Gateway>>,
    PathParams(address): PathParams<String>,
) -> Result<Response<Body>, ApiError> {
    json(StatusCode::OK, &gateway.treasury()?.tasks(read_address(&address)?).await?)
}

/// Hands in the result of a task, signed with the agent's key.
#[utoipa::path(
    post,
    operation_id = "submit",
    tag = "payments",
    path = "/agents/{id}/tasks/{task}/submit",
    params(("id" = PodId, Path, description = "The agent"), ("task" = EvmHash, Path, description = "The task")),
    request_body = SubmitTaskRequest,
    responses(
        (status = 200, description = "The chain has it", body = TxResponse),
        (status = 202, description = "It is on its way", body = TxResponse),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    ),
    security(("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []))
)]
pub(crate) async fn submit(
    State(gateway): State<Arc<Gateway>>,
    PathParams((id, task)): PathParams<(String, String)>,
    holder: Holder,
) -> Result<Response<Body>, ApiError> {
    let (id, task) = read_task(&id, &task)?;
    gateway.owned(id, holder.wallet).await?;
    let work: SubmitTaskRequest = parse_json(&holder.body)?;
    respond(&gateway.treasury()?.submit(id, task, work.result_hash, holder.now).await?)
}

/// Turns a task down, signed with the agent's key: its creator is credited with
/// all of it.
#[utoipa::path(
    post,
    operation_id = "decline",
    tag = "payments",
    path = "/agents/{id}/tasks/{task}/decline",
    params(("id" = PodId, Path, description = "The agent"), ("task" = EvmHash, Path, description = "The task")),
    responses(
        (status = 200, description = "The chain has it", body = TxResponse),
        (status = 202, description = "It is on its way", body = TxResponse),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    ),
    security(("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []))
)]
pub(crate) async fn decline(
    State(gateway): State<Arc<Gateway>>,
    PathParams((id, task)): PathParams<(String, String)>,
    holder: Holder,
) -> Result<Response<Body>, ApiError> {
    let (id, task) = read_task(&id, &task)?;
    gateway.owned(id, holder.wallet).await?;
    respond(&gateway.treasury()?.decline(id, task, holder.now).await?)
}

fn respond(answer: &TxResponse) -> Result<Response<Body>, ApiError> {
    json(if answer.success { StatusCode::OK } else { StatusCode::ACCEPTED }, answer)
}

fn read_address(text: &str) -> Result<Address, ApiError> {
    let address = text.parse().ok().filter(|_| text.starts_with("0x"));
    let said = "a vault's address is 0x and 40 hexadecimal digits";
    address.ok_or_else(|| Fault::new(Code::InvalidRequest, said).field("address").into())
}

fn read_task(id: &str, task: &str) -> Result<(PodId, TaskId), ApiError> {
    let id = id.parse().map_err(|_| ApiError::not_found())?;
    let unread = |error: TaskIdError| Fault::new(Code::InvalidRequest, error.to_string()).field("task");
    let task = task.parse().map_err(unread)?;
    Ok((id, task))
}
