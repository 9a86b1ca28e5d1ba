//! What all sandboxes of a node have in common.

use std::sync::Arc;

use domain::Clock;
use sandbox::{Runtime, RuntimeInfo};
use tokio::sync::{Mutex, Notify, RwLock};
use wire::v1::node::RuntimeName;

use crate::Config;
use crate::builders::Builders;
use crate::helpers::Helpers;
use crate::images::ImageCatalog;
use crate::journal::Journal;
use crate::registry::Registry;
use crate::uploads::Uploads;

/// The node's parts, as its tasks use them.
pub(crate) struct NodeContext {
    pub(crate) config: Config,
    pub(crate) runtime: Arc<dyn Runtime>,
    /// What the runtime offers, the strongest first.
    pub(crate) offers: Vec<RuntimeInfo>,
    pub(crate) images: Arc<dyn ImageCatalog>,
    pub(crate) journal: Journal,
    pub(crate) clock: Arc<dyn Clock>,
    /// Name servers of the guests.
    pub(crate) resolvers: Vec<String>,
    /// The sandboxes there are.
    pub(crate) registry: Registry,
    /// Archives of holders' images; absent where none are taken.
    pub(crate) uploads: Option<Arc<Uploads>>,
    /// The helpers there are.
    pub(crate) helpers: Helpers,
    /// The machines in which images are built.
    pub(crate) builders: Builders,
    /// Shared by whoever finds an image for a run until the run has its place; held alone by
    /// whoever removes images.
    pub(crate) image_use: RwLock<()>,
    /// Held by whoever looks which PODs run and acts on what is kept of them: data that a
    /// run was promised is not erased before the run has it.
    pub(crate) kept: Mutex<()>,
    /// What is held of disks may be more or less than was marked of it.
    pub(crate) disks_changed: Notify,
}

impl NodeContext {
    /// What isolates a run for which this was said, or nothing. Of a machine it is whichever the
    /// node makes today.
    pub(crate) fn runtime_of(&self, said: Option<RuntimeName>) -> &RuntimeInfo {
        let same = |offered: &&RuntimeInfo| {
            said.is_none_or(|said| said == offered.name || !(said.is_container() || offered.name.is_container()))
        };
        self.offers.iter().find(same).unwrap_or(&self.offers[0])
    }
}
