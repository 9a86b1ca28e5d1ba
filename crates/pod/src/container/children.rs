//! The processes that this one has started or inherited.

use rustix::process::{Pid, Signal, getpid, kill_process};

/// Kills every child. What a child leaves behind is a child then, and killed when
/// this is called again.
pub(super) fn kill_children() {
    for child in children(getpid()) {
        // One that ended meanwhile is as good as killed.
        let _ = kill_process(child, Signal::KILL);
    }
}

/// The processes whose parent this is. `/proc/PID/task/TID/children` is not in every kernel.
fn children(parent: Pid) -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw));
    pids.filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

fn parent_of(pid: Pid) -> Option<Pid> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    parse_parent(&stat)
}

/// `pid (name) state parent …`; the name may hold blanks and parentheses.
fn parse_parent(stat: &str) -> Option<Pid> {
    let (_, fields) = stat.rsplit_once(')')?;
    Pid::from_raw(fields.split_whitespace().nth(1)?.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_read_whatever_the_process_is_called() {
        assert_eq!(parse_parent("12 (a) b) (c)) S 7 12 12 0"), Pid::from_raw(7));
        assert_eq!(parse_parent("12 (x"), None);
    }

    #[test]
    fn children_are_found_and_nobody_else_is() {
        let mut child = std::process::Command::new("/bin/sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_child(&child);
        let found = children(getpid());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.contains(&pid) && !found.contains(&getpid()), "{found:?}");
    }
}
