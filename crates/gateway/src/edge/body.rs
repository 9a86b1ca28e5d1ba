//! Bodies that are read whole, within bounds of size and time.

use std::time::Duration;

use axum::BoxError;
use axum::body::{Bytes, HttpBody};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use wire::fault::Code;

use crate::error::ApiError;

/// Reads a body, within these bounds of size and time.
pub(crate) async fn read_at_most<B>(body: B, most: usize, within_ms: u64) -> Result<Bytes, ApiError>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let too_large = || ApiError::new(Code::BodyTooLarge, format!("the body is larger than {most} bytes"));
    if usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX) > most {
        return Err(too_large());
    }
    let reading = Limited::new(body, most).collect();
    let Ok(read) = tokio::time::timeout(Duration::from_millis(within_ms), reading).await else {
        return Err(ApiError::invalid("the body did not arrive in time"));
    };
    match read {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(_) => Err(ApiError::invalid("the body ended before it was whole")),
    }
}
