//! The vaults' chain, real and lying.

mod index;
mod kill;
mod ledger;
mod lies;
mod node;
mod proxy;
mod send;
mod start;
mod vault;
