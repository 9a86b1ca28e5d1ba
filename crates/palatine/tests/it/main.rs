//! The whole product, on real parts: QEMU guests, a real OCI image, a Solana
//! JSON-RPC with the real SPL Token program. They need root and what `./dev`
//! installs, and run one after another. What they stand on is in `fixtures`.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot go on ends, and shows the logs")]

mod addressing;
mod agents;
mod api;
mod ask;
mod boot;
mod circles;
mod clients;
mod coder;
mod containers;
mod content;
mod crash;
mod deal;
mod disk;
mod docker;
mod documents;
mod e2b;
mod failpoints;
mod guest;
mod hostile;
mod images;
mod imports;
mod isolation;
mod keys;
mod labels;
mod money;
mod pods;
mod residue;
mod secrets;
mod shell;
mod soak;
mod spawn;
mod starters;
mod terminal;
mod up;
mod upgrade;
mod volumes;
mod work;
