//! `StreamInput`: a process's input as one call, taken as fast as the process reads.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, BodyDataStream};
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use tokio::time::{Instant, timeout_at};
use wire::connect::Envelope;
use wire::process::{RpcCode, RpcError, StreamInputRequest};
use wire::proto::Empty;

use super::rpc::{RpcCall, RpcResult, fault};
use crate::agent::Pod;
use crate::codec::Codec;
use crate::exec::{Process, end_of_stream, envelope};

/// `POST /process.Process/StreamInput`. The answer begins at once, so that whoever
/// waits for it knows that the pod listens, and ends with the input.
pub(super) async fn stream_input(State(pod): State<Pod>, headers: HeaderMap, body: Body) -> Response {
    let call = match RpcCall::of_stream(pod, headers) {
        Ok(call) => call,
        Err(refused) => return refused.into_response(),
    };
    let codec = call.codec;
    let answer = stream::once(async move {
        let received = receive(&call, body).await;
        Ok::<_, Infallible>(received.map_or_else(|error| end_of_stream(Some(error)), |()| done(codec)))
    });
    ([(CONTENT_TYPE, codec.stream_type())], Body::from_stream(answer)).into_response()
}

/// The one message of the answer, and its end.
fn done(codec: Codec) -> Bytes {
    let mut bytes = BytesMut::from(&envelope(codec, &Empty {})[..]);
    bytes.extend_from_slice(&end_of_stream(None));
    bytes.freeze()
}

async fn receive(call: &RpcCall, body: Body) -> RpcResult<()> {
    let full = || fault(RpcCode::ResourceExhausted, "too many streams are open");
    let _permit = call.pod.stream_permit().ok_or_else(full)?;
    let deadline = call.timeout()?.map(|left| Instant::now() + left);
    let mut messages = Messages { call, body: body.into_data_stream(), bytes: BytesMut::new() };
    let Some(StreamInputRequest::Start(select)) = messages.next().await? else {
        return Err(fault(RpcCode::InvalidArgument, "it does not begin with a start"));
    };
    let process = call.pod.processes().find(&select.process)?;
    let mut guard = HangUpOnDrop(Some(Arc::clone(&process)));
    let written = match deadline {
        None => write_all(&process, messages).await,
        Some(at) => timeout_at(at, write_all(&process, messages)).await.unwrap_or(Err(InputError::DeadlineExceeded)),
    };
    match written {
        Ok(()) => guard.disarm(),
        Err(InputError::Process(error)) => {
            guard.disarm();
            return Err(error);
        }
        Err(InputError::Message(error)) => return Err(error),
        Err(InputError::DeadlineExceeded) => {
            return Err(fault(RpcCode::DeadlineExceeded, "the process did not read all of its input"));
        }
    }
    Ok(())
}

/// Why a process did not get all of its input.
enum InputError {
    /// It reads no more.
    Process(RpcError),
    /// The input broke off, or makes no sense.
    Message(RpcError),
    /// The call's time is over.
    DeadlineExceeded,
}

async fn write_all(process: &Process, mut messages: Messages<'_>) -> Result<(), InputError> {
    loop {
        let message = tokio::select! {
            message = messages.next() => message.map_err(InputError::Message)?,
            ended = process.ended() => return Err(InputError::Process(ended)),
        };
        match message {
            None => return Ok(()),
            Some(StreamInputRequest::Keepalive(_)) => {}
            Some(StreamInputRequest::Data(piece)) => {
                process.write_unbounded(&piece.input).await.map_err(InputError::Process)?
            }
            Some(StreamInputRequest::Start(_)) => {
                return Err(InputError::Message(fault(RpcCode::InvalidArgument, "it has begun already")));
            }
        }
    }
}

/// The messages of a request that goes on.
struct Messages<'a> {
    call: &'a RpcCall,
    body: BodyDataStream,
    bytes: BytesMut,
}

impl Messages<'_> {
    /// The next one; `None` after the last. Safe to cancel.
    async fn next(&mut self) -> RpcResult<Option<StreamInputRequest>> {
        let invalid = |error: wire::connect::EnvelopeError| fault(RpcCode::InvalidArgument, error.to_string());
        loop {
            match Envelope::decode(&mut self.bytes).map_err(invalid)? {
                Some(envelope) if envelope.end => return Ok(None),
                Some(envelope) => return self.call.parse(&envelope.message).map(Some),
                None => {}
            }
            match self.body.next().await {
                Some(Ok(bytes)) => self.bytes.extend_from_slice(&bytes),
                None if self.bytes.is_empty() => return Ok(None),
                Some(Err(_)) | None => return Err(fault(RpcCode::Canceled, "the input broke off")),
            }
        }
    }
}

/// Ends a process whose input turns out not to be whole, however that is noticed: it
/// would take its beginning for all of it, or wait for the rest for ever.
struct HangUpOnDrop(Option<Arc<Process>>);

impl HangUpOnDrop {
    /// Its input is whole, or nobody reads it any more.
    fn disarm(&mut self) {
        self.0 = None;
    }
}

impl Drop for HangUpOnDrop {
    fn drop(&mut self) {
        let runtime = tokio::runtime::Handle::try_current();
        if let (Some(process), Ok(runtime)) = (self.0.take(), runtime) {
            runtime.spawn(async move { process.hang_up().await });
        }
    }
}
