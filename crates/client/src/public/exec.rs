//! A command inside an agent, over E2B's process protocol.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use domain::PodId;
use futures_util::StreamExt;
use futures_util::stream::{once, unfold};
use reqwest::Body;
use reqwest::header::CONTENT_TYPE;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use wire::connect::{Envelope, EnvelopeError};
use wire::process::{
    Base64, EndOfStream, KEEPALIVE_HEADER, ProcessConfig, ProcessEvent, ProcessEventFrame, ProcessInput, STREAM_TYPE,
    SelectRequest, Selector, SendInputRequest, SendSignalRequest, Signal, StartRequest, StreamInputRequest,
    TIMEOUT_HEADER, UNARY_TYPE,
};

use super::http::{Call, is_of};
use super::stream::{EventStream, chunks};
use super::{ClientError, GatewayClient};

pub(super) const OPERATION: &str = "run the command in the agent";
/// How often we ask to hear that the process is still there; a third of the
/// silence we bear.
const KEEPALIVES_PER_SILENCE: u32 = 3;
/// Bytes of input in one call, at most.
pub(super) const MAX_INPUT: usize = 32 * 1024;

/// What to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecCommand {
    /// The program and its arguments; never empty.
    pub argv: Vec<String>,
    /// Where; the agent's own directory where absent.
    pub cwd: Option<String>,
    /// Variables on top of the agent's own.
    pub envs: BTreeMap<String, String>,
    /// Whether its standard input is kept open.
    pub stdin: bool,
}

/// A process that was started here: its output and its end.
pub struct Process {
    answers: Answers,
    ended: bool,
    handle: ProcessHandle,
}

/// What can be done to a process from aside.
#[derive(Clone, Debug)]
pub struct ProcessHandle {
    client: GatewayClient,
    agent: PodId,
    pid: u32,
}

impl GatewayClient {
    /// Starts a command in one's own agent.
    ///
    /// # Errors
    /// See [`ClientError`]; a program that is not there is [`ClientError::Rpc`].
    pub async fn exec(&self, agent: PodId, command: &ExecCommand) -> Result<Process, ClientError> {
        let Some((program, arguments)) = command.argv.split_first() else {
            return Err(ClientError::protocol(OPERATION, "there is no command"));
        };
        let process = ProcessConfig {
            cmd: program.clone(),
            args: arguments.to_vec(),
            envs: command.envs.clone(),
            cwd: command.cwd.clone(),
        };
        let start = StartRequest { process, stdin: Some(command.stdin), ..StartRequest::default() };
        let handle = ProcessHandle { client: self.clone(), agent, pid: 0 };
        let mut process = Process { answers: handle.open(&start).await?, ended: false, handle };
        match process.next().await.transpose()? {
            Some(ProcessEvent::Start(started)) => process.handle.pid = started.pid,
            _ => return Err(ClientError::protocol(OPERATION, "it does not begin with a start")),
        }
        Ok(process)
    }
}

impl Process {
    /// What happened next; `None` after the end.
    pub async fn next(&mut self) -> Option<Result<ProcessEvent, ClientError>> {
        if self.ended {
            return None;
        }
        let event = self.event().await;
        self.ended = !matches!(event, Ok(ProcessEvent::Start(_) | ProcessEvent::Data(_) | ProcessEvent::Keepalive(_)));
        Some(event)
    }

    /// What can be done to it from aside.
    #[must_use]
    pub fn handle(&self) -> ProcessHandle {
        self.handle.clone()
    }

    async fn event(&mut self) -> Result<ProcessEvent, ClientError> {
        message(&self.answers.next().await?)
    }
}

/// The envelopes of an answer that goes on.
struct Answers {
    flow: EventStream<Bytes>,
    buffer: BytesMut,
}

impl Answers {
    async fn next(&mut self) -> Result<Envelope, ClientError> {
        loop {
            if let Some(envelope) = Envelope::decode(&mut self.buffer).map_err(unreadable)? {
                return Ok(envelope);
            }
            match self.flow.next().await.transpose()? {
                Some(bytes) => self.buffer.extend_from_slice(&bytes),
                None => return Err(ClientError::BrokenOff(OPERATION)),
            }
        }
    }
}

/// A piece of a request that goes on, or why it goes on no more.
pub(super) type Piece = io::Result<Bytes>;

/// A message in its envelope.
pub(super) fn framed(message: &impl Serialize) -> Result<Bytes, ClientError> {
    let message = serde_json::to_vec(message).map_err(|error| ClientError::protocol(OPERATION, error))?;
    let mut bytes = BytesMut::new();
    Envelope { end: false, message: message.into() }.encode(&mut bytes);
    Ok(bytes.freeze())
}

fn unreadable(error: EnvelopeError) -> ClientError {
    ClientError::protocol(OPERATION, error)
}

/// A stream ends with its process's end; an end without one is a failure.
fn message(envelope: &Envelope) -> Result<ProcessEvent, ClientError> {
    let wrong = |error| ClientError::protocol(OPERATION, error);
    if !envelope.end {
        return Ok(serde_json::from_slice::<ProcessEventFrame>(&envelope.message).map_err(wrong)?.event);
    }
    let end: EndOfStream = serde_json::from_slice(&envelope.message).map_err(wrong)?;
    Err(end.error.map_or(ClientError::BrokenOff(OPERATION), ClientError::Rpc))
}

impl ProcessHandle {
    /// Its process id in the guest.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends it input, in pieces that one call can carry.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn send_input(&self, input: &[u8]) -> Result<(), ClientError> {
        let patience = self.client.limits.input;
        for piece in input.chunks(MAX_INPUT) {
            let input = ProcessInput::Stdin(Base64(piece.to_vec()));
            self.unary("SendInput", &SendInputRequest { process: self.selector(), input }, patience).await?;
        }
        Ok(())
    }

    /// Sends it input over one call, for as long as pieces come; returns when it has
    /// taken all of them, or takes no more.
    pub(super) async fn stream_input(&self, pieces: mpsc::Receiver<Piece>) -> Result<(), ClientError> {
        let process = StreamInputRequest::Start(SelectRequest { process: self.selector() });
        let start = framed(&process)?;
        let begun = Ok::<_, io::Error>(start.clone());
        let rest = unfold(pieces, |mut pieces| async move { Some((pieces.recv().await?, pieces)) });
        let mut call = Call::post(OPERATION, self.path("StreamInput"), self.client.limits.read)
            .body(STREAM_TYPE, start)
            .header("connect-protocol-version", "1")?;
        call.stream = Some(Body::wrap_stream(once(async { begun }).chain(rest)));
        let response = self.client.streamed(call).await?;
        let mut answers = Answers { flow: chunks(OPERATION, response, None), buffer: BytesMut::new() };
        loop {
            let envelope = answers.next().await?;
            if envelope.end {
                let end: EndOfStream = serde_json::from_slice(&envelope.message)
                    .map_err(|error| ClientError::protocol(OPERATION, error))?;
                return end.error.map_or(Ok(()), |error| Err(ClientError::Rpc(error)));
            }
        }
    }

    /// Asks it to end, and ends it by force where it does not. Takes three times
    /// [`Timeouts::end`](super::Timeouts) at most; it may be gone before.
    pub(super) async fn end(&self) {
        let limit = self.client.limits.end;
        let _ = timeout(limit, self.signal(Signal::Term)).await;
        sleep(limit).await;
        self.kill().await;
    }

    /// Ends it by force, as far as that can be done in a short time.
    pub(super) async fn kill(&self) {
        let _ = timeout(self.client.limits.end, self.signal(Signal::Kill)).await;
    }

    pub(super) const fn input_idle(&self) -> Duration {
        self.client.limits.input_idle
    }

    /// How long it may take to end, and to be ended.
    pub(super) const fn patience(&self) -> Duration {
        self.client.limits.end
    }

    /// Tells it that no more input comes.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn close_stdin(&self) -> Result<(), ClientError> {
        self.unary("CloseStdin", &SelectRequest { process: self.selector() }, self.client.limits.input).await
    }

    /// Sends it, and all of its group, a signal.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn signal(&self, signal: Signal) -> Result<(), ClientError> {
        let request = SendSignalRequest { process: self.selector(), signal };
        self.unary("SendSignal", &request, self.client.limits.read).await
    }

    const fn selector(&self) -> Selector {
        Selector::Pid(self.pid)
    }

    fn path(&self, method: &str) -> String {
        format!("/agents/{}/process.Process/{method}", self.agent)
    }

    /// The guest gives up at `patience`, and we a little later, so that the
    /// guest's own words are heard.
    async fn unary(&self, method: &str, request: &impl Serialize, patience: Duration) -> Result<(), ClientError> {
        let body = serde_json::to_vec(request).map_err(|error| ClientError::protocol(OPERATION, error))?;
        let call = Call::post(OPERATION, self.path(method), patience + self.client.limits.read)
            .body(UNARY_TYPE, body)
            .header(TIMEOUT_HEADER, &patience.as_millis().to_string())?;
        self.client.signed::<Value>(call).await.map(drop)
    }

    async fn open(&self, start: &StartRequest) -> Result<Answers, ClientError> {
        let silence = self.client.limits.exec_idle;
        let call = Call::post(OPERATION, self.path("Start"), self.client.limits.read)
            .body(STREAM_TYPE, framed(start)?)
            .header(KEEPALIVE_HEADER, &ping(silence).to_string())?
            .header("connect-protocol-version", "1")?;
        let response = self.client.streamed(call).await?;
        if !is_of(&response, STREAM_TYPE) {
            let kind = response.headers().get(CONTENT_TYPE).cloned();
            return Err(ClientError::protocol(OPERATION, format!("it is of the type {kind:?}")));
        }
        Ok(Answers { flow: chunks(OPERATION, response, Some(silence)), buffer: BytesMut::new() })
    }
}

fn ping(silence: Duration) -> u64 {
    (silence / KEEPALIVES_PER_SILENCE).as_secs().max(1)
}
