//! What a call is called, and how long it may take.

use std::future::Future;
use std::time::Duration;

use super::NodeError;

/// How long each kind of call may take until its answer is whole, or, where the
/// answer is a stream, until it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallDeadlines {
    /// Reading: one sandbox, all of them, the node itself.
    pub read: Duration,
    /// Creating: the node makes disks and writes its ledger before it answers.
    pub create: Duration,
    /// Reaching the agent's port.
    pub tunnel: Duration,
    /// The head of a streamed answer.
    pub stream: Duration,
    /// The head of what the guest answers to a passed request. The guest waits up
    /// to 30 s for a command to read its input; a request that says otherwise
    /// (`connect-timeout-ms`) gets that, and [`Self::margin`].
    pub forward: Duration,
    /// Silence within a streamed answer that is not followed.
    pub idle: Duration,
    /// What is added to a wait that the node was asked for (`wait_ms`, `grace_ms`).
    pub margin: Duration,
}

impl Default for CallDeadlines {
    fn default() -> Self {
        Self {
            read: Duration::from_secs(5),
            create: Duration::from_secs(20),
            tunnel: Duration::from_secs(5),
            stream: Duration::from_secs(10),
            forward: Duration::from_secs(40),
            idle: Duration::from_secs(10),
            margin: Duration::from_secs(10),
        }
    }
}

/// One call's name and deadline.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) operation: &'static str,
    pub(super) deadline: Duration,
}

impl Call {
    pub(super) const fn new(operation: &'static str, deadline: Duration) -> Self {
        Self { operation, deadline }
    }

    pub(super) async fn within<T>(self, work: impl Future<Output = Result<T, NodeError>>) -> Result<T, NodeError> {
        let late = NodeError::TimedOut { operation: self.operation, after: self.deadline };
        tokio::time::timeout(self.deadline, work).await.unwrap_or(Err(late))
    }
}
