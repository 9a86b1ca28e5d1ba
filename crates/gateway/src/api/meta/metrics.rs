//! `GET /metrics`: the recorder's figures, for those the operator named.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use http::header::HeaderMap;
use http::{Response, Version};
use wire::fault::Code;

use crate::api::extract::text;
use crate::edge::headers;
use crate::edge::source::RequestSource;
use crate::error::ApiError;
use crate::state::Gateway;

/// Prometheus' text, for those the operator named.
#[utoipa::path(
    get,
    operation_id = "metrics",
    tag = "gateway",
    path = "/metrics",
    responses((status = 200, description = "Prometheus' text", body = String, content_type = "text/plain"))
)]
pub(crate) async fn metrics(
    State(gateway): State<Arc<Gateway>>,
    Extension(source): Extension<RequestSource>,
    version: Version,
    headers: HeaderMap,
) -> Result<Response<Body>, ApiError> {
    let direct = source.trusted || !headers::passed_on(version, &headers);
    let allowed = direct && gateway.config.metrics_readers().contains(&source.address.to_canonical());
    let recorder = gateway.parts.metrics.as_ref().filter(|_| allowed);
    let recorder = recorder.ok_or_else(|| ApiError::new(Code::NotFound, "there is nothing at this path for you"))?;
    Ok(text("text/plain; version=0.0.4", recorder.render()))
}
