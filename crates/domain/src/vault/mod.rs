//! The vault's books: every balance of a vault, rebuilt from what it emitted.
//!
//! | file | holds |
//! |---|---|
//! | `event` | [`VaultEvent`]: all that a vault and its factory can say |
//! | `task` | one task: where it stands, and which steps it may take |
//! | `books` | [`post`], one event at a time; [`Books`], the fold over all of them |
//!
//! A balance changes by an event and by nothing else. An event that cannot follow
//! the ones before it (a completion of a task that nobody funded, a withdrawal of
//! more than there is) is refused as [`Impossible`]: it means that something was
//! left out or made up on the way here, and no figure may be shown from it.

mod books;
mod event;
mod task;
#[cfg(test)]
mod tests;

pub use books::{Books, Found, Impossible, Posting, Vault, post};
pub use event::{Logged, Settings, TaskId, TaskIdError, Terms, VaultEvent};
pub use task::{Task, TaskState, TaskStateName};
