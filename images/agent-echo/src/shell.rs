//! `agent-echo shell`: a shell of sorts at a terminal, for `palatine shell`.

use std::io::{self, Write};
use std::process::ExitCode;

use rustix::termios::tcgetwinsize;

use crate::log;

/// What ends it.
enum Said {
    Line(String),
    Exit(u8),
}

/// Answers each line until one says `exit <code>`, or there are no more.
pub(crate) fn run() -> ExitCode {
    for line in io::stdin().lines() {
        match line.and_then(|line| answer(&line)) {
            Ok(Said::Exit(code)) => return ExitCode::from(code),
            Ok(Said::Line(said)) => {
                if writeln!(io::stdout(), "{said}").is_err() {
                    return ExitCode::FAILURE;
                }
            }
            Err(error) => {
                log::line(&format!("shell: {error}"));
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

fn answer(line: &str) -> io::Result<Said> {
    let words: Vec<&str> = line.split_whitespace().collect();
    Ok(Said::Line(match words[..] {
        ["exit", code] => return code.parse().map(Said::Exit).map_err(io::Error::other),
        ["size"] => {
            let size = tcgetwinsize(io::stdin())?;
            format!("{} columns, {} rows", size.ws_col, size.ws_row)
        }
        ["env", name] => std::env::var(name).map_err(io::Error::other)?,
        ["user"] => rustix::process::geteuid().as_raw().to_string(),
        _ => format!("you said: {line}"),
    }))
}
