//! The root that VMMs see, built once in a mount namespace that nothing lives in: each
//! VMM gets a copy of it.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, PathFdError, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetError, Scope,
};
use rustix::fs::Mode;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, mount_remount, unmount,
};
use rustix::process::{chdir, pivot_root, umask};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::super::Kernel;
use crate::{DriverFailure, command, files};

/// The guests' kernel in the root.
pub(in crate::drivers::qemu) const VMLINUX: &str = "/kernel/vmlinux";
/// Its initramfs.
pub(in crate::drivers::qemu) const INITRAMFS: &str = "/kernel/initramfs";
/// Where QEMU takes randomness from before it asks the kernel.
const RANDOM: &str = "/dev/urandom";
/// The module of QEMU's emulator, where it is one.
const EMULATOR: &str = "qemu/accel-tcg-x86_64.so";
/// What the loader knows of libraries in unusual places.
const LOADER_CACHE: &str = "/etc/ld.so.cache";
/// For folders and mount points; what is mounted takes nothing.
const ROOM: &std::ffi::CStr = c"size=1m,nr_inodes=4k,mode=0755";
/// What Landlock is asked for; an older kernel does what it knows of it.
const LANDLOCK: ABI = ABI::V6;

/// Something of the host that is there too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Shared {
    at: PathBuf,
    from: PathBuf,
    device: bool,
}

/// Builds it. The program lies where it lies on the host.
pub(super) fn build(
    program: &Path,
    kernel: &Kernel,
    device: Option<&Path>,
    folder: &Path,
) -> Result<(File, Option<OwnedFd>), DriverFailure> {
    let (mut contents, loader) = parts(program)?;
    contents.insert(file(VMLINUX, &kernel.vmlinux));
    contents.insert(file(INITRAMFS, &kernel.initramfs));
    for path in [Some(Path::new(RANDOM)), device].into_iter().flatten() {
        contents.insert(Shared { at: path.to_owned(), from: path.to_owned(), device: true });
    }
    files::private_dir(folder)?;
    let executable = [Some(program), loader.as_deref()];
    let work = || -> Result<(File, Option<OwnedFd>), DriverFailure> {
        let namespace = enter(folder, &contents)?;
        let allowed = allow(executable.into_iter().flatten(), device);
        let landlock =
            allowed.map_err(|error| DriverFailure::Missing(format!("Landlock refuses its rules: {error}")))?;
        Ok((namespace, landlock.into()))
    };
    thread::scope(|scope| scope.spawn(work).join())
        .unwrap_or_else(|_| Err(DriverFailure::Missing("the thread in the new root is gone".to_owned())))
}

/// Leaves this thread in the new root. The host's mounts are not in it, and nothing of
/// it is seen on the host.
fn enter(folder: &Path, contents: &BTreeSet<Shared>) -> Result<File, DriverFailure> {
    own_mounts()?;
    // Of this thread alone, since its root is: whoever has no name here must get through.
    umask(Mode::from_raw_mode(0o022));
    let namespace = File::open("/proc/thread-self/ns/mnt")?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    mount("tmpfs", folder, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, ROOM)?;
    for shared in contents {
        shared.mount(folder)?;
    }
    let still = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    mount_remount(folder, still, ROOM)?;
    chdir(folder)?;
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    chdir("/")?;
    Ok(namespace)
}

#[expect(unsafe_code, reason = "unsharing files could surprise other code; mounts surprise nobody")]
fn own_mounts() -> io::Result<()> {
    // SAFETY: NEWNS alone touches no file descriptor.
    Ok(unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?)
}

impl Shared {
    fn mount(&self, root: &Path) -> Result<(), DriverFailure> {
        let at = root.join(self.at.strip_prefix("/").unwrap_or(&self.at));
        let folder = if self.from.is_dir() { Some(&*at) } else { at.parent() };
        if let Some(folder) = folder {
            DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
        }
        if !at.exists() {
            File::create(&at)?;
        }
        mount_bind(&self.from, &at)?;
        let mut flags = MountFlags::BIND | MountFlags::NOSUID;
        flags |= if self.device { MountFlags::NOEXEC } else { MountFlags::RDONLY | MountFlags::NODEV };
        Ok(mount_remount(&at, flags, c"")?)
    }
}

fn file(at: impl Into<PathBuf>, from: &Path) -> Shared {
    Shared { at: at.into(), from: from.to_owned(), device: false }
}

/// The program, its libraries and its firmware; and the loader among them.
fn parts(program: &Path) -> Result<(BTreeSet<Shared>, Option<PathBuf>), DriverFailure> {
    let mut paths = BTreeSet::from([program.to_owned()]);
    // A program without libraries says its version instead.
    let said = command::read(program, &["--version"], &[("LD_TRACE_LOADED_OBJECTS", "1")])?;
    let libraries = libraries(&said);
    let loader = libraries.iter().find(|path| path.to_string_lossy().contains("/ld-linux")).cloned();
    if let Some(loader) = &loader {
        for module in emulators(&libraries) {
            let said = command::read(loader, &["--list", &module.to_string_lossy()], &[])?;
            paths.extend(self::libraries(&said));
            paths.insert(module);
        }
    }
    paths.extend(libraries);
    let firmware = command::read(program, &["-L", "help"], &[])?;
    let firmware = firmware.lines().filter_map(|line| fs::canonicalize(line.trim()).ok());
    paths.extend(firmware.filter(|path| path.is_dir()));
    paths.extend(Some(PathBuf::from(LOADER_CACHE)).filter(|path| path.is_file()));
    Ok((paths.into_iter().map(|path| file(path.clone(), &path)).collect(), loader))
}

/// The paths in what the loader lists: `libx.so => /lib/libx.so (0x…)`, or the path alone.
fn libraries(said: &str) -> BTreeSet<PathBuf> {
    let path = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from);
    said.lines().filter_map(path).filter(|path| path.is_file()).collect()
}

/// Modules lie in a folder beside the libraries.
fn emulators(libraries: &BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
    let folders = libraries.iter().filter_map(|library| fs::canonicalize(library.parent()?).ok());
    folders.map(|folder| folder.join(EMULATOR)).filter(|module| module.is_file()).collect()
}

#[derive(Debug, thiserror::Error)]
enum LandlockError {
    #[error(transparent)]
    Rules(#[from] RulesetError),
    #[error(transparent)]
    Path(#[from] PathFdError),
}

/// Everything may be read, the program and its loader run, nothing else done. Called in
/// the root.
fn allow<'a>(
    executable: impl Iterator<Item = &'a Path>,
    device: Option<&Path>,
) -> Result<RulesetCreated, LandlockError> {
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .handle_access(AccessNet::from_all(LANDLOCK))?
        .scope(Scope::from_all(LANDLOCK))?
        .create()?;
    let read: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
    rules = rules.add_rule(PathBeneath::new(PathFd::new("/")?, read))?;
    for path in executable {
        rules = rules.add_rule(PathBeneath::new(PathFd::new(path)?, AccessFs::Execute))?;
    }
    if let Some(path) = device {
        let all = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
        rules = rules.add_rule(PathBeneath::new(PathFd::new(path)?, all))?;
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_1_8_landlock_lets_a_vmm_read_and_do_nothing_else() {
        needs::needs!(landlock);
        let dir = tempfile::tempdir().unwrap();
        let (written, made) = (dir.path().join("file"), dir.path().join("new"));
        fs::write(&written, "before").unwrap();
        let loader = Path::new("/lib64/ld-linux-x86-64.so.2");
        let rules = allow([Path::new("/bin/true"), loader].into_iter(), None).unwrap();
        let tried = thread::spawn(move || {
            assert_ne!(rules.restrict_self().unwrap().ruleset, landlock::RulesetStatus::NotEnforced);
            let kind = |done: io::Result<()>| done.map_err(|error| error.kind());
            let run = |program: &str| kind(std::process::Command::new(program).status().map(drop));
            [
                kind(fs::read(&written).map(drop)),
                run("/bin/true"),
                kind(fs::write(&written, "after")),
                kind(fs::write(&made, "")),
                kind(fs::remove_file(&written)),
                run("/bin/false"),
                kind(std::net::TcpStream::connect("127.0.0.1:9").map(drop)),
            ]
        });
        let done = tried.join().unwrap();
        let no = Err(io::ErrorKind::PermissionDenied);
        assert_eq!(done, [Ok(()), Ok(()), no, no, no, no, no]);
    }

    #[test]
    fn only_paths_are_taken_from_what_the_loader_says() {
        let said = "\tlinux-vdso.so.1 (0x00007ffe)\n\tlibx.so.1 => /etc/passwd (0x00007f)\n\t/etc/hostname (0x00)\n\
                    \tliby.so => not found\n\tlibz.so => /no/such/file (0x0)\n";
        let found: Vec<_> = libraries(said).into_iter().collect();
        assert_eq!(found, [Path::new("/etc/hostname"), Path::new("/etc/passwd")]);
    }
}
