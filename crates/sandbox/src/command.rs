//! The host's own programs: `ip`, `nft`, `mke2fs`. One way to run them.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::DriverFailure;

/// How long any of them may take, where nothing else is said.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
/// How much of their complaints is kept.
const SAID_BYTES: usize = 512;

/// Runs a program with this standard input and waits for it.
pub(crate) fn run(program: &'static str, arguments: &[&str], input: &str) -> Result<(), DriverFailure> {
    run_within(program, arguments, input, DEADLINE)
}

/// The same, where it may take so long.
pub(crate) fn run_within(
    program: &'static str,
    arguments: &[&str],
    input: &str,
    deadline: Duration,
) -> Result<(), DriverFailure> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| missing(program, &error))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends early says why on standard error.
        let _ = stdin.write_all(input.as_bytes());
    }
    wait(&mut child, deadline)?;
    let status = child.wait()?;
    if status.success() { Ok(()) } else { Err(DriverFailure::Command { program, said: said(child) }) }
}

/// Runs a program that only looks, with no environment but this, and gives what it
/// says: at most what fits into a pipe.
pub(crate) fn read(program: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Result<String, DriverFailure> {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(environment.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| missing(&program.to_string_lossy(), &error))?;
    wait(&mut child, DEADLINE)?;
    let mut bytes = Vec::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_end(&mut bytes)?;
    }
    let status = child.wait()?;
    if !status.success() {
        return Err(DriverFailure::Missing(format!(
            "{} {} ended with {status}",
            program.display(),
            arguments.join(" ")
        )));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn missing(program: &str, error: &std::io::Error) -> DriverFailure {
    DriverFailure::Missing(format!("the program {program} cannot be run ({error}); is its package installed?"))
}

fn wait(child: &mut Child, deadline: Duration) -> Result<(), DriverFailure> {
    let pid = Pid::from_child(child);
    let gone = pidfd_open(pid, PidfdFlags::empty())?;
    let until = Instant::now() + deadline;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 });
        match poll(&mut [PollFd::from_borrowed_fd(gone.as_fd(), PollFlags::IN)], Some(&left)) {
            Ok(0) => {
                child.kill()?;
                child.wait()?;
                return Err(DriverFailure::Deadline(deadline));
            }
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn said(child: Child) -> String {
    let mut bytes = Vec::new();
    if let Some(stderr) = child.stderr {
        let _ = stderr.take(SAID_BYTES as u64).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_fails_is_quoted() {
        let error = run("sh", &["-c", "cat >&2; exit 3"], "no such link").unwrap_err();
        assert_eq!(error.to_string(), "sh said: no such link");
    }

    #[test]
    fn a_program_that_takes_too_long_is_ended() {
        let error = run_within("sleep", &["60"], "", Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, DriverFailure::Deadline(_)), "{error}");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = run("no-such-program", &[], "").unwrap_err();
        assert!(error.to_string().contains("no-such-program"), "{error}");
    }
}
