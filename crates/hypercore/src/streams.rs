//! What bounds how many streams are open.
//!
//! A connection takes one of the node's places until it turns out to carry a stream
//! of some agent. From then on it counts for that agent alone: however many streams
//! the agents have, the node's own calls find their places free.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Config;

/// A connection's place among those of the node, as its requests see it.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionPermit(Arc<Mutex<Option<OwnedSemaphorePermit>>>);

impl ConnectionPermit {
    pub(crate) fn of(permit: OwnedSemaphorePermit) -> Self {
        Self(Arc::new(Mutex::new(Some(permit))))
    }

    /// Frees the place: the connection counts elsewhere now, or has ended.
    pub(crate) fn free(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// The streams that may be open into one agent. Connections to its port are opened
/// by whoever may talk to it, commands and logs by its holder: neither can take the
/// places of the other.
#[derive(Debug)]
pub(crate) struct Streams {
    tunnels: Arc<Semaphore>,
    calls: Arc<Semaphore>,
}

/// An open stream's place; freed when dropped.
#[derive(Debug)]
pub(crate) struct StreamPermit(#[expect(dead_code, reason = "holding it holds the place")] OwnedSemaphorePermit);

impl Streams {
    pub(crate) fn new(config: &Config) -> Self {
        let places = |count: u32| Arc::new(Semaphore::new(count as usize));
        Self { tunnels: places(config.streams), calls: places(config.calls) }
    }

    /// A place for one more connection to the agent's port.
    pub(crate) fn tunnel(&self, connection: Option<&ConnectionPermit>) -> Option<StreamPermit> {
        Self::take(&self.tunnels, connection)
    }

    /// A place for one more command, or reader of logs.
    pub(crate) fn call(&self, connection: Option<&ConnectionPermit>) -> Option<StreamPermit> {
        Self::take(&self.calls, connection)
    }

    fn take(places: &Arc<Semaphore>, connection: Option<&ConnectionPermit>) -> Option<StreamPermit> {
        let stream = Arc::clone(places).try_acquire_owned().ok().map(StreamPermit)?;
        if let Some(connection) = connection {
            connection.free();
        }
        Some(stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_2_4_a_connection_that_carries_a_stream_leaves_its_place_to_the_nodes_own_calls() {
        let node = Arc::new(Semaphore::new(1));
        let streams = Streams::new(&Config { streams: 1, calls: 1, ..Config::default() });
        let connection = ConnectionPermit::of(Arc::clone(&node).try_acquire_owned().unwrap());
        assert_eq!(node.available_permits(), 0);
        let open = streams.call(Some(&connection)).unwrap();
        assert_eq!(node.available_permits(), 1);
        // One that is refused is no stream, and keeps its place until it is answered.
        let refused = ConnectionPermit::of(Arc::clone(&node).try_acquire_owned().unwrap());
        assert!(streams.call(Some(&refused)).is_none());
        assert_eq!(node.available_permits(), 0);
        drop(open);
        assert!(streams.call(Some(&refused)).is_some() && streams.tunnel(None).is_some());
    }
}
