//! Steps that the kernel may refuse.

use std::fmt::Display;
use std::io;
use std::path::Path;

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}")]
pub(crate) struct StepError {
    /// What was tried.
    step: String,
    /// The kernel's answer.
    source: io::Error,
}

/// Names the step an error belongs to.
pub(crate) trait Context<T> {
    /// The value, or an error that says what was tried.
    fn context(self, step: impl Display) -> Result<T, StepError>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context(self, step: impl Display) -> Result<T, StepError> {
        self.map_err(|error| StepError { step: step.to_string(), source: error.into() })
    }
}

/// Makes a directory, and those above it; one that is there is fine.
///
/// # Errors
/// What the kernel says.
pub(crate) fn make_dir(path: impl AsRef<Path>) -> Result<(), StepError> {
    let path = path.as_ref();
    std::fs::create_dir_all(path).context(format_args!("make {}", path.display()))
}
