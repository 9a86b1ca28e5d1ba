//! What of `/proc` is this program's own: the kernel lets any of its threads have it,
//! whatever their rights.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::{AtFlags, PROC_SUPER_MAGIC, StatxFlags, fstatfs, readlink, statx};

use super::error::FileError;

/// The mounts of this program's namespace, a line each that begins with the mount's number.
const MOUNTS: &str = "/proc/thread-self/mountinfo";

/// Refuses an open file that is part of this process: its memory, its environment, what it
/// has open. Elsewhere than among this program's own mounts it may have any name (a user may mount
/// it, in namespaces of the user's): then no file of that kind is taken.
pub(super) fn refuse_own(file: &(impl AsFd + AsRawFd), path: &str) -> Result<(), FileError> {
    let refused = |error: rustix::io::Errno| FileError::at(path)(error.into());
    if fstatfs(file).map_err(refused)?.f_type != PROC_SUPER_MAGIC {
        return Ok(());
    }
    let link = readlink(format!("/proc/thread-self/fd/{}", file.as_raw_fd()), Vec::new()).map_err(refused)?;
    let pid = std::process::id().to_string();
    let own = link.to_str().is_ok_and(|link| link.split('/').any(|part| part == pid));
    if own || !is_mounted_here(file).map_err(FileError::at(path))? {
        return Err(FileError::Own(path.to_owned()));
    }
    Ok(())
}

/// Whether the file was reached over a mount of this program's namespace, so that its path is told
/// as it is here.
fn is_mounted_here(file: &impl AsFd) -> std::io::Result<bool> {
    let found = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    if found.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
        return Ok(false);
    }
    let mount = found.stx_mnt_id.to_string();
    Ok(fs::read_to_string(MOUNTS)?.lines().any(|line| line.split(' ').next() == Some(&mount)))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use needs::needs;

    use super::*;

    #[test]
    fn what_is_this_programs_own_is_that_under_a_name_that_a_user_gave_it_too() {
        needs!(root);
        let name = tempfile::NamedTempFile::new().unwrap();
        let path = name.path().to_str().unwrap();
        let script = "mount --bind /proc/$1/environ $2 && echo ready && exec cat";
        let pid = std::process::id().to_string();
        let mut child = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", script, "sh", &pid, path])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let renamed = format!("/proc/{}/root{path}", child.id());
        let refused = refuse_own(&File::open(&renamed).unwrap(), &renamed);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(matches!(refused, Err(FileError::Own(_))), "{refused:?}");
        refuse_own(&File::open("/proc/meminfo").unwrap(), "/proc/meminfo").unwrap();
    }
}
