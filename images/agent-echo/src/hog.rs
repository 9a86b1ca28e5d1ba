//! `agent-echo hog`: takes what it can get, for tests of what a guest gets.

use std::hint::black_box;
use std::io::{self, Write};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use crate::log;

const MIB: usize = 1 << 20;

/// Fills memory, or keeps as many threads busy for some seconds.
pub(crate) fn run(words: &[&str]) -> ExitCode {
    match words {
        ["memory", mib] => mib.parse().map_or(usage(), memory),
        ["cores", threads, seconds] => match (threads.parse(), seconds.parse()) {
            (Ok(threads), Ok(seconds)) => cores(threads, Duration::from_secs(seconds)),
            _ => usage(),
        },
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    log::line("usage: agent-echo hog memory <MiB> | cores <threads> <seconds>");
    ExitCode::from(2)
}

fn memory(mib: usize) -> ExitCode {
    let mut held = Vec::new();
    for filled in 1..=mib {
        // Not zeros, which could be one page.
        held.push(vec![u8::try_from(filled % 251).unwrap_or(1) + 1; MIB]);
    }
    let written = writeln!(io::stdout(), "{} MiB are filled", black_box(&held).len());
    written.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
}

fn cores(threads: usize, time: Duration) -> ExitCode {
    let until = Instant::now() + time;
    let busy = || {
        let mut turns = 0_u64;
        while Instant::now() < until {
            turns = black_box(turns.wrapping_add(1));
        }
    };
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(busy))));
    ExitCode::SUCCESS
}
