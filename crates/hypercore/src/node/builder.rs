//! A builder's life: a machine for one build of a holder's. It has a slot and a share of the node's cores and memory,
//! no way out, and is in no ledger: one that outlives its daemon is nobody's, and is ended when the next one begins.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use domain::{PodId, ResourceRequest};
use http::StatusCode;
use image::{BuildError, ContextLook, ImageError, plain_line};
use sandbox::{BuilderSpec, DiskRetention, RuntimeError, Slot};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use wire::process::Ended;
use wire::v1::images::BuildRuntime;
use wire::v1::node::RuntimeName;
use wire::v1::pod::{GuestConfig, ImageRunConfig};
use wire::{Environment, Secret};

use super::helper::own_run;
use crate::context::NodeContext;
use crate::error_chain::error_chain;
use crate::guest::{ErrandError, PodClient, PodError};
use crate::ledger::random;
use crate::uploads::{BuildMachines, MachineBuild, UploadError};

/// How long a machine may take until it takes its identity.
const START: Duration = Duration::from_secs(120);
/// Pause before what is left of a machine is removed again.
const STOP_AGAIN: Duration = Duration::from_secs(1);
const ENTROPY_BYTES: usize = 64;
const TOKEN_BYTES: usize = 32;
const MIB: u64 = 1 << 20;
/// Bytes of a line that is told.
const MAX_LINE: usize = 4096;
/// What its machine runs besides: nothing ever asks it anything.
const IDLE: [&str; 2] = ["/usr/bin/sleep", "infinity"];

#[async_trait]
impl BuildMachines for NodeContext {
    fn runtime(&self) -> Option<BuildRuntime> {
        self.offers.iter().find_map(|offered| match offered.name {
            RuntimeName::QemuKvm => Some(BuildRuntime::QemuKvm),
            RuntimeName::QemuTcg => Some(BuildRuntime::QemuTcg),
            RuntimeName::ContainerGvisor | RuntimeName::ContainerRunc | RuntimeName::ContainerCrun => None,
        })
    }

    async fn build(&self, build: &MachineBuild<'_>) -> Result<(), UploadError> {
        self.builders.live.track_future(self.build_tracked(build)).await
    }
}

impl NodeContext {
    async fn build_tracked(&self, build: &MachineBuild<'_>) -> Result<(), UploadError> {
        let run = own_run()?;
        let ask = ResourceRequest { cores: build.cores, memory_mib: build.look.limits.memory_mib };
        let number = self.registry.enter_helper(run, ask).map_err(|_| UploadError::NoMachineRoom)?;
        metrics::counter!("hypercore_builder_starts_total").increment(1);
        let (slot, heard) = (Slot { run, number }, Heard::default());
        let worked = self.build_within(slot, build, &heard).await;
        while let Err(error) = self.runtime.stop(slot, DiskRetention::Erase).await {
            tracing::error!(error = error_chain(&error), "what is left of a build's machine is not removed yet");
            sleep(STOP_AGAIN).await;
        }
        self.registry.leave_helper(run);
        worked
    }

    /// The build, until it ends, is to end, or has had its time.
    async fn build_within(&self, slot: Slot, build: &MachineBuild<'_>, heard: &Heard) -> Result<(), UploadError> {
        let seconds = build.look.limits.timeout_s;
        let stopped = || Err(UploadError::Images(BuildError::Stopped.into()));
        tokio::select! {
            biased;
            () = build.stop.cancelled() => stopped(),
            () = self.builders.end.cancelled() => stopped(),
            worked = timeout(Duration::from_secs(seconds), self.build_in(slot, build, heard)) => {
                let slow = || Err(UploadError::Images(BuildError::Slow { seconds, said: heard.last() }.into()));
                worked.unwrap_or_else(|_| slow())
            }
        }
    }

    async fn build_in(&self, slot: Slot, build: &MachineBuild<'_>, heard: &Heard) -> Result<(), UploadError> {
        let MachineBuild { look, to, .. } = build;
        let spec = BuilderSpec {
            slot,
            base: build.programs.to_owned(),
            cores: build.cores,
            memory_mib: look.limits.memory_mib,
            disk_mib: look.limits.disk_mib,
        };
        to.step("start a machine", None);
        let mut guest = self.runtime.create_builder(&spec).await?;
        let token = token()?;
        let pod = PodClient::new(Arc::clone(&self.runtime), slot.run, token.clone());
        let told = timeout(START, pod.deliver(|| self.builder_config(slot, &token)));
        tokio::select! {
            biased;
            words = guest.exit.wait() => return Err(UploadError::Machine(words)),
            told = told => {
                let told = told.map_err(|_| UploadError::Machine(format!("it did not answer within {START:?}")))?;
                told.map_err(|error| UploadError::Machine(error_chain(&error)))?;
            }
        }
        let work = async {
            to.step("hand in the context", None);
            let full = |error| handed_in(error, look, heard);
            pod.put(ContextLook::CONTEXT, tokio::fs::File::open(build.context).await?).await.map_err(full)?;
            let planned = self.planned(build, &pod).await?;
            pod.put(ContextLook::BASES, tokio::fs::File::open(build.bases).await?).await.map_err(full)?;
            pod.put_text(ContextLook::PLAN, planned.script.clone()).await.map_err(full)?;
            to.step("build the image", None);
            let (words, env) = look.build(&planned);
            let ended = pod.run(&words, env, |piece| heard.hear(piece, *to)).await?;
            heard.end(*to);
            if let Some(error) = judged(look, &ended, heard) {
                return Err(UploadError::Images(planned.explain(error)));
            }
            to.step("take the image out", None);
            let most = look.limits.disk_mib.saturating_mul(MIB);
            pod.fetch(ContextLook::RESULT, build.result, most).await.map_err(|error| handed_out(error, build))
        };
        tokio::select! {
            biased;
            words = guest.exit.wait() => Err(UploadError::Machine(words)),
            worked = work => worked,
        }
    }

    /// Has the machine unpack the context and tell its recipe, and plans by that; what it builds on is laid out.
    async fn planned(&self, build: &MachineBuild<'_>, pod: &PodClient) -> Result<image::ApartBuild, UploadError> {
        let (words, env) = build.look.look();
        let (mut answered, most) = (Vec::new(), ContextLook::MAX_LOOK);
        let ended = pod.run(&words, env, |piece| {
            let room = most.saturating_sub(answered.len());
            answered.extend_from_slice(&piece[..piece.len().min(room)]);
        });
        let ended = ended.await?;
        let heard = Heard::default();
        if let Some(error) = judged(&build.look, &ended, &heard) {
            return Err(UploadError::Images(error.into()));
        }
        let planned = build.store.plan(&build.look, &answered)?;
        let (store, into) = (build.store.clone(), PathBuf::from(build.bases));
        let packed = spawn_blocking(move || {
            let packed = store.pack_bases(&planned, &into, &image::NoProgress);
            packed.map(|()| planned)
        });
        Ok(packed.await.map_err(io::Error::other)??)
    }

    fn builder_config(&self, slot: Slot, token: &Secret) -> io::Result<GuestConfig> {
        let mut entropy = [0; ENTROPY_BYTES];
        random(&mut entropy)?;
        Ok(GuestConfig {
            pod_id: PodId::minted(slot.run),
            run_id: slot.run,
            token: token.clone(),
            clock_unix_ns: self.clock.now().0.saturating_mul(1_000_000),
            entropy: STANDARD.encode(entropy).into(),
            resolvers: Vec::new(),
            run: idle(),
            env: Environment::default(),
            volumes: Vec::new(),
            traceparent: None,
        })
    }
}

/// What a builder's machine runs beside the build, as root of it.
fn idle() -> ImageRunConfig {
    ImageRunConfig {
        argv: IDLE.map(str::to_owned).to_vec(),
        env: [].into(),
        cwd: "/".to_owned(),
        user: "0:0".to_owned(),
        port: 1,
        ready_path: "/".to_owned(),
        health_path: "/".to_owned(),
        state_dir: "/data".to_owned(),
        stop_signal: "SIGKILL".to_owned(),
    }
}

/// A disk that is full is its build's to mend.
fn handed_in(error: ErrandError, look: &ContextLook<'_>, heard: &Heard) -> UploadError {
    match error {
        ErrandError::Pod(PodError::Refused { status: StatusCode::INSUFFICIENT_STORAGE, .. }) => {
            let (mib, said) = (look.limits.disk_mib, heard.last());
            UploadError::Images(BuildError::Disk { mib, said }.into())
        }
        error => error.into(),
    }
}

/// What a build says that it has made and has not, or has made too large, is its to mend too.
fn handed_out(error: ErrandError, build: &MachineBuild<'_>) -> UploadError {
    match error {
        ErrandError::Pod(PodError::Refused { .. }) => {
            UploadError::Images(ImageError::NotAnImage(build.result.to_owned()))
        }
        ErrandError::TooLarge(_) => {
            UploadError::Images(BuildError::Disk { mib: build.look.limits.disk_mib, said: String::new() }.into())
        }
        error => error.into(),
    }
}

fn token() -> io::Result<Secret> {
    let mut bytes = [0; TOKEN_BYTES];
    random(&mut bytes)?;
    Ok(hex::encode(bytes).into())
}

fn judged(look: &ContextLook<'_>, ended: &Ended, heard: &Heard) -> Option<BuildError> {
    look.judge(ended.exited.then_some(ended.exit_code), &ended.status, &heard.last())
}

/// What a build says, line by line, and the last of it.
#[derive(Default)]
struct Heard(Mutex<HeardLines>);

#[derive(Default)]
struct HeardLines {
    open: Vec<u8>,
    last: String,
}

impl Heard {
    fn hear(&self, piece: &[u8], to: &dyn image::Progress) {
        let mut lines = self.lines();
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            // The rest of a line that is too long is dropped.
            let room = MAX_LINE.saturating_sub(lines.open.len());
            lines.open.extend_from_slice(&part[..part.len().min(room)]);
            if part.ends_with(b"\n") {
                lines.tell(to);
            }
        }
    }

    /// No more comes: what has no end is a line too.
    fn end(&self, to: &dyn image::Progress) {
        let mut lines = self.lines();
        if !lines.open.is_empty() {
            lines.tell(to);
        }
    }

    fn last(&self) -> String {
        image::last_lines(&self.lines().last).trim_end().to_owned()
    }

    fn lines(&self) -> std::sync::MutexGuard<'_, HeardLines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HeardLines {
    fn tell(&mut self, to: &dyn image::Progress) {
        let line = plain_line(&std::mem::take(&mut self.open));
        to.said(&line);
        self.last.push_str(&line);
        self.last.push('\n');
        let kept = image::last_lines(&self.last).len();
        self.last.drain(..self.last.len() - kept);
    }
}

impl From<RuntimeError> for UploadError {
    fn from(error: RuntimeError) -> Self {
        Self::Machine(error_chain(&error))
    }
}

impl From<ErrandError> for UploadError {
    fn from(error: ErrandError) -> Self {
        match error {
            ErrandError::File(error) => Self::Disk(error),
            error => Self::Machine(error_chain(&error)),
        }
    }
}
