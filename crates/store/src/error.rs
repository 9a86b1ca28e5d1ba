//! What can go wrong, in words an operator can act on.

use std::path::PathBuf;
use std::sync::Arc;

use domain::{PodId, Refusal, RunId};
use rusqlite::ErrorCode;

/// Why the store did not do it. Cheap to clone: one failed commit answers many.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// This message was spent before.
    #[error("this message was used before")]
    Replayed,
    /// No such agent.
    #[error("there is no run {0}")]
    Unknown(RunId),
    /// No such POD, or it was removed.
    #[error("there is no POD {0}")]
    NoPod(PodId),
    /// The agent's life does not know this step.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Another run has this id.
    #[error("the id {0} is taken")]
    IdTaken(RunId),
    /// The configuration is out of bounds.
    #[error(transparent)]
    Config(#[from] crate::ConfigError),
    /// A file or directory cannot be made or opened.
    #[error("{operation} {path}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: Arc<std::io::Error>,
    },
    /// Another process has it open.
    #[error("another process uses the store in {0}: stop it first")]
    InUse(PathBuf),
    /// Made by a newer version.
    #[error("{path} has schema {found}, and this version knows up to {known}: use the newer version, or a backup")]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest known here.
        known: i64,
    },
    /// A database of some other program.
    #[error("{0} is a database, but not one of Palatine's")]
    Foreign(PathBuf),
    /// There was a database, and now its file is empty or missing.
    #[error(
        "{database} in {directory} is empty or missing, and {sign} beside it says that there was one: move \
         {database}-wal and {database}-shm aside, which are no part of a backup, and restore it from a backup; or, to \
         begin with nothing, move {directory} aside"
    )]
    Lost {
        /// The store's directory.
        directory: PathBuf,
        /// The database's name.
        database: &'static str,
        /// What tells that it was made.
        sign: &'static str,
    },
    /// The file is damaged.
    #[error(
        "{operation}: the database is damaged; move it, its -wal and its -shm aside, and restore it alone from a backup"
    )]
    Corrupt {
        /// What was tried.
        operation: &'static str,
        /// What SQLite said.
        source: Arc<rusqlite::Error>,
    },
    /// Somebody else holds the file's lock.
    #[error("{operation}: the database is locked by another program")]
    Locked {
        /// What was tried.
        operation: &'static str,
        /// What SQLite said.
        source: Arc<rusqlite::Error>,
    },
    /// No room.
    #[error("{operation}: the disk is full; nothing was changed")]
    Full {
        /// What was tried.
        operation: &'static str,
        /// What SQLite said.
        source: Arc<rusqlite::Error>,
    },
    /// The disk failed.
    #[error("{operation}: the disk failed")]
    Disk {
        /// What was tried.
        operation: &'static str,
        /// What SQLite said.
        source: Arc<rusqlite::Error>,
    },
    /// SQLite refused for another reason.
    #[error("{operation}: the database refused")]
    Sql {
        /// What was tried.
        operation: &'static str,
        /// What SQLite said.
        source: Arc<rusqlite::Error>,
    },
    /// A stored value that no version writes.
    #[error("the database holds a value that cannot be: {0}")]
    Value(&'static str),
    /// No answer in time. Whether it was done is not known.
    #[error("{operation}: the database did not answer in time")]
    Timeout {
        /// What was tried.
        operation: &'static str,
    },
    /// Opened outside of a runtime.
    #[error("the store must be opened in a tokio runtime")]
    NoRuntime,
    /// The store's threads are gone.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Sorts what SQLite said by what can be done about it.
    pub(crate) fn sql(operation: &'static str, error: rusqlite::Error) -> Self {
        let code = error.sqlite_error_code();
        let source = Arc::new(error);
        match code {
            Some(ErrorCode::DiskFull) => Self::Full { operation, source },
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Corrupt { operation, source },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed) => {
                Self::Locked { operation, source }
            }
            Some(ErrorCode::SystemIoFailure | ErrorCode::ReadOnly | ErrorCode::CannotOpen) => {
                Self::Disk { operation, source }
            }
            _ => Self::Sql { operation, source },
        }
    }

    pub(crate) fn file(operation: &'static str, path: impl Into<PathBuf>, error: std::io::Error) -> Self {
        Self::File { operation, path: path.into(), source: Arc::new(error) }
    }

    /// Whether the fault lies with the file or the disk, so that every other
    /// command of the same transaction would meet it too.
    pub(crate) const fn is_of_the_disk(&self) -> bool {
        match self {
            Self::Corrupt { .. } | Self::Locked { .. } | Self::Full { .. } | Self::Disk { .. } => true,
            Self::Replayed
            | Self::Unknown(_)
            | Self::NoPod(_)
            | Self::Refused(_)
            | Self::IdTaken(_)
            | Self::Config(_)
            | Self::File { .. }
            | Self::InUse(_)
            | Self::Newer { .. }
            | Self::Foreign(_)
            | Self::Lost { .. }
            | Self::Sql { .. }
            | Self::Value(_)
            | Self::Timeout { .. }
            | Self::NoRuntime
            | Self::Closed => false,
        }
    }

    /// Whether the same call may succeed later with nothing else changed.
    #[must_use]
    pub const fn retryable(&self) -> bool {
        match self {
            Self::Locked { .. } | Self::Full { .. } | Self::Disk { .. } | Self::Timeout { .. } => true,
            Self::Replayed
            | Self::Unknown(_)
            | Self::NoPod(_)
            | Self::Refused(_)
            | Self::IdTaken(_)
            | Self::Config(_)
            | Self::File { .. }
            | Self::InUse(_)
            | Self::Newer { .. }
            | Self::Foreign(_)
            | Self::Lost { .. }
            | Self::Corrupt { .. }
            | Self::Sql { .. }
            | Self::Value(_)
            | Self::NoRuntime
            | Self::Closed => false,
        }
    }
}
