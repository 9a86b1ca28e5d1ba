//! The API's own description.

use utoipa::OpenApi;

/// The OpenAPI document of the node API, as pretty JSON.
#[must_use]
pub fn openapi() -> String {
    serde_json::to_string_pretty(&Document::openapi()).unwrap_or_default()
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
        super::logs::logs,
        super::tunnel::tunnel,
        super::process::pass,
        super::marks::marks,
        super::about::node,
        super::about::disks,
        super::about::health,
        super::about::metrics,
        super::about::openapi,
    ),
    components(schemas(wire::fault::Fault))
)]
struct Document;
