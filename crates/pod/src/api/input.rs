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
use wire::process::{EndOfStream, RpcCode, RpcError, STREAM_TYPE, StreamInputRequest};

use super::process::{Call, Caller, Nothing, fault, parse, unsupported};
use crate::exec::{Process, envelope, refusal};
use crate::pod::Pod;

/// `POST /process.Process/StreamInput`. The answer begins at once, so that whoever
/// waits for it knows that the guest listens, and ends with the input.
pub(super) async fn stream_input(State(pod): State<Pod>, headers: HeaderMap, body: Body) -> Response {
    let caller = Caller { pod, headers };
    if !caller.has_type(STREAM_TYPE) {
        return unsupported(STREAM_TYPE);
    }
    let answer = stream::once(async move {
        let taken = take(&caller, body).await;
        Ok::<_, Infallible>(taken.map_or_else(refusal, |()| done()))
    });
    ([(CONTENT_TYPE, STREAM_TYPE)], Body::from_stream(answer)).into_response()
}

/// The one message of the answer, and its end.
fn done() -> Bytes {
    let mut bytes = BytesMut::from(&envelope(false, &Nothing {})[..]);
    bytes.extend_from_slice(&envelope(true, &EndOfStream::default()));
    bytes.freeze()
}

async fn take(caller: &Caller, body: Body) -> Call<()> {
    let full = || fault(RpcCode::ResourceExhausted, "too many streams are open");
    let _place = caller.pod.stream_place().ok_or_else(full)?;
    let deadline = caller.timeout()?.map(|left| Instant::now() + left);
    let mut messages = Messages { body: body.into_data_stream(), bytes: BytesMut::new() };
    let Some(StreamInputRequest::Start(select)) = messages.next().await? else {
        return Err(fault(RpcCode::InvalidArgument, "it does not begin with a start"));
    };
    let process = caller.pod.table().find(&select.process)?;
    let mut whole = Whole(Some(Arc::clone(&process)));
    let fed = match deadline {
        None => feed(&process, messages).await,
        Some(at) => timeout_at(at, feed(&process, messages)).await.unwrap_or(Err(Unfed::Late)),
    };
    match fed {
        Ok(()) => whole.is_it(),
        Err(Unfed::Reader(error)) => {
            whole.is_it();
            return Err(error);
        }
        Err(Unfed::Input(error)) => return Err(error),
        Err(Unfed::Late) => return Err(fault(RpcCode::DeadlineExceeded, "the process did not read all of its input")),
    }
    Ok(())
}

/// Why a process did not get all of its input.
enum Unfed {
    /// It reads no more.
    Reader(RpcError),
    /// The input broke off, or makes no sense.
    Input(RpcError),
    /// The call's time is over.
    Late,
}

async fn feed(process: &Process, mut messages: Messages) -> Result<(), Unfed> {
    loop {
        let message = tokio::select! {
            message = messages.next() => message.map_err(Unfed::Input)?,
            ended = process.ended() => return Err(Unfed::Reader(ended)),
        };
        match message {
            None => return Ok(()),
            Some(StreamInputRequest::Keepalive(_)) => {}
            Some(StreamInputRequest::Data(piece)) => process.feed(&piece.input).await.map_err(Unfed::Reader)?,
            Some(StreamInputRequest::Start(_)) => {
                return Err(Unfed::Input(fault(RpcCode::InvalidArgument, "it has begun already")));
            }
        }
    }
}

/// The messages of a request that goes on.
struct Messages {
    body: BodyDataStream,
    bytes: BytesMut,
}

impl Messages {
    /// The next one; `None` after the last. Safe to cancel.
    async fn next(&mut self) -> Call<Option<StreamInputRequest>> {
        let invalid = |error: wire::connect::EnvelopeError| fault(RpcCode::InvalidArgument, error.to_string());
        loop {
            match Envelope::decode(&mut self.bytes).map_err(invalid)? {
                Some(envelope) if envelope.end => return Ok(None),
                Some(envelope) => return parse(&envelope.message).map(Some),
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
struct Whole(Option<Arc<Process>>);

impl Whole {
    /// It is, or nobody reads it any more.
    fn is_it(&mut self) {
        self.0 = None;
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        let runtime = tokio::runtime::Handle::try_current();
        if let (Some(process), Ok(runtime)) = (self.0.take(), runtime) {
            runtime.spawn(async move { process.hang_up().await });
        }
    }
}
