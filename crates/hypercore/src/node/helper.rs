//! A helper's life: its place on the node, its guest, and its end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use domain::{OwnedDisk, ResourceRequest, RunId};
use sandbox::{DiskRetention, GuestState, HelperSpec, Slot, Volumes};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use wire::v1::pod::HelperConfig;

use crate::context::NodeContext;
use crate::error_chain::error_chain;
use crate::guest::{BootLimits, BootOverdue, PodClient, while_booting};
use crate::helpers::{Helper, HelperError, NewHelper, Stage};
use crate::ledger::random;

/// What a helper is given: the kernel, `pod`, and room to check a large file system.
const HELPER: ResourceRequest = ResourceRequest { cores: 1, memory_mib: 256 };
/// How long a helper may take until its disk is mounted, beside the check of that.
const START: Duration = Duration::from_secs(120);
/// Pause before what is left of a helper is removed again.
const STOP_AGAIN: Duration = Duration::from_secs(1);
/// How often it is looked whether a helper goes on.
const LOOK: Duration = Duration::from_secs(2);
const ENTROPY_BYTES: usize = 64;
/// The names of helpers are those of runs far from now: no gateway mints one.
const NAMES: u64 = u64::MAX << 22;

/// A name for a machine of the node's own.
pub(super) fn own_run() -> io::Result<RunId> {
    let mut bits = [0; 8];
    random(&mut bits)?;
    Ok(RunId::from_bits(NAMES | u64::from_be_bytes(bits)))
}

impl NodeContext {
    /// Gives a helper its place, unless its disk has one.
    pub(super) fn new_helper(&self, disk: OwnedDisk, holder: &str) -> Result<Option<NewHelper>, HelperError> {
        if self.helpers.has(disk) {
            return Ok(None);
        }
        let run = own_run().map_err(|error| HelperError::Start(error.to_string()))?;
        let number = self.registry.enter_helper(run, HELPER).map_err(|error| HelperError::Full(Some(error)))?;
        Ok(Some(self.helpers.enter(disk, Slot { run, number }, holder)))
    }

    /// Keeps a helper from its start to its end.
    pub(super) async fn keep_helper(&self, new: NewHelper) {
        let NewHelper { disk, helper, stage } = new;
        metrics::counter!("hypercore_helper_starts_total").increment(1);
        let lived = self.live(disk, &helper, &stage).await;
        helper.close();
        if let Err(error) = &lived {
            tracing::warn!(%disk, error = error as &dyn std::error::Error, "a disk's helper has ended");
        }
        while let Err(error) = self.runtime.stop(helper.slot, DiskRetention::Erase).await {
            tracing::error!(%disk, error = error_chain(&error), "what is left of a helper is not removed yet");
            sleep(STOP_AGAIN).await;
        }
        self.registry.leave_helper(helper.slot.run);
        self.helpers.leave(disk);
        stage.send_replace(Stage::Gone(lived.err()));
    }

    async fn live(&self, disk: OwnedDisk, helper: &Helper, stage: &watch::Sender<Stage>) -> Result<(), HelperError> {
        let spec = HelperSpec { slot: helper.slot, disk, memory_mib: HELPER.memory_mib };
        let mut guest = self.runtime.create_helper(&spec).await?;
        let pod = PodClient::new(Arc::clone(&self.runtime), helper.slot.run, String::new().into());
        let limits = BootLimits { boot: START, check: self.check_of(disk).await };
        let tell = |percent| drop(stage.send_replace(Stage::Starting { checked: Some(percent) }));
        tokio::select! {
            biased;
            () = helper.end.cancelled() => return Ok(()),
            words = guest.exit.wait() => return Err(HelperError::Died(words)),
            () = self.until_helper_stops(helper.slot.run) => return Err(HelperError::DiskFull),
            told = while_booting(&pod, pod.mount(|| self.helper_config()), limits, tell) => {
                told.map_err(overdue)?.0?;
            }
        }
        stage.send_replace(Stage::Ready);
        tracing::info!(%disk, "a helper answers for a disk's files");
        tokio::select! {
            biased;
            () = helper.end.cancelled() => helper.drain().await,
            words = guest.exit.wait() => return Err(HelperError::Died(words)),
            () = self.until_helper_stops(helper.slot.run) => return Err(HelperError::DiskFull),
            () = helper.when_idle() => {}
        }
        helper.close();
        // What is written is on the disk already; a file system that was left whole needs no repair.
        let asked = pod.stop(Duration::ZERO).await;
        let off = Duration::from_millis(self.config.power_off_ms);
        if asked.is_err() || timeout(off, guest.exit.wait()).await.is_err() {
            tracing::warn!(%disk, "a helper did not switch itself off in time");
        }
        Ok(())
    }

    /// How long the check of a disk may take.
    async fn check_of(&self, disk: OwnedDisk) -> Duration {
        let mib = match disk {
            OwnedDisk::Data(_) => self.config.data_mib,
            OwnedDisk::Volume(id) => {
                let volumes = Volumes::of(&self.config.state);
                let found = spawn_blocking(move || volumes.find(id)).await;
                // What cannot be looked at has the time that any disk has.
                found.ok().and_then(Result::ok).flatten().map_or(0, |found| found.size_mib)
            }
        };
        BootLimits::check_of(mib)
    }

    /// Ends when the helper was stopped where it is, since the node's disk is full: whoever calls would wait
    /// without an end, and it would keep its place from others.
    async fn until_helper_stops(&self, id: RunId) {
        loop {
            sleep(LOOK).await;
            if let Ok(GuestState::Paused(_)) = self.runtime.condition(id).await {
                return;
            }
        }
    }

    fn helper_config(&self) -> io::Result<HelperConfig> {
        let mut entropy = [0; ENTROPY_BYTES];
        random(&mut entropy)?;
        let clock_unix_ns = self.clock.now().0.saturating_mul(1_000_000);
        Ok(HelperConfig { clock_unix_ns, entropy: STANDARD.encode(entropy).into() })
    }
}

fn overdue(overdue: BootOverdue) -> HelperError {
    HelperError::Start(match overdue {
        BootOverdue::Silent(deadline) => format!("its disk was not mounted within {deadline:?}"),
        BootOverdue::Check(deadline) => format!("its disk was not checked within {deadline:?}"),
    })
}
