//! A command in an agent whose input and output are ours, byte for byte.

use std::os::fd::AsFd;
use std::process::ExitCode;

use anyhow::{Context, Result};
use client::{AgentAccess, ExecCommand, ExitStatus};

use crate::failure::Exit;

/// Runs it to its end; its exit code becomes ours. It does not go on without us.
pub(crate) async fn run(
    access: &AgentAccess,
    command: &ExecCommand,
    interrupted: impl Future<Output = ()>,
) -> Result<ExitCode> {
    let process = access.exec(command).await?;
    let input = command.stdin.then(|| own_stream(&std::io::stdin())).transpose()?;
    let (out, err) = (own_stream(&std::io::stdout())?, own_stream(&std::io::stderr())?);
    Ok(exit_code(&process.run(input, out, err, interrupted).await?))
}

/// How it ended, as our own exit code; what no code says is said in words.
pub(crate) fn exit_code(exit: &ExitStatus) -> ExitCode {
    if exit.signal.is_some() || exit.code.is_none() {
        eprintln!("error: the command ended: {}", exit.status);
    }
    exit.code.and_then(|code| u8::try_from(code).ok()).map_or(Exit::Other.into(), ExitCode::from)
}

/// One of our own streams, for tokio.
pub(crate) fn own_stream(stream: &impl AsFd) -> Result<tokio::fs::File> {
    let copy = stream.as_fd().try_clone_to_owned().context("take our own input or output")?;
    Ok(tokio::fs::File::from_std(copy.into()))
}
