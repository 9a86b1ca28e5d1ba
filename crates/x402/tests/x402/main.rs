//! The crate from outside: attacks on a seller, the dialects, a facilitator, a
//! buyer, and the unmodified clients and servers of others.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod anvil;
mod attacks;
mod buyer;
mod common;
mod facilitator;
mod hosted;
mod life;
mod npm;
mod permits;
mod record;
mod wire;
