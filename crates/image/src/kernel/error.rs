//! Why there is no kernel for the guests.

use std::io;
use std::path::{Path, PathBuf};

use crate::tool::ToolError;

/// Why there is no kernel for the guests.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// This distribution's kernel package is not known.
    #[error(
        "no kernel package is known for {0:?}: set images.kernel to a directory with boot/vmlinuz-* and lib/modules/*"
    )]
    Distribution(String),
    /// The package manager does not list the package.
    #[error("the package {0} is not known here: run `apt-get update`, or set images.kernel")]
    NoPackage(String),
    /// The package could not be fetched.
    #[error(
        "{0} could not be downloaded: is there a network? Run `apt-get update` and try again, or set images.kernel to a \
         directory with boot/vmlinuz-* and lib/modules/*"
    )]
    Download(String, #[source] ToolError),
    /// No version has both a kernel and modules.
    #[error("{0} holds no boot/vmlinuz-* with its lib/modules/*, and no kernel package")]
    NoKernel(PathBuf),
    /// A file that is not what its name says.
    #[error("the kernel image is no x86 Linux kernel")]
    NotAKernel,
    /// A kernel that QEMU cannot start directly.
    #[error("the kernel has no PVH entry (it was built without CONFIG_PVH)")]
    NoPvh,
    /// A module the guest cannot do without.
    #[error("the kernel has no module {name} (looked in {tree})")]
    NoModule {
        /// Its name.
        name: String,
        /// Where it was looked for.
        tree: PathBuf,
    },
    /// A module that cannot be read.
    #[error("{0} is no kernel module")]
    BadModule(PathBuf),
    /// What checks the guests' volumes is not there.
    #[error("e2fsck is not installed, which guests check their volumes with: install the package e2fsprogs")]
    NoChecker,
    /// A compressed file that cannot be unpacked.
    #[error("a compressed kernel or module cannot be unpacked: {0}")]
    Unpack(String),
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
    /// Somebody else is at work, or the store may not be written.
    #[error(transparent)]
    Lock(#[from] crate::lock::LockError),
    /// A tool of the distribution failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
}

impl KernelError {
    pub(super) fn file(what: &'static str, path: &Path, source: io::Error) -> Self {
        Self::File { what, path: path.to_owned(), source }
    }

    pub(super) fn unpack(why: impl ToString) -> Self {
        Self::Unpack(why.to_string())
    }
}
