//! The vaults' chain, real and lying.

mod books;
mod index;
mod kill;
mod lies;
mod node;
mod proxy;
mod send;
mod start;
mod vault;
