//! The only RPC: what a wallet holds of the operator's token on Solana, and the
//! vaults on an EVM chain.
//!
//! | part | does |
//! |---|---|
//! | `balances`, `config`, `solana` | a wallet's balance of one mint; `[solana]` |
//! | [`evm`] | vaults: typed calls, durable transactions, the index of their events; `[evm]` |
//! | `endpoint` | an RPC's URL, of which only the host is ever shown |
//! | `rpc` | one call to one endpoint: a deadline, a bound on the body; endpoints that failed lately last |
//! | `lag` | pure: which endpoints are too far behind to go by |
//! | `fake` | the same in memory, for the tests of other crates |
//!
//! # Solana
//!
//! A balance is the sum over all of a wallet's accounts of one mint, in the
//! mint's smallest unit. **Frozen accounts do not count**: their tokens can be
//! neither moved nor sold. **Delegated amounts count**: they belong to the owner
//! until the delegate moves them. Scaled and interest-bearing display figures do
//! not count: only raw amounts do.
//!
//! Trouble is never a balance: whatever an endpoint does wrong (silence, a
//! refusal, a body that is cut, endless or of another shape, an account of
//! somebody else) makes the balance *unknown*, after every endpoint was tried.
//! Unknown stops no running agent and admits no new one.

#[cfg(feature = "fake")]
pub mod fake;

pub mod evm;

mod balances;
mod config;
mod endpoint;
mod lag;
mod rpc;
mod solana;

pub use balances::{BalanceError, Balances};
pub use config::{Commitment, SolanaConfig, SolanaConfigError, TokenProgram};
pub use endpoint::Endpoint;
pub use evm::{EvmConfig, EvmConfigError};
pub use solana::{SolanaBalances, SolanaStartError};
