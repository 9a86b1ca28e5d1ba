//! What can go wrong, in words an operator can act on.

use std::path::PathBuf;
use std::sync::Arc;

use domain::{InvalidAgentTransition, PodId, RunId};

/// What the database said. Cheap to clone: one failed commit answers many.
pub type Cause = Arc<dyn std::error::Error + Send + Sync>;

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
    /// All keys were sealed with another sealing key since this gateway opened them.
    #[error(
        "the keys in the database are sealed with another key by now: restart this gateway with that one ([store] \
         sealing_key_file)"
    )]
    Resealed,
    /// The agent's life does not know this step.
    #[error(transparent)]
    Refused(#[from] InvalidAgentTransition),
    /// Another run has this id.
    #[error("the id {0} is taken")]
    IdTaken(RunId),
    /// The configuration is out of bounds.
    #[error(transparent)]
    Config(#[from] domain::OutOfBounds),
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
    #[error("{place} has schema {found}, and this version knows up to {known}: use the newer version, or a backup")]
    Newer {
        /// The database.
        place: String,
        /// Its schema.
        found: i64,
        /// The newest known here.
        known: i64,
    },
    /// Made by an older version, and not to be changed now.
    #[error(
        "{place} has schema {found}, and this version works with {known}: start its gateway once, which brings it up"
    )]
    Older {
        /// The database.
        place: String,
        /// Its schema.
        found: i64,
        /// The one that is wanted.
        known: i64,
    },
    /// A database of some other program.
    #[error("{0} is a database, but not one of Palatine's")]
    Foreign(String),
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
        /// What the database said.
        source: Cause,
    },
    /// Somebody else holds the file's lock.
    #[error("{operation}: the database is locked by another program")]
    Locked {
        /// What was tried.
        operation: &'static str,
        /// What the database said.
        source: Cause,
    },
    /// No room.
    #[error("{operation}: the disk is full; nothing was changed")]
    Full {
        /// What was tried.
        operation: &'static str,
        /// What the database said.
        source: Cause,
    },
    /// The disk failed.
    #[error("{operation}: the disk failed")]
    Disk {
        /// What was tried.
        operation: &'static str,
        /// What the database said.
        source: Cause,
    },
    /// The server cannot be reached, or let go of the connection. Whether it was done is
    /// not known.
    #[error("{operation}: the database server does not answer")]
    Unreachable {
        /// What was tried.
        operation: &'static str,
        /// What the connection said.
        source: Cause,
    },
    /// The database refused for another reason.
    #[error("{operation}: the database refused")]
    Sql {
        /// What was tried.
        operation: &'static str,
        /// What the database said.
        source: Cause,
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
            | Self::Resealed
            | Self::Refused(_)
            | Self::IdTaken(_)
            | Self::Config(_)
            | Self::File { .. }
            | Self::InUse(_)
            | Self::Newer { .. }
            | Self::Older { .. }
            | Self::Foreign(_)
            | Self::Lost { .. }
            | Self::Unreachable { .. }
            | Self::Sql { .. }
            | Self::Value(_)
            | Self::Timeout { .. }
            | Self::NoRuntime
            | Self::Closed => false,
        }
    }

    /// Whether a commit that ended so may have been made all the same.
    pub(crate) const fn leaves_open(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Timeout { .. } | Self::Disk { .. })
    }

    /// Whether the same call may succeed later with nothing else changed.
    #[must_use]
    pub const fn retryable(&self) -> bool {
        match self {
            Self::Locked { .. }
            | Self::Full { .. }
            | Self::Disk { .. }
            | Self::Unreachable { .. }
            | Self::Timeout { .. } => true,
            Self::Replayed
            | Self::Unknown(_)
            | Self::NoPod(_)
            | Self::Resealed
            | Self::Refused(_)
            | Self::IdTaken(_)
            | Self::Config(_)
            | Self::File { .. }
            | Self::InUse(_)
            | Self::Newer { .. }
            | Self::Older { .. }
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
