//! What all sandboxes of a node have in common.

use std::sync::Arc;

use domain::Clock;
use sandbox::{Runtime, RuntimeInfo};
use tokio::sync::{Mutex, RwLock};

use crate::Config;
use crate::images::ImageCatalog;
use crate::journal::Journal;
use crate::registry::Registry;
use crate::uploads::Uploads;

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
    /// Archives of holders' images; absent where none are taken.
    pub(crate) uploads: Option<Arc<Uploads>>,
    /// Shared by whoever finds an image for a run until the run has its place; held alone by
    /// whoever removes images.
    pub(crate) image_use: RwLock<()>,
    /// Held by whoever looks which PODs run and acts on what is kept of them: data that a
    /// run was promised is not erased before the run has it.
    pub(crate) kept: Mutex<()>,
}
