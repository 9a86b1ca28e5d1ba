//! From a process that was started to a guest that runs.

use std::path::Path;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::qmp::Qmp;
use crate::{DriverFailure, GuestExitWatch};

/// How long a VMM may take until its guest runs: some milliseconds, or a while on a
/// machine that starts many at once.
const DEADLINE: Duration = Duration::from_secs(60);
/// Pause between two questions to a VMM that is not so far.
const PAUSE: Duration = Duration::from_millis(2);

/// Waits until a VMM says that its guest runs. One that ends before could not be
/// started by this node: its guest has not had a word in it.
pub(super) async fn until_running(control: &Path, exit: &mut GuestExitWatch) -> Result<(), DriverFailure> {
    tokio::select! {
        // What was said before the end counts.
        biased;
        running = timeout(DEADLINE, running(control)) => running.map_err(|_| DriverFailure::Deadline(DEADLINE)),
        words = exit.wait() => Err(DriverFailure::Vmm(words)),
    }
}

/// The socket is there before the VMM is, and lets us wait in line for its greeting.
async fn running(control: &Path) {
    loop {
        let asked = async { Qmp::connect(control).await?.has_started().await };
        match asked.await {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, "a VMM that was started does not answer yet"),
        }
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    /// A VMM that says one of these to each who connects.
    fn vmm(dir: &Path, said: &'static [&'static str]) -> std::path::PathBuf {
        let control = dir.join("control");
        let listener = UnixListener::bind(&control).unwrap();
        tokio::spawn(async move {
            for said in said {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(said.as_bytes()).await.unwrap();
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        });
        control
    }

    const PRELAUNCH: &str = "{\"QMP\":{}}\n{\"return\":{}}\n{\"return\":{\"status\":\"prelaunch\"}}\n";
    const RUNNING: &str = "{\"QMP\":{}}\n{\"return\":{}}\n{\"return\":{\"status\":\"running\"}}\n";

    #[tokio::test]
    async fn fault_1_1_a_guest_has_started_when_its_vmm_says_so_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let control = vmm(dir.path(), &[PRELAUNCH, "{\"QMP\":{}", RUNNING]);
        let (_announce, mut exit) = GuestExitWatch::channel();
        until_running(&control, &mut exit).await.unwrap();
    }

    #[tokio::test]
    async fn fault_1_1_a_vmm_that_ends_before_its_guest_ran_is_the_nodes_trouble_and_is_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let control = vmm(dir.path(), &[PRELAUNCH]);
        let (announce, mut exit) = GuestExitWatch::channel();
        let guest = tokio::spawn(async move { until_running(&control, &mut exit).await });
        announce.send_replace(Some("the VMM ended and said: cannot allocate memory".to_owned()));
        let failure = guest.await.unwrap().unwrap_err();
        assert!(
            matches!(&failure, DriverFailure::Vmm(words) if words.ends_with("cannot allocate memory")),
            "{failure}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn fault_1_1_a_vmm_that_never_says_a_word_is_not_waited_for_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let (_announce, mut exit) = GuestExitWatch::channel();
        let failure = until_running(&dir.path().join("control"), &mut exit).await.unwrap_err();
        assert!(matches!(failure, DriverFailure::Deadline(DEADLINE)), "{failure}");
    }
}
