//! What can go wrong with a file, and how callers hear of it.

use std::io;

use rustix::io::Errno;
use wire::filesystem::FilesError;
use wire::process::{RpcCode, RpcError};

use super::metadata::MetadataError;
use super::paths::PathError;

/// Why a file was not worked on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// The path is none.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The kernel refused.
    #[error("{path}: {error}")]
    Io {
        /// Where.
        path: String,
        /// What it said.
        error: io::Error,
    },
    /// Something is there already.
    #[error("{0} exists")]
    Exists(String),
    /// It is a folder, and a file was meant.
    #[error("path '{0}' is a directory")]
    Directory(String),
    /// It is no folder, and one was meant.
    #[error("path '{0}' is not a directory")]
    NoDirectory(String),
    /// A device, a pipe or a socket.
    #[error("path '{0}' is not a regular file")]
    NoFile(String),
    /// Part of this program's own process.
    #[error("path '{0}' belongs to the pod's own process")]
    Own(String),
    /// It lies on another machine, which may say nothing of its changes.
    #[error("path '{0}' is on a network filesystem, whose events may not come; allow that to watch it")]
    Network(String),
    /// A watch that ended before it began.
    #[error("{0}")]
    Watch(String),
    /// It is all there is.
    #[error("the root directory cannot be removed")]
    Root,
    /// More than one answer holds.
    #[error("there are more than {0} entries; ask for fewer levels, or for one folder at a time")]
    TooMany(usize),
    /// More folders within folders than are removed at once.
    #[error("folders lie more than {0} deep; remove the inner ones first")]
    TooDeep(usize),
    /// What an uploader said of a file.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The bytes did not all come.
    #[error("the upload broke off: {0}")]
    BrokenOff(&'static str),
    /// The bytes stayed away.
    #[error("the upload stood still for too long")]
    Idle,
    /// It is not what its headers say.
    #[error("{0}")]
    Malformed(String),
    /// An archive that cannot be made, or cannot be taken in.
    #[error("{0}")]
    Unpackable(String),
    /// An archive would lie over what is there.
    #[error("the disk is not empty: there is {0:?}; have all that is on it replaced, or take an empty one")]
    NotEmpty(String),
    /// One archive after the other.
    #[error("another archive is taken in by this disk just now")]
    Importing,
    /// What is sent was measured before.
    #[error("the files have changed while they were sent; begin again")]
    Changed,
    /// No thread.
    #[error("the work cannot be done now: {0}")]
    Thread(io::Error),
    /// The user's rights cannot be taken.
    #[error("the user's rights cannot be taken: {0}")]
    Rights(io::Error),
}

impl FileError {
    /// The same from the kernel's words.
    pub(super) fn at(path: &str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { path, error }
    }

    fn reason(&self) -> Reason {
        match self {
            Self::Path(_)
            | Self::Directory(_)
            | Self::NoDirectory(_)
            | Self::NoFile(_)
            | Self::Root
            | Self::Network(_)
            | Self::Metadata(_)
            | Self::Malformed(_)
            | Self::Unpackable(_) => Reason::Invalid,
            Self::BrokenOff(_) => Reason::BrokenOff,
            Self::Idle => Reason::Idle,
            Self::Own(_) => Reason::Denied,
            Self::Exists(_) | Self::NotEmpty(_) => Reason::Exists,
            Self::Importing | Self::Changed => Reason::State,
            Self::TooMany(_) | Self::TooDeep(_) | Self::Watch(_) => Reason::TooMany,
            Self::Io { error, .. } => Reason::of(error),
            Self::Thread(_) | Self::Rights(_) => Reason::Ours,
        }
    }
}

/// What is wrong, as far as programs must tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Invalid,
    BrokenOff,
    Idle,
    Denied,
    NotFound,
    Exists,
    TooMany,
    /// No room, or no inodes.
    Full,
    /// The state of the files does not allow it.
    State,
    Ours,
}

impl Reason {
    fn of(error: &io::Error) -> Self {
        match Errno::from_io_error(error) {
            Some(Errno::NOENT) => Self::NotFound,
            Some(Errno::ACCESS | Errno::PERM) => Self::Denied,
            Some(Errno::EXIST) => Self::Exists,
            Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => Self::Full,
            Some(Errno::NOTDIR | Errno::ISDIR | Errno::NAMETOOLONG | Errno::INVAL) => Self::Invalid,
            Some(Errno::LOOP | Errno::NOTEMPTY | Errno::XDEV | Errno::ROFS | Errno::BUSY | Errno::TXTBSY) => {
                Self::State
            }
            Some(_) | None => Self::Ours,
        }
    }
}

impl From<FileError> for RpcError {
    fn from(error: FileError) -> Self {
        let code = match error.reason() {
            Reason::Invalid => RpcCode::InvalidArgument,
            Reason::BrokenOff => RpcCode::Canceled,
            Reason::Idle => RpcCode::DeadlineExceeded,
            Reason::Denied => RpcCode::PermissionDenied,
            Reason::NotFound => RpcCode::NotFound,
            Reason::Exists => RpcCode::AlreadyExists,
            Reason::TooMany | Reason::Full => RpcCode::ResourceExhausted,
            Reason::State => RpcCode::FailedPrecondition,
            Reason::Ours => RpcCode::Internal,
        };
        Self { code, message: error.to_string() }
    }
}

impl From<FileError> for FilesError {
    fn from(error: FileError) -> Self {
        let code = match error.reason() {
            Reason::Invalid | Reason::BrokenOff => 400,
            Reason::Idle => 408,
            Reason::Denied => 403,
            Reason::NotFound => 404,
            Reason::Exists | Reason::State => 409,
            Reason::TooMany => 429,
            Reason::Full => 507,
            Reason::Ours => 500,
        };
        let message = match (&error, code) {
            (FileError::Io { path, .. }, 404) => format!("path '{path}' does not exist"),
            (FileError::Io { path, .. }, 507) => format!("not enough disk space available for '{path}'"),
            _ => error.to_string(),
        };
        Self { code, message }
    }
}
