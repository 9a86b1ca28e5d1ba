//! Why an image cannot be had.

use std::io;
use std::path::{Path, PathBuf};

use domain::ImageDigest;

use crate::digest::{BlobDigest, DigestError};
use crate::layer::LayerError;
use crate::tool::ToolError;

/// Why an image cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Not a name the store takes.
    #[error("{0:?} is no image name: use a-z, 0-9, '.', '_' and '-', at most 64, a letter or digit first")]
    Name(String),
    /// The name is not known.
    #[error("there is no image named {0:?}: `palatine image ls` shows what there is")]
    UnknownName(String),
    /// The digest is not known.
    #[error("there is no image {0}")]
    UnknownDigest(ImageDigest),
    /// What is needed cannot be told from a file that cannot be read.
    #[error(
        "{} cannot be read, so it cannot be told what is still needed and nothing is removed: remove that file \
         and import its image again", .0.display()
    )]
    Unreadable(PathBuf),
    /// The image is still needed.
    #[error("the image {0} is used by an agent: stop the agent first")]
    InUse(ImageDigest),
    /// Not the SHA-256 digest it should be.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// A reference that could mean another image tomorrow.
    #[error("{0:?} is no registry reference by digest: use <registry>/<name>@sha256:<64 hex digits>")]
    Reference(String),
    /// Bytes that are not those that were named.
    #[error("the content of {expected} has the digest {found}")]
    Mismatch {
        /// The digest that was asked for.
        expected: String,
        /// The digest of what came.
        found: String,
    },
    /// A blob of another length than its descriptor says.
    #[error("{digest} has {found} bytes, not the {expected} its descriptor says")]
    Size {
        /// The blob.
        digest: String,
        /// The length in the descriptor.
        expected: u64,
        /// The length found, or read until it was too much.
        found: u64,
    },
    /// A blob that is named and not there.
    #[error("the image names {0}, which is not in it")]
    Missing(String),
    /// A JSON document that cannot be read.
    #[error("the image's {what} cannot be read: {why}")]
    Document {
        /// Which document.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// Something that is no image at all.
    #[error("{0} is neither an OCI layout nor an archive of one (docker save, podman save, skopeo copy)")]
    NotAnImage(PathBuf),
    /// Nothing for this machine.
    #[error("the image has nothing for linux/amd64; it has: {0}")]
    Platform(String),
    /// More than one image, and no name to choose by.
    #[error("the archive holds several images ({0}): save one of them alone")]
    Several(String),
    /// A layer of a kind that cannot be unpacked.
    #[error("layers of type {0:?} are not supported")]
    MediaType(String),
    /// A layer that is not safe, or cannot be unpacked.
    #[error("layer {number} cannot be unpacked")]
    Layer {
        /// Counted from 1, the lowest.
        number: usize,
        /// Why.
        source: LayerError,
    },
    /// Too many layers.
    #[error("the image has {0} layers; images.max_layers is {1}")]
    Layers(usize, usize),
    /// Larger than allowed.
    #[error("the image is larger than images.max_image_mib ({0} MiB)")]
    TooLarge(u64),
    /// It does not say how it is run.
    #[error(transparent)]
    Contract(#[from] crate::contract::ContractError),
    /// The recipe is not one.
    #[error(transparent)]
    Recipe(#[from] crate::recipe::RecipeError),
    /// A step of the recipe could not be done.
    #[error("{step} in line {line} of {file} failed")]
    Step {
        /// As it is written in the file.
        step: &'static str,
        /// Its line, from 1.
        line: usize,
        /// The recipe.
        file: PathBuf,
        /// Why.
        source: Box<ImageError>,
    },
    /// Why not.
    #[error(transparent)]
    Build(#[from] crate::build::BuildError),
    /// The registry did not give it.
    #[error(transparent)]
    Registry(#[from] crate::source::RegistryError),
    /// The containerd did not give it.
    #[error(transparent)]
    Containerd(#[from] crate::source::ContainerdError),
    /// No signature that is trusted.
    #[error(transparent)]
    Signature(#[from] crate::signature::SignatureError),
    /// Unpacking needs root.
    #[error("an image's files keep their owners, so unpacking needs root: run this with sudo")]
    NotRoot,
    /// Somebody else is at work, or the store may not be written.
    #[error(transparent)]
    Lock(#[from] crate::lock::LockError),
    /// The disk is full.
    #[error("no space is left for {0}: free some, or move images.store")]
    NoSpace(PathBuf),
    /// A file could not be read or written.
    #[error("cannot {what} {path}")]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A tool of the distribution failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
}

impl ImageError {
    /// A failure on a file; a full disk gets its own sentence.
    pub(crate) fn file(what: &'static str, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace(path.to_owned()),
            _ => Self::File { what, path: path.to_owned(), source },
        }
    }

    pub(crate) fn document(what: &'static str, why: impl ToString) -> Self {
        Self::Document { what, why: why.to_string() }
    }

    pub(crate) fn mismatch(expected: BlobDigest, found: BlobDigest) -> Self {
        Self::Mismatch { expected: expected.to_string(), found: found.to_string() }
    }
}
