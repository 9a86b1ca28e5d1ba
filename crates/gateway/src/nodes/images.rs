//! The images an agent may be made of: what the nodes hold, read now and then.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use client::NodeClient;
use domain::ImageDigest;
use tokio::sync::Mutex;
use tokio::time::Instant;
use wire::node::NodeDisk;

/// The images' names and digests, as last seen.
pub type ImageTable = BTreeMap<String, ImageDigest>;

/// Where the names of images come from.
#[async_trait]
pub trait ImageCatalog: Send + Sync {
    /// What is known; `None` before anything was read.
    fn table(&self) -> Option<Arc<ImageTable>>;

    /// Reads again; whether any node answered. Cheap to call often.
    async fn refresh(&self) -> bool;

    /// Whether one of the nodes has disk for an agent, were it the only one there, by
    /// what each said last.
    fn has_disk(&self) -> bool {
        true
    }
}

/// The images of the nodes. A node that does not answer keeps what it last said.
#[derive(Debug)]
pub struct NodeImages {
    nodes: Vec<NodeClient>,
    table: RwLock<Option<Arc<ImageTable>>>,
    has_disk: AtomicBool,
    last: Mutex<LastRead>,
}

#[derive(Debug)]
struct LastRead {
    read_at: Option<Instant>,
    by_node: Vec<Option<NodeReport>>,
    answered: bool,
}

/// What a node reported last.
#[derive(Clone, Debug)]
struct NodeReport {
    images: ImageTable,
    has_disk: bool,
}

impl NodeImages {
    /// Readings begin this far apart: what was asked for meanwhile is one.
    const AT_MOST_EVERY: Duration = Duration::from_millis(250);

    /// The images of these nodes. Where two disagree on a name, the first wins.
    #[must_use]
    pub fn new(nodes: Vec<NodeClient>) -> Self {
        let by_node = vec![None; nodes.len()];
        let last = Mutex::new(LastRead { read_at: None, by_node, answered: false });
        Self { nodes, table: RwLock::new(None), has_disk: AtomicBool::new(true), last }
    }
}

#[async_trait]
impl ImageCatalog for NodeImages {
    fn table(&self) -> Option<Arc<ImageTable>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn refresh(&self) -> bool {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        if let Some(began) = last.read_at {
            // Somebody began to read after we asked, and read for us as well.
            if began >= asked {
                return last.answered;
            }
            tokio::time::sleep_until(began + Self::AT_MOST_EVERY).await;
        }
        last.read_at = Some(Instant::now());
        let mut answered = false;
        for (node, said) in self.nodes.iter().zip(&mut last.by_node) {
            match node.info().await {
                Ok(info) => {
                    // An older node says nothing of its disk.
                    let has_disk = info.disk.is_none_or(|disk| has_room(&disk));
                    *said = Some(NodeReport { images: info.images, has_disk });
                    answered = true;
                }
                Err(error) => tracing::debug!(%error, "a node's images cannot be read; what it said last stays"),
            }
        }
        last.answered = answered;
        let mut said = last.by_node.iter().rev().flatten().peekable();
        if said.peek().is_some() {
            self.has_disk.store(said.clone().any(|node| node.has_disk), Ordering::Relaxed);
            let merged: ImageTable =
                said.flat_map(|node| &node.images).map(|(name, digest)| (name.clone(), *digest)).collect();
            *self.table.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(merged));
        }
        answered
    }

    fn has_disk(&self) -> bool {
        self.has_disk.load(Ordering::Relaxed)
    }
}

/// What is promised to agents comes back when they end: a node that is full of them has
/// room, until what was written, by whomever, has reached what must stay free.
const fn has_room(disk: &NodeDisk) -> bool {
    let promised_at_most = disk.promisable_mib.saturating_add(disk.promised_mib);
    disk.free_mib >= disk.least_free_mib && promised_at_most >= disk.sandbox_mib
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_1_6_a_node_full_of_agents_has_room_and_one_whose_disk_is_over_its_bound_has_none() {
        let empty = NodeDisk {
            size_mib: 10_000,
            free_mib: 9_000,
            least_free_mib: 1_000,
            promised_mib: 0,
            promisable_mib: 8_000,
            overcommit_percent: 100,
            sandbox_mib: 400,
            kept: 0,
            kept_mib: 0,
        };
        assert!(has_room(&empty));
        let all_promised = NodeDisk { promised_mib: 8_000, promisable_mib: 0, ..empty };
        assert!(has_room(&all_promised));
        assert!(!has_room(&NodeDisk { free_mib: 999, ..all_promised }));
        // Nobody is there, and there is no room for a first one either.
        assert!(!has_room(&NodeDisk { free_mib: 1_100, promisable_mib: 100, ..empty }));
    }
}
