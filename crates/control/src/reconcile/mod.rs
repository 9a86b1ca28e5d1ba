//! Bringing what runs, and what is written down, together: loops that take no input.

mod balance;
pub(crate) mod collector;
mod marks;
pub(crate) mod plan;
mod prune;
mod round;
mod teardown;
