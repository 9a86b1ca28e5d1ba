//! From nothing to ready.

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use domain::{ImageDigest, MarkKind, UnixMillis};
use sandbox::{DiskRetention, DriverRefusal, RuntimeError, RuntimeOperation, Volumes};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};
use wire::v1::node::{Sandbox, SandboxPhase, SandboxVolume};
use wire::v1::pod::{GuestConfig, GuestVolume, PodPhase, PodStatus};

use super::command::{Ending, StageName};
use super::exits::GuestExits;
use super::failure::{BookkeepingError, GuestFailure};
use super::live::RunningGuest;
use super::machine::{BOOKS_DEADLINE, SandboxTask, Stage};
use super::paused::until_stopped;
use crate::context::NodeContext;
use crate::guest::{BootLimits, BootOverdue, IdentityDelivery, PodClient, PodError, while_booting};
use crate::ledger::{SandboxRecord, Secrets, random};
use crate::policy::ReadinessHistory;

/// Bytes for the guest kernel's generator.
const ENTROPY_BYTES: usize = 64;
/// How much of a guest's words on its agent's end is repeated.
const LAST_EXIT_CHARS: usize = 200;
/// A kernel that has not come to `pod` after so long hangs: it takes two seconds where it is emulated.
const FIRST_WORD: Duration = Duration::from_secs(30);
/// Pause after an answer that came before its time.
const PAUSE: Duration = Duration::from_millis(100);

impl SandboxTask {
    /// Makes a guest. Runs to its end: a guest that is half made cannot be let go.
    pub(super) async fn start(&mut self) -> Result<Stage, BookkeepingError> {
        self.open().await?;
        if !std::mem::take(&mut self.counted) {
            self.record.starts += 1;
            self.readiness = ReadinessHistory::default();
            self.record.facts = None;
            self.save().await?;
        }
        self.exits.next_boot();
        metrics::counter!("hypercore_guest_starts_total").increment(1);
        let since = Instant::now();
        let now = self.shared.clock.now();
        let (marked, created) =
            tokio::join!(timeout(BOOKS_DEADLINE, self.journal(MarkKind::Booting, now)), self.create());
        self.fresh = false;
        match created {
            Ok(guest) => {
                metrics::histogram!("hypercore_guest_create_seconds").record(since.elapsed().as_secs_f64());
                self.record.facts = Some(guest.facts.clone());
                (self.record.ran, self.waiting) = (true, None);
                let live = self.live(guest)?;
                self.save().await?;
                // It is in the record now, and is found again whatever the journal says.
                let heard = match marked {
                    Ok(marked) => marked.map(|()| None)?,
                    Err(_) => self.mark(MarkKind::Booting, now).await?,
                };
                if let Some(command) = heard {
                    return Ok(Stage::End(Some(live), command));
                }
                // It may have taken back what was kept of its POD.
                self.shared.disks_changed.notify_one();
                self.publish(SandboxPhase::Booting);
                Ok(Stage::Boot(live))
            }
            // The same start is tried again: the agent has not died of it.
            Err(error) => {
                self.counted = true;
                Ok(Stage::Wait(error.into()))
            }
        }
    }

    async fn create(&self) -> Result<sandbox::Guest, RuntimeError> {
        let base = self.base().await?;
        let runtime = &self.shared.runtime;
        // Whatever an earlier start has left: the driver refuses what runs.
        if !self.fresh {
            runtime.stop(self.record.slot(), DiskRetention::Attached).await?;
        }
        runtime.create(&self.spec(base)).await
    }

    async fn base(&self) -> Result<PathBuf, RuntimeError> {
        let (images, digest) = (self.shared.images.clone(), self.record.desired.image);
        let in_container = self.shared.runtime_of(self.record.desired.runtime).name.is_container();
        let find = move || match in_container {
            true => images.files(&digest),
            false => images.find(&digest).map(|found| found.map(|base| base.disk)),
        };
        match spawn_blocking(find).await {
            Ok(Ok(Some(base))) => Ok(base),
            Ok(Err(error)) => {
                tracing::error!(image = %digest, error = &error as &dyn std::error::Error, "an image cannot be read");
                Err(self.no_base(&digest))
            }
            Ok(Ok(None)) | Err(_) => Err(self.no_base(&digest)),
        }
    }

    fn no_base(&self, image: &ImageDigest) -> RuntimeError {
        RuntimeError::Refused {
            operation: RuntimeOperation::Create,
            id: self.record.id,
            refusal: DriverRefusal::NoBase(PathBuf::from(image.to_string())),
        }
    }

    /// Waits until a guest that runs is ready.
    pub(super) async fn boot(&mut self, mut live: RunningGuest) -> Result<Stage, BookkeepingError> {
        let (pod, secrets) = (self.pod()?, self.secrets().await?);
        let most = Duration::from_millis(self.shared.config.boot_deadline_ms);
        let (deadline, since) = (self.readiness.left(self.shared.clock.now(), most), Instant::now());
        let limits = self.limits(most, deadline).await;
        let told = {
            let Self { shared, record, trace, commands, view, .. } = self;
            let tell = |percent| view.send_modify(|shown| checked(shown, percent));
            let deliver = pod.deliver(|| identity(shared, record, &secrets, trace));
            tokio::select! {
                biased;
                command = commands.ending(StageName::Booting) => return Ok(Stage::End(Some(live), command)),
                words = live.end() => Err(GuestFailure::Guest(words)),
                told = while_booting(&pod, deliver, limits, tell) => outcome(told),
            }
        };
        drop(secrets);
        if !limits.check.is_zero() {
            self.view.send_modify(|shown| shown.guest = self.exits.report());
        }
        let check = match told {
            Ok(check) => check,
            Err(death) => return self.lost(live, death, self.shared.clock.now()).await,
        };
        self.attach(&mut live)?;
        // The check has a deadline of its own.
        let unready = || since.elapsed().saturating_sub(check);
        let left = deadline.saturating_sub(unready());
        let ready = {
            let Self { shared, record, commands, exits, view, .. } = self;
            let hear = |status: &PodStatus| hear_exits(exits, view, status, shared.clock.now());
            tokio::select! {
                biased;
                command = commands.ending(StageName::Booting) => return Ok(Stage::End(Some(live), command)),
                words = live.end() => Err(GuestFailure::Guest(words)),
                ready = timeout(left, until_ready(&pod, hear)) => ready.unwrap_or(Err(GuestFailure::Boot(deadline))),
                // How it is, is asked again then.
                _ = until_stopped(shared, record) => Err(GuestFailure::Pod("the node has stopped it".to_owned())),
            }
        };
        let now = self.shared.clock.now();
        match ready {
            Ok(()) if self.readiness.is_spent(now) => self.lost(live, GuestFailure::Flaps, now).await,
            Ok(()) => self.ready(live, unready()).await,
            Err(death) => self.lost(live, death, now).await,
        }
    }

    /// How long the guest may take until it has its identity. One that checks its volumes has all of its time
    /// beside that.
    async fn limits(&self, most: Duration, deadline: Duration) -> BootLimits {
        let ids: Vec<_> = self.record.desired.volumes.iter().map(|volume| volume.id).collect();
        if ids.is_empty() {
            return BootLimits { boot: first_word(most).min(deadline), check: Duration::ZERO };
        }
        let volumes = Volumes::of(&self.shared.config.state);
        let size = move |id| volumes.find(id).ok().flatten().map(|disk| disk.size_mib);
        // What cannot be looked at has the time that any disk has.
        let mib = spawn_blocking(move || ids.into_iter().filter_map(size).sum()).await.unwrap_or(0);
        BootLimits { boot: deadline, check: BootLimits::check_of(mib) }
    }

    async fn ready(&mut self, live: RunningGuest, took: Duration) -> Result<Stage, BookkeepingError> {
        let now = self.shared.clock.now();
        self.readiness.note(now, took);
        if let Some(command) = self.mark_ready().await? {
            return Ok(Stage::End(Some(live), command));
        }
        if self.record.ready_after_ms.is_none() {
            let took = now.since(self.record.created_at);
            metrics::histogram!("hypercore_ready_seconds").record(Duration::from_millis(took).as_secs_f64());
            self.record.ready_after_ms = Some(took);
            self.save().await?;
        }
        self.waiting = None;
        tracing::info!(boot = self.record.starts, "the sandbox is ready");
        self.publish(SandboxPhase::Ready);
        Ok(Stage::Monitor(live))
    }

    /// Begins the billing. While the disk took nothing nobody was let in, and nobody
    /// pays for that.
    async fn mark_ready(&mut self) -> Result<Option<Ending>, BookkeepingError> {
        loop {
            let at = self.shared.clock.now();
            let asked = Instant::now();
            if let Some(command) = self.mark(MarkKind::Ready, at).await? {
                return Ok(Some(command));
            }
            if asked.elapsed() <= BOOKS_DEADLINE {
                return Ok(None);
            }
            if let Some(command) = self.mark(MarkKind::Unready, at).await? {
                return Ok(Some(command));
            }
        }
    }
}

/// Until when `pod` must have spoken, of the time that there is to be ready: whoever hangs
/// before is started again while its holder still waits.
fn first_word(most: Duration) -> Duration {
    (most * 2 / 3).min(FIRST_WORD)
}

fn identity(
    shared: &NodeContext,
    record: &SandboxRecord,
    secrets: &Secrets,
    trace: &Option<String>,
) -> Result<GuestConfig, std::io::Error> {
    let mut entropy = [0; ENTROPY_BYTES];
    random(&mut entropy)?;
    Ok(GuestConfig {
        pod_id: record.desired.pod,
        run_id: record.id,
        token: secrets.token.clone(),
        clock_unix_ns: shared.clock.now().0.saturating_mul(1_000_000),
        entropy: STANDARD.encode(entropy).into(),
        resolvers: shared.resolvers.clone(),
        run: record.run.clone(),
        env: secrets.env.clone(),
        volumes: record.desired.volumes.iter().map(guest_volume).collect(),
        traceparent: trace.clone(),
    })
}

fn guest_volume(volume: &SandboxVolume) -> GuestVolume {
    GuestVolume { name: volume.name.clone(), path: volume.path.clone() }
}

/// How long a guest that has its identity has checked its volumes.
fn outcome(
    told: Result<(Result<IdentityDelivery, PodError>, Duration), BootOverdue>,
) -> Result<Duration, GuestFailure> {
    match told {
        Ok((Ok(IdentityDelivery::Accepted | IdentityDelivery::AlreadyTold), check)) => Ok(check),
        Ok((Err(error), _)) => Err(GuestFailure::Pod(format!("it refused its identity: {error}"))),
        Err(BootOverdue::Silent(deadline)) => Err(GuestFailure::Silent(deadline)),
        Err(BootOverdue::Check(deadline)) => Err(GuestFailure::Check(deadline)),
    }
}

/// Shows how much of the check of its volumes is done.
fn checked(shown: &mut Sandbox, percent: u8) {
    shown.guest.get_or_insert_default().checked = Some(percent);
}

/// Asks until `pod` says ready. Only the deadline and the guest's end stop it, and
/// `pod` itself when it has given its agent up.
async fn until_ready(pod: &PodClient, mut hear: impl FnMut(&PodStatus)) -> Result<(), GuestFailure> {
    loop {
        let Ok(mut line) = pod.open().await else {
            sleep(PAUSE).await;
            continue;
        };
        // What ended before is told at once, and what ends from now on as it does.
        if let Ok(status) = pod.status(&mut line).await {
            hear(&status);
        }
        while let Ok(status) = pod.when_ready(&mut line).await {
            hear(&status);
            match status.phase {
                PodPhase::Ready => return Ok(()),
                PodPhase::Failed => return Err(gave_up(status.last_exit.as_deref())),
                PodPhase::Waiting | PodPhase::Starting | PodPhase::Backoff | PodPhase::Stopping => sleep(PAUSE).await,
            }
        }
        sleep(PAUSE).await;
    }
}

/// Shows what `pod` says of its agent's ends, where that is news.
pub(super) fn hear_exits(exits: &mut GuestExits, view: &watch::Sender<Sandbox>, status: &PodStatus, now: UnixMillis) {
    if exits.hear(status, now) {
        view.send_modify(|shown| shown.guest = exits.report());
    }
}

/// `pod` restarts its agent by itself until it has no hope left.
pub(super) fn gave_up(last_exit: Option<&str>) -> GuestFailure {
    let said: String = last_exit.unwrap_or("unknown").chars().take(LAST_EXIT_CHARS).collect();
    GuestFailure::Pod(format!("its agent died too often, last: {said:?}"))
}
