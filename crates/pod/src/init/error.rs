//! Why a machine does not come up.

use crate::step::StepError;

/// A step of the boot that failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum BootError {
    /// The kernel refused.
    #[error(transparent)]
    Step(#[from] StepError),
    /// A disk of the contract is not attached.
    #[error("no disk with the serial {0:?} is attached")]
    NoDisk(&'static str),
    /// All modules are loaded, and there is no network card.
    #[error("there is no {0}: no network card, or no driver for it in /modules")]
    NoLink(&'static str),
}
