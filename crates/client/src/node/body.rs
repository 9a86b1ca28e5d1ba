//! A streamed answer of a node.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};
use tokio_util::task::AbortOnDropHandle;

use super::NodeError;

/// The body of a streamed answer. It holds its own connection: dropping it ends
/// the stream on the node.
#[derive(Debug)]
pub struct NodeBody {
    operation: &'static str,
    incoming: Incoming,
    silence: Option<Silence>,
    _connection: AbortOnDropHandle<()>,
}

/// How long the node may say nothing.
#[derive(Debug)]
struct Silence {
    most: Duration,
    ends: Pin<Box<Sleep>>,
}

impl Silence {
    fn new(most: Duration) -> Self {
        Self { most, ends: Box::pin(tokio::time::sleep(most)) }
    }

    fn restart(&mut self) {
        self.ends.as_mut().reset(Instant::now() + self.most);
    }
}

impl NodeBody {
    pub(super) fn new(
        operation: &'static str,
        incoming: Incoming,
        idle: Option<Duration>,
        connection: AbortOnDropHandle<()>,
    ) -> Self {
        Self { operation, incoming, silence: idle.map(Silence::new), _connection: connection }
    }

    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<NodeError> {
        let Some(silence) = &mut self.silence else { return Poll::Pending };
        ready!(silence.ends.as_mut().poll(cx));
        Poll::Ready(NodeError::TimedOut { operation: self.operation, after: silence.most })
    }
}

impl Body for NodeBody {
    type Data = Bytes;
    type Error = NodeError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, NodeError>>> {
        let this = &mut *self;
        let Poll::Ready(frame) = Pin::new(&mut this.incoming).poll_frame(cx) else {
            return this.poll_silence(cx).map(|late| Some(Err(late)));
        };
        if let Some(silence) = &mut this.silence {
            silence.restart();
        }
        let operation = this.operation;
        Poll::Ready(frame.map(|frame| frame.map_err(|error| NodeError::transport(operation, error))))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
