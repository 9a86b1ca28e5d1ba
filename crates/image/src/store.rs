//! The image store: a directory that several processes may use at once.
//!
//! ```text
//! blobs/sha256/<hex>    manifests, configs and layers, as they came
//! disks/<hex>.erofs     one disk per image, by its manifest's digest
//! roots/<hex>/          the same as a folder of files, where a container has needed it
//! images/<hex>.json     how the image is run; an image is there when this is
//! names/<name>          the digest a name means
//! cache/<key>.json      which layer a build's step left
//! pins/, built/, going/ images that holders bring (`held`)
//! programs/<hex>.erofs  what machines boot in which holders' images are built (`programs`)
//! served/               who serves the store (`served`)
//! tmp/                  what is not finished
//! lock                  held shared while taking in, alone while removing
//! ```
//!
//! Every file gets its name when it is complete and on the disk, in the order
//! blobs, disk, record, name; removal goes the other way. So a process may die at
//! any instruction, and readers need no lock.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use domain::ImageDigest;
use tempfile::{NamedTempFile, TempDir};

use crate::assemble::{assemble, unpack};
use crate::blobs::{BlobStore, publish, settle};
use crate::build::{
    BuildError, BuildFiles, BuildRequest, ContainerfileBuild, LIMITS, LayerCache, Plan, build, build_containerfile,
    file_name, find_containerfile, read_containerfile,
};
use crate::digest::BlobDigest;
use crate::erase::erase_folder;
use crate::image::{Image, ImageRecord, ImageSummary, Removal};
use crate::lock::Lock;
use crate::recipe::{Recipe, SCRATCH};
use crate::signature::TrustedKeys;
use crate::source::{self, ContainerdSource, Credentials, RegistrySource};
use crate::{Config, ImageError, NoProgress, Progress};

/// Characters of a name at most.
const MAX_NAME: usize = 64;
/// How the folder of an image's files is called on its way out.
const ROOT: &str = "root";

/// How a recipe is built.
#[derive(Clone, Copy, Debug, Default)]
pub struct BuildOptions<'a> {
    /// Where what it copies is looked for; by default the recipe's own directory.
    pub context: Option<&'a Path>,
    /// Whether what `image.lock` says is looked up anew.
    pub update: bool,
    /// No file of the image is younger: seconds since 1970 (`SOURCE_DATE_EPOCH`).
    pub epoch: i64,
}

/// What was removed of the store. The folders of images' files, which may hold very many, are out of
/// their places and go at the end: nobody waits for that.
#[derive(Debug, Default)]
#[must_use = "the folders go when it is finished"]
pub struct Removed {
    pub(crate) bytes: u64,
    pub(crate) roots: Vec<TempDir>,
}

impl Removed {
    /// Removes what is left. Returns the bytes freed. Blocks for as long as there are files.
    ///
    /// # Errors
    /// When a folder cannot be removed: it stays in `tmp`, and goes when the store is opened next.
    pub fn finish(self) -> Result<u64, ImageError> {
        self.roots.into_iter().try_fold(self.bytes, |bytes, root| {
            let path = root.path().join(ROOT);
            let freed = allocated(&path).and_then(|freed| root.close().map(|()| freed));
            match freed {
                Ok(freed) => Ok(bytes + freed),
                // Whoever has opened the store meanwhile clears it away too.
                Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(bytes),
                Err(source) => Err(ImageError::file("remove", &path, source)),
            }
        })
    }
}

/// The store. Cloning it is cheap.
#[derive(Clone, Debug)]
pub struct ImageStore {
    config: Arc<Config>,
}

impl ImageStore {
    /// Opens the store, makes it if it is not there, and clears away what a
    /// process left that died.
    ///
    /// # Errors
    /// When its directory cannot be made, or a trusted key cannot be read.
    pub fn open(config: &Config) -> Result<Self, ImageError> {
        let store = Self { config: Arc::new(config.clone()) };
        for dir in [store.blobs_dir(), store.dir("disks"), store.dir("images"), store.dir("names"), store.dir("tmp")] {
            fs::create_dir_all(&dir).map_err(|source| ImageError::file("create", &dir, source))?;
        }
        let roots = store.dir("roots");
        fs::create_dir_all(&roots).map_err(|source| ImageError::file("create", &roots, source))?;
        TrustedKeys::required(config)?;
        store.keep_private();
        store.clear();
        Ok(store)
    }

    /// Takes in an OCI layout (a directory), or an archive of one (`docker save`,
    /// `podman save`, `skopeo copy`), under a name. Blocks; needs root.
    ///
    /// # Errors
    /// Says what is wrong with the image, or what is missing here.
    pub fn import(&self, path: &Path, name: &str, to: &dyn Progress) -> Result<Image, ImageError> {
        check_name(name)?;
        let _lock = self.shared()?;
        let scratch = self.scratch()?;
        let trusted = TrustedKeys::required(&self.config)?;
        let (blobs, trusted) = (self.blobs(), trusted.as_ref());
        let manifest = source::import(path, name, &blobs, scratch.path(), &self.config, trusted, to)?;
        self.take(manifest, Some(name), to)
    }

    /// Pulls `<registry>/<name>@sha256:<hex>`, under a name if one is given. The
    /// process must have installed a TLS provider.
    ///
    /// # Errors
    /// Says what is wrong with the reference, the registry or the image.
    pub async fn pull(
        &self,
        reference: &str,
        name: Option<&str>,
        credentials: Option<Credentials>,
        to: Arc<dyn Progress>,
    ) -> Result<Image, ImageError> {
        name.map_or(Ok(()), check_name)?;
        let store = self.clone();
        let lock = blocking(move || store.shared()).await?;
        let source = RegistrySource { reference: reference.to_owned(), credentials };
        let trusted = TrustedKeys::required(&self.config)?;
        let manifest = source::pull(&source, &self.blobs(), &self.config, trusted.as_ref(), &*to).await?;
        self.taken(manifest, name, lock, to).await
    }

    /// Takes an image of a containerd on this machine, under a name; nothing is changed there.
    ///
    /// # Errors
    /// Says what is wrong with that containerd, or with the image.
    pub async fn import_from_containerd(
        &self,
        source: &ContainerdSource,
        name: &str,
        to: Arc<dyn Progress>,
    ) -> Result<Image, ImageError> {
        check_name(name)?;
        let store = self.clone();
        let lock = blocking(move || store.shared()).await?;
        let trusted = TrustedKeys::required(&self.config)?;
        let manifest = source::fetch(source, &self.blobs(), &self.config, trusted.as_ref(), &*to).await?;
        self.taken(manifest, Some(name), lock, to).await
    }

    /// The image of a manifest whose blobs have come, while nothing of it may be removed.
    async fn taken(
        &self,
        manifest: BlobDigest,
        name: Option<&str>,
        lock: Lock,
        to: Arc<dyn Progress>,
    ) -> Result<Image, ImageError> {
        let (store, name) = (self.clone(), name.map(str::to_owned));
        blocking(move || {
            let image = store.take(manifest, name.as_deref(), &*to);
            drop(lock);
            image
        })
        .await
    }

    /// Builds what `path` means under a name: a recipe (`image.toml`), a Containerfile
    /// or a Dockerfile, or the directory that holds one of them. Blocks; needs root.
    ///
    /// # Errors
    /// Says what is wrong with it, or what is missing here.
    pub fn build(
        &self,
        path: &Path,
        options: &BuildOptions<'_>,
        name: &str,
        to: &dyn Progress,
    ) -> Result<Image, ImageError> {
        check_name(name)?;
        if let Some(file) = find_containerfile(path)? {
            return self.build_containerfile(&file, options, name, to);
        }
        let recipe = Recipe::read(path)?;
        let file = Recipe::file(path);
        let own = file.parent().unwrap_or(path);
        let _lock = self.shared()?;
        let base = match recipe.from.as_str() {
            SCRATCH => None,
            below => Some(self.resolve(below)?.into()),
        };
        let scratch = self.scratch()?;
        let request = BuildRequest {
            recipe: &recipe,
            file: &file,
            context: options.context.unwrap_or(own),
            base,
            update: options.update,
            epoch: options.epoch,
        };
        let cache = LayerCache::new(self.dir("cache"));
        let manifest = build(&request, &self.blobs(), &cache, scratch.path(), &self.config, to)?;
        self.take(manifest, Some(name), to)
    }

    fn build_containerfile(
        &self,
        file: &Path,
        options: &BuildOptions<'_>,
        name: &str,
        to: &dyn Progress,
    ) -> Result<Image, ImageError> {
        if options.update {
            return Err(BuildError::NoLock.into());
        }
        let file = std::path::absolute(file).map_err(|source| ImageError::file("find", file, source))?;
        let _lock = self.shared()?;
        let scratch = self.scratch()?;
        let context = options.context.or(file.parent()).unwrap_or(&file);
        let plan = Plan::of_containerfile(&file_name(&file)?, &read_containerfile(&file)?);
        let request = ContainerfileBuild {
            files: BuildFiles::Folder { file: &file, context },
            plan: &plan,
            limits: LIMITS,
            epoch: options.epoch,
            known: &|below| self.resolve(below).ok().map(BlobDigest::from),
        };
        let built = build_containerfile(&request, &self.blobs(), scratch.path(), &self.config, to)?;
        // What was built here has no signature yet.
        let manifest = source::import(&built, name, &self.blobs(), scratch.path(), &self.config, None, to)?;
        self.take(manifest, Some(name), to)
    }

    /// Writes an image as a packed OCI archive to `path`, whole or not at all: the same bytes for the same image, which
    /// [`ImageStore::import`] takes in. Blocks.
    ///
    /// # Errors
    /// When the name is not known, or the file cannot be written.
    pub fn export(&self, name: &str, path: &Path, to: &dyn Progress) -> Result<ImageDigest, ImageError> {
        let _lock = self.shared()?;
        let digest = self.resolve(name)?;
        crate::export::export(digest.into(), name, &self.blobs(), path, to)?;
        Ok(digest)
    }

    /// All images, by digest.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn list(&self) -> Result<Vec<ImageSummary>, ImageError> {
        let names = self.names()?;
        let listed = self.digests()?.into_iter().filter_map(|digest| {
            // What another process removes meanwhile is not listed.
            let image = self.get(&digest).ok()?;
            let names = names.iter().filter(|(_, named)| **named == digest).map(|(name, _)| name.clone()).collect();
            Some(ImageSummary { names, image })
        });
        Ok(listed.collect())
    }

    /// The names and what they mean.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn names(&self) -> Result<BTreeMap<String, ImageDigest>, ImageError> {
        let names = entries(&self.dir("names"))?.into_iter();
        Ok(names.filter_map(|name| Some((name.clone(), self.read_name(&name)?))).collect())
    }

    /// The image a name means; a digest means itself.
    ///
    /// # Errors
    /// When there is no such image.
    pub fn resolve(&self, name: &str) -> Result<ImageDigest, ImageError> {
        if let Ok(digest) = name.parse() {
            return self.get(&digest).map(|image| image.digest);
        }
        check_name(name)?;
        self.read_name(name).ok_or_else(|| ImageError::UnknownName(name.to_owned()))
    }

    /// One image.
    ///
    /// # Errors
    /// When it is not there.
    pub fn get(&self, digest: &ImageDigest) -> Result<Image, ImageError> {
        let unknown = || ImageError::UnknownDigest(*digest);
        let record = self.record(digest).ok_or_else(unknown)?;
        let disk = self.disk(digest);
        let disk_bytes = fs::metadata(&disk).map_err(|_| unknown())?.len();
        let ImageRecord { run, needs, created, layers, .. } = record;
        Ok(Image { digest: *digest, disk, disk_bytes, run, needs, created, layers })
    }

    /// The folder of an image's files, with the image's own owners: unpacked on first use, and
    /// whole when it is there. Blocks; needs root.
    ///
    /// # Errors
    /// When the image is not there, or cannot be unpacked.
    pub fn unpacked(&self, digest: &ImageDigest) -> Result<PathBuf, ImageError> {
        let root = self.root(digest);
        if root.is_dir() && self.get(digest).is_ok() {
            return Ok(root);
        }
        let _lock = self.shared()?;
        self.get(digest)?;
        // Two that need the same one: the second finds the first one's work.
        let _turn = self.turn(digest)?;
        if root.is_dir() {
            return Ok(root);
        }
        let scratch = self.scratch()?;
        let unpacked = unpack(BlobDigest::from(*digest), &self.blobs(), scratch.path(), &self.config, &NoProgress)?;
        let failed = |source| ImageError::file("write", &root, source);
        fs::File::open(&unpacked).and_then(|folder| Ok(rustix::fs::syncfs(&folder)?)).map_err(failed)?;
        durable::failpoint("image root", "synced");
        durable::move_to("image root", &unpacked, &root).map_err(failed)?;
        Ok(root)
    }

    /// Removes a name; and the image with it, when no other name means it.
    /// `in_use` are the images of the agents that this machine's node has.
    ///
    /// # Errors
    /// When the image is in use, or the name is not known.
    pub fn remove(&self, name: &str, in_use: &BTreeSet<ImageDigest>) -> Result<Removal, ImageError> {
        let lock = self.exclusive()?;
        self.refuse_unreadable()?;
        let digest = self.resolve(name)?;
        let mut names: Vec<_> = self.names()?.into_iter().filter(|(_, d)| *d == digest).map(|(name, _)| name).collect();
        if name.parse::<ImageDigest>().is_err() {
            names.retain(|other| other != name);
        } else {
            names.clear();
        }
        // A holder's image of the same content stays.
        let gone = names.is_empty() && !self.pins()?.values().any(|pinned| *pinned == digest);
        if gone && in_use.contains(&digest) {
            return Err(ImageError::InUse(digest));
        }
        self.forget_names(name, &digest)?;
        let removed = if gone { self.forget(&[digest])? } else { Removed::default() };
        drop(lock);
        let freed_bytes = removed.finish()?;
        Ok(Removal { digest, gone, freed_bytes })
    }

    /// Removes all images that have no name and are not in use, and blobs that no
    /// image needs. Returns the bytes freed.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub fn prune(&self, in_use: &BTreeSet<ImageDigest>) -> Result<u64, ImageError> {
        let lock = self.exclusive()?;
        self.refuse_unreadable()?;
        let named: BTreeSet<_> = self.names()?.into_values().chain(self.pins()?.into_values()).collect();
        let loose = self.digests()?.into_iter().filter(|digest| !named.contains(digest) && !in_use.contains(digest));
        let removed = self.forget(&loose.collect::<Vec<_>>())?;
        drop(lock);
        removed.finish()
    }

    /// What a damaged file stands for may be needed: nothing is removed beside it.
    pub(crate) fn refuse_unreadable(&self) -> Result<(), ImageError> {
        let names = self.dir("names");
        let unread = entries(&names)?.into_iter().find(|name| self.read_name(name).is_none());
        let unread = unread.map(|name| names.join(name));
        let unknown = self.digests()?.into_iter().find(|digest| self.record(digest).is_none());
        let unknown = unknown.map(|digest| self.record_path(&digest));
        unread.or(unknown).map_or(Ok(()), |path| Err(ImageError::Unreadable(path)))
    }

    /// Makes the image of a manifest whose blobs are here, and gives it its name.
    fn take(&self, manifest: BlobDigest, name: Option<&str>, to: &dyn Progress) -> Result<Image, ImageError> {
        let digest = ImageDigest::from(manifest);
        let _turn = self.turn(&digest)?;
        if self.get(&digest).is_err() {
            let scratch = self.scratch()?;
            let record = assemble(manifest, &self.blobs(), scratch.path(), &self.disk(&digest), &self.config, to)?;
            self.write_record(&digest, &record)?;
        }
        if let Some(name) = name {
            self.replace(&self.dir("names").join(name), digest.to_string().as_bytes())?;
        }
        self.get(&digest)
    }

    /// Two that take in the same image: the second finds the first one's work.
    pub(crate) fn turn(&self, digest: &ImageDigest) -> Result<Lock, ImageError> {
        Ok(Lock::exclusive(&self.turn_path(digest))?)
    }

    pub(crate) fn turn_path(&self, digest: &ImageDigest) -> PathBuf {
        self.dir("tmp").join(format!("{}.lock", digest.hex()))
    }

    /// From here on the image is there.
    pub(crate) fn write_record(&self, digest: &ImageDigest, record: &ImageRecord) -> Result<(), ImageError> {
        self.write(&self.record_path(digest), &serde_json::to_vec_pretty(record).unwrap_or_default())
    }

    /// How it is configured.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
        publish(self.written(bytes)?, path)
    }

    /// Like `write`, for a file that may be there with other content.
    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
        let failed = |source| ImageError::file("write", path, source);
        let file = self.written(bytes)?;
        settle(file.as_file()).map_err(failed)?;
        durable::failpoint("image name", "synced");
        file.persist(path).map_err(|error| failed(error.error))?;
        durable::failpoint("image name", "named");
        durable::sync_parent(path).map_err(failed)
    }

    fn written(&self, bytes: &[u8]) -> Result<NamedTempFile, ImageError> {
        let dir = self.dir("tmp");
        let file = NamedTempFile::new_in(&dir).and_then(|mut file| file.write_all(bytes).map(|()| file));
        file.map_err(|source| ImageError::file("write in", &dir, source))
    }

    fn forget_names(&self, name: &str, digest: &ImageDigest) -> Result<(), ImageError> {
        let by_digest = name.parse::<ImageDigest>().is_ok();
        for (other, named) in self.names()? {
            if other == name || (by_digest && named == *digest) {
                unlink(&self.dir("names").join(other))?;
            }
        }
        Ok(())
    }

    /// Removes images, and blobs that no image needs any more.
    pub(crate) fn forget(&self, digests: &[ImageDigest]) -> Result<Removed, ImageError> {
        let mut removed = Removed::default();
        for digest in digests {
            self.forget_files(digest, &mut removed)?;
        }
        let mut needed = BTreeSet::new();
        for digest in self.digests()? {
            needed.insert(digest.hex());
            needed.extend(self.record(&digest).into_iter().flat_map(|record| record.blobs).map(|blob| blob.hex()));
        }
        for blob in entries(&self.blobs_dir())? {
            if !needed.contains(&blob) {
                removed.bytes += unlink(&self.blobs_dir().join(blob))?;
            }
        }
        Ok(removed)
    }

    /// Removes what an image has beside its blobs: from here on it is not there. The folder of its
    /// files goes out of its place as a whole, so that no half of it is ever found there.
    pub(crate) fn forget_files(&self, digest: &ImageDigest, removed: &mut Removed) -> Result<(), ImageError> {
        unlink(&self.record_path(digest))?;
        removed.bytes += unlink(&self.disk(digest))?;
        let root = self.root(digest);
        let scratch = self.scratch()?;
        match fs::rename(&root, scratch.path().join(ROOT)) {
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(ImageError::file("remove", &root, source)),
            Ok(()) => removed.roots.push(scratch),
        }
        Ok(())
    }

    /// Unpacked images lie in `tmp` and `roots` with their own owners and modes: nobody else
    /// may look in there. Whoever only reads the store cannot set that, and need not.
    fn keep_private(&self) {
        for name in ["tmp", "roots"] {
            if let Err(error) = fs::set_permissions(self.dir(name), fs::Permissions::from_mode(0o700)) {
                tracing::debug!(%error, "the store is only read");
            }
        }
    }

    /// Clears what dead processes left, if nobody is at work. Somebody who may
    /// only read does not do it either.
    fn clear(&self) {
        let Ok(_lock) = Lock::try_exclusive(&self.lock_path()) else { return };
        for name in entries(&self.dir("tmp")).unwrap_or_default() {
            let path = self.dir("tmp").join(name);
            let cleared = if path.is_dir() { erase_folder(&path) } else { fs::remove_file(&path) };
            if let Err(error) = cleared {
                tracing::warn!(path = %path.display(), %error, "cannot clear away what an import left");
            }
        }
    }

    fn digests(&self) -> Result<Vec<ImageDigest>, ImageError> {
        let names = entries(&self.dir("images"))?.into_iter();
        Ok(names.filter_map(|name| format!("sha256:{}", name.strip_suffix(".json")?).parse().ok()).collect())
    }

    pub(crate) fn record(&self, digest: &ImageDigest) -> Option<ImageRecord> {
        serde_json::from_slice(&fs::read(self.record_path(digest)).ok()?).ok()
    }

    fn read_name(&self, name: &str) -> Option<ImageDigest> {
        fs::read_to_string(self.dir("names").join(name)).ok()?.trim().parse().ok()
    }

    pub(crate) fn scratch(&self) -> Result<TempDir, ImageError> {
        let dir = self.dir("tmp");
        tempfile::tempdir_in(&dir).map_err(|source| ImageError::file("create a directory in", &dir, source))
    }

    pub(crate) fn shared(&self) -> Result<Lock, ImageError> {
        Ok(Lock::shared(&self.lock_path())?)
    }

    fn exclusive(&self) -> Result<Lock, ImageError> {
        Ok(Lock::exclusive(&self.lock_path())?)
    }

    pub(crate) fn blobs(&self) -> BlobStore {
        BlobStore::new(self.blobs_dir(), self.dir("tmp"))
    }

    pub(crate) fn blobs_dir(&self) -> PathBuf {
        self.dir("blobs/sha256")
    }

    pub(crate) fn disk(&self, digest: &ImageDigest) -> PathBuf {
        self.dir("disks").join(format!("{}.erofs", digest.hex()))
    }

    fn root(&self, digest: &ImageDigest) -> PathBuf {
        self.dir("roots").join(digest.hex())
    }

    fn record_path(&self, digest: &ImageDigest) -> PathBuf {
        self.dir("images").join(format!("{}.json", digest.hex()))
    }

    pub(crate) fn lock_path(&self) -> PathBuf {
        self.dir("lock")
    }

    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        self.config.store.join(name)
    }
}

/// Refuses what is no name of an image.
fn check_name(name: &str) -> Result<(), ImageError> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let shaped = name.len() <= MAX_NAME
        && name.starts_with(plain)
        && name.chars().all(|c| plain(c) || matches!(c, '.' | '_' | '-'));
    if shaped { Ok(()) } else { Err(ImageError::Name(name.chars().take(MAX_NAME + 1).collect())) }
}

pub(crate) fn entries(dir: &Path) -> Result<Vec<String>, ImageError> {
    let listed = fs::read_dir(dir).map_err(|source| ImageError::file("list", dir, source))?;
    let mut names: Vec<_> = listed.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

/// What a folder and all in it take, in bytes; links are not followed.
fn allocated(folder: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let data = entry.metadata()?;
        bytes += if data.is_dir() { allocated(&entry.path())? } else { data.len() };
    }
    Ok(bytes)
}

/// Removes a file that may be gone already; its bytes.
pub(crate) fn unlink(path: &Path) -> Result<u64, ImageError> {
    let bytes = fs::metadata(path).map_or(0, |data| data.len());
    match fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(ImageError::file("remove", path, source)),
        _ => Ok(bytes),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}
