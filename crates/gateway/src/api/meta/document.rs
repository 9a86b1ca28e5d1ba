//! `GET /openapi.json`: this API, described.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use http::Response;

use crate::api::extract::text;
use crate::state::Gateway;

/// This API, described.
#[utoipa::path(
    get,
    operation_id = "openapi",
    tag = "gateway",
    path = "/openapi.json",
    responses((status = 200, description = "This document", body = String, content_type = "application/json"))
)]
pub(crate) async fn openapi(State(gateway): State<Arc<Gateway>>) -> Response<Body> {
    text("application/json", gateway.openapi.clone())
}
