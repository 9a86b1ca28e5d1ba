//! Why a registry or a containerd did not give an image.

use std::io;
use std::path::PathBuf;

use reqwest::StatusCode;

/// Why a registry did not give an image.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The request could not be made or was cut off.
    #[error("{what} from the registry {registry}")]
    Request {
        /// What was asked for.
        what: &'static str,
        /// Whom.
        registry: String,
        /// What went wrong.
        source: reqwest::Error,
    },
    /// It answered something else.
    #[error("the registry {registry} answered {status} for {what}")]
    Status {
        /// What was asked for.
        what: &'static str,
        /// Whom.
        registry: String,
        /// Its answer.
        status: StatusCode,
    },
    /// It wants credentials in a way we do not know, or from an unsafe place.
    #[error("the registry {registry} asks for credentials in a way that is not supported: {why}")]
    Challenge {
        /// Whom.
        registry: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The answer is too large.
    #[error("the registry {registry} answered {what} with more than {at_most} bytes")]
    TooLarge {
        /// What was asked for.
        what: &'static str,
        /// Whom.
        registry: String,
        /// The bound.
        at_most: usize,
    },
    /// The pull took too long.
    #[error("the pull from {registry} took longer than images.pull_timeout_s ({after_s} s)")]
    Slow {
        /// Whom.
        registry: String,
        /// The bound.
        after_s: u64,
    },
}

/// Why a containerd did not give an image.
#[derive(Debug, thiserror::Error)]
pub enum ContainerdError {
    /// Nobody is there, or nobody who talks to this user.
    #[error("containerd's socket {} cannot be used: name another by --containerd=SOCKET or images.containerd", socket.display())]
    Socket {
        /// Which.
        socket: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// A name that no namespace has.
    #[error("{0:?} is no name of a containerd namespace")]
    Namespace(String),
    /// It has no such image.
    #[error("containerd has no image {image:?} in its namespace {namespace:?}; it has there: {known}")]
    NoImage {
        /// What was asked for.
        image: String,
        /// Where.
        namespace: String,
        /// The names that it has.
        known: String,
    },
    /// It has the image's name, and not all of the image.
    #[error(
        "containerd does not hold {digest} of {image:?} (it lets layers go that it has unpacked, where it is told to, \
         and fetches one platform alone): fetch it again, as by ctr -n {namespace} content fetch {image}"
    )]
    NoContent {
        /// What is missing.
        digest: String,
        /// Where.
        namespace: String,
        /// Of which image.
        image: String,
    },
    /// It answered something else.
    #[error("containerd at {} was asked for {what} and answered: {said}", socket.display())]
    Said {
        /// What was asked for.
        what: &'static str,
        /// Whom.
        socket: PathBuf,
        /// Its words.
        said: String,
    },
    /// The copy took too long.
    #[error("the copy from containerd at {} took longer than images.pull_timeout_s ({after_s} s)", socket.display())]
    Slow {
        /// Whom.
        socket: PathBuf,
        /// The bound.
        after_s: u64,
    },
}
