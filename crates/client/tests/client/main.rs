//! The clients against real servers on real sockets.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod ask;
mod content;
mod exec;
mod files;
mod gateway;
mod keys;
mod node;
mod ports;
mod public;
