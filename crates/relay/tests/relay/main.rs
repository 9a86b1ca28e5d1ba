//! The relayer against a chain in memory, and against anvil with the real contracts.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod attacks;
mod bench;
mod cases;
mod fees;
mod journal;
mod recovery;
mod remote;
mod routes;
mod server;
