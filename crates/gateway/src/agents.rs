//! What a holder asks of its agents: how they are, what they used, to stop.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequest, Request, State};
use domain::{AgentId, StopReason, UnixMillis, Wallet};
use http::{Response, StatusCode};
use wire::fault::Fault;
use wire::public::{AgentsResponse, StatusResponse, StopResponse, UsageResponse, UsageStats};

use crate::caller::{Reader, Stopper, presented};
use crate::refusal::Refusal;
use crate::shape::{Id, WalletOf, json};
use crate::state::Gateway;

/// Agents in one list at most.
const MAX_LISTED: u32 = 100;

/// Stops an agent and erases its data. Ownership is enough: the balance is not asked
/// for. Of an agent that has ended another way, erases what its node still keeps.
#[utoipa::path(
    post,
    operation_id = "stop",
    tag = "agents",
    path = "/stop/{id}",
    params(("id" = AgentId, Path, description = "The agent")),
    responses(
        (status = 200, description = "It has ended", body = StopResponse),
        (status = 202, description = "Its node does not answer; it will end", body = StopResponse),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    ),
    security(
        ("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []),
        ("wallet" = [], "signature" = [], "timestamp" = [])
    )
)]
pub(crate) async fn stop(
    State(gateway): State<Arc<Gateway>>,
    Id(id): Id,
    Stopper(owner): Stopper,
) -> Result<Response<Body>, Refusal> {
    gateway.owned(id, owner.wallet).await?;
    let record = gateway.parts.control.stop(id, StopReason::Requested).await?;
    let status = if record.state.is_live() { StatusCode::ACCEPTED } else { StatusCode::OK };
    let uptime_ms = record.meter.uptime_ms(gateway.now());
    json(status, &StopResponse { success: true, uptime_ms, state: record.state.name() })
}

/// How one agent is.
#[utoipa::path(
    get,
    operation_id = "status",
    tag = "agents",
    path = "/status/{id}",
    params(("id" = AgentId, Path, description = "The agent")),
    responses((status = 200, description = "How it is", body = StatusResponse), (status = "default", description = "What is wrong, by `code`", body = Fault)),
    security(
        ("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []),
        ("wallet" = [], "signature" = [], "timestamp" = [])
    )
)]
pub(crate) async fn status(
    State(gateway): State<Arc<Gateway>>,
    Id(id): Id,
    Reader(owner): Reader,
) -> Result<Response<Body>, Refusal> {
    let record = gateway.owned(id, owner.wallet).await?;
    let uptime_ms = record.meter.uptime_ms(owner.now);
    let vault = match &gateway.parts.treasury {
        Some(treasury) => treasury.known_vault(record.id).await?,
        None => None,
    };
    json(StatusCode::OK, &StatusResponse { agent: gateway.view(&record), uptime_ms, vault })
}

/// A holder's agents, newest first.
#[utoipa::path(
    get,
    operation_id = "listAgents",
    tag = "agents",
    path = "/agents",
    responses((status = 200, description = "One's own agents, newest first", body = AgentsResponse), (status = "default", description = "What is wrong, by `code`", body = Fault)),
    security(
        ("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []),
        ("wallet" = [], "signature" = [], "timestamp" = [])
    )
)]
pub(crate) async fn list(
    State(gateway): State<Arc<Gateway>>,
    Reader(owner): Reader,
) -> Result<Response<Body>, Refusal> {
    let records = gateway.parts.store.of(owner.wallet, MAX_LISTED).await?;
    json(StatusCode::OK, &AgentsResponse { agents: records.iter().map(|record| gateway.view(record)).collect() })
}

/// What a wallet used: to itself, all; to others, the totals, where the operator
/// publishes them.
#[utoipa::path(
    get,
    operation_id = "usage",
    tag = "agents",
    path = "/usage/{wallet}",
    params(("wallet" = Wallet, Path, description = "Whose usage")),
    responses((status = 200, description = "Totals, the running agent included", body = UsageResponse), (status = "default", description = "What is wrong, by `code`", body = Fault)),
    security(
        ("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []),
        ("wallet" = [], "signature" = [], "timestamp" = [])
    )
)]
pub(crate) async fn usage(
    State(gateway): State<Arc<Gateway>>,
    WalletOf(wallet): WalletOf,
    request: Request,
) -> Result<Response<Body>, Refusal> {
    let unsigned = presented(request.headers()).wallet.is_none();
    if unsigned && gateway.config.public_usage {
        return gateway.totals(wallet, gateway.now(), false).await;
    }
    let Reader(owner) = Reader::from_request(request, &gateway).await?;
    if owner.wallet != wallet {
        return Err(Refusal::not_found());
    }
    gateway.totals(wallet, owner.now, true).await
}

impl Gateway {
    async fn totals(&self, wallet: Wallet, now: UnixMillis, own: bool) -> Result<Response<Body>, Refusal> {
        let (usage, spawns) = self.parts.store.usage(wallet, now).await?;
        let live = if own { self.parts.store.live_of(wallet).await? } else { None };
        let active_agent = live.map(|record| self.view(&record));
        json(StatusCode::OK, &UsageResponse { wallet, stats: UsageStats::new(&usage, spawns), active_agent })
    }
}
