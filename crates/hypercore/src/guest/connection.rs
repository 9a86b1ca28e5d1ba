//! One connection to `pod`.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use sandbox::{DriverFailure, GuestStream, RuntimeError};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use wire::Secret;
use wire::fault::Fault;

/// Bytes of an answer that is read whole.
const MAX_ANSWER: usize = 64 * 1024;

/// Why `pod` gave no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PodError {
    /// Its port cannot be reached.
    #[error("reach pod")]
    Unreachable(#[source] RuntimeError),
    /// The connection broke.
    #[error("talk to pod")]
    Broken(#[source] hyper::Error),
    /// It took too long.
    #[error("pod gave no answer within {0:?}")]
    Late(Duration),
    /// It said no.
    #[error("pod answered {status}: {said}")]
    Refused { status: StatusCode, said: String },
    /// It said something else.
    #[error("pod's answer is not one of its API: {0}")]
    Unclear(String),
}

impl PodError {
    /// Whether the guest's kernel has answered that nobody listens.
    pub(super) fn is_refused(&self) -> bool {
        let Self::Unreachable(RuntimeError::Failed { source: DriverFailure::Io(error), .. }) = self else {
            return false;
        };
        error.kind() == std::io::ErrorKind::ConnectionRefused
    }
}

/// How much of an unexpected answer is repeated.
const SAID_CHARS: usize = 400;

/// A connection over which one request goes at a time.
pub(crate) struct PodConnection<B = Full<Bytes>> {
    sender: SendRequest<B>,
    _driver: AbortOnDropHandle<()>,
}

impl<B> PodConnection<B>
where
    B: hyper::body::Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Speaks HTTP over a link.
    pub(crate) async fn over(link: Box<dyn GuestStream>) -> Result<Self, PodError> {
        let (sender, connection) = handshake(TokioIo::new(link)).await.map_err(PodError::Broken)?;
        let driver = tokio::spawn(async move {
            // Whoever asked hears of it through the answer.
            let _ = connection.with_upgrades().await;
        });
        Ok(Self { sender, _driver: AbortOnDropHandle::new(driver) })
    }

    /// Sends a request and waits for the head of its answer.
    pub(crate) async fn send(&mut self, request: Request<B>, within: Duration) -> Result<Response<Incoming>, PodError> {
        let answer = async {
            self.sender.ready().await?;
            self.sender.send_request(request).await
        };
        timeout(within, answer).await.map_err(|_| PodError::Late(within))?.map_err(PodError::Broken)
    }

    /// Takes the connection apart; the second half keeps it alive.
    pub(crate) fn into_driver(self) -> AbortOnDropHandle<()> {
        self._driver
    }
}

impl PodConnection {
    /// Sends a request and reads its answer whole.
    pub(crate) async fn ask(&mut self, request: Request<Full<Bytes>>, within: Duration) -> Result<Bytes, PodError> {
        timeout(within, async {
            let response = self.send(request, within).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            let body = body.map_err(|error| PodError::Unclear(error.to_string()))?.to_bytes();
            if status.is_success() {
                return Ok(body);
            }
            let fault = serde_json::from_slice::<Fault>(&body).ok().map(|fault| fault.error);
            let said = fault.unwrap_or_else(|| String::from_utf8_lossy(&body).into_owned());
            let said = said.chars().take(SAID_CHARS).collect();
            Err(PodError::Refused { status, said })
        })
        .await
        .unwrap_or(Err(PodError::Late(within)))
    }
}

/// A request to `pod`, with the node's credential.
pub(crate) fn request(
    method: Method,
    path: &str,
    token: Option<&Secret>,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, PodError> {
    let mut builder = Request::builder().method(method).uri(path).header(HOST, "pod");
    if let Some(token) = token {
        builder = builder.header(AUTHORIZATION, bearer(token)?);
    }
    if !body.is_empty() {
        builder = builder.header(CONTENT_TYPE, "application/json");
    }
    builder.body(Full::new(body)).map_err(|error| PodError::Unclear(error.to_string()))
}

/// The credential as a header that is never printed.
fn bearer(token: &Secret) -> Result<HeaderValue, PodError> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
        .map_err(|_| PodError::Unclear("the token is no header".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}
