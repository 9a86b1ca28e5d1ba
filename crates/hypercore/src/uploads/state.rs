//! One upload: what is done with it in this run of the daemon, and what lies on the disk.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use domain::ImageId;
use image::ImageStore;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use wire::fault::Code;
use wire::v1::images::{ArchiveSpec, BuildRuntime, HeldImage};

use super::error::UploadError;
use crate::buildlog::BuildLog;

/// One that is worked on in this run of the daemon.
#[derive(Default)]
pub(super) struct Upload {
    /// Whoever writes, or begins an import, holds this.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// Ends whoever writes now.
    writing: Mutex<CancellationToken>,
    work: Mutex<Work>,
    /// What its build has said, and whether it is to end.
    pub(super) log: Mutex<BuildLog>,
    pub(super) stopping: CancellationToken,
}

/// What became of an import.
#[derive(Clone, Default)]
pub(super) enum Work {
    #[default]
    None,
    Importing(String, Option<BuildRuntime>),
    /// The node's own trouble: the archive is there, and an import may be asked for again.
    Trouble(Code, String),
}

/// `failed.json`.
#[derive(Serialize, Deserialize)]
pub(super) struct Failure {
    pub(super) code: Code,
    pub(super) error: String,
}

impl Upload {
    /// Ends whoever writes now; the token of whoever writes from now on.
    pub(super) fn take_over(&self) -> CancellationToken {
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        writing.cancel();
        *writing = CancellationToken::new();
        writing.clone()
    }

    pub(super) fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An import that failed for want of something here is asked for again.
    pub(super) fn forget_trouble(&self) {
        let mut work = self.work();
        if matches!(*work, Work::Trouble(..)) {
            *work = Work::None;
        }
    }

    pub(super) fn set(&self, work: Work) {
        *self.work() = work;
    }
}

/// What the disk has of one.
pub(super) fn found(store: &ImageStore, dir: &Path, id: ImageId) -> Result<Option<HeldImage>, UploadError> {
    if let Some(digest) = store.pinned(id) {
        let image = store.get(&digest)?;
        let (bytes, needs, built_in) = (store.bytes_of(&digest)?, image.needs, store.built_in(id));
        return Ok(Some(HeldImage::Held { digest, bytes, needs, built_in }));
    }
    let Some(spec) = read_spec(dir) else { return Ok(None) };
    if let Ok(failure) = fs::read(dir.join("failed.json")) {
        let Failure { code, error } = serde_json::from_slice(&failure).map_err(io::Error::other)?;
        return Ok(Some(HeldImage::Failed { code, error }));
    }
    let offset = fs::metadata(dir.join("part"))?.len();
    Ok(Some(HeldImage::Receiving { offset, size: spec.size }))
}

pub(super) fn read_spec(dir: &Path) -> Option<ArchiveSpec> {
    serde_json::from_slice(&fs::read(dir.join("spec.json")).ok()?).ok()
}

pub(super) fn lock<T>(held: &Mutex<T>) -> MutexGuard<'_, T> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn remove(dir: &Path) -> Result<(), UploadError> {
    Ok(fs::remove_dir_all(dir).or_else(missing)?)
}

pub(super) fn missing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

pub(super) fn exists(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) }
}

pub(super) fn full_or(error: io::Error) -> UploadError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => UploadError::NoRoom,
        _ => UploadError::Disk(error),
    }
}

/// Bytes that are free where this is.
pub(super) fn free(path: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(path)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, UploadError> + Send + 'static,
) -> Result<T, UploadError> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}
