//! Bodies come whole, within bounds of size and time, before any call sees them.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use tokio::time::timeout;
use wire::fault::Code;

use super::error::ApiError;

/// Bytes of a body: an environment of 64 KiB, escaped, twice; 128 KiB of input in base64.
const MAX_BODY: usize = 512 * 1024;
/// How long a body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Takes the whole body in.
pub(super) async fn whole(request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    match timeout(BODY_TIMEOUT, to_bytes(body, MAX_BODY)).await {
        Ok(Ok(bytes)) => next.run(Request::from_parts(head, Body::from(bytes))).await,
        Ok(Err(_)) => ApiError::new(Code::BodyTooLarge, "the body is too large, or was cut off").into_response(),
        Err(_) => ApiError::new(Code::InvalidRequest, "the body took too long").into_response(),
    }
}
