//! Images that holders bring: in the store without a name, under pins.
//!
//! ```text
//! pins/<pin>     the digest that a holder's image means
//! built/<pin>    what it was built in, if it was built here
//! going/<hex>    an image that lost its last pin, and goes when nothing runs from it
//! ```
//!
//! An import that fails leaves nothing: its blobs come to the others when the image is made.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use domain::{ArchiveSum, ImageDigest, ImageId};
use wire::v1::images::BuildRuntime;

use crate::assemble::assemble;
use crate::blobs::BlobStore;
use crate::build::{BuildFiles, ContainerfileBuild, Plan, build_containerfile, read_packed};
use crate::digest::{BlobDigest, HashingReader};
use crate::image::Image;
use crate::lock::Lock;
use crate::progress::CountingReader;
use crate::recipe::StepLimits;
use crate::signature::TrustedKeys;
use crate::source;
use crate::store::{Removed, entries, unlink};
use crate::{BuildError, Config, ImageError, ImageStore, Progress};

/// The folder of what images were built in.
const BUILT: &str = "built";

impl ImageStore {
    /// Takes in an archive of this SHA-256 under a pin, unpacked to `max_mib` at most. Where it holds several
    /// images, `name` chooses. Blocks; needs root. Nothing is left of what fails.
    ///
    /// # Errors
    /// Says what is wrong with the image, or what is missing here.
    pub fn import_held(
        &self,
        archive: &Path,
        sum: ArchiveSum,
        name: &str,
        pin: ImageId,
        max_mib: u64,
        to: &dyn Progress,
    ) -> Result<Image, ImageError> {
        verify(archive, sum, to)?;
        let _lock = self.shared()?;
        let scratch = self.scratch()?;
        let trusted = TrustedKeys::required(self.config())?;
        let staging = Staging { scratch: scratch.path(), bounds: self.bounds(max_mib), trusted, to };
        self.hold(archive, name, pin, &staging)
    }

    /// Builds an image of an archive of a build's context, and keeps it under a pin, unpacked to `max_mib` at most.
    /// It is built shut in, by root of a user namespace, without a network. Blocks; needs root. Nothing is left of
    /// what fails.
    ///
    /// # Errors
    /// Says what is wrong with the context, how the build ended, or what is missing here.
    pub fn build_held(
        &self,
        build: &HeldBuild<'_>,
        name: &str,
        pin: ImageId,
        max_mib: u64,
        to: &dyn Progress,
    ) -> Result<Image, ImageError> {
        if self.config().require_signature {
            return Err(BuildError::Unsigned.into());
        }
        verify(build.archive, build.sum, to)?;
        let _lock = self.shared()?;
        let scratch = self.scratch()?;
        let most = build.limits.disk_mib.saturating_mul(1 << 20);
        let (text, file) = read_packed(build.archive, build.containerfile, most)?;
        let names = self.names()?;
        let request = ContainerfileBuild {
            files: BuildFiles::Archive { path: build.archive },
            plan: &Plan::of(&file, &text)?,
            epoch: build.epoch,
            known: &|below| known(&names, build.bases, below),
            limits: build.limits,
        };
        let built = build_containerfile(&request, &self.blobs(), scratch.path(), self.config(), to)?;
        let staging = Staging { scratch: scratch.path(), bounds: self.bounds(max_mib), trusted: None, to };
        self.hold_built(&built, name, pin, BuildRuntime::ContainerBubblewrap, &staging)
    }

    /// Makes an image of the archive that a build elsewhere has left, and keeps it under a pin: as of any archive of
    /// a stranger's. Blocks; needs root. Nothing is left of what fails.
    ///
    /// # Errors
    /// Says what is wrong with the image, or what is missing here.
    pub fn take_built(
        &self,
        archive: &Path,
        name: &str,
        pin: ImageId,
        max_mib: u64,
        runtime: BuildRuntime,
        to: &dyn Progress,
    ) -> Result<Image, ImageError> {
        if self.config().require_signature {
            return Err(BuildError::Unsigned.into());
        }
        let _lock = self.shared()?;
        let scratch = self.scratch()?;
        let staging = Staging { scratch: scratch.path(), bounds: self.bounds(max_mib), trusted: None, to };
        self.hold_built(archive, name, pin, runtime, &staging)
    }

    /// What an image was built in goes before its pin: none has one without the other.
    fn hold_built(
        &self,
        archive: &Path,
        name: &str,
        pin: ImageId,
        runtime: BuildRuntime,
        at: &Staging<'_>,
    ) -> Result<Image, ImageError> {
        self.make(BUILT)?;
        let path = self.built_path(pin);
        let written = durable::replace("image pin", &path, runtime.as_str().as_bytes());
        written.map_err(|source| ImageError::file("write", &path, source))?;
        let held = self.hold(archive, name, pin, at);
        if held.is_err() {
            unlink(&path)?;
        }
        held
    }

    /// What the image under a pin was built in, if it was built here.
    #[must_use]
    pub fn built_in(&self, pin: ImageId) -> Option<BuildRuntime> {
        BuildRuntime::named(fs::read_to_string(self.built_path(pin)).ok()?.trim())
    }

    /// Makes an image of an archive, and keeps it under a pin.
    fn hold(&self, archive: &Path, name: &str, pin: ImageId, at: &Staging<'_>) -> Result<Image, ImageError> {
        let staged = Staged::new(at.scratch)?;
        let (bounds, to) = (&at.bounds, at.to);
        let manifest = source::import(archive, name, &staged.blobs, &staged.files, bounds, at.trusted.as_ref(), to)?;
        // What lay in the archive lies in the blobs now.
        staged.forget_files()?;
        let digest = ImageDigest::from(manifest);
        let _turn = self.turn(&digest)?;
        if self.get(&digest).is_err() {
            let disk = self.disk(&digest);
            // Until it has its pin it is on its way out, its disk too: a crash leaves it to the sweep.
            self.going(&digest)?;
            let record = match assemble(manifest, &staged.blobs, at.scratch, &disk, bounds, to) {
                Ok(record) => record,
                Err(error) => {
                    unlink(&disk)?;
                    unlink(&self.going_path(&digest))?;
                    return Err(error);
                }
            };
            if let Err(error) = staged.keep(&self.blobs_dir()) {
                unlink(&disk)?;
                return Err(error);
            }
            self.write_record(&digest, &record)?;
            durable::failpoint("image pin", "recorded");
        }
        self.pin(&digest, pin)?;
        self.get(&digest)
    }

    fn bounds(&self, max_mib: u64) -> Config {
        Config { max_image_mib: max_mib.min(self.config().max_image_mib), ..self.config().clone() }
    }

    /// What a pin means.
    #[must_use]
    pub fn pinned(&self, pin: ImageId) -> Option<ImageDigest> {
        fs::read_to_string(self.pin_path(pin)).ok()?.trim().parse().ok()
    }

    /// All pins, and what they mean.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn pins(&self) -> Result<BTreeMap<ImageId, ImageDigest>, ImageError> {
        let dir = self.dir("pins");
        if !dir.exists() {
            return Ok(BTreeMap::new());
        }
        let pins = entries(&dir)?.into_iter().map(|name| {
            let pin: ImageId = name.parse().map_err(|_| ImageError::Unreadable(dir.join(&name)))?;
            let digest = self.pinned(pin).ok_or_else(|| ImageError::Unreadable(dir.join(&name)))?;
            Ok((pin, digest))
        });
        pins.collect()
    }

    /// Takes a pin away. The image goes with its last one, by [`ImageStore::sweep`], unless it
    /// has a name.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn unpin(&self, pin: ImageId) -> Result<(), ImageError> {
        // A sweep between the two steps would find the pin there, and the image on its way nowhere.
        let _lock = self.shared()?;
        let Some(digest) = self.pinned(pin) else { return self.forget_pin(pin) };
        let _turn = self.turn(&digest)?;
        self.going(&digest)?;
        durable::failpoint("image pin", "going");
        self.forget_pin(pin)
    }

    /// Removes the images that lost their last pin and that nothing runs from. Where others work on
    /// the store, their blobs stay until nobody does: without end there may be somebody who builds.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub fn sweep(&self, in_use: &BTreeSet<ImageDigest>) -> Result<Removed, ImageError> {
        let dir = self.dir("going");
        if !dir.exists() || entries(&dir)?.is_empty() {
            return Ok(Removed::default());
        }
        let Ok(_lock) = Lock::try_exclusive(&self.lock_path()) else { return self.sweep_beside_others(in_use) };
        let going = self.unwanted(in_use)?;
        let leave: Vec<_> = going.iter().filter(|(_, leaves)| *leaves).map(|(digest, _)| *digest).collect();
        let removed = if leave.is_empty() { Removed::default() } else { self.forget(&leave)? };
        for (digest, _) in going {
            unlink(&self.going_path(&digest))?;
        }
        Ok(removed)
    }

    /// What is large of them, each in its turn: who brings the same image again begins anew.
    fn sweep_beside_others(&self, in_use: &BTreeSet<ImageDigest>) -> Result<Removed, ImageError> {
        let (mut removed, Ok(_lock)) = (Removed::default(), Lock::try_shared(&self.lock_path())) else {
            return Ok(Removed::default());
        };
        for (digest, _) in self.unwanted(in_use)?.into_iter().filter(|(_, leaves)| *leaves) {
            let Ok(_turn) = Lock::try_exclusive(&self.turn_path(&digest)) else { continue };
            // It may have got a pin before it was our turn.
            if !self.wanted()?.contains(&digest) {
                self.forget_files(&digest, &mut removed)?;
            }
        }
        Ok(removed)
    }

    /// Those that lost their last pin and that nothing runs from, and whether they leave: one that
    /// has a name or a new pin stays.
    fn unwanted(&self, in_use: &BTreeSet<ImageDigest>) -> Result<Vec<(ImageDigest, bool)>, ImageError> {
        self.refuse_unreadable()?;
        let (dir, wanted) = (self.dir("going"), self.wanted()?);
        let mut found = Vec::new();
        for name in entries(&dir)? {
            let digest = format!("sha256:{name}").parse();
            let digest: ImageDigest = digest.map_err(|_| ImageError::Unreadable(dir.join(&name)))?;
            if !in_use.contains(&digest) {
                found.push((digest, !wanted.contains(&digest)));
            }
        }
        Ok(found)
    }

    fn wanted(&self) -> Result<BTreeSet<ImageDigest>, ImageError> {
        Ok(self.names()?.into_values().chain(self.pins()?.into_values()).collect())
    }

    /// What an image takes of the disk, with its blobs.
    ///
    /// # Errors
    /// When it is not there.
    pub fn bytes_of(&self, digest: &ImageDigest) -> Result<u64, ImageError> {
        let record = self.record(digest).ok_or(ImageError::UnknownDigest(*digest))?;
        let blobs = record.blobs.iter().chain([digest]).map(|blob| self.blobs_dir().join(blob.hex()));
        let files = blobs.chain([self.disk(digest)]).filter_map(|path| fs::metadata(path).ok());
        Ok(files.map(|data| data.len()).sum())
    }

    fn forget_pin(&self, pin: ImageId) -> Result<(), ImageError> {
        unlink(&self.pin_path(pin))?;
        unlink(&self.built_path(pin)).map(drop)
    }

    fn built_path(&self, pin: ImageId) -> PathBuf {
        self.dir(BUILT).join(pin.to_string())
    }

    fn pin(&self, digest: &ImageDigest, pin: ImageId) -> Result<(), ImageError> {
        self.make("pins")?;
        self.write(&self.pin_path(pin), digest.to_string().as_bytes())
    }

    fn going(&self, digest: &ImageDigest) -> Result<(), ImageError> {
        self.make("going")?;
        self.write(&self.going_path(digest), digest.to_string().as_bytes())
    }

    /// Where uploads lie until images are made of them.
    #[must_use]
    pub fn uploads(&self) -> PathBuf {
        self.dir("uploads")
    }

    fn make(&self, name: &str) -> Result<(), ImageError> {
        let dir = self.dir(name);
        fs::create_dir_all(&dir).map_err(|source| ImageError::file("create", &dir, source))
    }

    fn pin_path(&self, pin: ImageId) -> PathBuf {
        self.dir("pins").join(pin.to_string())
    }

    fn going_path(&self, digest: &ImageDigest) -> PathBuf {
        self.dir("going").join(digest.hex())
    }
}

/// What a name means to a holder: an operator's image, or one of its own. By names alone: a digest would mean any
/// holder's.
pub(crate) fn known(
    names: &BTreeMap<String, ImageDigest>,
    own: &BTreeMap<String, ImageDigest>,
    name: &str,
) -> Option<BlobDigest> {
    names.get(name).or_else(|| own.get(name)).copied().map(BlobDigest::from)
}

/// A context that a holder has sent to be built.
#[derive(Clone, Copy, Debug)]
pub struct HeldBuild<'a> {
    /// Its archive: tar, packed or not.
    pub archive: &'a Path,
    /// The SHA-256 of the archive.
    pub sum: ArchiveSum,
    /// The name of its Containerfile, or of its recipe; by default whichever is called as usual.
    pub containerfile: Option<&'a str>,
    /// No file of the image is younger: seconds since 1970.
    pub epoch: i64,
    /// What it may build on beside the images that have names: by what the holder calls it.
    pub bases: &'a BTreeMap<String, ImageDigest>,
    /// What the build may use.
    pub limits: StepLimits,
}

/// With what an image is made.
struct Staging<'a> {
    scratch: &'a Path,
    bounds: Config,
    trusted: Option<TrustedKeys>,
    to: &'a dyn Progress,
}

/// Whether these are the bytes that were to come.
pub(crate) fn verify(archive: &Path, sum: ArchiveSum, to: &dyn Progress) -> Result<(), ImageError> {
    let failed = |source| ImageError::file("read", archive, source);
    let file = File::open(archive).map_err(failed)?;
    to.step("verify the archive", file.metadata().ok().map(|data| data.len()));
    let (found, _) = HashingReader::new(CountingReader::new(file, to), u64::MAX).finish().map_err(failed)?;
    let expected = BlobDigest::from(ImageDigest(sum.0));
    if found == expected { Ok(()) } else { Err(ImageError::mismatch(expected, found)) }
}

/// Where an import works until its image is made.
struct Staged {
    files: PathBuf,
    dir: PathBuf,
    blobs: BlobStore,
}

impl Staged {
    fn new(scratch: &Path) -> Result<Self, ImageError> {
        let [files, dir, unfinished] = ["files", "blobs", "unfinished"].map(|name| scratch.join(name));
        for dir in [&files, &dir, &unfinished] {
            fs::create_dir(dir).map_err(|source| ImageError::file("create", dir, source))?;
        }
        Ok(Self { files, blobs: BlobStore::new(dir.clone(), unfinished), dir })
    }

    fn forget_files(&self) -> Result<(), ImageError> {
        fs::remove_dir_all(&self.files).map_err(|source| ImageError::file("remove", &self.files, source))
    }

    /// Brings the blobs to the others.
    fn keep(&self, to: &Path) -> Result<(), ImageError> {
        for name in entries(&self.dir)? {
            // Verified when it was written.
            let sum = BlobDigest::parse(&format!("sha256:{name}"))?;
            let (from, path) = (self.dir.join(&name), to.join(sum.hex()));
            let failed = |source| ImageError::file("move", &path, source);
            match fs::hard_link(&from, &path) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                linked => linked.map_err(failed)?,
            }
        }
        durable::sync_parent(&to.join("x")).map_err(|source| ImageError::file("write", to, source))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{RecvTimeoutError, channel};
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_pin_is_not_taken_away_while_the_images_that_go_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(&Config { store: dir.path().join("images"), ..Config::default() }).unwrap();
        let (pin, digest) = (ImageId::from_bits(1), ImageDigest([7; 32]));
        store.pin(&digest, pin).unwrap();
        let sweeping = Lock::exclusive(&store.lock_path()).unwrap();
        let (done, waits) = channel();
        let unpinning = std::thread::spawn({
            let store = store.clone();
            move || done.send(store.unpin(pin).is_ok())
        });
        assert_eq!(waits.recv_timeout(Duration::from_millis(300)), Err(RecvTimeoutError::Timeout));
        assert_eq!(store.pinned(pin), Some(digest));
        drop(sweeping);
        assert_eq!(waits.recv(), Ok(true));
        unpinning.join().unwrap().unwrap();
        assert_eq!(store.pinned(pin), None);
    }
}
