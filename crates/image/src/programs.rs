//! What a machine boots in which a holder's image is built: the host's own `buildah`, and the few programs beside
//! it that a build's commands name, with what they are linked to. No shell of the host's, no key and no setting.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::build::{BuildError, SETTINGS, storage};
use crate::digest::BlobDigest;
use crate::linked::linked;
use crate::lock::Lock;
use crate::store::{entries, unlink};
use crate::{ImageError, ImageStore, disk};

/// What lies on the disk beside the programs is another thing when this is another number.
const FORM: u32 = 1;
/// Where the disks are, in the store.
const FOLDER: &str = "programs";
/// Where programs are looked for.
const PLACES: [&str; 4] = ["/usr/local/bin", "/usr/bin", "/usr/sbin", "/bin"];
/// The programs, and the packages that bring them.
const NEEDED: [(&str, &str); 12] = [
    ("buildah", "buildah"),
    ("cat", "coreutils"),
    ("chmod", "coreutils"),
    ("cp", "coreutils"),
    ("find", "findutils"),
    ("gzip", "gzip"),
    ("head", "coreutils"),
    ("mkdir", "coreutils"),
    ("sh", "dash"),
    ("sleep", "coreutils"),
    ("stat", "coreutils"),
    ("tar", "tar"),
];
/// What contexts and archives may be packed with besides, where it is installed.
const OPTIONAL: [&str; 3] = ["bzip2", "xz", "zstd"];
/// What `buildah` reads as it is, where it is there: the system calls that commands may make.
const FILES: [&str; 1] = ["/usr/share/containers/seccomp.json"];
/// Folders that there are, and what is mounted on or written to in a guest.
const FOLDERS: [&str; 11] =
    ["data", "dev", "etc/containers", "proc", "root", "run", "sys", "tmp", "usr/bin", "usr/lib64", "var/tmp"];
/// Where Debian's folders lead.
const LINKS: [(&str, &str); 4] = [("usr/bin", "bin"), ("usr/bin", "sbin"), ("usr/lib", "lib"), ("usr/lib64", "lib64")];

/// A file that comes along: from the host, and its place below the root.
struct Brought {
    from: PathBuf,
    to: PathBuf,
}

/// The package that has to be installed before images are built in machines, if one has.
#[must_use]
pub fn missing() -> Option<&'static str> {
    NEEDED.iter().find(|(program, _)| find(program).is_none()).map(|(_, package)| *package)
}

impl ImageStore {
    /// The disk of the programs that build, made on first use and whenever they have changed. Blocks; needs root.
    ///
    /// # Errors
    /// Names the program that is not installed, or what is missing here.
    pub fn programs(&self) -> Result<PathBuf, ImageError> {
        let files = brought()?;
        let key = key(&files)?;
        let dir = self.dir(FOLDER);
        let path = dir.join(format!("{}.erofs", key.hex()));
        let failed = |source| ImageError::file("write", &dir, source);
        fs::create_dir_all(&dir).map_err(failed)?;
        let _lock = self.shared()?;
        let _turn = Lock::exclusive(&self.dir("tmp").join("programs.lock"))?;
        if path.is_file() {
            return Ok(path);
        }
        let scratch = self.scratch()?;
        let (root, made) = (scratch.path().join("root"), scratch.path().join("disk"));
        lay_out(&files, &root)?;
        disk::make(&root, &made, key, false)?;
        fs::File::open(&made).and_then(|file| file.sync_all()).map_err(failed)?;
        durable::move_to("programs", &made, &path).map_err(failed)?;
        // Machines that have an older one have it open.
        for name in entries(&dir)?.into_iter().filter(|name| Some(name.as_ref()) != path.file_name()) {
            unlink(&dir.join(name))?;
        }
        Ok(path)
    }
}

/// All files, each once, in the order of their places.
fn brought() -> Result<Vec<Brought>, ImageError> {
    let mut files = Vec::new();
    for (program, package) in NEEDED {
        let found = find(program)
            .ok_or_else(|| BuildError::Confinement(format!("{program} is missing: install the package {package}")))?;
        files.push((found, program));
    }
    files.extend(OPTIONAL.iter().filter_map(|program| Some((find(program)?, *program))));
    let mut all = Vec::new();
    for (from, program) in files {
        all.extend(linked(&from)?.into_iter().map(|library| Brought { to: below(&library), from: library }));
        all.push(Brought { from, to: Path::new("usr/bin").join(program) });
    }
    let there = FILES.map(PathBuf::from).into_iter().filter(|file| file.is_file());
    all.extend(there.map(|file| Brought { to: below(&file), from: file }));
    all.sort_by(|one, other| one.to.cmp(&other.to));
    all.dedup_by(|one, other| one.to == other.to);
    Ok(all)
}

fn find(program: &str) -> Option<PathBuf> {
    PLACES.iter().map(|dir| Path::new(dir).join(program)).find(|file| file.is_file())
}

/// The place of a library: below `usr`, where all of them lie.
fn below(path: &Path) -> PathBuf {
    let path = path.strip_prefix("/").unwrap_or(path);
    if path.starts_with("usr") { path.to_owned() } else { Path::new("usr").join(path) }
}

/// Another one for other files.
fn key(files: &[Brought]) -> Result<BlobDigest, ImageError> {
    let mut text = format!("{FORM}\n");
    for Brought { from, to } in files {
        let data = fs::metadata(from).map_err(|source| ImageError::file("read", from, source))?;
        text += &format!("{} {} {} {}\n", to.display(), data.len(), data.mtime(), data.ino());
    }
    Ok(BlobDigest::of(text.as_bytes()))
}

fn lay_out(files: &[Brought], root: &Path) -> Result<(), ImageError> {
    let failed = |source| ImageError::file("write", root, source);
    for folder in FOLDERS {
        fs::create_dir_all(root.join(folder)).map_err(failed)?;
    }
    for (to, at) in LINKS {
        symlink(to, root.join(at)).map_err(failed)?;
    }
    for Brought { from, to } in files {
        let to = root.join(to);
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        fs::copy(from, &to).map_err(|source| ImageError::file("copy", from, source))?;
    }
    let storage = storage("/data/work");
    for (name, text) in SETTINGS.into_iter().chain([("containers/storage.conf", storage.as_str())]) {
        fs::write(root.join("etc").join(name), text).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_program_comes_with_its_libraries_once_and_below_usr() {
        needs::needs!(root);
        let files = brought().unwrap();
        let to: Vec<_> = files.iter().map(|file| file.to.to_string_lossy().into_owned()).collect();
        for wanted in ["usr/bin/buildah", "usr/bin/sh", "usr/lib64/ld-linux-x86-64.so.2"] {
            assert_eq!(to.iter().filter(|to| *to == wanted).count(), 1, "{wanted}: {to:?}");
        }
        assert!(to.iter().any(|to| to.ends_with("/libc.so.6")) && to.iter().all(|to| to.starts_with("usr/")), "{to:?}");
        let dir = tempfile::tempdir().unwrap();
        lay_out(&files, &dir.path().join("root")).unwrap();
        assert!(
            dir.path().join("root/bin/sh").is_file() && dir.path().join("root/lib64/ld-linux-x86-64.so.2").is_file()
        );
    }
}
