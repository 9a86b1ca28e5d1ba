//! Who may call: whoever holds the token that came with the identity.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use wire::fault::Code;

use super::error::ApiError;
use crate::agent::Pod;

/// E2B's header for the same token: its SDKs keep `Authorization` for the user.
const ACCESS_TOKEN: &str = "x-access-token";

/// Lets only the holder of the token through.
pub(super) async fn token(State(pod): State<Pod>, request: Request, next: Next) -> Response {
    let known = given(request.headers()).is_some_and(|token| pod.token_matches(token));
    if known {
        next.run(request).await
    } else {
        ApiError::new(Code::InvalidToken, "the token is absent or wrong").into_response()
    }
}

fn given(headers: &HeaderMap) -> Option<&str> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    text(AUTHORIZATION.as_str()).and_then(|value| value.strip_prefix("Bearer ")).or_else(|| text(ACCESS_TOKEN))
}
