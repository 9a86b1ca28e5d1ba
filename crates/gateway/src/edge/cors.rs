//! What pages of browsers may ask the API for.
//!
//! A page of any site can send a form, or plain text, to a gateway that its browser
//! reaches, without the gateway being asked first. A body of JSON by its content
//! type cannot be sent that way: it is asked for, and granted to the configured
//! origins alone.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Method, Request};
use tower_http::cors::{AllowOrigin, CorsLayer};
use wire::fault::Code;
use wire::v1::images::{UPLOAD_COMPLETE, UPLOAD_LENGTH, UPLOAD_OFFSET};
use wire::v1::keys::X_API_KEY;
use wire::v1::public::{IDEMPOTENCY_KEY, X_AUDIENCE, X_SIGNATURE, X_TIMESTAMP, X_WALLET};

use crate::edge::hosts::Origin;
use crate::edge::trace::X_TRACE_ID;
use crate::error::ApiError;

/// How long a browser may remember what it was granted.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Refuses a body that does not say that it is JSON. Everything that reads a body of
/// the API's asks this first.
pub(crate) fn need_json(request: &Request<Body>) -> Result<(), ApiError> {
    if request.body().is_end_stream() || is_json(request.headers()) {
        return Ok(());
    }
    Err(ApiError::new(Code::UnsupportedMediaType, "send the body with Content-Type: application/json"))
}

fn is_json(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next().and_then(|value| value.to_str().ok()), values.next()) else {
        return false;
    };
    let kind = value.split(';').next().unwrap_or(value).trim().to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

/// What browsers are told for pages of these origins.
pub(crate) fn cors(origins: &BTreeSet<Origin>) -> CorsLayer {
    let allowed = if origins.iter().any(Origin::is_any) {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::try_from(origin.to_string()).ok()))
    };
    let asked = [
        X_WALLET,
        X_SIGNATURE,
        X_TIMESTAMP,
        X_AUDIENCE,
        X_API_KEY,
        IDEMPOTENCY_KEY,
        "connect-protocol-version",
        UPLOAD_OFFSET,
    ];
    let asked = asked.map(HeaderName::from_static).into_iter();
    let asked = asked.chain([CONTENT_TYPE, AUTHORIZATION, x402::PAYMENT_SIGNATURE, x402::X_PAYMENT]);
    let told = [X_TRACE_ID, RETRY_AFTER, x402::PAYMENT_REQUIRED, x402::PAYMENT_RESPONSE, x402::X_PAYMENT_RESPONSE];
    let uploads = [UPLOAD_OFFSET, UPLOAD_LENGTH, UPLOAD_COMPLETE].map(HeaderName::from_static);
    CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers(asked.collect::<Vec<_>>())
        .expose_headers(told.into_iter().chain(uploads).collect::<Vec<_>>())
        .max_age(REMEMBERED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_says_so_is_json() {
        let says = |kinds: &[&str]| {
            is_json(&kinds.iter().map(|kind| (CONTENT_TYPE, kind.parse().unwrap())).collect::<HeaderMap>())
        };
        for kind in ["application/json", "Application/JSON; charset=utf-8", "application/connect+json"] {
            assert!(says(&[kind]), "{kind}");
        }
        for kind in ["text/plain", "text/plain; application/json", "application/x-www-form-urlencoded", "text/json", ""]
        {
            assert!(!says(&[kind]), "{kind}");
        }
        assert!(!says(&[]) && !says(&["application/json", "text/plain"]));
    }
}
