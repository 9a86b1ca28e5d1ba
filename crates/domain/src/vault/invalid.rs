//! Events that cannot follow the ones before them.

use super::TaskStateName;
use crate::Usdc;

/// Why an event cannot follow the ones before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEvent {
    /// The vault's first event is its creation.
    #[error("{0} of a vault that was never created")]
    NoVault(&'static str),
    /// A vault is created once.
    #[error("a vault was created a second time")]
    VaultTwice,
    /// The first event of a task is its creation.
    #[error("{0} of a task that was never created")]
    NoTask(&'static str),
    /// A task is created once.
    #[error("a task was created a second time")]
    TaskTwice,
    /// The state allows no such step.
    #[error("{event} of a task that is {state}")]
    Step {
        /// The event's name.
        event: &'static str,
        /// Where the task stands.
        state: TaskStateName,
    },
    /// The terms are of another task.
    #[error("the terms are not those of the task that was created")]
    OtherTerms,
    /// More than there is, or not all of it.
    #[error("an event of {said} USDC where {is} USDC are")]
    Amount {
        /// What the event says.
        said: Usdc,
        /// What there is.
        is: Usdc,
    },
    /// The event names somebody who has not that place.
    #[error("{0} by somebody who has no such place")]
    Somebody(&'static str),
    /// A sum that no amount of USDC reaches.
    #[error("a sum larger than any amount of USDC")]
    TooLarge,
    /// Events were missing at the end: something is neither locked nor anybody's.
    #[error("what ended or began was not followed by what must follow it")]
    Unfinished,
    /// The parts and their sums differ.
    #[error("the sums and their parts differ")]
    Sums,
}
