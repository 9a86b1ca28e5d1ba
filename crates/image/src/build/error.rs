//! Why a recipe's step did not get done.

use std::io;
use std::path::PathBuf;

/// Why a recipe's step did not get done.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A command of the image ended otherwise than well.
    #[error("its command ended with {how}; it said last:\n{said}")]
    Ended {
        /// Its exit code or signal.
        how: String,
        /// Its last lines.
        said: String,
    },
    /// It took too long.
    #[error("it had not ended after {seconds} s (timeout_s) and was killed; it said last:\n{said}")]
    Slow {
        /// The bound.
        seconds: u64,
        /// Its last lines.
        said: String,
    },
    /// It wanted more memory than it may have.
    #[error("it wanted more than {mib} MiB of memory (memory_mib) and was killed; it said last:\n{said}")]
    Memory {
        /// The bound.
        mib: u64,
        /// Its last lines.
        said: String,
    },
    /// It wanted more processes than it may have.
    #[error("it wanted more than {most} processes at once (processes) and was killed; it said last:\n{said}")]
    Processes {
        /// The bound.
        most: u64,
        /// Its last lines.
        said: String,
    },
    /// It wrote more than it may.
    #[error("it wrote more than {mib} MiB (disk_mib) and was killed; it said last:\n{said}")]
    Disk {
        /// The bound.
        mib: u64,
        /// Its last lines.
        said: String,
    },
    /// Who asked for it wants it no more.
    #[error("the build was stopped")]
    Stopped,
    /// A program that builds need is missing, or the kernel refuses what it is for.
    #[error("a step cannot be shut in: {0}")]
    Confinement(String),
    /// The lock file is not one.
    #[error("{path} cannot be used: {why}; remove it, and what it fixes is looked up anew")]
    Lock {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The lock names what is to be had no more.
    #[error(
        "{0} of image.lock cannot be had any more: build with --update, which looks all versions up anew and writes \
         them to image.lock"
    )]
    Vanished(String),
    /// What was fetched is not what the lock names.
    #[error("{name} has the SHA-256 {found}, image.lock says {expected}")]
    Changed {
        /// The file or package.
        name: String,
        /// The sum in the lock.
        expected: String,
        /// The sum found.
        found: String,
    },
    /// A file of the context is written to while it is read.
    #[error("{name} is written to while it is read: its SHA-256 was {expected}, and then {found}")]
    Unsteady {
        /// The file.
        name: String,
        /// Its sum at first.
        expected: String,
        /// Its sum then.
        found: String,
    },
    /// The disk that it writes to is nearly full, whoever fills it.
    #[error("it was ended as less than {mib} MiB are left where images are built; it said last:\n{said}")]
    Full {
        /// What must be left.
        mib: u64,
        /// Its last lines.
        said: String,
    },
    /// No source of packages for this release.
    #[error(
        "this machine's apt has no source of Debian that {0:?} could come from: add one to its sources, and run \
         apt-get update"
    )]
    NoSource(String),
    /// Packages on a root that is not Debian's.
    #[error(
        "[[packages]] must be the first step of a recipe with from = \"scratch\", or on an image that has dpkg and apt"
    )]
    NoApt,
    /// A folder from which two things could be built.
    #[error("{} holds an image.toml and {}: say which of the two is meant by its own path", folder.display(), other.display())]
    TwoRecipes {
        /// The folder.
        folder: PathBuf,
        /// What is there beside the recipe.
        other: PathBuf,
    },
    /// The same in a context that comes as an archive.
    #[error("the build's context holds an image.toml and a Containerfile: say which of the two is meant by its name")]
    TwoPacked,
    /// A Containerfile beyond all reason.
    #[error("the Containerfile has {bytes} bytes; it may have {most}")]
    LargeRecipe {
        /// Its size.
        bytes: u64,
        /// The bound.
        most: u64,
    },
    /// What was sent to be built is no archive.
    #[error("the build's context is no tar archive, plain or packed")]
    NoContext,
    /// A context that is larger than what may be written.
    #[error("unpacked, the build's context is larger than the {mib} MiB that a build may write")]
    LargeContext {
        /// The bound.
        mib: u64,
    },
    /// A context without a Containerfile.
    #[error("the build's context has no {0}: say which file it is")]
    NoContainerfile(String),
    /// Signatures are wanted, and what is built has none.
    #[error("only signed images are taken in here (images.require_signature), and what holders build is not signed")]
    Unsigned,
    /// A Containerfile that builds on too many images.
    #[error("the Containerfile builds on {found} images of this store; it may build on {most}")]
    Bases {
        /// How many it names.
        found: usize,
        /// The bound.
        most: usize,
    },
    /// A Containerfile that builds on more bytes than a build may write.
    #[error("the images that the Containerfile builds on have {found_mib} MiB, packed; a build may write {mib}")]
    LargeBases {
        /// What they have.
        found_mib: u64,
        /// The bound.
        mib: u64,
    },
    /// A Containerfile that builds on what is not here. It is not fetched: what is
    /// taken in is looked at first.
    #[error(
        "it builds on an image that this store does not have (of: {names}): bring it with `palatine image pull` or \
         `import`, and name it in FROM (in a recipe, from) as `palatine image ls` shows it{}",
        told(said)
    )]
    UnknownBase {
        /// What it names and the store does not have.
        names: String,
        /// Its last lines.
        said: String,
    },
    /// A Containerfile fixes no versions.
    #[error("a Containerfile has no image.lock that could be looked up anew: leave --update away")]
    NoLock,
    /// A tool of a registry wrote something that is not understood.
    #[error("{tool} wrote what is not understood: {why}")]
    Answer {
        /// The program.
        tool: &'static str,
        /// What is wrong.
        why: String,
    },
    /// A tree that is deeper, larger or odder than an image may be.
    #[error("the image's {path} {why}")]
    Tree {
        /// Where, in the image.
        path: PathBuf,
        /// What is wrong there.
        why: &'static str,
    },
    /// The system refused.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

fn told(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!("; it said last:\n{said}") }
}

impl BuildError {
    pub(super) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}
