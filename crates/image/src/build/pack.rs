//! A layer's archive of what changed in a root: sorted, without a clock or a machine in it.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use tar::{Builder, EntryType, Header};

use super::BuildError;
use super::root::{Change, FileKind, SHIFT, SeenFile};
use crate::layer::{FileCapabilities, SHIFTED_IDS};
use crate::{ImageError, Progress};

/// The name before which a whiteout stands.
const WHITEOUT: &[u8] = b".wh.";

/// Whose the files are in the layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owners {
    /// Who they are in the root, without the shift.
    Shifted,
    /// All are root's.
    Root,
}

impl Owners {
    fn of(self, path: &Path, file: &SeenFile) -> Result<(u64, u64), ImageError> {
        let id = |id: u32| id.checked_sub(SHIFT).filter(|id| *id < SHIFTED_IDS).map(u64::from);
        let why = "is owned by a user who is not the image's";
        match self {
            Self::Root => Ok((0, 0)),
            Self::Shifted => match (id(file.uid), id(file.gid)) {
                (Some(uid), Some(gid)) => Ok((uid, gid)),
                _ => Err(BuildError::Tree { path: path.to_owned(), why }.into()),
            },
        }
    }
}

/// Writes the changes below `root` as an archive, at `prefix` in the image. No time in it
/// is after `epoch`.
pub(super) fn pack(
    root: &Path,
    changes: &BTreeMap<PathBuf, Change>,
    prefix: &Path,
    (owners, epoch): (Owners, i64),
    to: &mut File,
    progress: &dyn Progress,
) -> Result<(), ImageError> {
    let mut packer = Packer { archive: Builder::new(to), root, prefix, owners, epoch, names: HashMap::new(), progress };
    for (path, change) in changes {
        match change {
            Change::Gone => packer.whiteout(path)?,
            Change::Put(file) => packer.put(path, file)?,
        }
    }
    packer.archive.into_inner().and_then(|file| file.flush()).map_err(BuildError::io("write the layer"))?;
    Ok(())
}

/// So many bytes have the files of the changes.
pub(super) fn bytes(changes: &BTreeMap<PathBuf, Change>) -> u64 {
    let size = |change: &Change| match change {
        Change::Put(file) if file.kind == FileKind::File => file.size,
        Change::Put(_) | Change::Gone => 0,
    };
    changes.values().map(size).sum()
}

struct Packer<'a> {
    archive: Builder<&'a mut File>,
    root: &'a Path,
    prefix: &'a Path,
    owners: Owners,
    epoch: i64,
    /// The first name of each file that has several.
    names: HashMap<u64, PathBuf>,
    progress: &'a dyn Progress,
}

impl Packer<'_> {
    fn whiteout(&mut self, path: &Path) -> Result<(), ImageError> {
        let name = [WHITEOUT, path.file_name().unwrap_or_default().as_bytes()].concat();
        let path = self.prefix.join(path.with_file_name(OsStr::from_bytes(&name)));
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_size(0);
        self.archive.append_data(&mut header, &path, io::empty()).map_err(failed("pack", &path))
    }

    fn put(&mut self, path: &Path, file: &SeenFile) -> Result<(), ImageError> {
        let (uid, gid) = self.owners.of(path, file)?;
        let mut header = Header::new_gnu();
        header.set_mode(file.mode);
        header.set_uid(uid);
        header.set_gid(gid);
        header.set_mtime(u64::try_from(file.mtime.min(self.epoch)).unwrap_or_default());
        header.set_size(0);
        let full = self.root.join(path);
        let place = self.prefix.join(path);
        match file.kind {
            FileKind::Directory => {
                header.set_entry_type(EntryType::Directory);
                self.archive.append_data(&mut header, &place, io::empty()).map_err(failed("pack", &full))
            }
            FileKind::Symlink => {
                header.set_entry_type(EntryType::Symlink);
                let target = fs::read_link(&full).map_err(failed("read", &full))?;
                self.archive.append_link(&mut header, &place, target).map_err(failed("pack", &full))
            }
            FileKind::File => self.file(&place, &full, file, header),
            FileKind::Other => {
                self.progress.warn(&format!("{} is a device, pipe or socket: left out", path.display()));
                Ok(())
            }
        }
    }

    fn file(&mut self, place: &Path, full: &Path, file: &SeenFile, mut header: Header) -> Result<(), ImageError> {
        if file.links > 1
            && let Some(first) = self.names.get(&file.inode)
        {
            header.set_entry_type(EntryType::Link);
            return self.archive.append_link(&mut header, place, first).map_err(failed("pack", full));
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = rustix::fs::open(full, flags, Mode::empty()).map_err(|errno| failed("open", full)(errno.into()))?;
        let open = File::from(open);
        if let Some(granted) = FileCapabilities::of(&open).map_err(failed("read the capabilities of", full))? {
            let key = String::from_utf8_lossy(FileCapabilities::RECORD).into_owned();
            let records = [(key.as_str(), granted.value())];
            self.archive.append_pax_extensions(records).map_err(failed("pack", full))?;
        }
        header.set_size(file.size);
        // As many bytes as were announced, whatever happens to the file.
        let mut content = Told { from: open.take(file.size), left: file.size, to: self.progress };
        self.archive.append_data(&mut header, place, &mut content).map_err(failed("pack", full))?;
        if content.left > 0 {
            return Err(failed("pack", full)(io::Error::other("it became shorter while it was read")));
        }
        if file.links > 1 {
            self.names.insert(file.inode, place.to_owned());
        }
        Ok(())
    }
}

fn failed<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> ImageError + 'a {
    move |source| ImageError::file(what, path, source)
}

/// A reader that tells how much of it has been read.
struct Told<'a, R> {
    from: R,
    left: u64,
    to: &'a dyn Progress,
}

impl<R: Read> Read for Told<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(into)?;
        self.left -= read as u64;
        self.to.advance(read as u64);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::NoProgress;
    use crate::build::root::{changes, tree};

    fn packed(root: &Path, epoch: i64) -> Vec<u8> {
        let all = changes(&BTreeMap::new(), &tree(root, 1000).unwrap());
        let mut file = tempfile::tempfile().unwrap();
        pack(root, &all, Path::new("at"), (Owners::Root, epoch), &mut file, &NoProgress).unwrap();
        let mut bytes = Vec::new();
        io::Seek::rewind(&mut file).unwrap();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    }

    fn made(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            fs::create_dir_all(dir.path().join(name).parent().unwrap()).unwrap();
            fs::write(dir.path().join(name), name).unwrap();
        }
        dir
    }

    #[test]
    fn the_same_files_give_the_same_bytes_in_whatever_order_and_whenever_they_were_made() {
        let (one, two) = (made(&["b/x", "a", "b/a"]), made(&["b/a", "b/x", "a"]));
        File::open(two.path().join("a")).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
        assert_eq!(packed(one.path(), 1000), packed(two.path(), 1000));
        assert_ne!(packed(one.path(), 1000), packed(one.path(), 0));
    }

    #[test]
    fn a_layer_has_modes_links_and_long_names_and_sockets_are_left_out() {
        let long = format!("{}/{}", "d".repeat(150), "f".repeat(200));
        let dir = made(&["su", &long]);
        let path = |name: &str| dir.path().join(name);
        fs::set_permissions(path("su"), fs::Permissions::from_mode(0o4755)).unwrap();
        fs::hard_link(path("su"), path("twin")).unwrap();
        std::os::unix::fs::symlink("su", path("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        let bytes = packed(dir.path(), 0);
        let mut archive = tar::Archive::new(&bytes[..]);
        let entries = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let head = entry.header();
            (
                entry.path().unwrap().display().to_string(),
                head.entry_type(),
                head.mode().unwrap(),
                head.mtime().unwrap(),
            )
        });
        let entries: Vec<_> = entries.collect();
        assert!(entries.contains(&("at/su".into(), EntryType::Regular, 0o4755, 0)), "{entries:?}");
        assert!(entries.contains(&("at/twin".into(), EntryType::Link, 0o4755, 0)), "{entries:?}");
        assert!(entries.iter().any(|(name, ..)| *name == format!("at/{long}")), "{entries:?}");
        assert!(!entries.iter().any(|(name, ..)| name.contains("socket")), "{entries:?}");
    }

    #[test]
    fn what_is_gone_is_a_whiteout_and_a_strange_owner_is_refused() {
        let dir = made(&["d/a"]);
        let before = tree(dir.path(), 10).unwrap();
        fs::remove_file(dir.path().join("d/a")).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        let gone = changes(&before, &tree(dir.path(), 10).unwrap());
        pack(dir.path(), &gone, Path::new(""), (Owners::Root, 0), &mut file, &NoProgress).unwrap();
        io::Seek::rewind(&mut file).unwrap();
        let mut archive = tar::Archive::new(file);
        let names: Vec<_> =
            archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned()).collect();
        assert_eq!(names, [Path::new("d/.wh.a")]);
        let all = changes(&BTreeMap::new(), &before);
        let strange = pack(
            dir.path(),
            &all,
            Path::new(""),
            (Owners::Shifted, 0),
            &mut tempfile::tempfile().unwrap(),
            &NoProgress,
        );
        assert!(strange.unwrap_err().to_string().contains("who is not the image's"));
    }
}
