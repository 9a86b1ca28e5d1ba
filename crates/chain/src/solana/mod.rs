//! Balances from Solana's JSON-RPC.
//!
//! | part | does |
//! |---|---|
//! | `answer` | pure: from an RPC's JSON to a sum, or to what is wrong with it |
//! | `endpoints` | endpoints in order, those that failed lately last; rounds with backoff |
//! | `balances` | the mint pinned once, the cache, single-flight, the places for calls |

mod answer;
mod balances;
mod endpoints;

pub use balances::{SolanaBalances, SolanaStartError};
