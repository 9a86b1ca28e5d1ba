//! The parts as processes of ours: started, heard, and ended in turn.

use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How much of a dead part's log is shown.
const TAIL_BYTES: u64 = 2048;

/// One running part. Ends with us, whatever happens to us.
#[derive(Debug)]
pub(crate) struct Part {
    name: &'static str,
    log: PathBuf,
    child: Child,
}

impl Part {
    /// Starts `command` with its output in `<logs>/<name>.log`.
    pub(crate) fn start(name: &'static str, logs: &Path, mut command: Command) -> Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let output = OpenOptions::new().create(true).write(true).truncate(true).open(&log);
        let output = output.with_context(|| format!("open {}", log.display()))?;
        command.stderr(Stdio::from(output)).kill_on_drop(true);
        end_with_parent(command.as_std_mut());
        let child = command.spawn().with_context(|| format!("start {name}"))?;
        Ok(Self { name, log, child })
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
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
        // A closed standard input is how a part without signal handling is asked.
        drop(self.child.stdin.take());
        kill_process(pid, Signal::TERM).with_context(|| format!("ask {} to end", self.name))?;
        if timeout(grace, self.child.wait()).await.is_ok() {
            return Ok(());
        }
        self.child.kill().await.with_context(|| format!("kill {}", self.name))?;
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
