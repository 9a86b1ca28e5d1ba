//! Disks that outlived their run, and the end of their retention.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use domain::{OwnedDisk, PodId};
use sandbox::DriverError;
use tokio::task::spawn_blocking;
use wire::v1::node::{KeptData, KeptDisk};

use crate::context::NodeContext;
use crate::policy::{KeptDiskAges, kept_until};

/// What is kept of a POD, if anything is.
pub(crate) async fn kept_data(node: &NodeContext, pod: PodId) -> Result<Option<KeptData>, DriverError> {
    let kept = node.runtime.kept(Some(pod)).await?;
    let retention_ms = node.config.retention_ms();
    let until = kept.iter().filter_map(|disk| kept_until(disk, retention_ms)).max();
    let bytes = kept.iter().map(|disk| disk.bytes).sum();
    Ok((!kept.is_empty()).then_some(KeptData { until, bytes }))
}

/// Erases what is kept of a POD: its owner's word. The caller holds [`NodeContext::kept`]
/// and has seen that no run of it is there.
pub(crate) async fn erase(node: &NodeContext, pod: PodId) -> Result<(), DriverError> {
    for disk in node.runtime.kept(Some(pod)).await? {
        node.runtime.erase(&disk.name).await?;
        tracing::info!(%pod, "data that was kept is erased: its owner asked");
    }
    Ok(())
}

/// Erases what was kept for as long as was announced. So much time has gone by since
/// this was called last.
pub(crate) async fn expire(node: &NodeContext, ages: &mut KeptDiskAges, elapsed: Duration) -> Result<(), DriverError> {
    let _kept = node.kept.lock().await;
    let (now, retention_ms) = (node.clock.now(), node.config.retention_ms());
    let kept = node.runtime.kept(None).await?;
    ages.look(&kept, u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
    let is_had = |pod| node.registry.may_take_back(pod) || node.helpers.has(OwnedDisk::Data(pod));
    let over = |disk: &&KeptDisk| ages.is_over(disk, retention_ms, now) && !is_had(disk.pod);
    for disk in kept.iter().filter(over) {
        node.runtime.erase(&disk.name).await?;
        metrics::counter!("hypercore_kept_disks_expired_total").increment(1);
        tracing::warn!(pod = %disk.pod, name = disk.name, "kept disks are erased: their retention is over");
    }
    Ok(())
}

/// What cannot be read begins anew: then disks are kept for longer.
pub(crate) fn read_ages(path: &Path) -> KeptDiskAges {
    let read = std::fs::read(path).and_then(|text| Ok(KeptDiskAges::parse(&text)?));
    read.unwrap_or_else(|error| {
        if error.kind() != io::ErrorKind::NotFound {
            tracing::error!(%error, path = %path.display(), "for how long disks were kept cannot be read; it is counted from now on");
        }
        KeptDiskAges::default()
    })
}

pub(crate) async fn write_ages(path: PathBuf, ages: KeptDiskAges) -> io::Result<()> {
    let write = move || {
        if ages.is_empty() && !path.exists() {
            return Ok(());
        }
        durable::replace("ages", &path, &ages.to_json()?)
    };
    spawn_blocking(write).await.map_err(io::Error::other)?
}
