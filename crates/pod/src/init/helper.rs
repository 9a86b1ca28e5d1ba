//! A machine that has one disk and no agent: the owner of the disk reaches its files through it.
//! There is no image: what runs is this program alone, from the initramfs.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wire::v1::pod::{GATEWAY_ADDRESS, HelperConfig};
use zeroize::Zeroizing;

use super::boot::NetworkedBoot;
use super::entropy;
use super::machine::set_clock;
use super::modules::Modules;
use super::volumes::VolumeDisks;
use crate::agent::{self, Logs};
use crate::api::{self, HelperApi, HelperFiles};
use crate::check::CheckProgress;
use crate::process::Reaper;
use crate::step::{Context as _, StepError};
use crate::timings::BootStopwatch;

/// Where the disk is mounted.
const ROOT: &str = "/mnt/disk";
/// How long answers that are on their way may take when the helper ends.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);
/// Bytes of entropy that the kernel's generator is given.
const ENTROPY_BYTES: usize = 64;

/// Serves the files of the disk until the node has it end.
///
/// # Errors
/// Signals or the socket cannot be waited for, or the kernel takes none of its modules.
pub(super) async fn run(network: NetworkedBoot, mut timings: BootStopwatch) -> anyhow::Result<()> {
    let NetworkedBoot { listener, modules } = network;
    agent::log_events(Logs::new())?;
    let reaper = Reaper::default();
    tokio::spawn(reaper.run().context("cannot hear signals")?);
    let listener = tokio::net::TcpListener::from_std(listener).context("cannot listen")?;
    let (connections, closing, stop) = (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
    let (looked, mounted) = watch::channel(None);
    let files = HelperFiles::new(ROOT);
    let check = CheckProgress::default();
    let api = HelperApi { files, mounted, check: check.clone(), begin: Arc::new(begin), stop: stop.clone() };
    let routes = api::helper_routes(api);
    tokio::spawn(api::serve(listener, IpAddr::V4(GATEWAY_ADDRESS), routes, connections.clone(), closing.clone()));
    let disks = look(modules, &reaper, &check, &mut timings).await?;
    looked.send_replace(Some(disks.mount_for_owner(ROOT)));
    stop.cancelled().await;
    closing.cancel();
    connections.close();
    // A client that does not take its answer does not keep the helper.
    let _ = timeout(DRAIN_TIMEOUT, connections.wait()).await;
    rustix::fs::sync();
    if let Err(error) = disks.remount_read_only() {
        let error = format!("{:#}", anyhow::Error::from(error));
        tracing::warn!(error, "the disk could not be made read-only; it is synced");
    }
    Ok(())
}

/// Checks the disk.
async fn look(
    mut modules: Modules,
    reaper: &Reaper,
    check: &CheckProgress,
    timings: &mut BootStopwatch,
) -> Result<VolumeDisks, StepError> {
    while modules.load_next_async(timings)? {
        yield_now().await;
    }
    Ok(VolumeDisks::check(reaper, check, timings).await)
}

/// Makes true what the node tells.
fn begin(config: &HelperConfig) -> Result<(), StepError> {
    set_clock(config.clock_unix_ns).context("set the clock")?;
    let entropy = STANDARD.decode(config.entropy.expose()).map_err(std::io::Error::other);
    let entropy = Zeroizing::new(entropy.context("read the entropy")?);
    if entropy.len() != ENTROPY_BYTES {
        return Err(std::io::Error::other("it has another length")).context("read the entropy");
    }
    entropy::add(&entropy)
}
