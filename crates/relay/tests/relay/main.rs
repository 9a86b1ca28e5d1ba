//! The relayer against a chain in memory, and against anvil with the real contracts.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod anvil;
mod attacks;
mod cases;
mod fees;
mod files;
mod fixture;
mod journal;
mod kill;
mod real;
mod recovery;
mod remote;
mod routes;
mod server;
