//! Locks between processes: on files, so that they end with their holder.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long somebody else's work is waited for: the longest import.
const PATIENCE: Duration = Duration::from_secs(3600);
const PAUSE: Duration = Duration::from_millis(20);

/// Why a lock is not held.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else is at work and does not end.
    #[error("the image store is busy: another import, pull or removal holds {0}")]
    Busy(PathBuf),
    /// The file cannot be opened or locked.
    #[error("cannot lock {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A lock that is held; dropped, it is free.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Holds it together with others.
    pub(crate) fn shared(path: &Path) -> Result<Self, LockError> {
        wait(path, File::try_lock_shared)
    }

    /// Holds it alone.
    pub(crate) fn exclusive(path: &Path) -> Result<Self, LockError> {
        wait(path, File::try_lock)
    }

    /// Holds it alone, if nobody holds it now.
    pub(crate) fn try_exclusive(path: &Path) -> Result<Self, LockError> {
        at_once(path, File::try_lock)
    }

    /// Holds it together with others, if nobody holds it alone now.
    pub(crate) fn try_shared(path: &Path) -> Result<Self, LockError> {
        at_once(path, File::try_lock_shared)
    }
}

fn at_once(path: &Path, try_lock: impl Fn(&File) -> Result<(), TryLockError>) -> Result<Lock, LockError> {
    let file = open(path)?;
    try_lock(&file).map(|()| Lock { _file: file }).map_err(|_| LockError::Busy(path.to_owned()))
}

fn wait(path: &Path, try_lock: impl Fn(&File) -> Result<(), TryLockError>) -> Result<Lock, LockError> {
    let file = open(path)?;
    let start = Instant::now();
    loop {
        match try_lock(&file) {
            Ok(()) => return Ok(Lock { _file: file }),
            Err(TryLockError::Error(source)) => return Err(LockError::Io { path: path.to_owned(), source }),
            Err(TryLockError::WouldBlock) if start.elapsed() > PATIENCE => {
                return Err(LockError::Busy(path.to_owned()));
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
        }
    }
}

fn open(path: &Path) -> Result<File, LockError> {
    let opened = File::options().create(true).truncate(false).read(true).write(true).open(path);
    opened.map_err(|source| LockError::Io { path: path.to_owned(), source })
}
