//! The API's routes. Each is written once, at its handler: the router, the document
//! and the metrics' label are made of it.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wire::fault::Code;

use crate::api::agents::{attach, events, logs, spawn, status, stop, timeout, token, usage};
use crate::api::images::{catalog, upload};
use crate::api::meta::{document, health, metrics, tiers};
use crate::api::money::{facilitator, links, prices, relay, vaults};
use crate::api::{content, entries, kept, keys, snapshots, volumes};
use crate::edge::cors;
use crate::edge::limits::client_key;
use crate::edge::source::RequestSource;
use crate::error::ApiError;
use crate::ingress::process;
use crate::state::Gateway;

/// Routes for machines that must always be answered: no limit counts them.
pub(crate) const UNLIMITED: [&str; 3] = ["/health", "/ready", "/metrics"];
/// The routes with a limit of their own, so that stopping and revoking work when everything
/// else is spent.
const STOPPING: [&str; 3] = ["/stop/{id}", "/agents/{id}", "/keys/{id}"];

/// All routes, each with its description.
pub(crate) fn routes() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::default()
        .merge(agents())
        .merge(images())
        .merge(api_keys())
        .merge(disks())
        .merge(files())
        .merge(payments())
        .merge(relayer())
        .merge(facilitator())
        .merge(meta())
}

/// What holders ask of their agents.
fn agents() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::default()
        .routes(routes!(spawn::spawn))
        .routes(routes!(stop::stop))
        .routes(routes!(stop::remove))
        .routes(routes!(timeout::set))
        .routes(routes!(status::status))
        .routes(routes!(status::list))
        .routes(routes!(token::token))
        .routes(routes!(usage::usage))
        .routes(routes!(logs::logs))
        .routes(routes!(events::events))
        .routes(routes!(process::forward))
}

/// What holders bring.
fn images() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::default()
        .routes(routes!(catalog::list, upload::begin))
        .routes(routes!(catalog::one, catalog::change, catalog::remove))
        .routes(routes!(upload::status, upload::append, upload::give_up))
        .routes(routes!(upload::commit))
        .routes(routes!(upload::log))
}

/// What wallets let programs do in their names.
fn api_keys() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::default()
        .routes(routes!(keys::list, keys::create))
        .routes(routes!(keys::own))
        .routes(routes!(keys::revoke))
}

/// Wallets' own disks.
fn disks() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::default()
        .routes(routes!(volumes::list, volumes::create))
        .routes(routes!(volumes::show, volumes::resize, volumes::remove))
        .routes(routes!(snapshots::list, snapshots::create))
        .routes(routes!(snapshots::remove))
        .routes(routes!(snapshots::restore))
        .routes(routes!(attach::list))
        .routes(routes!(attach::attach, attach::detach))
}

/// The files of disks that no agent has: of volumes, and by the same handlers of what is kept of agents.
fn files() -> OpenApiRouter<Arc<Gateway>> {
    let calls = || {
        [
            routes!(entries::stat, entries::change, entries::remove),
            routes!(entries::list, entries::make),
            routes!(entries::read, entries::write),
            routes!(entries::compose),
            routes!(entries::export, entries::import),
        ]
    };
    let router = OpenApiRouter::default().routes(routes!(content::data_token));
    calls().into_iter().chain(calls().map(kept::kept)).fold(router, OpenApiRouter::routes)
}

/// Vaults, their tasks, links and prices.
fn payments() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::default()
        .routes(routes!(vaults::chain))
        .routes(routes!(links::own_link, links::link))
        .routes(routes!(vaults::agent_vault, vaults::deploy))
        .routes(routes!(prices::prices, prices::set_prices))
        .routes(routes!(vaults::submit))
        .routes(routes!(vaults::decline))
        .routes(routes!(vaults::vault))
        .routes(routes!(vaults::tasks))
}

/// The relayer's routes, which are CroGas's.
fn relayer() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::default()
        .routes(routes!(relay::relay))
        .routes(routes!(relay::batch))
        .routes(routes!(relay::call))
        .routes(routes!(relay::nonce))
        .routes(routes!(relay::domain))
        .routes(routes!(relay::raw))
        .routes(routes!(relay::estimate))
}

/// The facilitator's routes, which are x402's.
fn facilitator() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::default()
        .routes(routes!(facilitator::supported))
        .routes(routes!(facilitator::verify))
        .routes(routes!(facilitator::settle))
}

/// What the gateway says of itself.
fn meta() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::default()
        .routes(routes!(tiers::tiers))
        .routes(routes!(health::health))
        .routes(routes!(health::ready))
        .routes(routes!(metrics::metrics))
        .routes(routes!(document::openapi))
}

/// The API, as it is served.
pub(crate) fn router(gateway: Arc<Gateway>) -> Router {
    let origins = gateway.config.cors_origins.clone();
    let router: Router<Arc<Gateway>> = routes().into();
    // The hosted Cronos facilitator's paths, for clients that know that one.
    let router = router.nest("/v2/x402", facilitator().into());
    let router = router.fallback(unknown).method_not_allowed_fallback(wrong_method);
    let router = if origins.is_empty() { router } else { router.layer(cors::cors(&origins)) };
    router.layer(from_fn_with_state(Arc::clone(&gateway), admit)).with_state(gateway)
}

/// Counts a request against its address, and tells by which route it is answered.
async fn admit(
    State(gateway): State<Arc<Gateway>>,
    Extension(source): Extension<RequestSource>,
    route: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let limit = match route.as_ref().map(MatchedPath::as_str) {
        Some(path) if UNLIMITED.contains(&path) => None,
        Some(path) if STOPPING.contains(&path) => Some(&gateway.rates.stops),
        _ => Some(&gateway.rates.addresses),
    };
    let mut response = match limit.map_or(Ok(()), |limit| limit.check(client_key(source.address))) {
        Ok(()) => next.run(request).await,
        Err(exceeded) => ApiError::from(exceeded).into_response(),
    };
    if let Some(route) = route {
        response.extensions_mut().insert(route);
    }
    response
}

async fn unknown() -> ApiError {
    ApiError::new(Code::NotFound, "there is nothing at this path; see /openapi.json")
}

async fn wrong_method() -> ApiError {
    ApiError::new(Code::MethodNotAllowed, "this path does not take this method; see /openapi.json")
}
