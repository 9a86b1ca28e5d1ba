//! Reconcilers: spawn, placement, orphans, balances, billing.
//!
//! Intent is in the store, truth is on the nodes; this brings the two together.
//! Whatever is done here is written down before it is begun, may be begun again,
//! and ends with the node's word: a wallet is free when its node has said that
//! nothing of the agent runs any more, and never before.
//!
//! | file | does |
//! |---|---|
//! | `service` | [`Control`]: what the gateway calls; starts the loops |
//! | `spawn` | place, create, wait until ready; undo what did not come to be |
//! | `teardown` | take an agent down and end its record |
//! | `plan` | pure: from what nodes and store say to the steps that are due |
//! | `reconcile` | looks, plans, does it: on a timer and on a signal |
//! | `marks` | carries the nodes' metering journals into the store |
//! | `balance` | whether a holder still holds enough |
//! | `prune` | has the store forget what is old |
//! | `busy`, `locks`, `clock` | who works on which agent, one at a time, and when |

mod balance;
mod busy;
mod clock;
mod config;
mod error;
#[cfg(feature = "fake")]
pub mod fake;
mod locks;
mod marks;
mod node;
mod plan;
mod prune;
mod reconcile;
mod service;
mod spawn;
mod teardown;

pub use client::NodeError;
pub use clock::{Clock, SystemClock};
pub use config::{Config, ConfigError};
pub use error::{SpawnError, StopError};
pub use node::{Node, RemoteNode};
pub use service::Control;
