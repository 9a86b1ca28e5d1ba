//! A guest's own disks: sparse copies of empty filesystems that were made once. One is
//! the run's writable layer, the other its POD's `/data`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, SeekFrom, flock, ioctl_ficlone, seek, statvfs};
use rustix::io::Errno;

use crate::{DriverFailure, command, files};

/// The disk that a run writes to outside of `/data`.
pub(crate) const LAYER: &str = "layer.ext4";
/// The disk of `/data`.
pub(crate) const DATA: &str = "data.ext4";
/// The same of containers, which the host mounts. Under these names lie only disks that the host
/// has made and that no machine of a tenant was ever given: what such a machine has written to
/// is mounted by no host again. A machine may take one over, and it is called as its other
/// disks from then on.
pub(crate) const HOST_LAYER: &str = "layer.host.ext4";
pub(crate) const HOST_DATA: &str = "data.host.ext4";
const DISK: &str = "ext4";
const MIB: u64 = 1024 * 1024;
/// How much is copied at once.
const CHUNK: usize = 256 * 1024;
/// How long a disk may be held by a VMM that is ending.
const CLAIM_LIMIT: Duration = Duration::from_secs(2);
const CLAIM_AGAIN: Duration = Duration::from_millis(20);
/// Journal of an empty filesystem, in MiB: small, since every guest has two.
const JOURNAL_MIB: u64 = 4;

/// The empty filesystem of this size, made on first use.
pub(crate) fn template(dir: &Path, mib: u64) -> Result<PathBuf, DriverFailure> {
    let path = template_path(dir, mib);
    if path.exists() {
        return Ok(path);
    }
    files::private_dir(dir)?;
    let half = dir.join(format!("empty-{mib}.half"));
    files::remove(&half)?;
    let file = half.to_string_lossy();
    let journal = format!("size={JOURNAL_MIB}");
    // The file is new: its blocks are zero, and nothing is left for the guest to initialise.
    let extended = "assume_storage_prezeroed=1,lazy_itable_init=0,root_owner=0:0";
    let size = format!("{mib}M");
    command::run("mke2fs", &["-q", "-F", "-t", "ext4", "-m", "0", "-J", &journal, "-E", extended, &file, &size], "")?;
    durable::failpoint("empty disk", "made");
    File::open(&half)?.sync_all()?;
    durable::move_to("empty disk", &half, &path)?;
    Ok(path)
}

fn template_path(dir: &Path, mib: u64) -> PathBuf {
    dir.join(format!("empty-{mib}.ext4"))
}

/// Whether a disk is still as it was copied from its template: nothing was ever written to
/// it. In doubt, as of a disk of a size that is not made any more, it is not.
pub(crate) fn is_as_made(templates: &Path, path: &Path) -> io::Result<bool> {
    let disk = File::open(path)?;
    let length = disk.metadata()?.len();
    let template = match File::open(template_path(templates, length / MIB)) {
        Ok(template) => template,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    Ok(template.metadata()?.len() == length && has_all_of(&disk, &template)? && has_all_of(&template, &disk)?)
}

/// Whether one file holds what another holds outside of its holes.
fn has_all_of(one: &File, other: &File) -> io::Result<bool> {
    let (mut ours, mut theirs) = (vec![0; CHUNK], vec![0; CHUNK]);
    for (mut at, end) in extents(other)? {
        while at < end {
            let want = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
            one.read_exact_at(&mut ours[..want], at)?;
            other.read_exact_at(&mut theirs[..want], at)?;
            if ours[..want] != theirs[..want] {
                return Ok(false);
            }
            at += want as u64;
        }
    }
    Ok(true)
}

/// The names of the disks in a run's folder.
pub(crate) fn names(dir: &Path) -> io::Result<Vec<String>> {
    let is_disk = |name: &String| Path::new(name).extension().is_some_and(|end| end == DISK);
    Ok(files::names(dir)?.into_iter().filter(is_disk).collect())
}

/// Copies a template, holes included, unless the disk is there already.
pub(crate) fn copy(template: &Path, to: &Path) -> io::Result<()> {
    if to.exists() {
        return Ok(());
    }
    let half = to.with_extension("half");
    files::remove(&half)?;
    let source = File::open(template)?;
    let target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&half)?;
    copy_all(&source, &target)?;
    durable::failpoint("disk", "copied");
    durable::move_to("disk", &half, to)
}

/// Refuses to go on without a disk that a guest has used: an empty one in its place
/// would be found only when what was on it is missed.
pub(crate) fn must_be_there(path: &Path) -> Result<(), DriverFailure> {
    let lost = |how: &str| {
        DriverFailure::Missing(format!(
            "{} is {how}: put it back from a backup, or give the agent up by a stop",
            path.display()
        ))
    };
    match path.metadata() {
        Ok(data) if data.len() > 0 => Ok(()),
        Ok(_) => Err(lost("empty")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(lost("gone")),
        Err(error) => Err(error.into()),
    }
}

/// Holds a disk for one VMM. The lock lies on the open file itself: it passes to the
/// VMM with it, and ends when the last process has closed it.
pub(crate) fn claim(disk: &File, path: &Path) -> Result<(), DriverFailure> {
    let until = Instant::now() + CLAIM_LIMIT;
    loop {
        match flock(disk, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) if files::same(disk, path)? => return Ok(()),
            // What is written to it nobody finds again.
            Ok(()) => {
                return Err(DriverFailure::Taken(format!(
                    "{} was put back or moved just now: try again",
                    path.display()
                )));
            }
            // A process that is just being started holds all that its parent had open.
            Err(Errno::WOULDBLOCK) if Instant::now() < until => thread::sleep(CLAIM_AGAIN),
            Err(Errno::WOULDBLOCK) => {
                return Err(DriverFailure::Taken(format!(
                    "{} is written to by another VMM: end that one first",
                    path.display()
                )));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Refuses to let go of disks that a VMM still writes to.
pub(crate) fn must_be_free(dir: &Path) -> Result<(), DriverFailure> {
    for name in names(dir)? {
        let path = dir.join(name);
        claim(&File::open(&path)?, &path)?;
    }
    Ok(())
}

/// Copies a disk to a new file, holes included; where the file system can do that, both share
/// their blocks.
pub(crate) fn copy_all(source: &File, target: &File) -> io::Result<()> {
    if ioctl_ficlone(target, source).is_ok() { Ok(()) } else { copy_data(source, target) }
}

fn copy_data(source: &File, target: &File) -> io::Result<()> {
    target.set_len(source.metadata()?.len())?;
    extents(source)?.into_iter().try_for_each(|(start, end)| copy_range(source, target, start, end))
}

/// Where a file has something: from, and to.
fn extents(file: &File) -> io::Result<Vec<(u64, u64)>> {
    let (length, mut at, mut found) = (file.metadata()?.len(), 0, Vec::new());
    while at < length {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Only a hole is left.
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        at = seek(file, SeekFrom::Hole(start))?;
        found.push((start, at));
    }
    Ok(found)
}

fn copy_range(source: &File, target: &File, mut at: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
        let read = source.read_at(&mut buffer[..want], at)?;
        if read == 0 {
            break;
        }
        target.write_all_at(&buffer[..read], at)?;
        at += read as u64;
    }
    Ok(())
}

/// Free space for unprivileged writers, in MiB.
pub(crate) fn free_mib(path: &Path) -> io::Result<u64> {
    let stat = statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize) / MIB)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_copy_has_the_data_and_the_holes_of_its_template() {
        let dir = tempfile::tempdir().unwrap();
        let template = template(dir.path(), 64).unwrap();
        let disk = dir.path().join("layer");
        copy(&template, &disk).unwrap();
        assert!(fs::read(&template).unwrap() == fs::read(&disk).unwrap());
        let meta = fs::metadata(&disk).unwrap();
        assert_eq!(meta.mode() & 0o777, 0o600);
        assert!(meta.blocks() * 512 < 8 * MIB, "{} bytes on disk", meta.blocks() * 512);
    }

    #[test]
    fn a_disk_is_as_made_until_a_byte_of_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("data.ext4");
        let made = || is_as_made(dir.path(), &disk).unwrap();
        let template = template(dir.path(), 64).unwrap();
        copy(&template, &disk).unwrap();
        assert!(made());
        let file = OpenOptions::new().read(true).write(true).open(&disk).unwrap();
        // In a hole, at the end, and where the template has something.
        for at in [40 * MIB + 5, 64 * MIB - 1, 1024] {
            let mut before = [0];
            file.read_exact_at(&mut before, at).unwrap();
            file.write_all_at(&[!before[0]], at).unwrap();
            assert!(!made(), "{at}");
            file.write_all_at(&before, at).unwrap();
            assert!(made(), "{at}");
        }
        // What is empty where the template has its file system is no empty disk.
        file.set_len(0).unwrap();
        file.set_len(64 * MIB).unwrap();
        assert!(!made());
        fs::remove_file(template).unwrap();
        assert!(!made(), "nobody knows");
    }

    #[test]
    fn a_disk_that_has_lost_its_place_to_another_is_nobodys() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, other) = (dir.path().join("data.ext4"), dir.path().join("data.half"));
        fs::write(&disk, "before").unwrap();
        fs::write(&other, "put back").unwrap();
        // As whoever opens it while it is put back, and waits for who does that.
        let opened = File::open(&disk).unwrap();
        fs::rename(&other, &disk).unwrap();
        assert!(matches!(claim(&opened, &disk), Err(DriverFailure::Taken(why)) if why.contains("put back")));
        claim(&File::open(&disk).unwrap(), &disk).unwrap();
        fs::remove_file(&disk).unwrap();
        assert!(matches!(claim(&opened, &disk), Err(DriverFailure::Taken(_))));
    }

    #[test]
    fn a_disk_that_is_there_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("layer");
        fs::write(&disk, "data of before").unwrap();
        copy(&template(dir.path(), 64).unwrap(), &disk).unwrap();
        assert_eq!(fs::read(&disk).unwrap(), b"data of before");
    }
}
