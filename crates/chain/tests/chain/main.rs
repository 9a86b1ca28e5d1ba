//! Balances from endpoints that lie, fail and hang, and from a real Solana; vaults on a real EVM.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod endpoint;
mod evm;
mod lies;
mod surfpool;
