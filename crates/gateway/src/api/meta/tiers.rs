//! `GET /tiers`: what a balance buys.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use http::{Response, StatusCode};
use wire::v1::public::TiersResponse;

use crate::api::extract::json;
use crate::error::ApiError;
use crate::state::Gateway;

/// What a balance buys, and what can be spawned.
#[utoipa::path(
    get,
    operation_id = "tiers",
    tag = "gateway",
    path = "/tiers",
    responses((status = 200, description = "Romulus's table", body = TiersResponse))
)]
pub(crate) async fn tiers(State(gateway): State<Arc<Gateway>>) -> Result<Response<Body>, ApiError> {
    let tiers = gateway.parts.tiers.iter().map(|(name, tier)| (name.to_string(), *tier)).collect();
    let agent_types =
        gateway.parts.control.fleet().images().map(|table| table.keys().cloned().collect()).unwrap_or_default();
    json(StatusCode::OK, &TiersResponse { tiers, mint: gateway.parts.balances.mint().to_owned(), agent_types })
}
