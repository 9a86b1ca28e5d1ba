//! The shapes of what the API's handlers take and give.

use axum::body::Body;
use axum::extract::path::ErrorKind;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path, Query};
use domain::{PodId, Wallet};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{Response, StatusCode, Uri};
use serde::Serialize;
use serde::de::DeserializeOwned;
use wire::fault::{Code, Fault};

use crate::error::ApiError;

/// The longest text of a caller's that is repeated to it.
const MAX_QUOTED: usize = 128;

/// A JSON answer.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Result<Response<Body>, ApiError> {
    let body = serde_json::to_vec(body).map_err(|error| {
        tracing::error!(%error, "an answer cannot be written as JSON");
        ApiError::new(Code::Internal, "something failed on our side; the operator's log says what")
    })?;
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// A text of this kind.
pub(crate) fn text(kind: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// A query string of this shape.
pub(crate) fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, ApiError> {
    let Query(query) = Query::try_from_uri(uri)
        .map_err(|_| ApiError::invalid("the query string is not one of this path; see /openapi.json"))?;
    Ok(query)
}

/// `{id}` in a path. What cannot be an id is not found.
pub(crate) struct PodPath(pub(crate) PodId);

impl<S: Send + Sync> FromRequestParts<S> for PodPath {
    type Rejection = ApiError;

    async fn from_request_parts(head: &mut Parts, state: &S) -> Result<Self, ApiError> {
        #[derive(serde::Deserialize)]
        struct Segment {
            id: PodId,
        }
        let found: Result<Path<Segment>, PathRejection> = Path::from_request_parts(head, state).await;
        found.map(|Path(Segment { id })| Self(id)).map_err(|_| ApiError::not_found())
    }
}

/// The variable parts of a path.
pub(crate) struct PathParams<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for PathParams<T> {
    type Rejection = ApiError;

    async fn from_request_parts(head: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let found: Result<Path<T>, PathRejection> = Path::from_request_parts(head, state).await;
        found.map(|Path(segments)| Self(segments)).map_err(|error| unread(&error))
    }
}

/// What is wrong with a path, and in which part where that is known.
fn unread(error: &PathRejection) -> ApiError {
    let fault = Fault::new(Code::InvalidRequest, "a part of the path is not text");
    match error {
        PathRejection::FailedToDeserializePathParams(error) => match error.kind() {
            ErrorKind::InvalidUtf8InPathParam { key } => fault.field(key.clone()).into(),
            _ => fault.into(),
        },
        _ => fault.into(),
    }
}

/// `{wallet}` in a path.
pub(crate) struct WalletPath(pub(crate) Wallet);

impl<S: Send + Sync> FromRequestParts<S> for WalletPath {
    type Rejection = ApiError;

    async fn from_request_parts(head: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let found: Result<Path<Wallet>, PathRejection> = Path::from_request_parts(head, state).await;
        found.map(|Path(wallet)| Self(wallet)).map_err(|_| ApiError::invalid("a wallet is the base58 of 32 bytes"))
    }
}

/// A body of this shape.
pub(crate) fn parse_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| misread(&error))
}

/// What is wrong with a body. serde's own words may quote a value, and a value
/// may be a secret: only those that name a field are passed on.
fn misread(error: &serde_json::Error) -> ApiError {
    let said = error.to_string();
    let field = said.split('`').nth(1).map(shortened).unwrap_or_default();
    // What is expected there are names of ours.
    let known = said.split(", expected ").nth(1).and_then(|rest| rest.split(" at line").next()).unwrap_or("less");
    let fault = |text: String| Fault::new(Code::InvalidRequest, text);
    let fault = if said.starts_with("missing field") {
        fault(format!("the body lacks {field}")).field(field)
    } else if said.starts_with("duplicate field") {
        fault(format!("the body holds {field} twice")).field(field)
    } else if said.starts_with("unknown field") {
        fault(format!("the body's field {field:?} is not known; expected {known}")).field(field)
    } else {
        fault(format!("the body is not the JSON of this path: line {}, column {}", error.line(), error.column()))
    };
    fault.into()
}

pub(crate) fn shortened(text: &str) -> String {
    text.chars().take(MAX_QUOTED).collect()
}

#[cfg(test)]
mod tests {
    use wire::v1::public::SpawnRequest;

    use super::*;

    fn said(body: &str) -> Fault {
        misread(&serde_json::from_str::<SpawnRequest>(body).unwrap_err()).into()
    }

    #[test]
    fn a_misread_body_names_the_field_and_never_a_value() {
        let missing = serde_json::from_str::<wire::v1::vault::Prices>("{}").unwrap_err();
        assert_eq!(Fault::from(misread(&missing)).field.as_deref(), Some("prices"));
        assert_eq!(said(r#"{"agent_type": "a", "gpus": 8}"#).field.as_deref(), Some("gpus"));
        assert_eq!(said(r#"{"agent_type": "a", "agent_type": "a"}"#).field.as_deref(), Some("agent_type"));
        for body in [
            r#"{"agent_type": "a", "env": "hush"}"#,
            r#"{"agent_type": "a", "env": {"KEY": ["hush"]}}"#,
            r#"{"agent_type": "a", "public": "hush"}"#,
            r#"hush"#,
        ] {
            let fault = said(body);
            assert!(!fault.to_string().contains("hush"), "{fault}");
        }
    }

    #[test]
    fn an_endless_field_name_is_cut() {
        let fault = said(&format!(r#"{{"{}": 1}}"#, "x".repeat(10_000)));
        assert!(fault.error.len() < 400, "{}", fault.error.len());
    }
}
