//! One command that runs, or has just run.

use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;
use wire::process::{ProcessConfig, ProcessInfo, ProcessInput, PtySize, RpcCode, RpcError};

use super::broadcast::{OutputBroadcast, Subscriber};
use crate::process::AsyncPipe;

/// How long a process may take to end after SIGHUP.
const HANG_UP_TIMEOUT: Duration = Duration::from_secs(5);

/// A command of the holder's.
#[derive(Debug)]
pub(crate) struct Process {
    pub(super) pid: Pid,
    pub(super) config: ProcessConfig,
    pub(super) tag: Option<String>,
    pub(super) output: Arc<OutputBroadcast>,
    pub(super) input: Mutex<InputSink>,
    pub(super) terminal: Option<Arc<AsyncPipe>>,
    /// Becomes `true` when it is reaped.
    pub(super) gone: watch::Sender<bool>,
}

/// Where its input goes.
#[derive(Debug)]
pub(super) enum InputSink {
    /// A pipe.
    Pipe(AsyncPipe),
    /// Nowhere: never wanted, or closed.
    Closed,
}

impl Process {
    /// Its process id, as the protocol writes it.
    pub(crate) fn number(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Whether it still runs.
    pub(crate) fn runs(&self) -> bool {
        !*self.gone.borrow()
    }

    /// As lists show it.
    pub(crate) fn info(&self) -> ProcessInfo {
        ProcessInfo { config: self.config.clone(), pid: self.number(), tag: self.tag.clone() }
    }

    /// Attaches to its output.
    pub(crate) fn subscribe(&self) -> Subscriber {
        self.output.subscribe()
    }

    /// Signals it and all of its group.
    ///
    /// # Errors
    /// It is gone.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), RpcError> {
        if !self.runs() {
            return Err(fault(RpcCode::NotFound, "the process has ended"));
        }
        match kill_process_group(self.pid, signal) {
            Ok(()) => Ok(()),
            Err(Errno::SRCH) => Err(fault(RpcCode::NotFound, "the process has ended")),
            Err(error) => Err(fault(RpcCode::Internal, format!("cannot signal the process: {error}"))),
        }
    }

    /// Writes its input, all of it, as fast as it reads.
    ///
    /// # Errors
    /// It reads no more, or not within `patience`.
    pub(crate) async fn write(&self, input: &ProcessInput, patience: Duration) -> Result<(), RpcError> {
        let written = match input {
            ProcessInput::Stdin(bytes) => timeout(patience, self.write_pipe(&bytes.0)).await,
            ProcessInput::Pty(bytes) => timeout(patience, self.write_terminal(&bytes.0)).await,
        };
        written.unwrap_or_else(|_| Err(fault(RpcCode::DeadlineExceeded, "the process did not read all of its input")))
    }

    /// The same without a bound of its own: until it has read all, or has ended.
    ///
    /// # Errors
    /// It reads no more.
    pub(crate) async fn write_unbounded(&self, input: &ProcessInput) -> Result<(), RpcError> {
        tokio::select! {
            written = self.write(input, Duration::MAX) => written,
            ended = self.ended() => Err(ended),
        }
    }

    /// Waits until it has ended, which is what it says then.
    pub(crate) async fn ended(&self) -> RpcError {
        let _ = self.gone.subscribe().wait_for(|gone| *gone).await;
        fault(RpcCode::NotFound, "the process has ended")
    }

    /// Ends it with SIGHUP, and with SIGKILL where that does not help.
    pub(crate) async fn hang_up(&self) {
        if self.signal(Signal::HUP).is_ok() && timeout(HANG_UP_TIMEOUT, self.ended()).await.is_err() {
            // Gone in this very moment is as good.
            let _ = self.signal(Signal::KILL);
        }
    }

    /// Ends its input.
    ///
    /// # Errors
    /// It has a terminal, or is stuck in a write for longer than `patience`.
    pub(crate) async fn close_input(&self, patience: Duration) -> Result<(), RpcError> {
        if self.terminal.is_some() {
            let message = "a terminal's input is not closed; send the byte 4 (Ctrl-D)";
            return Err(fault(RpcCode::FailedPrecondition, message));
        }
        let stuck = |_| fault(RpcCode::DeadlineExceeded, "the process does not read what was sent before");
        *timeout(patience, self.input.lock()).await.map_err(stuck)? = InputSink::Closed;
        Ok(())
    }

    /// Tells it its terminal's new size.
    ///
    /// # Errors
    /// It has none.
    pub(crate) fn resize(&self, size: PtySize) -> Result<(), RpcError> {
        let terminal = self.terminal.as_ref().ok_or_else(no_terminal)?;
        set_size(terminal, size).map_err(|error| fault(RpcCode::Internal, format!("cannot resize: {error}")))
    }

    async fn write_pipe(&self, bytes: &[u8]) -> Result<(), RpcError> {
        match &*self.input.lock().await {
            InputSink::Pipe(pipe) => write_all(pipe, bytes).await,
            InputSink::Closed => Err(fault(RpcCode::FailedPrecondition, "the process's input is closed")),
        }
    }

    async fn write_terminal(&self, bytes: &[u8]) -> Result<(), RpcError> {
        let terminal = self.terminal.as_ref().ok_or_else(no_terminal)?;
        // One writer at a time, so that two inputs do not mix.
        let _turn = self.input.lock().await;
        write_all(terminal, bytes).await
    }
}

/// Sets a terminal's size.
pub(super) fn set_size(terminal: &AsyncPipe, size: PtySize) -> rustix::io::Result<()> {
    tcsetwinsize(terminal, Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 })
}

/// An error of the protocol.
pub(super) fn fault(code: RpcCode, message: impl Into<String>) -> RpcError {
    RpcError { code, message: message.into() }
}

fn no_terminal() -> RpcError {
    fault(RpcCode::FailedPrecondition, "the process has no terminal")
}

async fn write_all(pipe: &AsyncPipe, mut bytes: &[u8]) -> Result<(), RpcError> {
    while !bytes.is_empty() {
        let gone = |error| fault(RpcCode::FailedPrecondition, format!("the process reads no more: {error}"));
        let written = pipe.write(bytes).await.map_err(gone)?;
        bytes = &bytes[written..];
    }
    Ok(())
}
