//! Images that are made of archives, and built of contexts.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use domain::{ArchiveSum, ImageDigest, ImageId};
use image::recipe::StepLimits;
use image::{BuildError, ContextLook, HeldBuild, ImageError, Progress};
use tokio::sync::oneshot;
use wire::fault::Code;
use wire::v1::images::{BuildKind, BuildLogPart, BuildRuntime, BuildSpec, ContextBuild, HeldImage, ImportSpec};

use super::error::UploadError;
use super::machine::{BuildMachines, MachineBuild};
use super::receive::Uploads;
use super::state::{Failure, Upload, Work, blocking, free, lock, missing, read_spec, remove};
use super::verdict::what_is_wrong;
use crate::error_chain::error_chain;
use crate::turns::Waiting;

/// What an import takes of the disk at most, in parts as large as the image may be: the
/// archive's files, its blobs, the unpacked tree and the disk.
const PARTS: u64 = 4;
/// Mebibytes without which no build is begun, unless it may write less.
const LEAST_BUILD_MIB: u64 = 256;
const MIB: u64 = 1 << 20;
/// The folder of an upload in which a machine's build has its files.
const WORK: &str = "work";

impl Uploads {
    /// Has an image made of an archive that is whole; asked again, says how that is.
    pub(crate) async fn import(
        self: &Arc<Self>,
        id: ImageId,
        spec: ImportSpec,
        machines: Arc<dyn BuildMachines>,
    ) -> Result<HeldImage, UploadError> {
        let build = spec.build.as_ref();
        let runtime = build.map(|build| self.build_runtime(build, machines.runtime())).transpose()?;
        let upload = self.upload(id);
        let _turn = upload.turn.lock().await;
        upload.forget_trouble();
        match self.look(id, &upload).await?.ok_or(UploadError::Unknown)? {
            HeldImage::Receiving { offset, size } if offset < size => Err(UploadError::Missing { offset, size }),
            HeldImage::Receiving { size, .. } => {
                let max_mib = self.bound(size, spec.max_mib)?;
                let turns = if spec.build.is_some() { &self.building } else { &self.importing };
                let waiting = turns.ask(spec.holder)?;
                let step = "wait for its turn".to_owned();
                upload.set(Work::Importing(step.clone(), runtime));
                let making = Making { id, upload: Arc::clone(&upload), spec, max_mib };
                tokio::spawn(Arc::clone(self).work(making, waiting, runtime, machines));
                Ok(HeldImage::Importing { step, runtime })
            }
            there => Ok(there),
        }
    }

    async fn work(
        self: Arc<Self>,
        making: Making,
        waiting: Waiting,
        runtime: Option<BuildRuntime>,
        machines: Arc<dyn BuildMachines>,
    ) {
        let turn = tokio::select! {
            turn = waiting => turn.ok(),
            () = making.upload.stopping.cancelled() => None,
        };
        let Some(_turn) = turn else { return making.upload.set(Work::None) };
        let outcome = match (&making.spec.build, runtime) {
            (Some(build), Some(runtime)) if runtime != BuildRuntime::ContainerBubblewrap => {
                self.build_apart(&making, build, runtime, &*machines).await
            }
            _ => self.on_thread(&making, Self::make_image).await,
        };
        self.settle(&making, outcome).await;
    }

    async fn settle(&self, making: &Making, outcome: Result<ImageDigest, UploadError>) {
        let Making { id, upload, spec, max_mib } = making;
        lock(&upload.log).end();
        match outcome {
            Ok(digest) => {
                tracing::info!(%id, %digest, "a holder's image was taken in");
                self.put_away(*id, upload).await;
            }
            // It was given less than it asked for: whether it is too large nobody knows.
            Err(UploadError::Images(ImageError::TooLarge(most))) if most == *max_mib && *max_mib < spec.max_mib => {
                upload.set(Work::Trouble(Code::NoCapacity, UploadError::NoRoom.to_string()));
            }
            // Nobody wants it any more, and its archive is about to be forgotten.
            Err(UploadError::Images(ImageError::Build(BuildError::Stopped))) => upload.set(Work::None),
            Err(error) => self.fail(*id, upload, &error).await,
        }
    }

    /// Works on a thread of its own: one that is at it does not hold up the daemon's end.
    async fn on_thread<T: Send + 'static>(
        self: &Arc<Self>,
        making: &Making,
        work: impl FnOnce(&Self, &Making) -> Result<T, UploadError> + Send + 'static,
    ) -> Result<T, UploadError> {
        let (done, ended) = oneshot::channel();
        let (uploads, making) = (Arc::clone(self), making.clone());
        let thread = std::thread::Builder::new().name("import".to_owned());
        thread.spawn(move || drop(done.send(work(&uploads, &making))))?;
        ended.await.unwrap_or(Err(UploadError::Disk(io::Error::other("the import broke off"))))
    }

    fn make_image(&self, making: &Making) -> Result<ImageDigest, UploadError> {
        let Making { id, upload, spec, max_mib } = making;
        let (archive, sum) = self.archive(*id)?;
        let (name, steps) = (spec.name.as_str(), Steps(upload));
        let Some(BuildSpec { context, bases }) = &spec.build else {
            return Ok(self.store.import_held(&archive, sum, name, *id, *max_mib, &steps)?.digest);
        };
        let build = HeldBuild {
            archive: &archive,
            sum,
            containerfile: context.containerfile.as_deref(),
            epoch: epoch(context)?,
            bases,
            limits: self.build_limits()?,
        };
        Ok(self.store.build_held(&build, name, *id, *max_mib, &steps)?.digest)
    }

    /// Builds in a machine, and takes in what it leaves.
    async fn build_apart(
        self: &Arc<Self>,
        making: &Making,
        build: &BuildSpec,
        runtime: BuildRuntime,
        machines: &dyn BuildMachines,
    ) -> Result<ImageDigest, UploadError> {
        let BuildSpec { context, bases } = build;
        let limits = in_machine(self.build_limits()?);
        let programs = self.on_thread(making, move |uploads, making| uploads.check_context(making, limits)).await?;
        let (archive, _) = self.archive(making.id)?;
        let work = self.dir.join(making.id.to_string()).join(WORK);
        let (to, result) = (Steps(&making.upload), work.join("result.tar"));
        let job = MachineBuild {
            look: ContextLook { file: context.containerfile.as_deref(), epoch: epoch(context)?, bases, limits },
            cores: self.store.config().build_cores,
            programs: &programs,
            context: &archive,
            bases: &work.join("bases.tar"),
            result: &result,
            store: &self.store,
            to: &to,
            stop: &making.upload.stopping,
        };
        let built = machines.build(&job).await;
        let taken = match built {
            Ok(()) => self.on_thread(making, move |uploads, making| uploads.take_built(making, &result, runtime)).await,
            Err(error) => Err(error),
        };
        blocking(move || remove(&work)).await?;
        taken
    }

    /// Looks whether a context can be built at all, and makes ready what a machine needs: the disk that it boots.
    fn check_context(&self, making: &Making, limits: StepLimits) -> Result<PathBuf, UploadError> {
        let (archive, sum) = self.archive(making.id)?;
        if fs::metadata(&archive)?.len() > limits.disk_mib.saturating_mul(MIB) {
            return Err(UploadError::Images(BuildError::LargeContext { mib: limits.disk_mib }.into()));
        }
        let work = self.dir.join(making.id.to_string()).join(WORK);
        remove(&work)?;
        fs::create_dir(&work)?;
        self.store.check_context(&archive, sum, &Steps(&making.upload))?;
        Ok(self.store.programs()?)
    }

    fn take_built(&self, making: &Making, result: &Path, runtime: BuildRuntime) -> Result<ImageDigest, UploadError> {
        let (name, to) = (making.spec.name.as_str(), Steps(&making.upload));
        Ok(self.store.take_built(result, name, making.id, making.max_mib, runtime, &to)?.digest)
    }

    /// An upload's archive, and what its SHA-256 must be.
    fn archive(&self, id: ImageId) -> Result<(PathBuf, ArchiveSum), UploadError> {
        let dir = self.dir.join(id.to_string());
        Ok((dir.join("part"), read_spec(&dir).ok_or(UploadError::Unknown)?.sha256))
    }

    /// What a build runs in, if it can be one: the strongest that is allowed and that there is.
    fn build_runtime(&self, build: &BuildSpec, machines: Option<BuildRuntime>) -> Result<BuildRuntime, UploadError> {
        let path = build.context.containerfile.as_deref();
        if path.is_some_and(|path| path.is_empty() || path.len() > ContextBuild::MAX_PATH || path.contains('\0')) {
            return Err(UploadError::Containerfile);
        }
        if build.context.date > ContextBuild::MAX_DATE {
            return Err(UploadError::Date);
        }
        let allowed: BTreeSet<_> = self.store.config().build_runtimes.iter().copied().collect();
        let strongest = allowed.iter().find_map(|kind| match kind {
            BuildKind::Qemu => machines,
            BuildKind::ContainerBubblewrap => Some(BuildRuntime::ContainerBubblewrap),
        });
        match (strongest, image::missing_to_build()) {
            (Some(runtime), None) => Ok(runtime),
            (Some(_), Some(package)) => Err(UploadError::NoBuildPrograms(package)),
            (None, _) if allowed.is_empty() => Err(UploadError::NoBuilds),
            (None, _) => Err(UploadError::NoBuildMachines),
        }
    }

    /// What a build may use: of the disk so much that what others need stays free.
    fn build_limits(&self) -> Result<StepLimits, UploadError> {
        let limits = self.store.config().build_limits();
        let room = free(&self.dir)?.saturating_sub(self.least_free) / 2 / MIB;
        if room < limits.disk_mib.min(LEAST_BUILD_MIB) {
            return Err(UploadError::Images(ImageError::NoSpace(self.dir.clone())));
        }
        Ok(StepLimits { disk_mib: limits.disk_mib.min(room), ..limits })
    }

    /// What a build has said from this byte on.
    pub(crate) fn log(&self, id: ImageId, from: u64) -> Result<BuildLogPart, UploadError> {
        let upload = self.active().get(&id).cloned().ok_or(UploadError::Unknown)?;
        let part = lock(&upload.log).from(from);
        Ok(part)
    }

    /// The image is made: its archive goes.
    async fn put_away(&self, id: ImageId, upload: &Upload) {
        let dir = self.dir.join(id.to_string());
        if let Err(error) = blocking(move || remove(&dir)).await {
            tracing::warn!(%id, %error, "the archive of an image stays behind, and is removed with the image");
        }
        upload.set(Work::None);
    }

    /// What is wrong with the archive is written down, and the archive goes. What is wrong here
    /// changes nothing: it may be asked for again.
    async fn fail(&self, id: ImageId, upload: &Upload, error: &UploadError) {
        let said = match error {
            UploadError::Images(error) => what_is_wrong(error),
            _ => None,
        };
        let Some(text) = said else {
            tracing::error!(%id, error = error_chain(error), "no image can be made of a holder's archive just now");
            upload.set(trouble(error));
            return;
        };
        tracing::info!(%id, error = text, "a holder's archive is no image");
        let dir = self.dir.join(id.to_string());
        let failure = Failure { code: Code::InvalidImage, error: text };
        let written = blocking(move || {
            let failure = serde_json::to_vec(&failure).map_err(io::Error::other)?;
            durable::replace("upload", &dir.join("failed.json"), &failure)?;
            Ok(fs::remove_file(dir.join("part")).or_else(missing)?)
        });
        match written.await {
            Ok(()) => upload.set(Work::None),
            Err(error) => {
                tracing::error!(%id, error = error_chain(&error), "why an archive is no image cannot be written down");
                upload.set(Work::Trouble(Code::NoCapacity, UploadError::NoRoom.to_string()));
            }
        }
    }

    /// Mebibytes that an image may have when unpacked, so that the disk keeps what it must.
    fn bound(&self, size: u64, asked_mib: u64) -> Result<u64, UploadError> {
        let free = free(self.dir.parent().unwrap_or(&self.dir))?.saturating_sub(self.least_free);
        let most = asked_mib.min(free / PARTS / MIB);
        // Whoever is refused for the room that it would need hears that, and not that it is too large.
        if most < asked_mib && most.saturating_mul(MIB) < size.saturating_mul(2) {
            return Err(UploadError::NoRoom);
        }
        Ok(most)
    }
}

/// An image that is to be made.
#[derive(Clone)]
struct Making {
    id: ImageId,
    upload: Arc<Upload>,
    spec: ImportSpec,
    /// Mebibytes that it may have when unpacked.
    max_mib: u64,
}

fn epoch(context: &ContextBuild) -> Result<i64, UploadError> {
    i64::try_from(context.date).map_err(|_| UploadError::Date)
}

/// A machine's disk is a copy of an empty one of its size, which is kept: where there is less room than
/// a build may have, it is of one of few sizes.
const fn in_machine(limits: StepLimits) -> StepLimits {
    let disk_mib =
        if limits.disk_mib.is_power_of_two() { limits.disk_mib } else { limits.disk_mib.next_power_of_two() / 2 };
    StepLimits { disk_mib, ..limits }
}

/// The node's own trouble, as it is told.
fn trouble(error: &UploadError) -> Work {
    let (code, said) = match error {
        UploadError::Images(ImageError::NoSpace(_) | ImageError::Build(BuildError::Full { .. })) => {
            (Code::NoCapacity, UploadError::NoRoom.to_string())
        }
        UploadError::NoMachineRoom => (Code::NoCapacity, error.to_string()),
        UploadError::Machine(_) => {
            let said =
                "the machine that it was built in did not get to the end of it; ask again, or see its node's log";
            (Code::Internal, said.to_owned())
        }
        _ => (Code::Internal, "the node could not make an image of it; its operator's log says why".to_owned()),
    };
    Work::Trouble(code, said)
}

/// What an import does, for whoever asks.
struct Steps<'a>(&'a Upload);

impl Progress for Steps<'_> {
    fn step(&self, name: &str, _: Option<u64>) {
        let mut work = self.0.work();
        let runtime = if let Work::Importing(_, runtime) = &*work { *runtime } else { None };
        *work = Work::Importing(name.to_owned(), runtime);
        if let Some(runtime) = runtime {
            lock(&self.0.log).line(&format!("# {name} ({})", runtime.as_str()));
        }
    }

    fn said(&self, line: &str) {
        lock(&self.0.log).line(line);
    }

    fn stopped(&self) -> bool {
        self.0.stopping.is_cancelled()
    }

    fn advance(&self, _: u64) {}

    fn warn(&self, said: &str) {
        tracing::info!(said, "a holder's image");
    }
}
