//! One request and its answer, on a connection of its own.
//!
//! A connection to a Unix socket costs some tens of microseconds, and one that
//! nobody shares cannot be held up, poisoned or reused after its server died.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio_util::task::AbortOnDropHandle;
use wire::fault::Fault;

use super::NodeError;

/// Bytes of an answer that is read whole, at most.
pub(super) const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// The pause before a node is knocked at again whose queue of connections is full.
const RETRY_PAUSE: Duration = Duration::from_millis(5);

/// An answer whose body still flows. Dropping it ends the connection.
pub(super) struct Answer {
    pub(super) response: Response<Incoming>,
    pub(super) connection: AbortOnDropHandle<()>,
}

/// Opens a connection, sends the request and waits for the answer's head.
pub(super) async fn send<B>(operation: &'static str, socket: &Path, request: Request<B>) -> Result<Answer, NodeError>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = connect(socket).await.map_err(|source| NodeError::NotConnected { operation, source })?;
    let broken = |error| NodeError::transport(operation, error);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let connection = AbortOnDropHandle::new(tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, operation, "a connection to a node broke");
        }
    }));
    let response = sender.send_request(request).await.map_err(broken)?;
    Ok(Answer { response, connection })
}

/// Opens a connection. A node that has more waiting than its system lets wait is
/// knocked at again; the call's deadline ends that.
async fn connect(socket: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(socket).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(RETRY_PAUSE).await,
            done => return done,
        }
    }
}

impl Answer {
    /// Reads the body, at most [`MAX_ANSWER`] bytes of it.
    pub(super) async fn whole(self, operation: &'static str) -> Result<Bytes, NodeError> {
        let body = Limited::new(self.response.into_body(), MAX_ANSWER);
        let read = body.collect().await.map_err(|error| unread(operation, error))?;
        Ok(read.to_bytes())
    }

    /// The answer if it is a success; what the node said against it if not.
    pub(super) async fn accepted(self, operation: &'static str) -> Result<Self, NodeError> {
        let status = self.response.status();
        if status.is_success() {
            return Ok(self);
        }
        let body = self.whole(operation).await?;
        Err(match serde_json::from_slice::<Fault>(&body) {
            Ok(fault) => NodeError::Refused(Box::new(fault)),
            Err(_) => NodeError::protocol(operation, format!("status {status} without a fault")),
        })
    }

    /// The answer's body as JSON of this type.
    pub(super) async fn json<T: DeserializeOwned>(self, operation: &'static str) -> Result<T, NodeError> {
        let body = self.accepted(operation).await?.whole(operation).await?;
        serde_json::from_slice(&body).map_err(|error| NodeError::protocol(operation, error.to_string()))
    }

    /// The answer's body as text.
    pub(super) async fn text(self, operation: &'static str) -> Result<String, NodeError> {
        let body = self.accepted(operation).await?.whole(operation).await?;
        String::from_utf8(body.into()).map_err(|_| NodeError::protocol(operation, "the text is not UTF-8"))
    }
}

fn unread(operation: &'static str, error: Box<dyn std::error::Error + Send + Sync>) -> NodeError {
    if error.is::<LengthLimitError>() {
        return NodeError::protocol(operation, format!("the answer is larger than {MAX_ANSWER} bytes"));
    }
    match error.downcast::<hyper::Error>() {
        Ok(error) => NodeError::transport(operation, *error),
        Err(source) => NodeError::ConnectionLost { operation, source },
    }
}
