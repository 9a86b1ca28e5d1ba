//! Why an upload is not as it was asked for.

use std::io;

use image::ImageError;
use wire::v1::images::ContextBuild;

use crate::turns::QueueFull;

/// Uploads that a node has at once.
pub(super) const MAX_UPLOADS: usize = 1_000;

/// Why an upload is not as it was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    #[error("this node takes no images of holders")]
    NotHere,
    #[error("there is no such image or upload here")]
    Unknown,
    #[error("the upload was begun with another size or SHA-256")]
    Other,
    #[error("the upload is at the offset {0}")]
    Offset(u64),
    #[error("the archive has {size} bytes, and more came")]
    TooLong { size: u64 },
    #[error("the body ended before it was whole; what came is kept")]
    Broken,
    #[error("another request goes on with this upload")]
    Superseded,
    #[error("the archive is not whole: {offset} of {size} bytes have arrived")]
    Missing { offset: u64, size: u64 },
    #[error("an image is being made of it; ask again")]
    Importing,
    #[error("this node's disk has no room for it")]
    NoRoom,
    #[error("this node has {MAX_UPLOADS} uploads already")]
    TooMany,
    #[error(transparent)]
    QueueFull(#[from] QueueFull),
    #[error("nothing is built here: the node's operator names nothing to build in (images.build_runtimes)")]
    NoBuilds,
    #[error(
        "nothing is built here: the node's operator has builds done in machines alone (images.build_runtimes), and it \
         makes none (node.runtimes)"
    )]
    NoBuildMachines,
    #[error("nothing is built here: the node's operator has yet to install the package {0}")]
    NoBuildPrograms(&'static str),
    #[error("this node has no room for one more build's machine just now; ask again")]
    NoMachineRoom,
    #[error("the machine that it is built in: {0}")]
    Machine(String),
    #[error("containerfile is a path in the build's context, of {} bytes at most", ContextBuild::MAX_PATH)]
    Containerfile,
    #[error("date is seconds since 1970, {} at most", ContextBuild::MAX_DATE)]
    Date,
    #[error("work on the upload")]
    Disk(#[from] io::Error),
    #[error("work on the image store")]
    Images(#[from] ImageError),
}
