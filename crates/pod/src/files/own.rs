//! What of `/proc` is this program's own: the kernel lets any of its threads have it,
//! whatever their rights.

use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::{PROC_SUPER_MAGIC, fstatfs, readlink};

use super::error::FileError;

/// Refuses an open file that is part of this process: its memory, its environment, what it
/// has open.
pub(super) fn refuse_own(file: &(impl AsFd + AsRawFd), path: &str) -> Result<(), FileError> {
    let refused = |error: rustix::io::Errno| FileError::at(path)(error.into());
    if fstatfs(file).map_err(refused)?.f_type != PROC_SUPER_MAGIC {
        return Ok(());
    }
    let link = readlink(format!("/proc/thread-self/fd/{}", file.as_raw_fd()), Vec::new()).map_err(refused)?;
    let pid = std::process::id().to_string();
    let own = link.to_str().is_ok_and(|link| link.split('/').any(|part| part == pid));
    if own { Err(FileError::Own(path.to_owned())) } else { Ok(()) }
}
