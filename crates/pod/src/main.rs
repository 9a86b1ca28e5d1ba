//! `pod`: runs one agent, and is the node's only way in to it. As PID 1 of a
//! virtual machine it boots the machine first; started as an ordinary process, in
//! a container, it takes what it finds.
//!
//! One thread, and short-lived ones that work on files with a user's rights. Its memory is wiped wherever it is freed, so that what was secret
//! in a request does not outlive it.

mod agent;
mod api;
mod args;
mod check;
mod codec;
mod container;
mod exec;
mod files;
mod identity;
mod init;
mod process;
mod server;
mod step;
mod timings;

use std::alloc::System;
use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use zeroizing_alloc::ZeroAlloc;

use crate::args::{Command, USAGE};
use crate::timings::BootStopwatch;

#[global_allocator]
static MEMORY: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    let timings = BootStopwatch::start();
    match Command::parse(std::process::id(), std::env::args().skip(1)) {
        Ok(command) => run(command, timings),
        Err(error) => {
            let _ = writeln!(io::stderr(), "pod: {error}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn run(command: Command, timings: BootStopwatch) -> ExitCode {
    let done = match command {
        Command::Version => writeln!(io::stdout(), "pod {}", env!("CARGO_PKG_VERSION")).map_err(Into::into),
        Command::Machine => hide_memory().and_then(|()| init::run(timings)),
        Command::Container(options) => hide_memory().and_then(|()| container::run(&options, timings)),
    };
    done.map_or_else(
        |error| {
            let _ = writeln!(io::stderr(), "pod: {error:#}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

/// No process of the agent's may read this one's memory, whatever its user.
fn hide_memory() -> anyhow::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context("cannot hide this program's memory")
}
