//! The node, as it describes itself.

use std::collections::BTreeMap;

use domain::ImageDigest;
use image::ImageError;
use sandbox::{DiskUsage, DriverError};
use tokio::task::spawn_blocking;
use wire::v1::node::{ImageNeeds, KeptDisks, NodeDisk, NodeInfo};

use super::{CreateError, Node};
use crate::images::ImageCatalog;
use crate::policy::{Allocated, DiskSpace};

const MIB: u64 = 1024 * 1024;

impl Node {
    /// The disks that outlived their sandboxes.
    pub(crate) async fn disks(&self) -> Result<KeptDisks, DriverError> {
        let kept = self.shared.runtime.kept(None).await?;
        Ok(KeptDisks { retention_days: self.shared.config.retention_days, kept })
    }

    /// The node, as it describes itself.
    pub(crate) async fn info(&self) -> Result<NodeInfo, CreateError> {
        let images = self.shared.images.clone();
        let named = spawn_blocking(move || described(&*images)).await;
        let (images, image_needs) = named.map_err(|error| CreateError::Disk(std::io::Error::other(error)))??;
        let (load, capacity) = (self.shared.registry.load(), self.shared.registry.capacity());
        let strongest = self.shared.runtime_of(None);
        Ok(NodeInfo {
            name: self.shared.config.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime: strongest.name,
            runtime_reason: strongest.reason.clone(),
            runtimes: self.shared.offers.iter().map(|offered| offered.name).collect(),
            cores: capacity.cores,
            free_cores: capacity.free_vcpus(load),
            memory_mib: capacity.memory_mib,
            free_memory_mib: capacity.free_memory_mib(load),
            most_memory_mib: Some(capacity.free_memory_mib(Allocated::default())),
            disk: Some(self.disk(load).await?),
            sandboxes: load.sandboxes,
            images,
            image_needs,
        })
    }

    async fn disk(&self, load: Allocated) -> Result<NodeDisk, CreateError> {
        let ((found, room), capacity) = (self.disk_space().await?, self.shared.registry.capacity());
        let kept = self.shared.runtime.kept(None).await?;
        Ok(NodeDisk {
            size_mib: found.size / MIB,
            free_mib: found.free / MIB,
            least_free_mib: capacity.disk_free_mib,
            promised_mib: load.disk_mib,
            promisable_mib: capacity.free_disk_mib(load, room),
            overcommit_percent: capacity.disk_percent,
            sandbox_mib: capacity.agent_disk_mib,
            kept: u32::try_from(kept.len()).unwrap_or(u32::MAX),
            kept_mib: kept.iter().map(|disk| disk.bytes).sum::<u64>() / MIB,
        })
    }
}

type Described = (BTreeMap<String, ImageDigest>, BTreeMap<String, ImageNeeds>);

/// The images by name, and what they need. One that cannot be read needs nothing that is known.
fn described(images: &dyn ImageCatalog) -> Result<Described, ImageError> {
    let named = images.named()?;
    let needs = |digest: &ImageDigest| images.find(digest).ok().flatten().map(|image| image.needs);
    let needs = named.iter().filter_map(|(name, digest)| Some((name.clone(), needs(digest)?)));
    let needs = needs.filter(|(_, needs)| !needs.is_empty()).collect();
    Ok((named, needs))
}

pub(super) fn disk_room(room: DiskUsage) -> DiskSpace {
    DiskSpace { free_mib: room.free / MIB, guests_mib: room.guests / MIB }
}
