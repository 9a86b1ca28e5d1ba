//! The images an agent may be made of: what the nodes hold, read now and then.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use client::NodeClient;
use domain::ImageDigest;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// The images' names and digests, as last seen.
pub type Table = BTreeMap<String, ImageDigest>;

/// Where the names of images come from.
#[async_trait]
pub trait Images: Send + Sync {
    /// What is known; `None` before anything was read.
    fn table(&self) -> Option<Arc<Table>>;

    /// Reads again; whether any node answered. Cheap to call often.
    async fn refresh(&self) -> bool;
}

/// The images of the nodes. A node that does not answer keeps what it last said.
#[derive(Debug)]
pub struct NodeImages {
    nodes: Vec<NodeClient>,
    table: RwLock<Option<Arc<Table>>>,
    last: Mutex<Last>,
}

#[derive(Debug)]
struct Last {
    read_at: Option<Instant>,
    by_node: Vec<Option<Table>>,
    answered: bool,
}

impl NodeImages {
    /// Readings begin this far apart: what was asked for meanwhile is one.
    const AT_MOST_EVERY: Duration = Duration::from_millis(250);

    /// The images of these nodes. Where two disagree on a name, the first wins.
    #[must_use]
    pub fn new(nodes: Vec<NodeClient>) -> Self {
        let by_node = vec![None; nodes.len()];
        Self { nodes, table: RwLock::new(None), last: Mutex::new(Last { read_at: None, by_node, answered: false }) }
    }
}

#[async_trait]
impl Images for NodeImages {
    fn table(&self) -> Option<Arc<Table>> {
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
        for (node, held) in self.nodes.iter().zip(&mut last.by_node) {
            match node.info().await {
                Ok(info) => {
                    *held = Some(info.images);
                    answered = true;
                }
                Err(error) => tracing::debug!(%error, "read a node's images"),
            }
        }
        last.answered = answered;
        if last.by_node.iter().any(Option::is_some) {
            let merged: Table = last.by_node.iter().rev().flatten().flatten().map(|(n, d)| (n.clone(), *d)).collect();
            *self.table.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(merged));
        }
        answered
    }
}
