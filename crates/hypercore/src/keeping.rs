//! Disks that outlived their sandbox, and the end of their retention.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use domain::{RunId, UnixMillis};
use durable::Reserve;
use sandbox::{DriverError, Runtime, is_full};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use crate::policy::{Ages, kept_until};
use crate::task::Shared;

/// Room for the node's own books: tens of thousands of marks, or a thousand records.
const RESERVE: usize = 4 * 1024 * 1024;
/// Between two looks for disks whose time is over.
const PERIOD: Duration = Duration::from_secs(60);
/// Between two looks at what the guests' networks need of the machine. For so long, at
/// most, guests may be without a way out and without the host's own rules against them,
/// when an operator has loaded others; the rules in their namespaces stand meanwhile.
const TEND_PERIOD: Duration = Duration::from_secs(2);

/// The room that is kept for the node's own books.
pub(crate) fn reserve(state: &Path) -> Reserve {
    Reserve::at(state, RESERVE)
}

/// Gives that room up, if the disk is full and it is there: then what was tried may be
/// tried again.
pub(crate) fn make_room(reserve: &Reserve, error: &io::Error) -> bool {
    let made = is_full(error) && reserve.release();
    if made {
        tracing::error!("the disk under the node's state is full: the room kept for its books is in use now");
        metrics::counter!("hypercore_reserve_releases_total").increment(1);
    }
    made
}

/// Until when disks of this sandbox are kept, if any are.
pub(crate) async fn until(shared: &Shared, id: RunId) -> Result<Option<UnixMillis>, DriverError> {
    let kept = shared.runtime.kept().await?;
    let retention_ms = shared.config.retention_ms();
    Ok(kept.iter().filter(|disk| disk.id == id).filter_map(|disk| kept_until(disk, retention_ms)).max())
}

/// Erases what is kept of a sandbox: its owner's word.
pub(crate) async fn erase(runtime: &dyn Runtime, id: RunId) -> Result<(), DriverError> {
    for disk in runtime.kept().await?.into_iter().filter(|disk| disk.id == id) {
        runtime.erase(&disk.name).await?;
        tracing::info!(%id, "disks that were set aside are erased: their owner asked");
    }
    Ok(())
}

/// Erases what was kept for as long as was announced. So much time has gone by since
/// this was called last.
pub(crate) async fn expire(shared: &Shared, ages: &mut Ages, elapsed: Duration) -> Result<(), DriverError> {
    let (now, retention_ms) = (shared.clock.now(), shared.config.retention_ms());
    let kept = shared.runtime.kept().await?;
    ages.look(&kept, u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
    for disk in kept.iter().filter(|disk| ages.is_over(disk, retention_ms, now)) {
        shared.runtime.erase(&disk.name).await?;
        metrics::counter!("hypercore_kept_disks_expired_total").increment(1);
        tracing::warn!(id = %disk.id, name = disk.name, "disks that were set aside are erased: their retention is over");
    }
    Ok(())
}

/// Does so for ever, and keeps room for the node's own books.
pub(crate) async fn run(shared: &Shared, reserve: Reserve) {
    let path = shared.config.state.join("kept.ages");
    let (mut ages, mut looked) = (read_ages(&path), Instant::now());
    loop {
        let reserve = reserve.clone();
        if let Ok(Err(error)) = spawn_blocking(move || reserve.refill()).await {
            tracing::warn!(%error, "room for the node's own books cannot be kept");
        }
        let elapsed = looked.elapsed();
        looked += elapsed;
        if let Err(error) = expire(shared, &mut ages, elapsed).await {
            tracing::error!(error = &error as &dyn std::error::Error, "disks whose retention is over cannot be erased");
        }
        if let Err(error) = write_ages(path.clone(), ages.clone()).await {
            tracing::warn!(%error, "it cannot be written down for how long disks were kept");
        }
        sleep(PERIOD).await;
    }
}

/// Has the machine looked at for ever. What cannot be mended is told once, until it can.
pub(crate) async fn tend(runtime: &dyn Runtime) {
    let mut told = false;
    loop {
        sleep(TEND_PERIOD).await;
        let tended = runtime.tend().await;
        if let Err(error) = &tended
            && !told
        {
            tracing::error!(error = error as &dyn std::error::Error, "what the guests' networks need is not there");
        }
        told = tended.is_err();
    }
}

/// What cannot be read begins anew: then disks are kept for longer.
pub(crate) fn read_ages(path: &Path) -> Ages {
    let read = std::fs::read(path).and_then(|text| Ok(serde_json::from_slice(&text)?));
    read.unwrap_or_else(|error| {
        if error.kind() != io::ErrorKind::NotFound {
            tracing::error!(%error, path = %path.display(), "for how long disks were kept cannot be read; it is counted from now on");
        }
        Ages::default()
    })
}

pub(crate) async fn write_ages(path: PathBuf, ages: Ages) -> io::Result<()> {
    let write = move || {
        if ages.is_empty() && !path.exists() {
            return Ok(());
        }
        durable::replace("ages", &path, &serde_json::to_vec(&ages)?)
    };
    spawn_blocking(write).await.map_err(io::Error::other)?
}
