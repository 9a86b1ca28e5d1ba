//! The vault's ledger: every balance of a vault, rebuilt from what it emitted.
//!
//! | file | holds |
//! |---|---|
//! | `event` | [`VaultEvent`]: all that a vault and its factory can say |
//! | `invalid` | [`InvalidEvent`]: why an event cannot follow those before it |
//! | `state` | the names of a task's states |
//! | `task` | one task: where it stands, and which steps it may take |
//! | `index` | batches of events, and [`Ledger`], who keeps them |
//! | `ledger` | [`post`], one event at a time; [`VaultLedger`], the fold over all of them |
//!
//! A balance changes by an event and by nothing else. An event that cannot follow
//! the ones before it (a completion of a task that nobody funded, a withdrawal of
//! more than there is) is refused as [`InvalidEvent`]: it means that something was
//! left out or made up on the way here, and no figure may be shown from it.

mod event;
mod index;
mod invalid;
mod ledger;
mod state;
mod task;
#[cfg(test)]
mod tests;

pub use event::{LoggedEvent, TaskId, TaskIdError, TaskTerms, VaultEvent, VaultSettings};
pub use index::{BatchRefusal, EventBatch, Ledger, LedgerError};
pub use invalid::InvalidEvent;
pub use ledger::{LedgerRows, LedgerUpdate, Vault, VaultLedger, post};
pub use state::TaskStateName;
pub use task::{Task, TaskState};
