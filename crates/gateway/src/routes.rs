//! The API's table of routes.

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use wire::fault::Code;

use crate::refusal::Refusal;
use crate::state::Gateway;
use crate::{agents, events, logs, meta, process, spawn};

/// The API.
pub(crate) fn router(gateway: Arc<Gateway>) -> Router {
    Router::new()
        .route("/spawn", post(spawn::spawn))
        .route("/stop/{id}", post(agents::stop))
        .route("/status/{id}", get(agents::status))
        .route("/usage/{wallet}", get(agents::usage))
        .route("/tiers", get(meta::tiers))
        .route("/agents", get(agents::list))
        .route("/agents/{id}/logs", get(logs::logs))
        .route("/agents/{id}/events", get(events::events))
        .route("/agents/{id}/process.Process/{method}", post(process::pass))
        .route("/health", get(meta::health))
        .route("/ready", get(meta::ready))
        .route("/metrics", get(meta::metrics))
        .route("/openapi.json", get(meta::openapi))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .with_state(gateway)
}

async fn unknown() -> Refusal {
    Refusal::new(Code::NotFound, "there is nothing at this path; see /openapi.json")
}

async fn wrong_method() -> Refusal {
    Refusal::new(Code::MethodNotAllowed, "this path does not take this method; see /openapi.json")
}
