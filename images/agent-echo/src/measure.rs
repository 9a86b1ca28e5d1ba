//! `agent-echo measure`: how long the guest itself takes for what its holder does from outside, for
//! the benchmark.

use std::fs::File;
use std::io::{self, Read, Write};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use crate::log;

/// Bytes read or written at once.
const PIECE: usize = 1 << 20;

/// Prints microseconds: of a whole file, or the median of so many starts of a program.
pub(crate) fn run(words: &[&str]) -> ExitCode {
    let measured = match words {
        ["write", path, mib] => mib.parse().map_err(io::Error::other).and_then(|mib| write(path, mib)),
        ["read", path] => read(path),
        ["exec", times] => times.parse().map_err(io::Error::other).and_then(exec),
        _ => {
            log::line("usage: agent-echo measure write <file> <MiB> | read <file> | exec <times>");
            return ExitCode::from(2);
        }
    };
    match measured.and_then(|took| writeln!(io::stdout(), "{}", took.as_micros())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::line(&format!("measure {}: {error}", words.join(" ")));
            ExitCode::FAILURE
        }
    }
}

fn write(path: &str, mib: usize) -> io::Result<Duration> {
    let piece: Vec<u8> = (0_u8..=255).cycle().take(PIECE).collect();
    let since = Instant::now();
    let mut file = File::create(path)?;
    for _ in 0..mib {
        file.write_all(&piece)?;
    }
    Ok(since.elapsed())
}

fn read(path: &str) -> io::Result<Duration> {
    let mut piece = vec![0; PIECE];
    let since = Instant::now();
    let mut file = File::open(path)?;
    while file.read(&mut piece)? > 0 {}
    Ok(since.elapsed())
}

fn exec(times: usize) -> io::Result<Duration> {
    let one = |_| {
        let since = Instant::now();
        let mut command = Command::new("/proc/self/exe");
        command.args(["tell", "exit", "0"]).stdin(Stdio::null()).stdout(Stdio::null());
        command.status().map(|_| since.elapsed())
    };
    let mut took = (0..times).map(one).collect::<io::Result<Vec<_>>>()?;
    took.sort_unstable();
    took.get(times / 2).copied().ok_or_else(|| io::Error::other("nothing was measured"))
}
