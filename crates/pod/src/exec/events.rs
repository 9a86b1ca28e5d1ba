//! One attached client's stream: envelopes, keepalives, a deadline.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{Stream, unfold};
use serde::Serialize;
use tokio::time::{Instant, sleep_until};
use wire::connect::Envelope;
use wire::process::{EndOfStream, Keepalive, ProcessEvent, ProcessEventFrame, RpcCode, RpcError, Started};
use wire::proto::ToProto;

use super::broadcast::{OutputReceived, Subscriber};
use crate::codec::Codec;

/// What the client's headers ask for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamOptions {
    /// The pause on a silent stream before a keepalive.
    pub(crate) keepalive: Duration,
    /// When the call is over.
    pub(crate) deadline: Option<Instant>,
    /// The form of its messages.
    pub(crate) codec: Codec,
}

/// What comes next on the stream.
enum StreamState {
    Start(u32),
    Output,
    EndOfStream(Option<RpcError>),
    Closed,
}

struct EventStream<K> {
    state: StreamState,
    reader: Subscriber,
    options: StreamOptions,
    /// Given back when the stream ends.
    _permit: K,
}

/// The stream of a process's events: `start`, output, `end`, end of stream.
/// It keeps `permit` as long as it lives.
pub(crate) fn events<K>(
    pid: u32,
    reader: Subscriber,
    options: StreamOptions,
    permit: K,
) -> impl Stream<Item = Bytes> + use<K> {
    let stream = EventStream { state: StreamState::Start(pid), reader, options, _permit: permit };
    unfold(stream, |mut stream| async move { stream.next().await.map(|bytes| (bytes, stream)) })
}

impl<K> EventStream<K> {
    async fn next(&mut self) -> Option<Bytes> {
        match std::mem::replace(&mut self.state, StreamState::Output) {
            StreamState::Start(pid) => Some(self.event(ProcessEvent::Start(Started { pid }))),
            StreamState::Output => Some(self.next_output().await),
            StreamState::EndOfStream(error) => {
                self.state = StreamState::Closed;
                Some(end_of_stream(error))
            }
            StreamState::Closed => {
                self.state = StreamState::Closed;
                None
            }
        }
    }

    async fn next_output(&mut self) -> Bytes {
        tokio::select! {
            biased;
            received = self.reader.next() => self.encode(received),
            () = until(self.options.deadline) => {
                self.fail(RpcCode::DeadlineExceeded, "the call's time is over")
            }
            () = tokio::time::sleep(self.options.keepalive) => self.event(ProcessEvent::Keepalive(Keepalive {})),
        }
    }

    fn encode(&mut self, received: OutputReceived) -> Bytes {
        match received {
            OutputReceived::Output(output) => self.event(ProcessEvent::Data((*output).clone())),
            OutputReceived::Exited(ended) => {
                self.state = StreamState::EndOfStream(None);
                self.event(ProcessEvent::End(ended))
            }
            OutputReceived::Lagged => {
                self.fail(RpcCode::ResourceExhausted, "output was not read for too long; attach again")
            }
        }
    }

    fn fail(&mut self, code: RpcCode, message: &str) -> Bytes {
        self.state = StreamState::Closed;
        end_of_stream(Some(RpcError { code, message: message.to_owned() }))
    }

    fn event(&self, event: ProcessEvent) -> Bytes {
        envelope(self.options.codec, &ProcessEventFrame { event })
    }
}

/// Waits for the end of a call's time; for ever where it has none.
pub(crate) async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// An envelope around this message.
pub(crate) fn envelope(codec: Codec, message: &(impl Serialize + ToProto)) -> Bytes {
    enveloped(false, codec.encode(message))
}

/// What a stream ends with: by itself, or for this reason. JSON, whatever its messages are.
pub(crate) fn end_of_stream(error: Option<RpcError>) -> Bytes {
    // Two texts always serialise.
    enveloped(true, serde_json::to_vec(&EndOfStream { error }).unwrap_or_default().into())
}

fn enveloped(end: bool, message: Bytes) -> Bytes {
    let mut bytes = BytesMut::new();
    Envelope { end, message }.encode(&mut bytes);
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use super::super::broadcast::OutputBroadcast;
    use super::*;
    use futures_util::StreamExt as _;
    use wire::process::{Base64, Ended, Output};

    async fn texts(stream: impl Stream<Item = Bytes>) -> Vec<(bool, String)> {
        let all: Vec<Bytes> = stream.collect().await;
        let mut bytes = BytesMut::from(&all.concat()[..]);
        let envelopes = std::iter::from_fn(|| Envelope::decode(&mut bytes).unwrap());
        envelopes.map(|one| (one.end, String::from_utf8(one.message.to_vec()).unwrap())).collect()
    }

    const SLOW: StreamOptions =
        StreamOptions { keepalive: Duration::from_secs(90), deadline: None, codec: Codec::Json };

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_start_output_end_and_the_end_of_stream() {
        let output = OutputBroadcast::new();
        output.push(Output::Stdout(Base64(b"hi\n".to_vec()))).await;
        output.end(Ended { exited: true, status: "exit status 0".to_owned(), ..Ended::default() });
        let seen = texts(events(7, output.subscribe(), SLOW, ())).await;
        let expected = [
            (false, r#"{"event":{"start":{"pid":7}}}"#),
            (false, r#"{"event":{"data":{"stdout":"aGkK"}}}"#),
            (false, r#"{"event":{"end":{"exitCode":0,"exited":true,"status":"exit status 0"}}}"#),
            (true, "{}"),
        ];
        assert_eq!(seen, expected.map(|(end, text)| (end, text.to_owned())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_in_protobuf_says_the_same_and_ends_in_json() {
        let output = OutputBroadcast::new();
        output.push(Output::Stdout(Base64(b"hi\n".to_vec()))).await;
        output.end(Ended { exited: true, status: "exit status 0".to_owned(), ..Ended::default() });
        let all: Vec<Bytes> =
            events(7, output.subscribe(), StreamOptions { codec: Codec::Proto, ..SLOW }, ()).collect().await;
        let mut bytes = BytesMut::from(&all.concat()[..]);
        let seen: Vec<_> = std::iter::from_fn(|| Envelope::decode(&mut bytes).unwrap()).collect();
        assert_eq!(seen[0].message[..], [0x0a, 4, 0x0a, 2, 8, 7]);
        assert_eq!(seen[1].message[..], *b"\x0a\x07\x12\x05\x0a\x03hi\n");
        assert!(seen[2].message.ends_with(b"exit status 0") && !seen[2].end);
        assert_eq!((seen[3].end, &seen[3].message[..], seen.len()), (true, &b"{}"[..], 4));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_shows_that_it_lives_and_ends_at_its_deadline() {
        let output = OutputBroadcast::new();
        let deadline = Some(Instant::now() + Duration::from_millis(2_500));
        let options = StreamOptions { keepalive: Duration::from_secs(1), deadline, codec: Codec::Json };
        let seen = texts(events(7, output.subscribe(), options, ())).await;
        let keepalives = seen.iter().filter(|(_, text)| text == r#"{"event":{"keepalive":{}}}"#).count();
        assert_eq!(keepalives, 2);
        let (end, last) = seen.last().unwrap();
        assert!(*end && last.contains("deadline_exceeded"), "{last}");
    }
}
