//! Processes, named so that a reused id is never mistaken for them.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

use crate::files;

/// Field 22 of `/proc/<pid>/stat`, counted from the end of the name.
const START_TIME: usize = 19;

/// What must be remembered to find a process again. Its id alone proves nothing: it is
/// reused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessFacts {
    /// Its id.
    pub pid: u32,
    /// When it started, in clock ticks since the machine booted.
    pub started: u64,
    /// Which boot of the machine that was.
    pub boot: String,
}

/// The id of this boot of the machine.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// What identifies a process that is known to run.
///
/// # Errors
/// When it does not run.
pub fn facts(pid: u32) -> io::Result<ProcessFacts> {
    Ok(ProcessFacts { pid, started: started(pid)?, boot: boot_id()? })
}

/// A handle on exactly the process of these facts; `None` only when it is certain that
/// it does not run any more.
///
/// # Errors
/// When the machine does not tell.
pub fn find(facts: &ProcessFacts) -> io::Result<Option<OwnedFd>> {
    if boot_id()? != facts.boot {
        return Ok(None);
    }
    let Some(pid) = i32::try_from(facts.pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
    // The handle first: whatever it names cannot change under the check.
    let handle = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) => handle,
        Err(error) if is_no_process(error) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match started(facts.pid) {
        Ok(started) => Ok((started == facts.started).then_some(handle)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A handle whose process's end can be waited for.
#[expect(unsafe_code, reason = "the runtime wants to be promised that the handle stays what it is")]
pub(crate) fn watchable(handle: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open as long as it lives, and nobody replaces it.
    Ok(unsafe { AsyncFd::register(handle) }?)
}

/// Nobody has the number, or by now a thread of another process.
fn is_no_process(error: Errno) -> bool {
    matches!(error, Errno::SRCH | Errno::NOENT | Errno::INVAL)
}

/// What is said in `/proc` of a process that has ended, before and while it is read.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::SRCH.raw_os_error())
}

/// Resident memory of a process.
pub(crate) fn resident_bytes(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").trim().parse::<u64>().ok());
    Ok(kib.unwrap_or(0) * 1024)
}

/// For how long a process was ready to run and had no processor: the longest of its
/// threads.
pub(crate) fn waited_for_processor(pid: u32) -> io::Result<Duration> {
    let mut longest = Duration::ZERO;
    for thread in files::names(Path::new(&format!("/proc/{pid}/task")))? {
        // It may have ended meanwhile.
        let told = fs::read_to_string(format!("/proc/{pid}/task/{thread}/schedstat")).unwrap_or_default();
        let waited = told.split_whitespace().nth(1).and_then(|nanoseconds| nanoseconds.parse().ok());
        longest = longest.max(Duration::from_nanos(waited.unwrap_or(0)));
    }
    Ok(longest)
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
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Instant;

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
        assert!(find(&ProcessFacts { started: own.started + 1, ..own.clone() }).unwrap().is_none());
        assert!(find(&ProcessFacts { boot: "another".to_owned(), ..own }).unwrap().is_none());
    }

    #[test]
    fn fault_1_5_a_process_that_shares_a_processor_has_waited_for_it() {
        let (done, until) = (AtomicBool::new(false), Instant::now() + Duration::from_secs(20));
        std::thread::scope(|scope| {
            for _ in 0..=std::thread::available_parallelism().unwrap().get() {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) && Instant::now() < until {
                        std::hint::spin_loop();
                    }
                });
            }
            while waited_for_processor(std::process::id()).unwrap() < Duration::from_millis(20) {
                assert!(Instant::now() < until, "nobody has waited");
                std::thread::yield_now();
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(waited_for_processor(0).unwrap(), Duration::ZERO);
    }

    #[test]
    fn fault_1_1_only_a_process_that_is_certainly_gone_is_taken_for_gone() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let gone = facts(child.id()).unwrap();
        child.wait().unwrap();
        assert!(find(&gone).unwrap().is_none());
        // A thread has the number now.
        let (of_thread, hear) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            of_thread.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            ended.recv().unwrap_err();
        });
        let pid = u32::try_from(hear.recv().unwrap()).unwrap();
        assert!(find(&ProcessFacts { pid, ..gone }).unwrap().is_none());
        drop(end);
        thread.join().unwrap();
        for unknown in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::PERM] {
            assert!(!is_no_process(unknown) && !is_gone(&unknown.into()), "{unknown}");
        }
    }
}
