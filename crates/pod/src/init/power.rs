//! The end of a machine.

use rustix::process::{Pid, Signal, kill_process_group};
use rustix::system::{RebootCommand, reboot};

/// Kills every process of the machine but this one: the process group of PID 1,
/// negated, is the kernel's name for all of them.
pub(super) fn kill_all() {
    // It fails where there is none, which is what is wanted.
    let _ = kill_process_group(Pid::INIT, Signal::KILL);
}

/// Switches the machine off. Comes back only if the kernel refuses.
pub(super) fn off() -> rustix::io::Result<()> {
    reboot(RebootCommand::PowerOff)
}
