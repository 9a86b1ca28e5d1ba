//! `palatine cp` and `palatine volume cp`: what copies in both directions share.
//!
//! A large file goes up in pieces, which lie beside it until they become one ([`super::upload`]), and comes
//! down into a part that lies beside it until it is whole ([`super::download`]). What broke off goes on there,
//! in this run and in the next: what a piece or a part is of stands in its name.
//!
//! Files and folders keep their permissions. A folder gets them when all in it is copied: it
//! may be one that nobody writes to. Out of an agent those alone get them that are made here.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::time::Duration;

use anyhow::Result;
use backon::{ExponentialBuilder, Retryable};
use client::ClientError;
use indicatif::{ProgressBar, ProgressStyle};
use wire::filesystem::EntryInfo;
use wire::printable;

use super::files::RemoteFiles;
use crate::answers::Copied;

/// How often what broke off is begun again without one more byte.
const RETRIES: usize = 6;
/// The first and the longest pause before that.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));
/// What of a mode is permissions.
pub(super) const PERMISSIONS: u32 = 0o777;
/// Bytes of a name that are shown.
pub(super) const SHOWN: usize = 1024;

/// What is copied, and what of it is done.
pub(super) struct Copying {
    pub(super) files: RemoteFiles,
    pub(super) bar: ProgressBar,
    pub(super) done: Copied,
}

impl Copying {
    /// Of these files, with a bar that has no length yet.
    pub(super) fn new(files: RemoteFiles) -> Self {
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{msg:40!} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}") {
            bar.set_style(style);
        }
        Self { files, bar, done: Copied::default() }
    }

    /// What was copied.
    pub(super) fn finish(self) -> Copied {
        self.bar.finish_and_clear();
        self.done
    }

    /// Says that something is not copied.
    pub(super) fn skip(&mut self, path: String, why: &str) {
        let shown = printable(&path, SHOWN);
        self.bar.suspend(|| eprintln!("warning: {shown}: {why}; it is not copied"));
        self.done.skipped.push(path);
    }

    /// Says that a folder's permissions are not the copied one's, where that is all that is wrong.
    pub(super) fn keep_going(&self, path: &str, error: anyhow::Error) -> Result<()> {
        let refused = error.downcast_ref().and_then(ClientError::guest_status);
        let ours = error.downcast_ref::<io::Error>().map(io::Error::kind);
        // Somebody else's folder; a guest that runs since before it knew the call.
        if !matches!(refused, Some(403 | 501)) && ours != Some(io::ErrorKind::PermissionDenied) {
            return Err(error);
        }
        let said = printable(&format!("{path}: its permissions are not kept: {error:#}"), SHOWN);
        self.bar.suspend(|| eprintln!("warning: {said}"));
        Ok(())
    }
}

/// The path of something in a folder.
pub(super) fn within(folder: &str, name: &str) -> String {
    match folder.trim_end_matches('/') {
        "" if folder.is_empty() => name.to_owned(),
        folder => format!("{folder}/{name}"),
    }
}

/// The bytes of a file that is not here.
pub(super) fn size(entry: &EntryInfo) -> u64 {
    u64::try_from(entry.size).unwrap_or(0)
}

/// A number that is the same for the same file, and another one once it has changed.
pub(super) fn key(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// Once more, where nobody refused it.
pub(super) async fn persistent<T, F: Future<Output = Result<T>>>(work: impl FnMut() -> F) -> Result<T> {
    let pauses =
        ExponentialBuilder::default().with_min_delay(PAUSES.0).with_max_delay(PAUSES.1).with_max_times(RETRIES);
    let passing = |error: &anyhow::Error| error.downcast_ref().is_some_and(ClientError::may_pass);
    work.retry(pauses).when(passing).await
}
