//! A command with its input and output tied to ours.

use std::io;
use std::pin::pin;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use wire::process::{
    Base64, Ended, InputPiece, Keepalive, Output, ProcessEvent, ProcessInput, RpcCode, StreamInputRequest,
};

use super::exec::{MAX_INPUT, OPERATION, framed};
use super::{ClientError, Process, ProcessHandle};

/// What is added to the number of the signal that ended a command, as shells do.
const BY_SIGNAL: i32 = 128;

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitStatus {
    /// Its exit code; 128 + n where signal n ended it. Absent where its end is told in
    /// words that we do not know.
    pub code: Option<i32>,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// In words.
    pub status: String,
}

impl From<Ended> for ExitStatus {
    fn from(ended: Ended) -> Self {
        let signal = ended.signal();
        let code = if ended.exited { Some(ended.exit_code) } else { signal.map(|number| BY_SIGNAL + number) };
        Self { code, signal, status: ended.status }
    }
}

impl Process {
    /// Runs it to its end: `input`, where there is one, becomes its standard
    /// input, and what it writes goes to `out` and `err`. When `interrupted` comes it
    /// is asked to end, and ended where it does not. Whatever fails here, it does not
    /// go on without us.
    ///
    /// # Errors
    /// See [`ClientError`]; input that cannot be delivered ends the run, unless
    /// the process has ended or closed its input.
    pub async fn run(
        self,
        input: Option<impl AsyncRead + Unpin>,
        out: impl AsyncWrite + Unpin,
        err: impl AsyncWrite + Unpin,
        interrupted: impl Future<Output = ()>,
    ) -> Result<ExitStatus, ClientError> {
        let handle = self.handle();
        let exit = self.follow(input, out, err, interrupted).await;
        if exit.is_err() {
            handle.kill().await;
        }
        exit
    }

    async fn follow(
        mut self,
        input: Option<impl AsyncRead + Unpin>,
        mut out: impl AsyncWrite + Unpin,
        mut err: impl AsyncWrite + Unpin,
        interrupted: impl Future<Output = ()>,
    ) -> Result<ExitStatus, ClientError> {
        let mut feeding = input.is_some();
        let mut fed = pin!(feed(self.handle(), input));
        let mut ending = pin!(end_when(interrupted, self.handle()));
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
                () = &mut ending => return Err(ClientError::BrokenOff(OPERATION)),
                done = &mut fed, if feeding => {
                    feeding = false;
                    done?;
                }
            }
        }
    }
}

/// Ends the process once we are interrupted; returns when it should long have told so.
async fn end_when(interrupted: impl Future<Output = ()>, process: ProcessHandle) {
    interrupted.await;
    process.end().await;
    sleep(process.patience()).await;
}

/// Sends all input over one call, then closes it.
async fn feed(to: ProcessHandle, input: Option<impl AsyncRead + Unpin>) -> Result<(), ClientError> {
    let Some(mut input) = input else { return Ok(()) };
    let (pieces, body) = mpsc::channel(1);
    let mut answer = pin!(to.stream_input(body));
    let pump = async {
        let mut buffer = vec![0; MAX_INPUT];
        while let Some(piece) = next(&to, &mut input, &mut buffer).await? {
            if pieces.send(Ok(piece)).await.is_err() {
                break;
            }
        }
        drop(pieces);
        Ok::<_, ClientError>(())
    };
    tokio::select! {
        biased;
        // It takes no more, or cannot be reached.
        done = &mut answer => return settled(done),
        pumped = pump => pumped?,
    }
    match answer.await {
        Ok(()) => settled(to.close_stdin().await),
        failed => settled(failed),
    }
}

/// The next message: input, or a sign of life while there is none.
async fn next(
    to: &ProcessHandle,
    input: &mut (impl AsyncRead + Unpin),
    buffer: &mut [u8],
) -> Result<Option<bytes::Bytes>, ClientError> {
    match timeout(to.input_idle(), input.read(buffer)).await {
        Err(_) => framed(&StreamInputRequest::Keepalive(Keepalive {})).map(Some),
        Ok(Ok(0)) => Ok(None),
        Ok(Ok(count)) => {
            let input = ProcessInput::Stdin(Base64(buffer[..count].to_vec()));
            framed(&StreamInputRequest::Data(InputPiece { input })).map(Some)
        }
        Ok(Err(error)) => Err(local("read our standard input", error)),
    }
}

/// Nobody reads any more; how it ended is told by its own stream.
fn settled(sent: Result<(), ClientError>) -> Result<(), ClientError> {
    match sent {
        Err(ClientError::Rpc(error)) if matches!(error.code, RpcCode::NotFound | RpcCode::FailedPrecondition) => Ok(()),
        sent => sent,
    }
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
