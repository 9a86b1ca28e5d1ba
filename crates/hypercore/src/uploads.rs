//! Archives of holders' images: received piece by piece, then made images of.
//!
//! ```text
//! <images.store>/uploads/<id>/spec.json    what is to come
//!                             part         what has come
//!                             failed.json  why it is no image; the part is gone then
//! ```
//!
//! What a daemon was killed over is where it was: a part keeps what had arrived, and an import
//! or a build begins again when it is asked for. One import works at a time, so that what they
//! take of the disk meanwhile does not add up; builds, which may take long, have places of their
//! own. A build that nobody wants any more is stopped.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use domain::{ImageDigest, ImageId};
use futures_util::{Stream, StreamExt};
use image::recipe::StepLimits;
use image::{BuildError, HeldBuild, ImageError, ImageStore, Progress, Removed};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use wire::fault::Code;
use wire::v1::images::{ArchiveSpec, BuildLogPart, BuildRuntime, BuildSpec, ContextBuild, HeldImage, ImportSpec};

use crate::buildlog::BuildLog;
use crate::error_chain::error_chain;

/// Uploads that a node has at once.
const MAX_UPLOADS: usize = 1_000;
/// Uploads that are written to at once.
const MAX_WRITERS: usize = 256;
/// For how long an upload is kept that nobody asks for any more: longer than any gateway waits
/// for one.
const FORGOTTEN_AFTER: Duration = Duration::from_hours(14 * 24);
/// How often one that waits for its turn looks whether it is still wanted.
const STOP_PAUSE: Duration = Duration::from_millis(250);
/// How often it is looked whether the disk still has room, in bytes that have come.
const LOOK_EVERY: u64 = 16 << 20;
/// What an import takes of the disk at most, in parts as large as the image may be: the
/// archive's files, its blobs, the unpacked tree and the disk.
const PARTS: u64 = 4;
/// Mebibytes without which no build is begun, unless it may write less.
const LEAST_BUILD_MIB: u64 = 256;
const MIB: u64 = 1 << 20;

/// Why an upload is not as it was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    #[error("this node takes no images of holders")]
    NotHere,
    #[error("there is no such image or upload here")]
    Unknown,
    #[error("the upload was begun with another size or SHA-256")]
    Other,
    #[error("the upload is at the offset {0}")]
    Offset(u64),
    #[error("the archive has {size} bytes, and more came")]
    TooLong { size: u64 },
    #[error("the body ended before it was whole; what came is kept")]
    Broken,
    #[error("another request goes on with this upload")]
    Superseded,
    #[error("the archive is not whole: {offset} of {size} bytes have arrived")]
    Missing { offset: u64, size: u64 },
    #[error("an image is being made of it; ask again")]
    Importing,
    #[error("this node's disk has no room for it")]
    NoRoom,
    #[error("this node has {MAX_UPLOADS} uploads already")]
    TooMany,
    #[error("nothing is built here: the node's operator names nothing to build in (images.build_runtimes)")]
    NoBuilds,
    #[error("containerfile is a path in the build's context, of {} bytes at most", ContextBuild::MAX_PATH)]
    Containerfile,
    #[error("date is seconds since 1970, {} at most", ContextBuild::MAX_DATE)]
    Date,
    #[error("work on the upload")]
    Disk(#[from] io::Error),
    #[error("work on the image store")]
    Images(#[from] ImageError),
}

/// The uploads of a node.
pub(crate) struct Uploads {
    store: ImageStore,
    dir: PathBuf,
    /// What must stay free of the disk.
    least_free: u64,
    active: Mutex<HashMap<ImageId, Arc<Upload>>>,
    importing: Arc<Semaphore>,
    building: Arc<Semaphore>,
    /// Uploads that are written to at once.
    pub(crate) places: Arc<Semaphore>,
}

/// One that is worked on in this run of the daemon.
#[derive(Default)]
struct Upload {
    /// Whoever writes, or begins an import, holds this.
    turn: tokio::sync::Mutex<()>,
    /// Ends whoever writes now.
    writing: Mutex<CancellationToken>,
    work: Mutex<Work>,
    /// What its build has said, and whether it is to end.
    log: Mutex<BuildLog>,
    stopping: AtomicBool,
}

/// What became of an import.
#[derive(Clone, Default)]
enum Work {
    #[default]
    None,
    Importing(String, Option<BuildRuntime>),
    /// The node's own trouble: the archive is there, and an import may be asked for again.
    Trouble(Code, String),
}

/// `failed.json`.
#[derive(Serialize, Deserialize)]
struct Failure {
    code: Code,
    error: String,
}

impl Uploads {
    pub(crate) fn new(store: ImageStore, least_free_mib: u64) -> Self {
        let (dir, least_free) = (store.uploads(), least_free_mib.saturating_mul(MIB));
        let places = |count| Arc::new(Semaphore::new(count));
        let building = places(store.config().builds_at_once);
        let (importing, places) = (places(1), places(MAX_WRITERS));
        Self { store, dir, least_free, active: Mutex::default(), importing, building, places }
    }

    /// Begins an upload; the same one again changes nothing.
    pub(crate) async fn begin(&self, id: ImageId, spec: ArchiveSpec) -> Result<HeldImage, UploadError> {
        let (upload, dir) = (self.upload(id), self.dir.clone());
        let _turn = upload.turn.lock().await;
        if let Some(there) = self.look(id, &upload).await? {
            let same = blocking(move || Ok(read_spec(&dir.join(id.to_string())).is_none_or(|one| one == spec))).await?;
            return if same { Ok(there) } else { Err(UploadError::Other) };
        }
        self.room_for(spec.size)?;
        blocking(move || {
            fs::create_dir_all(&dir)?;
            if fs::read_dir(&dir)?.count() >= MAX_UPLOADS {
                return Err(UploadError::TooMany);
            }
            let own = dir.join(id.to_string());
            durable::make_dir("upload", &own)?;
            fs::File::create_new(own.join("part")).map(drop).or_else(exists)?;
            let spec = serde_json::to_vec(&spec).map_err(io::Error::other)?;
            Ok(durable::replace("upload", &own.join("spec.json"), &spec)?)
        })
        .await?;
        Ok(HeldImage::Receiving { offset: 0, size: spec.size })
    }

    /// Takes what comes from this offset on. Whoever was at it before is ended.
    pub(crate) async fn append<E>(
        &self,
        id: ImageId,
        offset: u64,
        body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<HeldImage, UploadError> {
        let upload = self.upload(id);
        let superseded = upload.take_over();
        let _turn = upload.turn.lock().await;
        let (at, size) = match self.look(id, &upload).await?.ok_or(UploadError::Unknown)? {
            HeldImage::Receiving { offset, size } => (offset, size),
            there => return Ok(there),
        };
        if at != offset {
            return Err(UploadError::Offset(at));
        }
        let path = self.dir.join(id.to_string()).join("part");
        let file = tokio::fs::File::options().append(true).open(&path).await?;
        let written = self.write(file, at, size, body, &superseded).await;
        written.map(|offset| HeldImage::Receiving { offset, size })
    }

    /// Writes what comes; what has come stays, however it ends.
    async fn write<E>(
        &self,
        mut file: tokio::fs::File,
        mut at: u64,
        size: u64,
        mut body: impl Stream<Item = Result<Bytes, E>> + Unpin,
        superseded: &CancellationToken,
    ) -> Result<u64, UploadError> {
        let mut looked = at;
        let outcome = loop {
            let next = tokio::select! {
                () = superseded.cancelled() => break Err(UploadError::Superseded),
                next = body.next() => next,
            };
            let bytes = match next {
                None => break Ok(()),
                Some(Err(_)) => break Err(UploadError::Broken),
                Some(Ok(bytes)) => bytes,
            };
            if at + bytes.len() as u64 > size {
                break Err(UploadError::TooLong { size });
            }
            if at - looked >= LOOK_EVERY {
                looked = at;
                if let Err(error) = self.room_for(0) {
                    break Err(error);
                }
            }
            if let Err(error) = file.write_all(&bytes).await {
                break Err(full_or(error));
            }
            at += bytes.len() as u64;
        };
        file.flush().await.map_err(full_or)?;
        file.sync_data().await.map_err(full_or)?;
        outcome.map(|()| at)
    }

    /// How an image or an upload is.
    pub(crate) async fn status(&self, id: ImageId) -> Result<HeldImage, UploadError> {
        let upload = self.active().get(&id).cloned().unwrap_or_default();
        self.look(id, &upload).await?.ok_or(UploadError::Unknown)
    }

    /// Has an image made of an archive that is whole; asked again, says how that is.
    pub(crate) async fn import(self: &Arc<Self>, id: ImageId, spec: ImportSpec) -> Result<HeldImage, UploadError> {
        let runtime = spec.build.as_ref().map(|build| self.build_runtime(build)).transpose()?;
        let upload = self.upload(id);
        let _turn = upload.turn.lock().await;
        upload.forget_trouble();
        match self.look(id, &upload).await?.ok_or(UploadError::Unknown)? {
            HeldImage::Receiving { offset, size } if offset < size => Err(UploadError::Missing { offset, size }),
            HeldImage::Receiving { size, .. } => {
                let max_mib = self.bound(size, spec.max_mib)?;
                let step = "wait for its turn".to_owned();
                upload.set(Work::Importing(step.clone(), runtime));
                tokio::spawn(Arc::clone(self).work(id, Arc::clone(&upload), spec, max_mib));
                Ok(HeldImage::Importing { step, runtime })
            }
            there => Ok(there),
        }
    }

    async fn work(self: Arc<Self>, id: ImageId, upload: Arc<Upload>, spec: ImportSpec, max_mib: u64) {
        let turns = if spec.build.is_some() { &self.building } else { &self.importing };
        let turn = tokio::select! {
            turn = Arc::clone(turns).acquire_owned() => turn.ok(),
            () = upload.until_stopped() => None,
        };
        let Some(_turn) = turn else { return upload.set(Work::None) };
        let (done, ended) = oneshot::channel();
        let (uploads, steps, asked_mib) = (Arc::clone(&self), Arc::clone(&upload), spec.max_mib);
        // A thread of its own: one that is at it does not hold up the daemon's end.
        let thread = std::thread::Builder::new().name("import".to_owned());
        let started = thread.spawn(move || done.send(uploads.make_image(id, &steps, &spec, max_mib)));
        let outcome = match started {
            Ok(_) => ended.await.unwrap_or(Err(UploadError::Disk(io::Error::other("the import broke off")))),
            Err(error) => Err(error.into()),
        };
        lock(&upload.log).end();
        match outcome {
            Ok(digest) => {
                tracing::info!(%id, %digest, "a holder's image was taken in");
                self.put_away(id, &upload).await;
            }
            // It was given less than it asked for: whether it is too large nobody knows.
            Err(UploadError::Images(ImageError::TooLarge(most))) if most == max_mib && max_mib < asked_mib => {
                upload.set(Work::Trouble(Code::NoCapacity, UploadError::NoRoom.to_string()));
            }
            // Nobody wants it any more, and its archive is about to be forgotten.
            Err(UploadError::Images(ImageError::Build(BuildError::Stopped))) => upload.set(Work::None),
            Err(error) => self.fail(id, &upload, &error).await,
        }
    }

    fn make_image(
        &self,
        id: ImageId,
        upload: &Upload,
        spec: &ImportSpec,
        max_mib: u64,
    ) -> Result<ImageDigest, UploadError> {
        let dir = self.dir.join(id.to_string());
        let (archive, sum) = (dir.join("part"), read_spec(&dir).ok_or(UploadError::Unknown)?.sha256);
        let (name, steps) = (spec.name.as_str(), Steps(upload));
        let Some(BuildSpec { context, bases }) = &spec.build else {
            return Ok(self.store.import_held(&archive, sum, name, id, max_mib, &steps)?.digest);
        };
        let build = HeldBuild {
            archive: &archive,
            sum,
            containerfile: context.containerfile.as_deref(),
            epoch: i64::try_from(context.date).map_err(|_| UploadError::Date)?,
            bases,
            limits: self.build_limits()?,
        };
        Ok(self.store.build_held(&build, name, id, max_mib, &steps)?.digest)
    }

    /// What a build runs in, if it can be one: the strongest that there is.
    fn build_runtime(&self, build: &BuildSpec) -> Result<BuildRuntime, UploadError> {
        let path = build.context.containerfile.as_deref();
        if path.is_some_and(|path| path.is_empty() || path.len() > ContextBuild::MAX_PATH || path.contains('\0')) {
            return Err(UploadError::Containerfile);
        }
        if build.context.date > ContextBuild::MAX_DATE {
            return Err(UploadError::Date);
        }
        self.store.config().build_runtimes.first().copied().ok_or(UploadError::NoBuilds)
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
            let full = matches!(
                error,
                UploadError::Images(ImageError::NoSpace(_) | ImageError::Build(BuildError::Full { .. }))
            );
            upload.set(if full {
                Work::Trouble(Code::NoCapacity, UploadError::NoRoom.to_string())
            } else {
                Work::Trouble(
                    Code::Internal,
                    "the node could not make an image of it; its operator's log says why".to_owned(),
                )
            });
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

    /// Forgets an image or an upload. What nothing runs from is removed soon after.
    pub(crate) async fn forget(&self, id: ImageId) -> Result<(), UploadError> {
        let upload = self.upload(id);
        upload.take_over().cancel();
        let _turn = upload.turn.lock().await;
        if let Work::Importing(..) = &*upload.work() {
            upload.stopping.store(true, Ordering::Relaxed);
            return Err(UploadError::Importing);
        }
        let (store, dir) = (self.store.clone(), self.dir.join(id.to_string()));
        blocking(move || {
            store.unpin(id)?;
            remove(&dir)
        })
        .await?;
        self.active().remove(&id);
        Ok(())
    }

    /// Removes the images that were forgotten and are not in use, and uploads that nobody has
    /// asked for in a long time.
    pub(crate) async fn sweep(&self, in_use: BTreeSet<ImageDigest>) -> Result<Removed, UploadError> {
        let (store, dir) = (self.store.clone(), self.dir.clone());
        blocking(move || {
            remove_old(&dir)?;
            Ok(store.sweep(&in_use)?)
        })
        .await
    }

    async fn look(&self, id: ImageId, upload: &Upload) -> Result<Option<HeldImage>, UploadError> {
        match &*upload.work() {
            Work::Importing(step, runtime) => {
                return Ok(Some(HeldImage::Importing { step: step.clone(), runtime: *runtime }));
            }
            Work::Trouble(code, error) => {
                return Ok(Some(HeldImage::Failed { code: *code, error: error.clone() }));
            }
            Work::None => {}
        }
        let (store, dir) = (self.store.clone(), self.dir.join(id.to_string()));
        blocking(move || found(&store, &dir, id)).await
    }

    fn upload(&self, id: ImageId) -> Arc<Upload> {
        let mut active = self.active();
        if active.len() > MAX_UPLOADS {
            active.retain(|_, upload| Arc::strong_count(upload) > 1 || !matches!(*upload.work(), Work::None));
        }
        Arc::clone(active.entry(id).or_default())
    }

    fn active(&self) -> MutexGuard<'_, HashMap<ImageId, Arc<Upload>>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether so much may still be written.
    fn room_for(&self, bytes: u64) -> Result<(), UploadError> {
        let free = free(self.dir.parent().unwrap_or(&self.dir))?;
        if free < self.least_free.saturating_add(bytes) { Err(UploadError::NoRoom) } else { Ok(()) }
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

impl Upload {
    /// Ends whoever writes now; the token of whoever writes from now on.
    fn take_over(&self) -> CancellationToken {
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        writing.cancel();
        *writing = CancellationToken::new();
        writing.clone()
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An import that failed for want of something here is asked for again.
    fn forget_trouble(&self) {
        let mut work = self.work();
        if matches!(*work, Work::Trouble(..)) {
            *work = Work::None;
        }
    }

    fn set(&self, work: Work) {
        *self.work() = work;
    }

    /// Ends when nobody wants it any more.
    async fn until_stopped(&self) {
        while !self.stopping.load(Ordering::Relaxed) {
            sleep(STOP_PAUSE).await;
        }
    }
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
        self.0.stopping.load(Ordering::Relaxed)
    }

    fn advance(&self, _: u64) {}

    fn warn(&self, said: &str) {
        tracing::info!(said, "a holder's image");
    }
}

/// What is wrong with an archive, for its holder to read: nothing of this machine is in it.
/// `None` where the fault is ours.
fn what_is_wrong(error: &ImageError) -> Option<String> {
    match error {
        ImageError::NotAnImage(_) => {
            Some("it is neither an OCI layout nor an archive of one (docker save, podman save, skopeo copy)".to_owned())
        }
        ImageError::TooLarge(most) => Some(format!("unpacked, it is larger than the {most} MiB that it may have")),
        ImageError::Build(error) => is_of_the_build(error).then(|| error.to_string()),
        ImageError::Layer { source: image::LayerError::Io { source, .. }, .. } => {
            is_of_the_archive(source).then(|| error_chain(error))
        }
        ImageError::Signature(image::SignatureError::Key { .. })
        | ImageError::NoSpace(_)
        | ImageError::File { .. }
        | ImageError::Unreadable(_)
        | ImageError::Lock(_)
        | ImageError::NotRoot
        | ImageError::Tool(_)
        | ImageError::Recipe(_)
        | ImageError::Registry(_)
        | ImageError::Containerd(_)
        | ImageError::Step { .. }
        | ImageError::Name(_)
        | ImageError::UnknownName(_)
        | ImageError::UnknownDigest(_)
        | ImageError::InUse(_)
        | ImageError::Reference(_) => None,
        ImageError::Digest(_)
        | ImageError::Mismatch { .. }
        | ImageError::Size { .. }
        | ImageError::Missing(_)
        | ImageError::Document { .. }
        | ImageError::Platform(_)
        | ImageError::Several(_)
        | ImageError::MediaType(_)
        | ImageError::Layer { .. }
        | ImageError::Layers(..)
        | ImageError::Signature(_)
        | ImageError::Contract(_) => Some(error_chain(error)),
    }
}

/// Whether it is for its holder to mend.
const fn is_of_the_build(error: &BuildError) -> bool {
    match error {
        BuildError::Ended { .. }
        | BuildError::Slow { .. }
        | BuildError::Memory { .. }
        | BuildError::Processes { .. }
        | BuildError::Disk { .. }
        | BuildError::LargeRecipe { .. }
        | BuildError::LargeContext { .. }
        | BuildError::NoContext
        | BuildError::NoContainerfile(_)
        | BuildError::Unsigned
        | BuildError::Bases { .. }
        | BuildError::LargeBases { .. }
        | BuildError::UnknownBase { .. }
        | BuildError::Tree { .. } => true,
        BuildError::Stopped
        | BuildError::Confinement(_)
        | BuildError::Lock { .. }
        | BuildError::Vanished(_)
        | BuildError::Changed { .. }
        | BuildError::Unsteady { .. }
        | BuildError::Full { .. }
        | BuildError::NoSource(_)
        | BuildError::NoApt
        | BuildError::TwoRecipes { .. }
        | BuildError::NoLock
        | BuildError::Answer { .. }
        | BuildError::Io { .. } => false,
    }
}

/// Whether a system refuses this of any archive that asks for the same.
fn is_of_the_archive(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotADirectory
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::AlreadyExists
            | io::ErrorKind::NotFound
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::InvalidFilename
            | io::ErrorKind::DirectoryNotEmpty
            | io::ErrorKind::TooManyLinks
    )
}

/// What the disk has of one.
fn found(store: &ImageStore, dir: &Path, id: ImageId) -> Result<Option<HeldImage>, UploadError> {
    if let Some(digest) = store.pinned(id) {
        let image = store.get(&digest)?;
        return Ok(Some(HeldImage::Held { digest, bytes: store.bytes_of(&digest)?, needs: image.needs }));
    }
    let Some(spec) = read_spec(dir) else { return Ok(None) };
    if let Ok(failure) = fs::read(dir.join("failed.json")) {
        let Failure { code, error } = serde_json::from_slice(&failure).map_err(io::Error::other)?;
        return Ok(Some(HeldImage::Failed { code, error }));
    }
    let offset = fs::metadata(dir.join("part"))?.len();
    Ok(Some(HeldImage::Receiving { offset, size: spec.size }))
}

fn read_spec(dir: &Path) -> Option<ArchiveSpec> {
    serde_json::from_slice(&fs::read(dir.join("spec.json")).ok()?).ok()
}

/// Uploads that nobody has asked for in a long time: no gateway knows them any more.
fn remove_old(dir: &Path) -> Result<(), UploadError> {
    let Ok(listed) = fs::read_dir(dir) else { return Ok(()) };
    for entry in listed.filter_map(Result::ok) {
        let path = entry.path();
        let touched = fs::metadata(path.join("part")).or_else(|_| entry.metadata()).and_then(|data| data.modified());
        let age = touched.ok().and_then(|at| SystemTime::now().duration_since(at).ok());
        if age.is_some_and(|age| age > FORGOTTEN_AFTER) {
            tracing::warn!(path = %path.display(), "an upload that nobody has asked for in a long time is removed");
            remove(&path)?;
        }
    }
    Ok(())
}

fn lock<T>(held: &Mutex<T>) -> MutexGuard<'_, T> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

fn remove(dir: &Path) -> Result<(), UploadError> {
    Ok(fs::remove_dir_all(dir).or_else(missing)?)
}

fn missing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn exists(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) }
}

fn full_or(error: io::Error) -> UploadError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => UploadError::NoRoom,
        _ => UploadError::Disk(error),
    }
}

/// Bytes that are free where this is.
fn free(path: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(path)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, UploadError> + Send + 'static,
) -> Result<T, UploadError> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}
