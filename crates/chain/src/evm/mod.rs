//! The EVM chain of the vaults.
//!
//! No endpoint is trusted. What decides about money (a receipt, a block's hash, the
//! logs of a range, a nonce, whether an address is a vault) is believed when as many
//! endpoints as `[evm] quorum` say the same; a contradiction is an error, whoever is
//! in the majority. What is read at the newest block comes from one endpoint, and is
//! for showing.
//!
//! | part | does |
//! |---|---|
//! | `config`, `start` | `[evm]`; what is checked of a chain before it is used: [`CheckedChain::connect`] |
//! | [`abi`], `terms` | the contracts, from their checked-in ABI; their events in the domain's words |
//! | [`calls`], [`typed`] | pure: every call as plain data; what is signed, and the hashes |
//! | `revert`, `error` | why a contract refuses; why there is no answer |
//! | `answer`, `endpoints`, `node`, `views`, `uses` | asking: the RPC's JSON, endpoints that must agree, typed questions |
//! | `receipt` | pure: what a receipt is worth |
//! | `fees`, `sign` | pure: what is paid for gas; from a call to signed bytes |
//! | `sender`, `worker` | transactions: written down, sent, replaced, believed |
//! | `indexer`, `reconcile` | events: range by range into the ledger; the ledger against the chain |
//! | `local` | our contracts on a development chain |
//! | `fake`, `suite` | a ledger and an outbox in memory; what every one of them must do |

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
mod local;
mod node;
mod receipt;
mod reconcile;
mod revert;
mod sender;
mod sign;
mod start;
#[cfg(feature = "fake")]
pub mod suite;
mod terms;
pub mod typed;
mod unsent;
mod uses;
mod views;
mod worker;

pub use config::{EvmConfig, EvmConfigError};
pub use error::EvmError;
pub use fees::GasPrice;
pub use indexer::{IndexError, IndexProgress, Indexer};
pub use local::{DeployError, LocalContracts, deploy_local};
pub use node::{BlockTag, Broadcast, ConfirmedTransaction, Evm, TransactionStatus};
pub use reconcile::{LedgerVault, MAX_CREDITS, Mismatch, MismatchKind, Reconciliation};
pub use revert::{OnChainTaskState, Revert, VaultField, VaultRole};
pub use sender::{Estimate, Sender, TransactionCost};
pub use sign::{SignError, SigningKey};
pub use start::{ChainStartError, CheckedChain};
pub use unsent::SendError;
pub use views::{TaskView, VaultStanding, VaultView};
