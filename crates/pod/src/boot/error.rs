//! Why a guest does not come up.

use std::fmt::Display;
use std::io;

/// A step of the boot that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    /// The kernel refused.
    #[error("cannot {step}")]
    System {
        /// What was tried.
        step: String,
        /// Its answer.
        source: io::Error,
    },
    /// A disk of the contract is not attached.
    #[error("no disk with the serial {0:?} is attached")]
    Disk(&'static str),
    /// All modules are loaded, and there is no network card.
    #[error("there is no {0}: no network card, or no driver for it in /modules")]
    Link(&'static str),
}

/// Names the step an error belongs to.
pub(crate) trait Context<T> {
    /// The value, or an error that says what was tried.
    fn context(self, step: impl Display) -> Result<T, BootError>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context(self, step: impl Display) -> Result<T, BootError> {
        self.map_err(|error| BootError::System { step: step.to_string(), source: error.into() })
    }
}
