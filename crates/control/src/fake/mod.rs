//! A node in memory and a clock that tests command: for tests alone.

mod behaviour;
mod clock;
mod machine;
mod node;

pub use behaviour::{CallOutcome, Chaos, NodeBuild};
pub use clock::TokioClock;
pub use node::FakeNode;
