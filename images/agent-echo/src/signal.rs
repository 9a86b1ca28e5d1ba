//! `agent-echo signal`: what `kill` would do.

use std::process::ExitCode;

use rustix::process::{Pid, Signal, kill_process};

use crate::log;

pub(crate) fn run(pid: &str, number: &str) -> ExitCode {
    let pid = pid.parse().ok().and_then(Pid::from_raw);
    let signal = number.parse().ok().and_then(Signal::from_named_raw);
    let (Some(pid), Some(signal)) = (pid, signal) else {
        log::line("usage: agent-echo signal <pid> <number>");
        return ExitCode::from(2);
    };
    match kill_process(pid, signal) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::line(&format!("cannot send the signal: {error}"));
            ExitCode::FAILURE
        }
    }
}
