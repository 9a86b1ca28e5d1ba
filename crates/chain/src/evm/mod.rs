//! The EVM chain of the vaults.
//!
//! | part | does |
//! |---|---|
//! | `config` | `[evm]` |
//! | `ledger`, `outbox` | traits: where events and transactions are written down |

pub mod abi;

mod answer;
mod config;
mod endpoints;
mod error;
mod fees;
mod ledger;
mod node;
mod outbox;
mod revert;
mod start;
mod terms;
pub mod typed;
mod witness;

pub use config::{EvmConfig, EvmConfigError};
pub use error::EvmError;
pub use fees::Price;
pub use ledger::{Batch, Ledger, LedgerError};
pub use node::{At, Broadcast, Evm, Landed, Sighting};
pub use outbox::{Outbox, OutboxError};
pub use revert::{Field, OnChain, Revert, Role};
pub use start::{Chain, StartError};

/// Transactions of one account that may wait to be mined at once; nodes drop more.
pub const MAX_PENDING: usize = 16;
