//! The node daemon: one task owns one sandbox.
mod clock;
pub mod ledger;
mod policy;
mod journal;
mod logs;
mod heartbeat;
pub use clock::Clock;
