//! Answers that go on: an agent's lines, and its changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use domain::PodId;
use futures_util::stream::{BoxStream, StreamExt, unfold};
use reqwest::Response;
use sse_stream::{Sse, SseByteStream};
use wire::v1::public::StateChange;

use super::http::{Call, is_of};
use super::{ClientError, GatewayClient};
use crate::LogSource;

/// Bytes between two events of a stream, at most.
const MAX_EVENT: usize = 1024 * 1024;
/// The content type of server-sent events.
pub(super) const EVENT_STREAM: &str = "text/event-stream";

/// A stream that its reader may hold as long as it likes.
pub(super) type EventStream<T> = BoxStream<'static, Result<T, ClientError>>;

impl GatewayClient {
    /// The text that an agent wrote; with `follow`, what it goes on to write.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn logs(&self, id: PodId, source: LogSource, follow: bool) -> Result<EventStream<Bytes>, ClientError> {
        let operation = "read the agent's output";
        let path = format!("/agents/{id}/logs?follow={follow}&source={}", source.as_str());
        let response = self.streamed(Call::get(operation, path, self.limits.read)).await?;
        let idle = (!follow).then_some(self.limits.logs_idle);
        Ok(chunks(operation, response, idle))
    }

    /// Every change of an agent's state after number `after`, over one connection.
    ///
    /// # Errors
    /// See [`ClientError`]; a connection that breaks ends the stream, and one may
    /// come back with the last `seq`, as [`Self::follow`] does by itself.
    pub async fn events(&self, id: PodId, after: u64) -> Result<EventStream<StateChange>, ClientError> {
        let operation = "follow the agent's changes";
        let call = Call::get(operation, format!("/agents/{id}/events"), self.limits.read)
            .header("accept", EVENT_STREAM)?
            .header("last-event-id", &after.to_string())?;
        let response = self.streamed(call).await?;
        if !is_of(&response, EVENT_STREAM) {
            return Err(ClientError::protocol(operation, "it is not an event stream"));
        }
        let changes = events(operation, response, self.limits.events_idle);
        Ok(changes
            .filter_map(move |event| async move { event.and_then(|event| change(operation, &event)).transpose() })
            .boxed())
    }
}

fn change(operation: &'static str, event: &Sse) -> Result<Option<StateChange>, ClientError> {
    match (event.event.as_deref(), &event.data) {
        (Some("state"), Some(data)) => {
            serde_json::from_str(data).map(Some).map_err(|error| ClientError::protocol(operation, error))
        }
        _ => Ok(None),
    }
}

/// The body's pieces as they come; silence longer than `idle` is an error.
pub(super) fn chunks(operation: &'static str, response: Response, idle: Option<Duration>) -> EventStream<Bytes> {
    unfold(Some(response), move |response| async move {
        let mut response = response?;
        let next = response.chunk();
        let chunk = match idle {
            Some(after) => tokio::time::timeout(after, next).await.map_err(|_| (operation, after)),
            None => Ok(next.await),
        };
        match chunk {
            Ok(Ok(Some(bytes))) => Some((Ok(bytes), Some(response))),
            Ok(Ok(None)) => None,
            Ok(Err(error)) => Some((Err(ClientError::transport(operation, error)), None)),
            Err((operation, after)) => Some((Err(ClientError::TimedOut { operation, after }), None)),
        }
    })
    .boxed()
}

/// The body's server-sent events, each of a bounded size.
pub(super) fn events(operation: &'static str, response: Response, idle: Duration) -> EventStream<Sse> {
    let unread = Arc::new(AtomicUsize::new(0));
    let counted = {
        let unread = Arc::clone(&unread);
        chunks(operation, response, Some(idle)).map(move |chunk| {
            let chunk = chunk?;
            if unread.fetch_add(chunk.len(), Ordering::Relaxed) > MAX_EVENT {
                return Err(ClientError::protocol(operation, format!("an event is larger than {MAX_EVENT} bytes")));
            }
            Ok(chunk)
        })
    };
    SseByteStream::new(counted)
        .map(move |event| {
            unread.store(0, Ordering::Relaxed);
            event.map_err(|error| undecoded(operation, error))
        })
        .boxed()
}

/// Our own errors come back out of the decoder as they went in.
fn undecoded(operation: &'static str, error: sse_stream::Error) -> ClientError {
    match error {
        sse_stream::Error::Body(inner) => match inner.downcast::<ClientError>() {
            Ok(ours) => *ours,
            Err(other) => ClientError::protocol(operation, other),
        },
        other => ClientError::protocol(operation, other),
    }
}
