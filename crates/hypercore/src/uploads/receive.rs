//! Archives that come piece by piece, and go.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use domain::{ImageDigest, ImageId};
use futures_util::{Stream, StreamExt};
use image::{ImageStore, Removed};
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use wire::v1::images::{ArchiveSpec, HeldImage};

use super::error::{MAX_UPLOADS, UploadError};
use super::state::{Upload, Work, blocking, exists, found, free, full_or, read_spec, remove};
use crate::turns::Turns;

/// Uploads that are written to at once.
const MAX_WRITERS: usize = 256;
/// For how long an upload is kept that nobody asks for any more: longer than any gateway waits
/// for one.
const FORGOTTEN_AFTER: Duration = Duration::from_hours(14 * 24);
/// How often it is looked whether the disk still has room, in bytes that have come.
const LOOK_EVERY: u64 = 16 << 20;
const MIB: u64 = 1 << 20;

/// The uploads of a node.
pub(crate) struct Uploads {
    pub(super) store: ImageStore,
    pub(super) dir: PathBuf,
    /// What must stay free of the disk.
    pub(super) least_free: u64,
    active: Mutex<HashMap<ImageId, Arc<Upload>>>,
    pub(super) importing: Turns,
    pub(super) building: Turns,
    /// Uploads that are written to at once.
    pub(crate) places: Arc<Semaphore>,
}

impl Uploads {
    pub(crate) fn new(store: ImageStore, least_free_mib: u64) -> Self {
        let (dir, least_free) = (store.uploads(), least_free_mib.saturating_mul(MIB));
        let (importing, building) = (Turns::new(1), Turns::new(store.config().builds_at_once));
        let places = Arc::new(Semaphore::new(MAX_WRITERS));
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

    /// Forgets an image or an upload. What nothing runs from is removed soon after.
    pub(crate) async fn forget(&self, id: ImageId) -> Result<(), UploadError> {
        let upload = self.upload(id);
        upload.take_over().cancel();
        let _turn = upload.turn.lock().await;
        if let Work::Importing(..) = &*upload.work() {
            upload.stopping.cancel();
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

    pub(super) async fn look(&self, id: ImageId, upload: &Upload) -> Result<Option<HeldImage>, UploadError> {
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

    pub(super) fn upload(&self, id: ImageId) -> Arc<Upload> {
        let mut active = self.active();
        if active.len() > MAX_UPLOADS {
            active.retain(|_, upload| Arc::strong_count(upload) > 1 || !matches!(*upload.work(), Work::None));
        }
        Arc::clone(active.entry(id).or_default())
    }

    pub(super) fn active(&self) -> MutexGuard<'_, HashMap<ImageId, Arc<Upload>>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether so much may still be written.
    fn room_for(&self, bytes: u64) -> Result<(), UploadError> {
        let free = free(self.dir.parent().unwrap_or(&self.dir))?;
        if free < self.least_free.saturating_add(bytes) { Err(UploadError::NoRoom) } else { Ok(()) }
    }
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
