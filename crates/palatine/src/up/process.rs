//! The parts as processes of ours: started, heard, and ended in turn.

use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use sandbox::ProcessFacts;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How much of a dead part's log is shown.
const TAIL_BYTES: u64 = 2048;
/// Bytes of a log at most. What is older lies in one more file, as large at most.
const LOG_BYTES: u64 = 16 * 1024 * 1024;
/// How long a killed part may take to be gone.
pub(crate) const KILL_LIMIT: Duration = Duration::from_secs(10);

/// One running part. Ends with us, whatever happens to us.
#[derive(Debug)]
pub(crate) struct Part {
    name: &'static str,
    log: PathBuf,
    child: Child,
}

impl Part {
    /// Starts `command` with its output at the end of `<logs>/<name>.log`.
    pub(crate) fn start(name: &'static str, logs: &Path, mut command: Command) -> Result<Self> {
        let log = logs.join(format!("{name}.log"));
        // At its end, whatever happens to what is there: it may be cut meanwhile.
        let output = OpenOptions::new().create(true).append(true).open(&log);
        let output = output.with_context(|| format!("open {}", log.display()))?;
        command.stderr(Stdio::from(output)).kill_on_drop(true);
        end_with_parent(command.as_std_mut());
        let child = command.spawn().with_context(|| format!("start {name}"))?;
        Ok(Self { name, log, child })
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// What tells its process from any other; nothing when it is dead and reaped.
    pub(crate) fn facts(&self) -> Option<ProcessFacts> {
        sandbox::process::facts(self.child.id()?).ok()
    }

    /// Keeps its log within its bound.
    pub(crate) fn bound_log(&self) {
        if let Err(error) = bound(&self.log) {
            eprintln!("! {} cannot be kept within its bound: {error}", self.log.display());
        }
    }

    /// Kills it, if it still runs.
    pub(crate) async fn kill(mut self) {
        if let Ok(Err(error)) = timeout(KILL_LIMIT, self.child.kill()).await {
            eprintln!("! {} cannot be killed: {error}", self.name);
        }
    }

    /// Waits until the part has died, and says what it said last.
    pub(crate) async fn died(&mut self) -> anyhow::Error {
        let how = match self.child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        let said = tail(&self.log).unwrap_or_default();
        anyhow::anyhow!("{} ended ({how}); the end of {}:\n{said}", self.name, self.log.display())
    }

    /// Waits for `ready`, unless the part dies first or takes longer than `limit`.
    pub(crate) async fn until<T>(&mut self, limit: Duration, ready: impl Future<Output = T>) -> Result<T> {
        let (name, log) = (self.name, self.log.clone());
        tokio::select! {
            outcome = timeout(limit, ready) => {
                outcome.with_context(|| format!("{name} was not ready within {limit:?}; see {}", log.display()))
            }
            death = self.died() => Err(death),
        }
    }

    /// Asks the part to end, waits, and kills it if it does not.
    pub(crate) async fn end(mut self, grace: Duration) -> Result<()> {
        let Some(pid) = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) else {
            return Ok(()); // dead and reaped already
        };
        // One that is stopped hears nothing before it goes on.
        for signal in [Signal::TERM, Signal::CONT] {
            kill_process(pid, signal).with_context(|| format!("ask {} to end", self.name))?;
        }
        if timeout(grace, self.child.wait()).await.is_ok() {
            return Ok(());
        }
        match timeout(KILL_LIMIT, self.child.kill()).await {
            Ok(killed) => killed.with_context(|| format!("kill {}", self.name))?,
            Err(_) => bail!("{} was killed and is still there", self.name),
        }
        bail!("{} did not end within {grace:?} and was killed; see {}", self.name, self.log.display())
    }
}

/// Has the kernel send SIGTERM to the child when the thread that starts it dies:
/// `up` starts all parts from its main thread, so that is when `up` dies.
#[expect(unsafe_code, reason = "the only way to say this between fork and exec; the call is async-signal-safe")]
pub(crate) fn end_with_parent(command: &mut std::process::Command) {
    let ask = || set_parent_process_death_signal(Some(Signal::TERM)).map_err(Into::into);
    // SAFETY: the closure makes one prctl system call and allocates nothing.
    unsafe { command.pre_exec(ask) };
}

/// A port of this machine that nobody listens on just now.
pub(crate) fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    Ok(listener.local_addr().context("find a free port")?.port())
}

/// Makes a log empty.
pub(crate) fn empty(log: &Path) -> Result<()> {
    std::fs::write(log, "").with_context(|| format!("empty {}", log.display()))
}

/// Moves what is in a log that has grown too long into the one before it.
pub(crate) fn bound(log: &Path) -> std::io::Result<()> {
    let length = match std::fs::metadata(log) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if length <= LOG_BYTES {
        return Ok(());
    }
    // Whoever writes it holds it open: it is copied and cut, not moved.
    std::fs::copy(log, log.with_extension("log.1"))?;
    OpenOptions::new().write(true).open(log)?.set_len(0)
}

fn tail(log: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn a_part_that_dies_early_is_an_error_with_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let mut part = Part::start("mayfly", dir.path(), shell("echo no such luck >&2; exit 3")).unwrap();
        let error = part.until(Duration::from_secs(10), std::future::pending::<()>()).await.unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("no such luck"), "{error}");
    }

    #[tokio::test]
    async fn fault_1_0_a_log_has_a_bound_and_goes_on_at_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("talker.log");
        std::fs::write(&log, vec![b'x'; usize::try_from(LOG_BYTES).unwrap()]).unwrap();
        let mut command = shell("echo one >&2; read -r go; echo two >&2");
        command.stdin(Stdio::piped());
        let mut part = Part::start("talker", dir.path(), command).unwrap();
        let input = part.child().stdin.take();
        while !tail(&log).unwrap().ends_with("one\n") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        part.bound_log();
        assert_eq!(std::fs::metadata(&log).unwrap().len(), 0);
        assert!(tail(&dir.path().join("talker.log.1")).unwrap().ends_with("one\n"));
        drop(input);
        part.died().await;
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "two\n");
    }

    #[tokio::test]
    async fn fault_1_5_a_part_that_is_stopped_hears_that_it_is_to_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = shell("trap 'echo asked >&2; exit 0' TERM; echo up; kill -STOP $$; sleep 1000");
        command.stdout(Stdio::piped());
        let mut part = Part::start("stopped", dir.path(), command).unwrap();
        let mut up = [0; 3];
        let mut stdout = part.child().stdout.take().unwrap();
        tokio::io::AsyncReadExt::read_exact(&mut stdout, &mut up).await.unwrap();
        let stat = format!("/proc/{}/stat", part.child().id().unwrap());
        let limit = std::time::Instant::now() + Duration::from_secs(30);
        while !std::fs::read_to_string(&stat).unwrap().contains(") T ") {
            assert!(std::time::Instant::now() < limit, "it is not stopped");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        part.end(Duration::from_secs(30)).await.unwrap();
        assert_eq!(tail(&dir.path().join("stopped.log")).unwrap(), "asked\n");
    }

    #[tokio::test]
    async fn a_part_that_ignores_the_request_is_killed_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = shell("trap '' TERM; echo up; while :; do read -r x < /dev/zero; done");
        command.stdout(Stdio::piped());
        let mut part = Part::start("stubborn", dir.path(), command).unwrap();
        let mut up = [0; 3];
        let mut stdout = part.child().stdout.take().unwrap();
        tokio::io::AsyncReadExt::read_exact(&mut stdout, &mut up).await.unwrap();
        let error = part.end(Duration::from_millis(50)).await.unwrap_err().to_string();
        assert!(error.contains("stubborn did not end"), "{error}");
    }
}
