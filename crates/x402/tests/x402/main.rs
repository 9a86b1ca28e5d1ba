//! The crate from outside: attacks on a seller, the dialects, a facilitator, a
//! buyer, and the unmodified clients and servers of others.

mod attacks;
mod buyer;
mod common;
mod facilitator;
mod hosted;
mod wire;
