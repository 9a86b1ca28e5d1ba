//! The table of routes.

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{any, delete, get, post, put};
use tokio::time::Instant;
use tracing::Instrument;
use wire::TRACEPARENT;
use wire::fault::Code;

use super::fault::ApiError;
use super::state::Api;
use super::{about, content, document, images, logs, marks, pods, process, sandboxes, snapshots, tunnel, volumes};

/// Bytes of a spec at most: an environment of 64 KiB, escaped.
const MAX_SPEC: usize = 512 * 1024;

/// All routes.
pub(crate) fn routes(api: Api) -> Router {
    let streams = Router::new()
        .route("/v1/sandboxes/{id}/pod/process.Process/{method}", post(process::process))
        .route("/v1/sandboxes/{id}/pod/filesystem.Filesystem/{method}", post(process::filesystem))
        .route("/v1/sandboxes/{id}/pod/files", get(process::download).post(process::upload))
        .route("/v1/sandboxes/{id}/pod/files/compose", post(process::compose))
        .route("/v1/sandboxes/{id}/pod/envs", get(process::envs))
        .route("/v1/sandboxes/{id}/pod/health", get(process::health))
        .route("/v1/sandboxes/{id}/pod/usage", get(process::usage))
        .route("/v1/volumes/{id}/content/{call}", any(content::volume))
        .route("/v1/pods/{pod}/data/{call}", any(content::data))
        .layer(DefaultBodyLimit::disable());
    Router::new()
        .route("/v1/sandboxes", get(sandboxes::list))
        .route("/v1/sandboxes/{id}", get(sandboxes::get).put(sandboxes::put).delete(sandboxes::delete))
        .route("/v1/sandboxes/{id}/metrics", get(sandboxes::metrics))
        .route("/v1/sandboxes/{id}/logs", get(logs::logs))
        .route("/v1/sandboxes/{id}/tunnel", get(tunnel::tunnel))
        .route("/v1/pods/{pod}/data", delete(pods::erase))
        .route("/v1/volumes", get(volumes::list))
        .route("/v1/volumes/{id}", get(volumes::get).put(volumes::put).delete(volumes::delete))
        .route("/v1/snapshots", get(snapshots::list))
        .route("/v1/snapshots/{id}", put(snapshots::put).delete(snapshots::delete))
        .route("/v1/snapshots/{id}/restore", post(snapshots::restore))
        .route("/v1/images/{id}", get(images::get).put(images::put).patch(images::patch).delete(images::delete))
        .route("/v1/images/{id}/import", post(images::import))
        .route("/v1/images/{id}/log", get(images::log))
        .route("/v1/marks", get(marks::marks))
        .route("/v1/node", get(about::node))
        .route("/v1/disks", get(about::disks))
        .route("/health", get(about::health))
        .route("/metrics", get(about::metrics))
        .route("/openapi.json", get(document::serve))
        .layer(DefaultBodyLimit::max(MAX_SPEC))
        .merge(streams)
        .fallback(async || ApiError::new(Code::NotFound, "there is no such path"))
        .method_not_allowed_fallback(async || ApiError::new(Code::MethodNotAllowed, "the path has another method"))
        .layer(from_fn_with_state((), observe))
        .with_state(api)
}

/// Measures each call and ties it to its trace.
async fn observe(State(()): State<()>, path: Option<MatchedPath>, request: Request, next: Next) -> Response {
    let route = path.as_ref().map_or("none", |path| path.as_str()).to_owned();
    let span = tracing::info_span!("call", trace_id = tracing::field::Empty, method = %request.method(), route);
    if let Some(trace) = request.headers().get(TRACEPARENT).and_then(|value| value.to_str().ok()) {
        telemetry::set_parent(&span, trace);
        span.record("trace_id", wire::trace_id(trace));
    }
    let since = Instant::now();
    let response = next.run(request).instrument(span).await;
    let status = response.status().as_str().to_owned();
    metrics::histogram!("hypercore_request_seconds", "route" => route, "status" => status)
        .record(since.elapsed().as_secs_f64());
    response
}
