//! Runs the distribution's tools: with a deadline, and with what they say kept.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::{NoProgress, Progress};

/// How often whoever waits is told, and asked.
const LOOK: Duration = Duration::from_millis(250);
/// Bytes of a tool's complaint that are kept.
const MAX_SAID: u64 = 4096;
/// Bytes of a tool's answer that are kept.
const MAX_ANSWER: u64 = 4 << 20;

/// Why a tool did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// It could not be started; most often it is not installed.
    #[error("{tool} could not be started: install the package {package}")]
    Start {
        /// The program.
        tool: &'static str,
        /// The Debian package that brings it.
        package: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// It ran and refused.
    #[error("{tool} failed ({status}): {said}")]
    Failed {
        /// The program.
        tool: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote.
        said: String,
    },
    /// It took too long and was killed.
    #[error("{tool} did not end within {} s", after.as_secs())]
    Slow {
        /// The program.
        tool: &'static str,
        /// The deadline.
        after: Duration,
    },
    /// Whoever asked for its work wants it no more.
    #[error("{tool} was stopped")]
    Stopped {
        /// The program.
        tool: &'static str,
    },
    /// Waiting for it failed.
    #[error("waiting for {tool}")]
    Wait {
        /// The program.
        tool: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// A program of the distribution, and the package that brings it.
#[derive(Clone, Copy)]
pub(crate) struct HostTool {
    pub(crate) name: &'static str,
    pub(crate) package: &'static str,
    pub(crate) deadline: Duration,
}

impl HostTool {
    /// Runs the tool with what `with` adds, and returns the end of its output.
    pub(crate) fn run(self, with: impl FnOnce(&mut Command) -> &mut Command) -> Result<Vec<u8>, ToolError> {
        tail(&mut self.output(with)?, MAX_ANSWER).map_err(|source| self.lost(source))
    }

    /// The same, and tells how it goes while it works.
    pub(crate) fn run_told(
        self,
        to: &dyn Progress,
        with: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Result<Vec<u8>, ToolError> {
        let mut answer = self.output_told(to, Whose::OwnGroup, with)?;
        tail(&mut answer, MAX_ANSWER).map_err(|source| self.lost(source))
    }

    /// Runs the tool with what `with` adds; its output is in the file returned.
    pub(crate) fn output(self, with: impl FnOnce(&mut Command) -> &mut Command) -> Result<File, ToolError> {
        self.output_told(&NoProgress, Whose::OurGroup, with)
    }

    fn output_told(
        self,
        to: &dyn Progress,
        group: Whose,
        with: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Result<File, ToolError> {
        // Files, not pipes: nobody has to read while the tool writes.
        let files = tempfile::tempfile().and_then(|answer| Ok((answer, tempfile::tempfile()?)));
        let (mut answer, mut said) = files.map_err(|source| self.lost(source))?;
        let mut child = self.spawn(&answer, &said, |c| match group {
            Whose::OurGroup => with(c),
            Whose::OwnGroup => with(c).process_group(0),
        })?;
        let status = self.wait(&mut child, group, to)?;
        if status.success() {
            answer.rewind().map_err(|source| self.lost(source))?;
            return Ok(answer);
        }
        let said = tail(&mut said, MAX_SAID).map_err(|source| self.lost(source))?;
        Err(ToolError::Failed { tool: self.name, status, said: String::from_utf8_lossy(&said).trim().to_owned() })
    }

    fn spawn(
        self,
        answer: &File,
        said: &File,
        with: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Result<Child, ToolError> {
        let start = |source| ToolError::Start { tool: self.name, package: self.package, source };
        let mut command = Command::new(self.name);
        command.env("LC_ALL", "C").stdin(Stdio::null());
        command.stdout(answer.try_clone().map_err(start)?).stderr(said.try_clone().map_err(start)?);
        with(&mut command).spawn().map_err(start)
    }

    fn lost(self, source: io::Error) -> ToolError {
        ToolError::Wait { tool: self.name, source }
    }

    fn wait(self, child: &mut Child, group: Whose, to: &dyn Progress) -> Result<ExitStatus, ToolError> {
        let failed = |source| self.lost(source);
        let start = Instant::now();
        loop {
            let left = self.deadline.saturating_sub(start.elapsed());
            if ended_within(child, left.min(LOOK)).map_err(failed)? {
                return child.wait().map_err(failed);
            }
            to.waiting(start.elapsed());
            let why = match (to.stopped(), left.is_zero()) {
                (true, _) => ToolError::Stopped { tool: self.name },
                (false, true) => ToolError::Slow { tool: self.name, after: self.deadline },
                (false, false) => continue,
            };
            end(child, group).map_err(failed)?;
            child.wait().map_err(failed)?;
            return Err(why);
        }
    }
}

/// Which processes a tool is among.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    /// Ours: a signal from the terminal is for it as well.
    OurGroup,
    /// A group of its own, with what it starts: a signal that is meant for us is not for the tool,
    /// which ends when we say so.
    OwnGroup,
}

/// Ends a tool, and what it has started where that can be told from ours.
fn end(child: &mut Child, group: Whose) -> io::Result<()> {
    match group {
        Whose::OurGroup => child.kill(),
        Whose::OwnGroup => Ok(kill_process_group(rustix::process::Pid::from_child(child), Signal::KILL)?),
    }
}

fn ended_within(child: &Child, deadline: Duration) -> io::Result<bool> {
    let id = i32::try_from(child.id()).map_err(io::Error::other)?;
    let pid = rustix::process::Pid::from_raw(id).ok_or_else(|| io::Error::other("no process id"))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let timeout = Timespec::try_from(deadline).map_err(io::Error::other)?;
    let ready = rustix::io::retry_on_intr(|| poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)))?;
    Ok(ready > 0)
}

fn tail(file: &mut File, at_most: u64) -> io::Result<Vec<u8>> {
    let start = file.metadata()?.len().saturating_sub(at_most);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(at_most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHELL: HostTool = HostTool { name: "sh", package: "dash", deadline: Duration::from_secs(10) };

    #[test]
    fn a_tools_answer_is_returned_and_its_complaint_is_in_the_error() {
        assert_eq!(SHELL.run(|c| c.args(["-c", "echo yes"])).unwrap(), b"yes\n");
        let error = SHELL.run(|c| c.args(["-c", "echo no room >&2; exit 3"])).unwrap_err();
        assert!(error.to_string().contains("no room") && error.to_string().contains('3'), "{error}");
    }

    #[test]
    fn a_tool_that_hangs_is_killed_at_its_deadline() {
        let slow = HostTool { deadline: Duration::from_millis(50), ..SHELL };
        assert!(matches!(slow.run(|c| c.args(["-c", "exec sleep 60"])), Err(ToolError::Slow { .. })));
    }

    /// Wants a tool no more once it has begun.
    struct Unwanted(std::path::PathBuf);

    impl Progress for Unwanted {
        fn step(&self, _: &str, _: Option<u64>) {}

        fn advance(&self, _: u64) {}

        fn warn(&self, _: &str) {}

        fn stopped(&self) -> bool {
            self.0.exists()
        }
    }

    #[test]
    fn what_a_tool_has_started_ends_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let began = dir.path().join("began");
        let script = "sleep 1000 & echo $! > \"$0.draft\" && ln \"$0.draft\" \"$0\"; wait";
        let stopped = SHELL.run_told(&Unwanted(began.clone()), |c| c.args(["-c", script]).arg(&began));
        assert!(matches!(stopped, Err(ToolError::Stopped { .. })), "{stopped:?}");
        let id = std::fs::read_to_string(&began).unwrap();
        let since = Instant::now();
        // One that nobody has waited for yet is no process any more either.
        let goes_on = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", id.trim())).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
        };
        while goes_on() {
            assert!(since.elapsed() < Duration::from_secs(10), "it goes on");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_missing_tool_is_an_error_that_names_its_package() {
        let missing = HostTool { name: "no-such-tool", package: "no-such-package", ..SHELL };
        assert!(missing.run(|c| c).unwrap_err().to_string().contains("install the package no-such-package"));
    }
}
