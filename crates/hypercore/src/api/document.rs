//! The API's own description.

use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, HeaderValue};
use utoipa::OpenApi;

/// The OpenAPI document of the node API, as pretty JSON.
#[must_use]
pub fn openapi() -> String {
    serde_json::to_string_pretty(&Document::openapi()).unwrap_or_default()
}

/// This document.
#[utoipa::path(
    get,
    path = "/openapi.json",
    operation_id = "openapi",
    responses((status = 200, description = "This document", body = String, content_type = "application/json"))
)]
pub(crate) async fn serve() -> Response {
    let kind = HeaderValue::from_static("application/json");
    ([(CONTENT_TYPE, kind)], openapi()).into_response()
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Hypercore",
        description = "What the control plane asks of a node, over a Unix socket: whoever may open the socket may do \
        everything.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    paths(
        super::sandboxes::put,
        super::sandboxes::list,
        super::sandboxes::get,
        super::sandboxes::delete,
        super::sandboxes::metrics,
        super::pods::erase,
        super::volumes::put,
        super::volumes::list,
        super::volumes::get,
        super::volumes::delete,
        super::content::volume,
        super::content::data,
        super::snapshots::put,
        super::snapshots::restore,
        super::snapshots::list,
        super::snapshots::delete,
        super::logs::logs,
        super::tunnel::tunnel,
        super::process::process,
        super::process::filesystem,
        super::process::download,
        super::process::upload,
        super::process::compose,
        super::process::envs,
        super::process::health,
        super::process::usage,
        super::marks::marks,
        super::images::put,
        super::images::patch,
        super::images::get,
        super::images::import,
        super::images::log,
        super::images::delete,
        super::about::node,
        super::about::disks,
        super::about::health,
        super::about::metrics,
        serve,
    ),
    components(schemas(wire::fault::Fault))
)]
struct Document;
