//! Why a registry did not give an image.

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
