//! What all sandboxes of a node have in common.

use std::sync::Arc;

use domain::Clock;
use sandbox::{Runtime, RuntimeInfo};
use tokio::sync::Mutex;

use crate::Config;
use crate::images::ImageCatalog;
use crate::journal::Journal;
use crate::registry::Registry;

/// The node's parts, as its tasks use them.
pub(crate) struct NodeContext {
    pub(crate) config: Config,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) runtime_info: RuntimeInfo,
    pub(crate) images: Arc<dyn ImageCatalog>,
    pub(crate) journal: Journal,
    pub(crate) clock: Arc<dyn Clock>,
    /// Name servers of the guests.
    pub(crate) resolvers: Vec<String>,
    /// The sandboxes there are.
    pub(crate) registry: Registry,
    /// Held by whoever looks which PODs run and acts on what is kept of them: data that a
    /// run was promised is not erased before the run has it.
    pub(crate) kept: Mutex<()>,
}
