//! The end of a guest: everything ended, everything written, power off.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use rustix::system::{RebootCommand, reboot};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::boot::Disks;
use crate::pod::Pod;

/// How long killed processes may take to be buried.
const BURIAL: Duration = Duration::from_secs(5);
/// How long answers that are on their way may take.
const FAREWELL: Duration = Duration::from_millis(500);
/// The pause between two looks at who is left.
const LOOK: Duration = Duration::from_millis(2);

/// Takes the guest down, in the order that loses nothing: processes, then what
/// they said, then what they wrote.
pub(crate) async fn down(pod: &Pod, disks: &Disks, closing: &CancellationToken, tasks: &TaskTracker) {
    end_all();
    if timeout(BURIAL, buried(pod)).await.is_err() {
        tracing::warn!("a process could not be ended; going down without it");
    }
    pod.logs().close();
    closing.cancel();
    tasks.close();
    // A client that does not take its answer does not keep the guest.
    let _ = timeout(FAREWELL, tasks.wait()).await;
    rustix::fs::sync();
    if let Err(error) = disks.seal() {
        tracing::warn!(error = format!("{:#}", anyhow::Error::from(error)), "a disk could not be sealed; it is synced");
    }
}

/// Switches the machine off. Comes back only if the kernel refuses; PID 1 then
/// ends, which the kernel answers with a panic, and that with a reboot.
pub(crate) fn off() -> rustix::io::Result<()> {
    reboot(RebootCommand::PowerOff)
}

/// The process group of PID 1, negated, is the kernel's name for everybody but
/// the caller.
fn end_all() {
    let _ = kill_process_group(Pid::INIT, Signal::KILL);
}

async fn buried(pod: &Pod) {
    while !pod.reaper().bury() {
        sleep(LOOK).await;
    }
}
