//! The API's table of routes.

use std::sync::Arc;

use axum::Router;
use axum::routing::{delete, get, post};
use wire::fault::Code;

use crate::api::agents::{events, logs, spawn, status, stop, usage};
use crate::api::meta::{document, health, metrics, tiers};
use crate::api::money::{facilitator, links, prices, relay, vaults};
use crate::edge::cors;
use crate::ingress::process;
use crate::refusal::Refusal;
use crate::state::Gateway;

/// The API.
pub(crate) fn router(gateway: Arc<Gateway>) -> Router {
    let origins = gateway.config.cors_origins.clone();
    let router = Router::new()
        .route("/spawn", post(spawn::spawn))
        .route("/stop/{id}", post(stop::stop))
        .route("/status/{id}", get(status::status))
        .route("/usage/{wallet}", get(usage::usage))
        .route("/tiers", get(tiers::tiers))
        .route("/agents", get(status::list))
        .route("/agents/{id}", delete(stop::remove))
        .route("/agents/{id}/logs", get(logs::logs))
        .route("/agents/{id}/events", get(events::events))
        .route("/agents/{id}/process.Process/{method}", post(process::pass))
        .merge(payments())
        .route("/health", get(health::health))
        .route("/ready", get(health::ready))
        .route("/metrics", get(metrics::metrics))
        .route("/openapi.json", get(document::openapi))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .with_state(gateway);
    if origins.is_empty() { router } else { router.layer(cors::cors(&origins)) }
}

/// Vaults, the relayer (CroGas's routes) and the facilitator (x402's).
fn payments() -> Router<Arc<Gateway>> {
    Router::new()
        .route("/chain", get(vaults::chain))
        .route("/links", get(links::my_link).post(links::link))
        .route("/agents/{id}/vault", get(vaults::agent_vault).post(vaults::deploy))
        .route("/agents/{id}/prices", get(prices::prices).put(prices::set_prices))
        .route("/agents/{id}/tasks/{task}/submit", post(vaults::submit))
        .route("/agents/{id}/tasks/{task}/decline", post(vaults::decline))
        .route("/vaults/{address}", get(vaults::vault))
        .route("/vaults/{address}/tasks", get(vaults::tasks))
        .route("/meta/relay", post(relay::relay))
        .route("/meta/batch", post(relay::batch))
        .route("/meta/call", post(relay::call))
        .route("/meta/nonce/{address}", get(relay::nonce))
        .route("/meta/domain", get(relay::domain))
        .route("/relay", post(relay::raw))
        .route("/estimate", get(relay::estimate))
        .route("/supported", get(facilitator::supported))
        .route("/verify", post(facilitator::verify))
        .route("/settle", post(facilitator::settle))
        // The hosted Cronos facilitator's paths.
        .route("/v2/x402/supported", get(facilitator::supported))
        .route("/v2/x402/verify", post(facilitator::verify))
        .route("/v2/x402/settle", post(facilitator::settle))
}

async fn unknown() -> Refusal {
    Refusal::new(Code::NotFound, "there is nothing at this path; see /openapi.json")
}

async fn wrong_method() -> Refusal {
    Refusal::new(Code::MethodNotAllowed, "this path does not take this method; see /openapi.json")
}
