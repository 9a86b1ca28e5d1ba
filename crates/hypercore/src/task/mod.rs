//! One task owns one sandbox.
//!
//! ```text
//!            ┌──────────────────────────────────┐
//!            ▼                                  │
//!  Adopt ▶ Start ▶ Boot ⇄ Monitor ▶ (failure) ▶ Backoff
//!    │       │      │        │          │          └▶ Failed
//!    └───────┴──────┴────────┴──────────┴─────────────┴──▶ End (deleted, or halted)
//! ```
//!
//! What the node lacks leads from every stage to `Wait`, and from there to where the
//! task was: it is never a failure of the guest. One that its VMM has stopped is `Suspended`
//! meanwhile.
//!
//! Everybody else sends it commands and looks at what it shows; `command` alone knows which
//! stage obeys which of them, and why others are refused. A command is heard in
//! every stage but `Start`, which runs to its end because a guest that is half made
//! cannot be let go; a wait for a disk that takes nothing hears it too. Readiness is
//! shown when it is in the journal, and nothing is shown of a sandbox that is not in
//! the ledger; that it ends, or was given up, is shown before a full disk takes it.

mod boot;
mod command;
mod end;
mod exits;
mod failure;
mod handle;
mod live;
mod machine;
mod monitor;
mod paused;

pub(crate) use command::{DeleteError, Deletion, Inbox, TaskCommand};
pub(crate) use handle::{Origin, SandboxHandle};
pub(crate) use machine::{BOOKS_DEADLINE, SandboxTask};
