//! Errors as HTTP, and the reading of bodies.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::de::DeserializeOwned;
use wire::fault::{Code, Fault};

/// A [`Fault`] on its way out.
#[derive(Debug)]
pub(super) struct ApiError(pub(super) Box<Fault>);

impl ApiError {
    /// A fault of this code, with this message.
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Fault::new(code, message).into()
    }
}

impl From<Fault> for ApiError {
    fn from(fault: Fault) -> Self {
        Self(Box::new(fault))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(&*self.0)).into_response()
    }
}

/// Reads a JSON body. What is wrong is told by place only: the text may hold
/// secrets, and the parser would quote it.
pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::new(Code::InvalidRequest, locate(&error)))
}

/// Where a JSON text is wrong, without quoting it.
pub(super) fn locate(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Data => "has not the fields or types of this call",
        _ => "is not JSON",
    };
    format!("the body {what}, at line {} column {}", error.line(), error.column())
}
