//! The application layer: what a holder's request makes of store and nodes.
//!
//! Intent is in the store, truth is on the nodes; this brings the two together.
//! Whatever is done here is written down before it is begun, may be begun again,
//! and ends with the node's word: a wallet is free when its node has said that
//! nothing of the agent runs any more, and never before.
//!
//! | folder | does |
//! |---|---|
//! | `service` | [`Control`]: what the gateway calls; starts the loops |
//! | `pods` | admit, spawn, stop, status: what holders ask for, one task each |
//! | `fleet` | [`Node`]: all that is asked of a node; what the nodes said of themselves lately |
//! | `reconcile` | plan, round, teardown, marks, balances, pruning: the loops, and what they share with `pods` |
//! | `context` | what the tasks share |

mod config;
mod context;
#[cfg(feature = "fake")]
pub mod fake;
mod fleet;
mod pods;
mod reconcile;
mod service;

pub use client::{LogSource, NodeError};
pub use config::Config;
pub use fleet::images::ImageTable;
pub use fleet::inventory::Fleet;
pub use fleet::node::{ByteStream, Node, NodeBody, NodeCopies, NodeImages};
pub use fleet::remote::RemoteNode;
pub use pods::admit::{AdmitError, Grant, ImageAsk, RuntimeRefusal, SpawnAsk};
pub use pods::error::{SpawnError, StopError};
pub use pods::lifetime::LifetimeError;
pub use pods::needs::UnmetNeed;
pub use pods::spawn::{SpawnHandle, SpawnOrder};
pub use pods::status::NoNode;
pub use pods::volumes::{VolumeError, VolumeGrowthOrder, VolumeOrder};
pub use service::Control;
