//! A command with its input and output tied to ours.

use std::io;
use std::pin::pin;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use wire::process::{Base64, Ended, Output, ProcessEvent, RpcCode};

use super::exec::{MAX_INPUT, OPERATION};
use super::{ClientError, Process, ProcessHandle};

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Its exit code, where it ended by itself.
    pub code: Option<i32>,
    /// In words.
    pub status: String,
}

impl From<Ended> for Exit {
    fn from(ended: Ended) -> Self {
        Self { code: ended.exited.then_some(ended.exit_code), status: ended.status }
    }
}

impl Process {
    /// Runs it to its end: `input`, where there is one, becomes its standard
    /// input, and what it writes goes to `out` and `err`.
    ///
    /// # Errors
    /// See [`ClientError`]; input that cannot be delivered ends the run, unless
    /// the process has ended or closed its input.
    pub async fn run(
        mut self,
        input: Option<impl AsyncRead + Unpin>,
        mut out: impl AsyncWrite + Unpin,
        mut err: impl AsyncWrite + Unpin,
    ) -> Result<Exit, ClientError> {
        let mut feeding = input.is_some();
        let mut fed = pin!(feed(self.handle(), input));
        loop {
            tokio::select! {
                biased;
                event = self.next() => match event {
                    Some(Ok(ProcessEvent::Data(output))) => write(output, &mut out, &mut err).await?,
                    Some(Ok(ProcessEvent::End(ended))) => return Ok(ended.into()),
                    Some(Ok(ProcessEvent::Start(_) | ProcessEvent::Keepalive(_))) => {}
                    Some(Err(error)) => return Err(error),
                    None => return Err(ClientError::BrokenOff(OPERATION)),
                },
                done = &mut fed, if feeding => {
                    feeding = false;
                    done?;
                }
            }
        }
    }
}

/// Sends all input, then closes it.
async fn feed(to: ProcessHandle, input: Option<impl AsyncRead + Unpin>) -> Result<(), ClientError> {
    let Some(mut input) = input else { return Ok(()) };
    let mut buffer = vec![0; MAX_INPUT];
    loop {
        let read = input.read(&mut buffer).await.map_err(|error| local("read our standard input", error))?;
        let sent = if read == 0 { to.close_stdin().await } else { to.send_input(&buffer[..read]).await };
        match sent {
            Ok(()) if read > 0 => {}
            Ok(()) => return Ok(()),
            // Nobody reads any more; how it ended is told by its own stream.
            Err(ClientError::Rpc(error)) if reads_no_more(error.code) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

const fn reads_no_more(code: RpcCode) -> bool {
    matches!(code, RpcCode::NotFound | RpcCode::FailedPrecondition)
}

async fn write(
    output: Output,
    out: &mut (impl AsyncWrite + Unpin),
    err: &mut (impl AsyncWrite + Unpin),
) -> Result<(), ClientError> {
    match output {
        Output::Stdout(Base64(bytes)) | Output::Pty(Base64(bytes)) => put(out, &bytes).await,
        Output::Stderr(Base64(bytes)) => put(err, &bytes).await,
    }
    .map_err(|error| local("write the command's output", error))
}

async fn put(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}

fn local(operation: &'static str, source: io::Error) -> ClientError {
    ClientError::Local { operation, source }
}
