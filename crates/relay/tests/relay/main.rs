//! The relayer against a chain in memory, and against anvil with the real contracts.

mod attacks;
mod bench;
mod cases;
mod fees;
mod journal;
mod recovery;
mod routes;
