//! The EVM chain of the vaults.
//!
//! | part | does |
//! |---|---|
//! | `config` | `[evm]` |
//! | `ledger`, `outbox` | traits: where events and transactions are written down |

pub mod abi;

mod answer;
pub mod calls;
mod config;
mod endpoints;
mod error;
#[cfg(feature = "fake")]
pub mod fake;
mod fees;
mod indexer;
mod ledger;
mod local;
mod node;
mod outbox;
mod reconcile;
mod revert;
mod sender;
mod sign;
mod start;
#[cfg(feature = "fake")]
pub mod suite;
mod terms;
pub mod typed;
mod uses;
mod views;
mod witness;
mod worker;

pub use config::{EvmConfig, EvmConfigError};
pub use error::EvmError;
pub use fees::Price;
pub use indexer::{IndexError, Indexer, Progress};
pub use ledger::{Batch, Ledger, LedgerError};
pub use local::{DeployError, Deployed, deploy_local};
pub use node::{At, Broadcast, Evm, Landed, Sighting};
pub use outbox::{Outbox, OutboxError};
pub use reconcile::{Break, Claim, Figure, MAX_CREDITS, Reconciliation};
pub use revert::{Field, OnChain, Revert, Role};
pub use sender::{SendError, Sender};
pub use sign::{Key, SignError};
pub use start::{Chain, StartError};
pub use uses::AuthorizationUse;
pub use views::{TaskView, VaultView};

/// Transactions of one account that may wait to be mined at once; nodes drop more.
pub const MAX_PENDING: usize = 16;
