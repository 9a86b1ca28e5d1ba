//! Processes, named so that a reused id is never mistaken for them.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::Facts;

/// Field 22 of `/proc/<pid>/stat`, counted from the end of the name.
const START_TIME: usize = 19;

/// The id of this boot of the machine.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// What identifies a process that is known to run.
///
/// # Errors
/// When it does not run.
pub fn facts(pid: u32) -> io::Result<Facts> {
    Ok(Facts { pid, started: started(pid)?, boot: boot_id()? })
}

/// A handle on exactly the process of these facts, if it still runs.
///
/// # Errors
/// When the machine does not tell of its boot.
pub fn find(facts: &Facts) -> io::Result<Option<OwnedFd>> {
    if boot_id()? != facts.boot {
        return Ok(None);
    }
    let Some(pid) = i32::try_from(facts.pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
    // The handle first: whatever it names cannot change under the check.
    let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(None) };
    let same = started(facts.pid).is_ok_and(|started| started == facts.started);
    Ok(same.then_some(handle))
}

/// Resident memory of a process.
pub(crate) fn resident_bytes(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").trim().parse::<u64>().ok());
    Ok(kib.unwrap_or(0) * 1024)
}

/// The user who runs a process.
pub(crate) fn uid(pid: u32) -> io::Result<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    let uid = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    uid.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/<pid>/status has another shape"))
}

fn started(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    start_time(&stat).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/<pid>/stat has another shape"))
}

fn start_time(stat: &str) -> Option<u64> {
    // The name may hold spaces and brackets: what follows its last bracket is ours.
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(START_TIME)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_time_is_found_behind_any_name() {
        let stat = "7 (a) b) c) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 2 3";
        assert_eq!(start_time(stat), Some(4242));
    }

    #[test]
    fn a_process_is_found_only_with_its_own_start_time_and_boot() {
        let own = facts(std::process::id()).unwrap();
        assert!(find(&own).unwrap().is_some());
        assert!(find(&Facts { started: own.started + 1, ..own.clone() }).unwrap().is_none());
        assert!(find(&Facts { boot: "another".to_owned(), ..own }).unwrap().is_none());
    }
}
