//! The x402 facilitator's routes: payments that other sellers take, settled by us.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Request, Response, StatusCode};
use wire::fault::Fault;
use x402::{ClientAddr, FacilitatorResponse};

use crate::edge::body::read_at_most;
use crate::edge::cors;
use crate::edge::source::RequestSource;
use crate::error::ApiError;
use crate::state::Gateway;

/// What is settled here: schemes, networks, versions.
#[utoipa::path(
    get,
    operation_id = "supported",
    tag = "facilitator",
    path = "/supported",
    responses((status = 200, description = "x402's list of kinds", body = Object), (status = "default", description = "What is wrong, by `code`", body = Fault))
)]
pub(crate) async fn supported(State(gateway): State<Arc<Gateway>>) -> Result<Response<Body>, ApiError> {
    respond(gateway.treasury()?.facilitator()?.supported())
}

/// Whether a payment would be settled. Sends nothing.
#[utoipa::path(
    post,
    operation_id = "verify",
    tag = "facilitator",
    path = "/verify",
    request_body = Object,
    responses((status = 200, description = "x402's verdict", body = Object), (status = "default", description = "What is wrong", body = Fault))
)]
pub(crate) async fn verify(
    State(gateway): State<Arc<Gateway>>,
    Extension(source): Extension<RequestSource>,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let body = gateway.asked(request).await?;
    respond(gateway.treasury()?.facilitator()?.verify(&body, gateway.now(), client_of(&source)).await)
}

/// Settles a payment, once.
#[utoipa::path(
    post,
    operation_id = "settle",
    tag = "facilitator",
    path = "/settle",
    request_body = Object,
    responses((status = 200, description = "x402's receipt", body = Object), (status = "default", description = "What is wrong", body = Fault))
)]
pub(crate) async fn settle(
    State(gateway): State<Arc<Gateway>>,
    Extension(source): Extension<RequestSource>,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let body = gateway.asked(request).await?;
    respond(gateway.treasury()?.facilitator()?.settle(&body, gateway.now(), rand::random(), client_of(&source)).await)
}

impl Gateway {
    async fn asked(&self, request: Request<Body>) -> Result<Vec<u8>, ApiError> {
        cors::need_json(&request)?;
        let most = usize::try_from(self.limits.body_bytes).unwrap_or(usize::MAX);
        Ok(read_at_most(request.into_body(), most, self.limits.body_ms).await?.to_vec())
    }
}

/// Whom places are counted by.
fn client_of(source: &RequestSource) -> ClientAddr {
    ClientAddr::of(source.address)
}

fn respond(answer: FacilitatorResponse) -> Result<Response<Body>, ApiError> {
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(seconds) = answer.retry_after_s {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_2_8_who_is_to_ask_a_facilitator_again_is_told_when_in_the_headers_too() {
        let answered = |status, retry_after_s| {
            let answer = respond(FacilitatorResponse { status, retry_after_s, body: b"{}".to_vec() }).unwrap();
            (answer.status().as_u16(), answer.headers().get(RETRY_AFTER).cloned())
        };
        assert_eq!(answered(503, Some(5)), (503, Some(5.into())));
        assert_eq!(answered(200, None), (200, None));
    }
}
