//! The whole product, on real parts: QEMU guests, a real OCI image, a Solana
//! JSON-RPC with the real SPL Token program. They need root and what `./dev`
//! installs, and run one after another.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot go on ends, and shows the logs")]

mod api;
mod clients;
mod crash;
mod deal;
mod documents;
mod evm;
mod failpoints;
mod house;
mod imports;
mod isolation;
mod machine;
mod money;
mod residue;
mod room;
mod secrets;
mod soak;
mod spawn;
mod terminal;
mod up;
mod ways;
