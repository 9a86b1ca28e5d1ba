//! A development chain of a test's own. What is on it is the test's matter.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Names the folder of what `./dev` installs for tests.
pub const ASSETS: &str = "PALATINE_ASSETS";
/// The chain id of the tests' chains: that of Cronos' own test network.
pub const CHAIN_ID: u64 = 338;
/// Where anvil is among the assets.
const PROGRAM: &str = "evm/node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil";
/// What it says before the address at which it listens.
const LISTENING: &str = "Listening on ";
/// How long it may take to start, on a machine that does other things too.
const START: Duration = Duration::from_secs(60);

/// A running anvil; it ends when dropped.
#[derive(Debug)]
pub struct Anvil {
    child: Child,
    /// Of its RPC.
    pub url: String,
}

impl Anvil {
    /// Starts one on a free port, with these further arguments.
    ///
    /// # Panics
    /// When it is not installed, or does not come up in time.
    #[must_use]
    pub fn start(arguments: &[&str]) -> Self {
        let assets = std::env::var_os(ASSETS).expect("PALATINE_ASSETS names the assets; ./dev test sets it");
        Self::start_program(&PathBuf::from(assets).join(PROGRAM), arguments, START)
    }

    fn start_program(program: &Path, arguments: &[&str], patience: Duration) -> Self {
        assert!(program.is_file(), "anvil is not installed at {}: ./dev test installs it", program.display());
        let mut child = Command::new(program)
            .args(["--host", "127.0.0.1", "--port", "0", "--chain-id", &CHAIN_ID.to_string()])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("anvil cannot be started: {error}"));
        let stdout = child.stdout.take().expect("its standard output is a pipe");
        // From here on a panic ends it.
        let mut anvil = Self { child, url: String::new() };
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            // Read to its end: a full pipe would stop it.
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(place) = line.trim().strip_prefix(LISTENING) {
                    let _ = tell.send(format!("http://{place}"));
                }
            }
        });
        anvil.url = told.recv_timeout(patience).expect("anvil says where it listens");
        anvil
    }

    /// `kill -9`, at this instant.
    pub fn kill(&mut self) {
        // One that has ended already is as good as killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Anvil {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::panic::catch_unwind;
    use std::time::Instant;

    use super::*;

    /// A program that stands in for anvil, in a file that is named for this test.
    fn program(name: &str, script: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("palatine-needs-{name}-{}", std::process::id()));
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn lives(pid: u32) -> bool {
        Path::new(&format!("/proc/{pid}")).exists()
    }

    #[test]
    fn it_is_where_it_says_and_ends_when_dropped() {
        let path = program("says", "echo \"for $6 $7\"; echo 'Listening on 127.0.0.1:7'; exec sleep 60");
        let anvil = Anvil::start_program(&path, &["--silent"], START);
        fs::remove_file(path).unwrap();
        assert_eq!(anvil.url, "http://127.0.0.1:7");
        let pid = anvil.child.id();
        assert!(lives(pid));
        drop(anvil);
        assert!(!lives(pid));
    }

    #[test]
    fn one_that_never_listens_is_not_waited_for_and_not_left() {
        let file = std::env::temp_dir().join(format!("palatine-needs-pid-{}", std::process::id()));
        let path = program("silent", &format!("echo $$ > {}; exec sleep 60", file.display()));
        // Long enough for the shell; it never says a word.
        let started = catch_unwind(|| Anvil::start_program(&path, &[], Duration::from_secs(2)));
        fs::remove_file(path).unwrap();
        started.unwrap_err();
        let pid = fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        fs::remove_file(file).unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        while lives(pid) {
            assert!(Instant::now() < until, "it is left");
            thread::yield_now();
        }
    }
}
