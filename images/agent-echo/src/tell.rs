//! `agent-echo tell`: what the guest is like from inside, for tests and the curious.

use std::fs::File;
use std::io::{self, Write};
use std::process::ExitCode;

use crate::log;

/// Prints one figure or one variable of the guest.
pub(crate) fn run(what: &[&str]) -> ExitCode {
    let told = match what {
        ["cores"] => std::thread::available_parallelism().map(|cores| cores.to_string()),
        ["memory"] => memory_mib().map(|mib| mib.to_string()),
        ["user"] => Ok(rustix::process::geteuid().as_raw().to_string()),
        ["open", path] => File::open(path).map(|_| "opened".to_owned()),
        ["env", name] => std::env::var(name).map_err(io::Error::other),
        ["exit", code] => return code.parse().map_or(ExitCode::from(2), |code: u8| ExitCode::from(code)),
        _ => {
            log::line("usage: agent-echo tell cores | memory | user | open <path> | env <NAME> | exit <code>");
            return ExitCode::from(2);
        }
    };
    match told.and_then(|told| writeln!(io::stdout(), "{told}")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::line(&format!("tell {}: {error}", what.join(" ")));
            ExitCode::FAILURE
        }
    }
}

/// Copies standard input to standard output.
pub(crate) fn cat() -> ExitCode {
    match io::copy(&mut io::stdin().lock(), &mut io::stdout().lock()) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            log::line(&format!("cat: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn memory_mib() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
    let kib: u64 = total.ok_or_else(|| io::Error::other("/proc/meminfo tells no MemTotal"))?;
    Ok(kib / 1024)
}
