//! `GET /usage/{wallet}`: what a wallet has used.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequest, Request, State};
use domain::{UnixMillis, Wallet};
use http::{Response, StatusCode};
use wire::fault::Fault;
use wire::v1::public::{UsageResponse, WalletUsage};

use crate::api::extract::{WalletPath, json};
use crate::auth::apikeys;
use crate::auth::caller::{ReadOnlyHolder, presented};
use crate::error::ApiError;
use crate::state::Gateway;

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
        ("wallet" = [], "signature" = [], "timestamp" = []),
        ("bearer" = []),
        ("api_key" = [])
    )
)]
pub(crate) async fn usage(
    State(gateway): State<Arc<Gateway>>,
    WalletPath(wallet): WalletPath,
    request: Request,
) -> Result<Response<Body>, ApiError> {
    let unsigned = presented(request.headers()).wallet.is_none() && apikeys::presented(request.headers())?.is_none();
    if unsigned && gateway.config.public_usage {
        return gateway.totals(wallet, gateway.now(), false).await;
    }
    let ReadOnlyHolder(holder) = ReadOnlyHolder::from_request(request, &gateway).await?;
    if holder.wallet != wallet {
        return Err(ApiError::not_found());
    }
    gateway.totals(wallet, holder.now, true).await
}

impl Gateway {
    async fn totals(&self, wallet: Wallet, now: UnixMillis, own: bool) -> Result<Response<Body>, ApiError> {
        let (usage, spawns) = self.parts.store.usage(wallet, now).await?;
        let live = if own { self.parts.store.live_of(wallet).await? } else { Vec::new() };
        let active_agent = live.first().map(|record| self.view(record));
        let several = if live.len() > 1 { live.as_slice() } else { &[] };
        let active_agents = several.iter().map(|record| self.view(record)).collect();
        let stats = WalletUsage::new(&usage, spawns);
        json(StatusCode::OK, &UsageResponse { wallet, stats, active_agent, active_agents })
    }
}
