//! One task owns one sandbox.
//!
//! ```text
//!            ┌────────────────────────────┐
//!            ▼                            │
//!  Adopt ▶ Start ▶ Boot ⇄ Watch ▶ (death) ▶ Pause
//!    │       │      │       │               │  └▶ Failed
//!    └───────┴──────┴───────┴───────────────┴──────┴──▶ End (deleted, or halted)
//! ```
//!
//! What the node lacks leads from every stage to `Wait`, and from there to where the
//! task was: it is never a death. A guest that its VMM has stopped is `Held` meanwhile.
//!
//! Everybody else sends it orders and looks at what it shows. An order is heard in
//! every stage but `Start`, which runs to its end because a guest that is half made
//! cannot be let go. Nothing is shown before it is in the ledger and the journal.

mod boot;
mod end;
mod handle;
mod live;
mod machine;
mod watch;

pub(crate) use handle::{EndError, Handle, Order, Origin};
pub(crate) use machine::{Shared, Task, words};
