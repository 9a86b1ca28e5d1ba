//! Balances from Solana's JSON-RPC.
//!
//! | part | does |
//! |---|---|
//! | `answer` | pure: from an RPC's JSON to a sum, or to what is wrong with it |
//! | `call` | one call to one endpoint: a deadline, a bound on the body |
//! | `endpoints` | endpoints in order, those that failed lately last; rounds with backoff |
//! | `lag` | pure: which slots are too old to go by |
//! | `balances` | the mint pinned once, the cache, single-flight, the places for calls |

mod answer;
mod balances;
mod call;
mod endpoints;
mod lag;

pub use balances::{ChainError, SolanaBalances};
