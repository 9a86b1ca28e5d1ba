//! A command inside an agent, over E2B's process protocol.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use domain::PodId;
use futures_util::StreamExt;
use futures_util::stream::{once, unfold};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Body, Method, RequestBuilder, Response};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use wire::connect::{Envelope, EnvelopeError};
use wire::process::{
    Base64, EndOfStream, KEEPALIVE_HEADER, OFFSET_HEADER, Output, ProcessConfig, ProcessEvent, ProcessEventFrame,
    ProcessInput, Pty, PtySize, STREAM_TYPE, SelectRequest, Selector, SendInputRequest, SendSignalRequest, Signal,
    StartRequest, StreamInputRequest, TIMEOUT_HEADER, UNARY_TYPE, UpdateRequest,
};

use super::http::{accepted, is_of, whole, within};
use super::stream::{EventStream, chunks};
use super::{AgentAccess, ClientError, GatewayClient};

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
    /// The size of its terminal, if it is to have one.
    pub terminal: Option<PtySize>,
    /// A name of its own, by which it is found again.
    pub tag: Option<String>,
}

/// A process in an agent: its output and its end.
pub struct Process {
    answers: Answers,
    ended: bool,
    handle: ProcessHandle,
    /// Bytes of its output up to what comes next here.
    position: u64,
    /// Bytes that come once more, and are left out.
    repeated: u64,
}

/// What can be done to a process from aside.
#[derive(Clone, Debug)]
pub struct ProcessHandle {
    access: AgentAccess,
    selector: Selector,
    pid: u32,
}

/// What is known of the output between two connections to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachedAgain {
    /// It goes on where it broke off.
    Seamless,
    /// So many bytes are lost: the guest has forgotten them.
    Lost(u64),
    /// The guest does not say where it goes on: the last of it comes once more.
    Repeated,
}

impl GatewayClient {
    /// Starts a command in one's own agent.
    ///
    /// # Errors
    /// See [`ClientError`]; a program that is not there is [`ClientError::Rpc`].
    pub async fn exec(&self, agent: PodId, command: &ExecCommand) -> Result<Process, ClientError> {
        self.access(agent).await?.exec(command).await
    }
}

impl AgentAccess {
    /// Starts a command.
    ///
    /// # Errors
    /// See [`ClientError`]; a program that is not there is [`ClientError::Rpc`].
    pub async fn exec(&self, command: &ExecCommand) -> Result<Process, ClientError> {
        let Some((program, arguments)) = command.argv.split_first() else {
            return Err(ClientError::protocol(OPERATION, "there is no command"));
        };
        let process = ProcessConfig {
            cmd: program.clone(),
            args: arguments.to_vec(),
            envs: command.envs.clone(),
            cwd: command.cwd.clone(),
        };
        let start = StartRequest {
            process,
            pty: command.terminal.map(|size| Pty { size }),
            tag: command.tag.clone(),
            stdin: Some(command.stdin),
        };
        let selector = command.tag.clone().map(Selector::Tag);
        Process::begin(self, "Start", &start, selector).await
    }

    /// Attaches to a process that runs, or has just ended: to the last of its output, and
    /// what follows.
    ///
    /// # Errors
    /// See [`ClientError`]; one that is not there is [`ClientError::Rpc`].
    pub async fn attach(&self, process: Selector) -> Result<Process, ClientError> {
        let select = SelectRequest { process: process.clone() };
        Process::begin(self, "Connect", &select, Some(process)).await
    }
}

impl Process {
    async fn begin(
        access: &AgentAccess,
        call: &str,
        request: &impl Serialize,
        selector: Option<Selector>,
    ) -> Result<Self, ClientError> {
        let (mut answers, offset) = open(access, call, request).await?;
        let pid = answers.started().await?;
        let selector = selector.unwrap_or(Selector::Pid(pid));
        let handle = ProcessHandle { access: access.clone(), selector, pid };
        Ok(Self { answers, ended: false, handle, position: offset.unwrap_or(0), repeated: 0 })
    }

    /// Attaches once more, after its stream broke off: what has come here does not come again.
    ///
    /// # Errors
    /// See [`ClientError`]; a process that is forgotten is [`ClientError::Rpc`].
    pub async fn attach_again(&mut self) -> Result<AttachedAgain, ClientError> {
        let select = SelectRequest { process: self.handle.selector.clone() };
        let (mut answers, offset) = open(&self.handle.access, "Connect", &select).await?;
        self.handle.pid = answers.started().await?;
        (self.answers, self.ended) = (answers, false);
        let Some(offset) = offset else {
            self.repeated = 0;
            return Ok(AttachedAgain::Repeated);
        };
        let lost = offset.saturating_sub(self.position);
        self.repeated = self.position.saturating_sub(offset);
        self.position += lost;
        Ok(if lost == 0 { AttachedAgain::Seamless } else { AttachedAgain::Lost(lost) })
    }

    /// What happened next; `None` after the end. Safe to cancel.
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
        loop {
            match self.answers.event().await? {
                ProcessEvent::Data(output) => {
                    if let Some(output) = self.unseen(output) {
                        return Ok(ProcessEvent::Data(output));
                    }
                }
                other => return Ok(other),
            }
        }
    }

    /// What of this output is new here; `None` where nothing is.
    fn unseen(&mut self, mut output: Output) -> Option<Output> {
        let (Output::Stdout(Base64(bytes)) | Output::Stderr(Base64(bytes)) | Output::Pty(Base64(bytes))) = &mut output;
        let seen = usize::try_from(self.repeated).unwrap_or(usize::MAX).min(bytes.len());
        bytes.drain(..seen);
        self.repeated -= seen as u64;
        self.position += bytes.len() as u64;
        (!bytes.is_empty() || seen == 0).then_some(output)
    }
}

/// The envelopes of an answer that goes on.
struct Answers {
    flow: EventStream<Bytes>,
    buffer: BytesMut,
}

impl Answers {
    /// The process's number, which comes before all else.
    async fn started(&mut self) -> Result<u32, ClientError> {
        match self.event().await? {
            ProcessEvent::Start(started) => Ok(started.pid),
            _ => Err(ClientError::protocol(OPERATION, "it does not begin with a start")),
        }
    }

    async fn event(&mut self) -> Result<ProcessEvent, ClientError> {
        message(&self.next().await?)
    }

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
        self.send(input, ProcessInput::Stdin).await
    }

    /// The same for its terminal.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn send_keys(&self, keys: &[u8]) -> Result<(), ClientError> {
        self.send(keys, ProcessInput::Pty).await
    }

    async fn send(&self, input: &[u8], wrap: fn(Base64) -> ProcessInput) -> Result<(), ClientError> {
        let patience = self.access.client.limits.input;
        for piece in input.chunks(MAX_INPUT) {
            let input = wrap(Base64(piece.to_vec()));
            self.unary("SendInput", &SendInputRequest { process: self.selector(), input }, patience).await?;
        }
        Ok(())
    }

    /// Tells it its terminal's new size.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn resize(&self, size: PtySize) -> Result<(), ClientError> {
        let request = UpdateRequest { process: self.selector(), pty: Some(Pty { size }) };
        self.unary("Update", &request, self.access.client.limits.read).await
    }

    /// Sends it input over one call, for as long as pieces come; returns when it has
    /// taken all of them, or takes no more.
    pub(super) async fn stream_input(&self, pieces: mpsc::Receiver<Piece>) -> Result<(), ClientError> {
        let process = StreamInputRequest::Start(SelectRequest { process: self.selector() });
        let start = framed(&process)?;
        let begun = Ok::<_, io::Error>(start);
        let rest = unfold(pieces, |mut pieces| async move { Some((pieces.recv().await?, pieces)) });
        let request = stream_call(&self.access, "StreamInput")?;
        let request = request.body(Body::wrap_stream(once(async { begun }).chain(rest)));
        let response = asked(request, self.access.client.limits.read).await?;
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
        let limit = self.access.client.limits.end;
        let _ = timeout(limit, self.signal(Signal::Term)).await;
        sleep(limit).await;
        self.kill().await;
    }

    /// Ends it by force, as far as that can be done in a short time.
    pub(super) async fn kill(&self) {
        let _ = timeout(self.access.client.limits.end, self.signal(Signal::Kill)).await;
    }

    pub(super) const fn input_idle(&self) -> Duration {
        self.access.client.limits.input_idle
    }

    /// How long it may take to end, and to be ended.
    pub(super) const fn patience(&self) -> Duration {
        self.access.client.limits.end
    }

    /// Tells it that no more input comes.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn close_stdin(&self) -> Result<(), ClientError> {
        self.unary("CloseStdin", &SelectRequest { process: self.selector() }, self.access.client.limits.input).await
    }

    /// Sends it, and all of its group, a signal.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn signal(&self, signal: Signal) -> Result<(), ClientError> {
        let request = SendSignalRequest { process: self.selector(), signal };
        self.unary("SendSignal", &request, self.access.client.limits.read).await
    }

    fn selector(&self) -> Selector {
        self.selector.clone()
    }

    /// The guest gives up at `patience`, and we a little later, so that the
    /// guest's own words are heard.
    async fn unary(&self, method: &str, request: &impl Serialize, patience: Duration) -> Result<(), ClientError> {
        let body = serde_json::to_vec(request).map_err(|error| ClientError::protocol(OPERATION, error))?;
        let request = call(&self.access, method)?
            .header(CONTENT_TYPE, UNARY_TYPE)
            .header(TIMEOUT_HEADER, patience.as_millis().to_string())
            .body(body);
        let patience = patience + self.access.client.limits.read;
        // To its end, so that the connection is used again.
        within(OPERATION, patience, async { whole(OPERATION, asked(request, patience).await?).await }).await.map(drop)
    }
}

/// A call of the process protocol.
fn call(access: &AgentAccess, method: &str) -> Result<RequestBuilder, ClientError> {
    access.request(OPERATION, Method::POST, &format!("/process.Process/{method}"), &[])
}

/// One whose answer is a stream.
fn stream_call(access: &AgentAccess, method: &str) -> Result<RequestBuilder, ClientError> {
    Ok(call(access, method)?.header(CONTENT_TYPE, STREAM_TYPE).header("connect-protocol-version", "1"))
}

/// The head of a good answer.
async fn asked(request: RequestBuilder, patience: Duration) -> Result<Response, ClientError> {
    let answer = async {
        let answer = request.send().await.map_err(|error| ClientError::transport(OPERATION, error))?;
        accepted(OPERATION, answer).await
    };
    within(OPERATION, patience, answer).await
}

/// Opens the stream of a process's events; says how many bytes of output were before them,
/// where the guest does.
async fn open(
    access: &AgentAccess,
    method: &str,
    request: &impl Serialize,
) -> Result<(Answers, Option<u64>), ClientError> {
    let silence = access.client.limits.exec_idle;
    let request = stream_call(access, method)?.header(KEEPALIVE_HEADER, ping(silence)).body(framed(request)?);
    let response = asked(request, access.client.limits.read).await?;
    if !is_of(&response, STREAM_TYPE) {
        let kind = response.headers().get(CONTENT_TYPE).cloned();
        return Err(ClientError::protocol(OPERATION, format!("it is of the type {kind:?}")));
    }
    let offset = response.headers().get(OFFSET_HEADER).and_then(|offset| offset.to_str().ok()?.parse().ok());
    Ok((Answers { flow: chunks(OPERATION, response, Some(silence)), buffer: BytesMut::new() }, offset))
}

fn ping(silence: Duration) -> u64 {
    (silence / KEEPALIVES_PER_SILENCE).as_secs().max(1)
}
