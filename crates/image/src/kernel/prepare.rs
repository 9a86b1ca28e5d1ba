//! Makes what a VMM boots, once for each kernel and each `pod`.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::KernelError;
use super::modules::Selection;
use super::package::{self, KernelPackage};
use super::{fsck, index, initramfs, unpack};
use crate::blobs::settle;
use crate::lock::Lock;
use crate::{Config, Progress};

/// Hex digits of a hash in a file's name.
const KEY_DIGITS: usize = 24;

/// How the names of unfinished directories begin.
const UNFINISHED: &str = ".new-";
/// Where an unpacked package came from.
const DISTRIBUTION: &str = "apt";
const GIVEN: &str = "given";
/// Kernels and initramfs of earlier versions that are kept: a daemon that still
/// runs may boot them again.
const KEPT: usize = 6;

/// What a VMM boots. A file never changes: a new kernel or a new `pod` gets
/// files of other names, and only the oldest are removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// The kernel as an ELF file with a PVH entry, for QEMU's `-kernel`.
    pub vmlinux: PathBuf,
    /// The first root, for QEMU's `-initrd`.
    pub initramfs: PathBuf,
    /// The kernel's version, such as `6.1.0-56-cloud-amd64`.
    pub version: String,
}

/// The kernel and the initramfs with `pod` as `/init`; made when they are not
/// there. Downloads the distribution's kernel package the first time, unless
/// `images.kernel` says where a kernel is.
///
/// Safe to call from several processes at once.
///
/// # Errors
/// Says what is missing and what to do about it.
pub fn prepare(config: &Config, pod: &Path, progress: &dyn Progress) -> Result<Kernel, KernelError> {
    let place = Place::of(config)?;
    let package = match &config.kernel {
        Some(path) => place.given(path, progress)?,
        None => match place.downloaded() {
            Some(package) => package,
            None => place.download(progress)?,
        },
    };
    place.kernel(&package, pod, progress)
}

/// Downloads the distribution's newest kernel package. [`prepare`] uses it from
/// then on; guests that run are not touched.
///
/// # Errors
/// Says what is missing and what to do about it.
pub fn fetch(config: &Config, progress: &dyn Progress) -> Result<String, KernelError> {
    Ok(Place::of(config)?.download(progress)?.version)
}

/// `<store>/kernels`: `packages/<name>` are unpacked packages, the rest is what
/// was made of them.
/// One process at a time works here: nobody downloads what another is
/// downloading.
struct Place {
    dir: PathBuf,
    _lock: Lock,
}

impl Place {
    fn of(config: &Config) -> Result<Self, KernelError> {
        let dir = config.store.join("kernels");
        let packages = dir.join("packages");
        fs::create_dir_all(&packages).map_err(|source| KernelError::file("create", &packages, source))?;
        let place = Self { _lock: Lock::exclusive(&dir.join("lock"))?, dir };
        place.clear().map_err(|source| KernelError::file("clear", &place.dir, source))?;
        // A VMM that is nobody opens the kernel by itself.
        let open = fs::set_permissions(&place.dir, fs::Permissions::from_mode(0o755));
        open.map_err(|source| KernelError::file("open to all", &place.dir, source))?;
        Ok(place)
    }

    fn packages(&self) -> PathBuf {
        self.dir.join("packages")
    }

    /// Removes what a process left that died at work.
    fn clear(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    /// A directory beside the finished ones, for what is not finished.
    fn scratch(&self) -> Result<tempfile::TempDir, KernelError> {
        tempfile::Builder::new()
            .prefix(UNFINISHED)
            .tempdir_in(&self.dir)
            .map_err(|source| KernelError::file("create a directory in", &self.dir, source))
    }

    /// The newest of the kernels that were downloaded before.
    fn downloaded(&self) -> Option<KernelPackage> {
        let packages = fs::read_dir(self.packages()).ok()?;
        let version = packages.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        version
            .filter(|name| name.starts_with(&prefix(DISTRIBUTION)))
            .filter_map(|name| package::find(&self.packages().join(name)).ok())
            .max_by_key(|package| package::ordinal(&package.version))
    }

    fn download(&self, progress: &dyn Progress) -> Result<KernelPackage, KernelError> {
        let scratch = self.scratch()?;
        package::download(scratch.path(), progress)?;
        self.unpack(DISTRIBUTION, &package::packages_in(scratch.path())?, progress)
    }

    /// A kernel's tree, or a directory of packages, or one package.
    fn given(&self, path: &Path, progress: &dyn Progress) -> Result<KernelPackage, KernelError> {
        if let Ok(package) = package::find(path) {
            return Ok(package);
        }
        let debs = if path.is_dir() { package::packages_in(path)? } else { vec![path.to_owned()] };
        if debs.is_empty() {
            return Err(KernelError::NoKernel(path.to_owned()));
        }
        self.unpack(GIVEN, &debs, progress)
    }

    fn unpack(&self, origin: &str, debs: &[PathBuf], progress: &dyn Progress) -> Result<KernelPackage, KernelError> {
        let mut hash = Sha256::new();
        for deb in debs {
            hash.update(read(deb)?);
        }
        let root = self.packages().join(format!("{}{}", prefix(origin), key(hash)));
        if !root.is_dir() {
            let scratch = self.scratch()?;
            let unpacked = scratch.path().join("root");
            package::unpack(debs, &unpacked, progress)?;
            let modules = package::find(&unpacked)?.modules;
            // The rest of the package, which is most of it, is of no use here.
            Selection::of(&modules)?.keep_alone(&modules)?;
            publish(&unpacked, &root)?;
        }
        package::find(&root)
    }

    fn kernel(&self, package: &KernelPackage, pod: &Path, progress: &dyn Progress) -> Result<Kernel, KernelError> {
        let kernel = Kernel {
            vmlinux: self.vmlinux(package, progress)?,
            initramfs: self.initramfs(package, pod, progress)?,
            version: package.version.clone(),
        };
        for (kind, used) in [("vmlinux-", &kernel.vmlinux), ("initramfs-", &kernel.initramfs)] {
            self.retire(kind, used).map_err(|source| KernelError::file("clear", &self.dir, source))?;
        }
        Ok(kernel)
    }

    fn vmlinux(&self, package: &KernelPackage, progress: &dyn Progress) -> Result<PathBuf, KernelError> {
        let packed = read(&package.vmlinuz)?;
        let path = self.dir.join(format!("vmlinux-{}", key(Sha256::new_with_prefix(&packed))));
        if !path.is_file() {
            progress.step("unpack the kernel", None);
            self.write(&path, &unpack::vmlinux(packed)?)?;
        }
        Ok(path)
    }

    fn initramfs(&self, package: &KernelPackage, pod: &Path, progress: &dyn Progress) -> Result<PathBuf, KernelError> {
        let pod = read(pod)?;
        let modules = Selection::of(&package.modules)?;
        progress.step("write the initramfs", None);
        let files = [fsck::files()?, index::files(&modules, package)?].concat();
        let archive = initramfs::archive(&pod, &modules.needed, &files)?;
        let path = self.dir.join(format!("initramfs-{}", key(Sha256::new_with_prefix(&archive))));
        if !path.is_file() {
            self.write(&path, &archive)?;
        }
        Ok(path)
    }

    /// Removes all files of a kind but the one in use and the newest.
    fn retire(&self, kind: &str, used: &Path) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let named = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(kind));
            if named && path != used {
                files.push((fs::metadata(&path)?.modified()?, path));
            }
        }
        files.sort();
        let old = files.len().saturating_sub(KEPT);
        files.iter().take(old).try_for_each(|(_, path)| fs::remove_file(path))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), KernelError> {
        let scratch = self.scratch()?;
        let unfinished = scratch.path().join("file");
        let written = fs::write(&unfinished, bytes).and_then(|()| settle(&fs::File::open(&unfinished)?));
        written.map_err(|source| KernelError::file("write", &unfinished, source))?;
        publish(&unfinished, path)
    }
}

/// Gives a finished file or directory its name. Whoever comes second finds the
/// same bytes under it.
fn publish(finished: &Path, name: &Path) -> Result<(), KernelError> {
    durable::failpoint("kernel", "synced");
    match fs::rename(finished, name) {
        Err(_) if name.exists() => Ok(()),
        renamed => renamed.map_err(|source| KernelError::file("rename to", name, source)),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, KernelError> {
    fs::read(path).map_err(|source| KernelError::file("read", path, source))
}

/// The beginning of an unpacked package's name: it says which modules were kept.
fn prefix(origin: &str) -> String {
    format!("{origin}-{}-", &key(Sha256::new_with_prefix(Selection::names()))[..8])
}

fn key(hash: Sha256) -> String {
    let mut digits = hex::encode(hash.finalize());
    digits.truncate(KEY_DIGITS);
    digits
}
