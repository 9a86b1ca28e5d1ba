//! The node daemon: one task owns one sandbox.
//!
//! | module | holds |
//! |---|---|
//! | `serve` | the parts put together; the socket; the way back down |
//! | `api` | the HTTP API of [`wire::v1::node`] |
//! | `node`, `registry` | which runs there are, one of each POD, and whether another fits |
//! | `task` | the one task that owns a sandbox, stage by stage |
//! | `policy` | what is decided, pure: room, restarts, the same spec again |
//! | `guest` | talking to `pod`, which is hostile until proven otherwise |
//! | `ledger` | what is remembered of sandboxes; environments, sealed |
//! | `journal`, `heartbeat` | what was seen, for the bill; when the node last lived |
//! | `quarantine`, `retention` | what cannot be read; disks that outlived their run |
//! | `uploads` | archives of holders' images and builds, until images are made of them; `buildlog`: what a build says; `builders`: the machines that builds run in, until their end |
//! | `upkeep`, `reserve` | what the node does by itself; room for its own records |
//! | `context` | what all sandboxes of a node have in common |
//! | `logs` | what agents and consoles have said, bounded |
//! | `streams` | how many streams into an agent may be open |
//! | `turns` | fair turns: holders take few places one after another |
//! | `error_chain` | an error with its causes, in words |
//!
//! What must hold, whenever the daemon is killed:
//! - A sandbox exists from its record's first write to its folder's end. What runs
//!   without a record is ended at the next start; what has a record and does not run
//!   is started, or its end is finished. A record that cannot be read is neither: its
//!   sandbox is left as it is.
//! - What the node lacks is waited for. A POD's data is in one place, with its run or kept
//!   under its name; it is erased by its owner's word and at the end of its retention, and
//!   by nothing else.
//! - No sandbox is told that is not in the ledger, and no readiness that is not in the
//!   journal.
//! - A guest is billed from a mark to a mark; one that died unseen, to the last
//!   heartbeat before: at most a second less than it lived, never more.

mod api;
mod builders;
mod buildlog;
mod config;
mod context;
mod error_chain;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod guest;
mod heartbeat;
mod helpers;
mod images;
mod journal;
mod ledger;
mod logs;
mod node;
mod policy;
mod quarantine;
mod registry;
mod reserve;
mod retention;
mod serve;
mod streams;
mod task;
#[cfg(test)]
mod tests;
mod turns;
mod upkeep;
mod uploads;

pub use api::openapi;
pub use config::{Config, ConfigError, ShutdownPolicy};
pub use images::{BaseImage, ImageCatalog};
pub use sandbox::network::Config as NetworkConfig;
pub use serve::{NodeParts, ServeError, StateLock, bind, serve};
