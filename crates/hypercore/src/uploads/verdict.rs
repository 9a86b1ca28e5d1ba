//! What is wrong with an archive or a build, for its holder to mend, and what is this node's trouble.

use std::io;

use image::{BuildError, ImageError};

use crate::error_chain::error_chain;

/// What is wrong with an archive, for its holder to read: nothing of this machine is in it.
/// `None` where the fault is ours.
pub(super) fn what_is_wrong(error: &ImageError) -> Option<String> {
    match error {
        ImageError::NotAnImage(_) => {
            Some("it is neither an OCI layout nor an archive of one (docker save, podman save, skopeo copy)".to_owned())
        }
        ImageError::TooLarge(most) => Some(format!("unpacked, it is larger than the {most} MiB that it may have")),
        ImageError::Build(error) => is_of_the_build(error).then(|| error.to_string()),
        ImageError::Layer { source: image::LayerError::Io { source, .. }, .. } => {
            is_of_the_archive(source).then(|| error_chain(error))
        }
        ImageError::Signature(image::SignatureError::Key { .. })
        | ImageError::NoSpace(_)
        | ImageError::File { .. }
        | ImageError::Unreadable(_)
        | ImageError::Lock(_)
        | ImageError::NotRoot
        | ImageError::Tool(_)
        | ImageError::Registry(_)
        | ImageError::Containerd(_)
        | ImageError::Step { .. }
        | ImageError::Name(_)
        | ImageError::UnknownName(_)
        | ImageError::UnknownDigest(_)
        | ImageError::InUse(_)
        | ImageError::Reference(_) => None,
        ImageError::Digest(_)
        | ImageError::Mismatch { .. }
        | ImageError::Size { .. }
        | ImageError::Missing(_)
        | ImageError::Document { .. }
        | ImageError::Platform(_)
        | ImageError::Several(_)
        | ImageError::MediaType(_)
        | ImageError::Layer { .. }
        | ImageError::Layers(..)
        | ImageError::Signature(_)
        | ImageError::Recipe(_)
        | ImageError::Contract(_) => Some(error_chain(error)),
    }
}

/// Whether it is for its holder to mend.
const fn is_of_the_build(error: &BuildError) -> bool {
    match error {
        BuildError::Ended { .. }
        | BuildError::Slow { .. }
        | BuildError::Memory { .. }
        | BuildError::Processes { .. }
        | BuildError::Disk { .. }
        | BuildError::LargeRecipe { .. }
        | BuildError::LargeContext { .. }
        | BuildError::NoContext
        | BuildError::NoContainerfile(_)
        | BuildError::TwoPacked
        | BuildError::Unsigned
        | BuildError::Bases { .. }
        | BuildError::LargeBases { .. }
        | BuildError::UnknownBase { .. }
        | BuildError::Tree { .. } => true,
        BuildError::Stopped
        | BuildError::Confinement(_)
        | BuildError::Lock { .. }
        | BuildError::Vanished(_)
        | BuildError::Changed { .. }
        | BuildError::Unsteady { .. }
        | BuildError::Full { .. }
        | BuildError::NoSource(_)
        | BuildError::NoApt
        | BuildError::TwoRecipes { .. }
        | BuildError::NoLock
        | BuildError::Answer { .. }
        | BuildError::Io { .. } => false,
    }
}

/// Whether a system refuses this of any archive that asks for the same.
fn is_of_the_archive(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotADirectory
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::AlreadyExists
            | io::ErrorKind::NotFound
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::InvalidFilename
            | io::ErrorKind::DirectoryNotEmpty
            | io::ErrorKind::TooManyLinks
    )
}
