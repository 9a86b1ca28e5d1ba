//! A node in memory and a clock that tests command: for tests alone.

mod behaviour;
mod clock;
mod images;
mod node;
mod state;

pub use behaviour::{CallOutcome, Chaos, FakeNodeSpec};
pub use clock::TokioClock;
pub use node::FakeNode;
