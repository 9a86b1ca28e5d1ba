//! Why a layer cannot be unpacked.

use std::io;

use crate::digest::passed_bound;

/// Bytes of one name at most: one less than Linux takes, since `mkfs.erofs` cuts the
/// last byte off a longer one and then does not find its file.
pub(super) const MAX_NAME: usize = 254;

/// Why a layer cannot be unpacked. Paths are as the archive has them.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// A path with `..`.
    #[error("{0:?} leads out of the image")]
    Traversal(String),
    /// A path that is too long or too deep.
    #[error("{0:?} is too long or too deep")]
    Path(String),
    /// A name that the disk's file system has no room for.
    #[error("{0:?} has a name of more than {MAX_NAME} bytes, which an image's disk cannot hold")]
    Name(String),
    /// An entry that is neither file, directory, link nor device.
    #[error("{path:?} is an entry of the type {kind:?}, which is not known")]
    Unknown {
        /// Where.
        path: String,
        /// What the header says.
        kind: char,
    },
    /// An owner that a build has no place for.
    #[error("{0:?} is owned by a user or group above 65535, which a build step cannot work with")]
    Owner(String),
    /// A link to something that is not there or may not be linked.
    #[error("{path:?} links to {target:?}, which is no file of the image")]
    Link {
        /// The link.
        path: String,
        /// What it names.
        target: String,
    },
    /// A header that contradicts itself or is too large.
    #[error("the archive is malformed: {0}")]
    Malformed(String),
    /// More entries than allowed.
    #[error("more than {0} files (images.max_entries)")]
    TooMany(u64),
    /// More bytes than allowed.
    #[error("larger than images.max_image_mib allows")]
    TooLarge,
    /// Not the bytes the image's config promises.
    #[error("its content has the digest {found}, not the {expected} of the image's config")]
    DiffId {
        /// The digest in the config.
        expected: String,
        /// The digest found.
        found: String,
    },
    /// The system refused.
    #[error("cannot {what} {path:?}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

impl LayerError {
    pub(super) fn io(what: &'static str, path: &[u8], source: impl Into<io::Error>) -> Self {
        Self::Io { what, path: shown(path), source: source.into() }
    }
}

/// Why an archive cannot be read on.
pub(crate) fn read(error: &io::Error) -> LayerError {
    if passed_bound(error) { LayerError::TooLarge } else { LayerError::Malformed(error.to_string()) }
}

/// A path for people: what is not text is replaced, what is long is cut.
pub(super) fn shown(path: &[u8]) -> String {
    const SHOWN: usize = 200;
    String::from_utf8_lossy(&path[..path.len().min(SHOWN)]).into_owned()
}
