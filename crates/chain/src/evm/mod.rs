//! The EVM chain of the vaults.
//!
//! | part | does |
//! |---|---|
//! | `config` | `[evm]` |
//! | `ledger`, `outbox` | traits: where events and transactions are written down |

mod config;
mod ledger;
mod outbox;

pub use config::{EvmConfig, EvmConfigError};
pub use ledger::{Batch, Ledger, LedgerError};
pub use outbox::{Outbox, OutboxError};

/// Transactions of one account that may wait to be mined at once; nodes drop more.
pub const MAX_PENDING: usize = 16;
