//! A command inside an agent, over E2B's process protocol.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use domain::AgentId;
use futures_util::StreamExt;
use reqwest::header::CONTENT_TYPE;
use serde::Serialize;
use serde_json::Value;
use wire::connect::{Envelope, EnvelopeError};
use wire::process::{
    Base64, EndOfStream, EventFrame, KEEPALIVE_HEADER, ProcessConfig, ProcessEvent, ProcessInput, STREAM_TYPE,
    SelectRequest, Selector, SendInputRequest, SendSignalRequest, Signal, StartRequest, TIMEOUT_HEADER, UNARY_TYPE,
};

use super::http::{Call, is_of};
use super::stream::{Flow, chunks};
use super::{ClientError, Public};

pub(super) const OPERATION: &str = "run the command in the agent";
/// How often we ask to hear that the process is still there; a third of the
/// silence we bear.
const KEEPALIVES_PER_SILENCE: u32 = 3;
/// Bytes of input in one call, at most.
pub(super) const MAX_INPUT: usize = 32 * 1024;

/// What to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command {
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
    flow: Flow<Bytes>,
    buffer: BytesMut,
    ended: bool,
    handle: ProcessHandle,
}

/// What can be done to a process from aside.
#[derive(Clone, Debug)]
pub struct ProcessHandle {
    client: Public,
    agent: AgentId,
    pid: u32,
}

impl Public {
    /// Starts a command in one's own agent.
    ///
    /// # Errors
    /// See [`ClientError`]; a program that is not there is [`ClientError::Rpc`].
    pub async fn exec(&self, agent: AgentId, command: &Command) -> Result<Process, ClientError> {
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
        let mut process = Process { flow: handle.open(&start).await?, buffer: BytesMut::new(), ended: false, handle };
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
        loop {
            if let Some(envelope) = Envelope::decode(&mut self.buffer).map_err(unreadable)? {
                return message(&envelope);
            }
            match self.flow.next().await.transpose()? {
                Some(bytes) => self.buffer.extend_from_slice(&bytes),
                None => return Err(ClientError::BrokenOff(OPERATION)),
            }
        }
    }
}

fn unreadable(error: EnvelopeError) -> ClientError {
    ClientError::protocol(OPERATION, error)
}

/// A stream ends with its process's end; an end without one is a failure.
fn message(envelope: &Envelope) -> Result<ProcessEvent, ClientError> {
    let wrong = |error| ClientError::protocol(OPERATION, error);
    if !envelope.end {
        return Ok(serde_json::from_slice::<EventFrame>(&envelope.message).map_err(wrong)?.event);
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

    async fn open(&self, start: &StartRequest) -> Result<Flow<Bytes>, ClientError> {
        let message = serde_json::to_vec(start).map_err(|error| ClientError::protocol(OPERATION, error))?;
        let mut body = BytesMut::new();
        Envelope { end: false, message: message.into() }.encode(&mut body);
        let silence = self.client.limits.exec_idle;
        let call = Call::post(OPERATION, self.path("Start"), self.client.limits.read)
            .body(STREAM_TYPE, body.freeze())
            .header(KEEPALIVE_HEADER, &ping(silence).to_string())?
            .header("connect-protocol-version", "1")?;
        let response = self.client.streamed(call).await?;
        if !is_of(&response, STREAM_TYPE) {
            let kind = response.headers().get(CONTENT_TYPE).cloned();
            return Err(ClientError::protocol(OPERATION, format!("it is of the type {kind:?}")));
        }
        Ok(chunks(OPERATION, response, Some(silence)))
    }
}

fn ping(silence: Duration) -> u64 {
    (silence / KEEPALIVES_PER_SILENCE).as_secs().max(1)
}
