//! The shapes of what the API's handlers take and give.

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path, Query};
use domain::{AgentId, Wallet};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{Response, StatusCode, Uri};
use serde::Serialize;
use serde::de::DeserializeOwned;
use wire::fault::Code;

use crate::refusal::Refusal;

/// A JSON answer.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Result<Response<Body>, Refusal> {
    let body = serde_json::to_vec(body).map_err(|error| {
        tracing::error!(%error, "an answer cannot be written as JSON");
        Refusal::new(Code::Internal, "something failed on our side; the operator's log says what")
    })?;
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// A query string of this shape.
pub(crate) fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Refusal> {
    let Query(query) = Query::try_from_uri(uri)
        .map_err(|_| Refusal::invalid("the query string is not one of this path; see /openapi.json"))?;
    Ok(query)
}

/// `{id}` in a path. What cannot be an id is not found.
pub(crate) struct Id(pub(crate) AgentId);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Refusal;

    async fn from_request_parts(head: &mut Parts, state: &S) -> Result<Self, Refusal> {
        #[derive(serde::Deserialize)]
        struct Segment {
            id: AgentId,
        }
        let found: Result<Path<Segment>, PathRejection> = Path::from_request_parts(head, state).await;
        found.map(|Path(Segment { id })| Self(id)).map_err(|_| Refusal::not_found())
    }
}

/// `{wallet}` in a path.
pub(crate) struct WalletOf(pub(crate) Wallet);

impl<S: Send + Sync> FromRequestParts<S> for WalletOf {
    type Rejection = Refusal;

    async fn from_request_parts(head: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let found: Result<Path<Wallet>, PathRejection> = Path::from_request_parts(head, state).await;
        found.map(|Path(wallet)| Self(wallet)).map_err(|_| Refusal::invalid("a wallet is the base58 of 32 bytes"))
    }
}
