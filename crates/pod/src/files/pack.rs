//! A tree as an archive: POSIX tar with extended headers, sparse files as GNU tar keeps them.
//!
//! Names, modes, owners, times, links of both kinds, attributes and holes are in it; a device, a
//! socket and what lies in `lost+found` are not, and counted. The tree is walked twice in the order of
//! its names: first for the length and a tag, then for the bytes. So what is sent has a size before, and
//! one that broke off goes on anywhere: the bytes before are counted again, and no file is read for them.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::hash::{DefaultHasher, Hasher as _};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::{CWD, Mode, OFlags, SeekFrom, openat, seek};
use rustix::io::Errno;
use tar::{EntryType, GnuExtSparseHeader, Header};
use tokio::sync::mpsc;

use super::attributes::{self, Attributes};
use super::error::FileError;
use super::pax;
use super::staging::{LOST_AND_FOUND, STAGING};

const BLOCK: u64 = 512;
/// Bytes of the two blocks of zeros that end an archive.
const END: usize = 1024;
/// What of a mode is kept.
const MODE: u32 = 0o7777;
/// Names of one folder: they are sorted in memory.
const MAX_NAMES: usize = 1_000_000;
/// Files with several names, which are remembered until the end.
const MAX_LINKED: usize = 500_000;
/// Bytes that are sent at once.
const PIECE: usize = 128 * 1024;
/// Bytes of a path that stand in a header without an extended one.
const SHORT: usize = 100;
/// Blocks that `stat` counts in.
const STAT_BLOCK: u64 = 512;

/// An archive before its first byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ArchivePlan {
    /// Its bytes.
    pub(crate) length: u64,
    /// Another tree has another one.
    pub(crate) tag: String,
    /// Files, folders and links.
    pub(crate) entries: u64,
    /// What is not in it.
    pub(crate) left_out: u64,
}

/// Where the parts of an archive go.
trait Target {
    /// Headers, and what else is made here.
    fn head(&mut self, bytes: &[u8]) -> Result<(), FileError>;
    /// What an entry is like, beyond its header.
    fn note(&mut self, found: &Metadata);
    /// Parts of a file.
    fn data(&mut self, path: &Path, parts: &[Part]) -> Result<(), FileError>;
}

/// A part of a file that is no hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    offset: u64,
    length: u64,
}

/// Measures the archive of a tree. `size_mib` is that of its disk, and stands at the archive's head.
pub(super) fn plan(root: &Path, size_mib: Option<u64>) -> Result<ArchivePlan, FileError> {
    let mut measure = Measure { length: 0, hasher: DefaultHasher::new() };
    let counted = pack(root, size_mib, &mut measure)?;
    let tag = format!("\"{:x}-{:016x}\"", measure.length, measure.hasher.finish());
    Ok(ArchivePlan { length: measure.length, tag, entries: counted.entries, left_out: counted.left_out })
}

/// Sends the archive that was measured, from this byte on. What ends early is cut off at its receiver.
pub(super) fn send(
    root: &Path,
    size_mib: Option<u64>,
    plan: &ArchivePlan,
    from: u64,
    pieces: mpsc::Sender<io::Result<Bytes>>,
) {
    let mut sending = Sending { pieces, skip: from, left: plan.length, held: Vec::new() };
    let done = pack(root, size_mib, &mut sending).and_then(|_| sending.finish());
    if let Err(error) = done {
        // Whoever does not listen any more does not hear it.
        let _ = sending.pieces.blocking_send(Err(io::Error::other(error)));
    }
}

struct Counted {
    entries: u64,
    left_out: u64,
}

fn pack(root: &Path, size_mib: Option<u64>, target: &mut dyn Target) -> Result<Counted, FileError> {
    if let Some(size_mib) = size_mib {
        let mut records = Vec::new();
        pax::push(&mut records, b"comment", wire::content::archive_comment(size_mib).as_bytes());
        extended(EntryType::XGlobalHeader, &records, target)?;
    }
    let mut packing = Packing { root, linked: HashMap::new(), counted: Counted { entries: 0, left_out: 0 } };
    packing.entry(Path::new(""), target)?;
    let mut folders = vec![(PathBuf::new(), names(root, Path::new(""))?.into_iter())];
    while let Some((folder, left)) = folders.last_mut() {
        let Some(name) = left.next() else {
            folders.pop();
            continue;
        };
        let path = folder.join(&name);
        let is_top = folder.as_os_str().is_empty();
        if is_top && name == STAGING {
            continue;
        }
        if is_top && name == LOST_AND_FOUND {
            packing.counted.left_out += names(root, &path).map_or(0, |names| names.len() as u64);
            continue;
        }
        if packing.entry(&path, target)? {
            let within = names(root, &path)?.into_iter();
            folders.push((path, within));
        }
    }
    target.head(&[0; END])?;
    Ok(packing.counted)
}

struct Packing<'a> {
    root: &'a Path,
    /// Files that have several names, and the first of these.
    linked: HashMap<(u64, u64), PathBuf>,
    counted: Counted,
}

impl Packing<'_> {
    /// Writes one entry; whether it is a folder.
    fn entry(&mut self, path: &Path, target: &mut dyn Target) -> Result<bool, FileError> {
        let at = self.root.join(path);
        let found = fs::symlink_metadata(&at).map_err(|error| wrong(path, error))?;
        let kind = found.file_type();
        let mut entry = Entry::new(path, &found);
        if kind.is_file() && found.nlink() > 1 {
            let known = self.linked.get(&(found.dev(), found.ino())).cloned();
            match known {
                Some(first) => entry.link(EntryType::Link, first.as_os_str()),
                None if self.linked.len() == MAX_LINKED => {
                    return Err(FileError::Unpackable(format!("more than {MAX_LINKED} files have several names")));
                }
                None => drop(self.linked.insert((found.dev(), found.ino()), path.to_owned())),
            }
        }
        let mut parts = Vec::new();
        if kind.is_dir() {
            entry.kind = EntryType::Directory;
            entry.attributes = attributes::read_of(&at).map_err(|error| wrong(path, error))?;
        } else if kind.is_symlink() {
            let to = fs::read_link(&at).map_err(|error| wrong(path, error))?;
            entry.link(EntryType::Symlink, to.as_os_str());
        } else if kind.is_file() && entry.kind == EntryType::Regular {
            entry.attributes = attributes::read_of(&at).map_err(|error| wrong(path, error))?;
            parts = parts_of(&at, &found).map_err(|error| wrong(path, error))?;
            entry.size(found.len(), &parts);
        } else if kind.is_fifo() {
            entry.kind = EntryType::Fifo;
        } else if kind.is_char_device() && found.rdev() == 0 {
            // What an overlay has removed of the layer below it.
            entry.kind = EntryType::Char;
            let numbered = entry.header.set_device_major(0).and_then(|()| entry.header.set_device_minor(0));
            numbered.map_err(|error| wrong(path, error))?;
        } else if !kind.is_file() {
            self.counted.left_out += 1;
            return Ok(false);
        }
        self.counted.entries += 1;
        target.note(&found);
        entry.write(target)?;
        target.data(&at, &parts)?;
        Ok(kind.is_dir())
    }
}

/// One entry's header, and what does not fit into it.
struct Entry {
    header: Header,
    kind: EntryType,
    path: Vec<u8>,
    link: Vec<u8>,
    records: Vec<u8>,
    attributes: Attributes,
    /// Of a sparse file: the parts that follow the four in the header.
    more: Vec<Part>,
}

impl Entry {
    fn new(path: &Path, found: &Metadata) -> Self {
        let mut name = b"./".to_vec();
        name.extend_from_slice(path.as_os_str().as_bytes());
        if found.is_dir() && name.len() > 2 {
            name.push(b'/');
        }
        let mut header = Header::new_gnu();
        header.set_mode(found.mode() & MODE);
        header.set_uid(u64::from(found.uid()));
        header.set_gid(u64::from(found.gid()));
        header.set_mtime(u64::try_from(found.mtime()).unwrap_or(0));
        header.set_size(0);
        let mut records = Vec::new();
        let nanoseconds = u32::try_from(found.mtime_nsec()).unwrap_or(0);
        if found.mtime() < 0 || nanoseconds > 0 {
            pax::push(&mut records, b"mtime", pax::time_text(found.mtime(), nanoseconds).as_bytes());
        }
        let (link, attributes, more) = (Vec::new(), Attributes::default(), Vec::new());
        Self { header, kind: EntryType::Regular, path: name, link, records, attributes, more }
    }

    fn link(&mut self, kind: EntryType, to: &OsStr) {
        self.kind = kind;
        self.link = match kind {
            // Within the archive it is called as it is named in there.
            EntryType::Link => [b"./", to.as_bytes()].concat(),
            _ => to.as_bytes().to_vec(),
        };
    }

    /// A file of this size that has these parts.
    fn size(&mut self, size: u64, parts: &[Part]) {
        let stored: u64 = parts.iter().map(|part| part.length).sum();
        self.header.set_size(stored);
        if stored == size {
            return;
        }
        self.kind = EntryType::GNUSparse;
        // A hole at the end is told by an empty part there.
        let ends = parts.last().map_or(0, |part| part.offset + part.length);
        let end = (ends < size).then_some(Part { offset: size, length: 0 });
        let mut parts = parts.iter().copied().chain(end);
        if let Some(gnu) = self.header.as_gnu_mut() {
            for slot in &mut gnu.sparse {
                let Some(part) = parts.next() else { break };
                slot.set_offset(part.offset);
                slot.set_length(part.length);
            }
            self.more = parts.collect();
            gnu.set_is_extended(!self.more.is_empty());
            gnu.set_real_size(size);
        }
    }

    fn write(mut self, target: &mut dyn Target) -> Result<(), FileError> {
        for (name, value) in &self.attributes.0 {
            pax::push(&mut self.records, &[pax::XATTR, name.to_bytes()].concat(), value);
        }
        let Self { mut header, kind, path, link, mut records, more, .. } = self;
        header.set_entry_type(kind);
        if path.len() > SHORT {
            pax::push(&mut records, b"path", &path);
        }
        if link.len() > SHORT {
            pax::push(&mut records, b"linkpath", &link);
        }
        let old = header.as_old_mut();
        put(&mut old.name, &path);
        put(&mut old.linkname, &link);
        header.set_cksum();
        if !records.is_empty() {
            extended(EntryType::XHeader, &records, target)?;
        }
        target.head(header.as_bytes())?;
        for (at, parts) in more.chunks(21).enumerate() {
            let mut block = GnuExtSparseHeader::new();
            for (slot, part) in block.sparse_mut().iter_mut().zip(parts) {
                slot.set_offset(part.offset);
                slot.set_length(part.length);
            }
            block.set_is_extended((at + 1) * 21 < more.len());
            target.head(block.as_bytes())?;
        }
        Ok(())
    }
}

/// As much of a name as a header has room for.
fn put(field: &mut [u8; SHORT], name: &[u8]) {
    let length = name.len().min(SHORT);
    field[..length].copy_from_slice(&name[..length]);
}

/// An extended header, of the next entry or of all.
fn extended(kind: EntryType, records: &[u8], target: &mut dyn Target) -> Result<(), FileError> {
    let mut header = Header::new_gnu();
    put(&mut header.as_old_mut().name, b"./PaxHeaders/entry");
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(records.len() as u64);
    header.set_cksum();
    target.head(header.as_bytes())?;
    target.head(records)?;
    target.head(&vec![0; padding(records.len() as u64)])
}

fn padding(length: u64) -> usize {
    usize::try_from(length.next_multiple_of(BLOCK) - length).unwrap_or(0)
}

/// The names in a folder, in their order.
fn names(root: &Path, folder: &Path) -> Result<Vec<OsString>, FileError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(root.join(folder)).map_err(|error| wrong(folder, error))? {
        if names.len() == MAX_NAMES {
            let said = format!("there are more than {MAX_NAMES} names in {}", shown(folder));
            return Err(FileError::Unpackable(said));
        }
        names.push(entry.map_err(|error| wrong(folder, error))?.file_name());
    }
    names.sort_unstable();
    Ok(names)
}

/// The parts of a file that are no holes. One that takes all the room of its size has none.
fn parts_of(at: &Path, found: &Metadata) -> io::Result<Vec<Part>> {
    let size = found.len();
    if size == 0 {
        return Ok(Vec::new());
    }
    if found.blocks().saturating_mul(STAT_BLOCK) >= size {
        return Ok(vec![Part { offset: 0, length: size }]);
    }
    let file = open(at)?;
    let (mut parts, mut from) = (Vec::new(), 0);
    while from < size {
        let start = match seek(&file, SeekFrom::Data(from)) {
            Ok(start) => start,
            // Nothing but a hole is left.
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = seek(&file, SeekFrom::Hole(start))?.min(size);
        // Each part but the last fills whole blocks, as the form wants it.
        let start = start - start % BLOCK;
        let end = if end == size { end } else { end.next_multiple_of(BLOCK).min(size) };
        match parts.last_mut() {
            Some(Part { offset, length }) if *offset + *length >= start => *length = end - *offset,
            _ => parts.push(Part { offset: start, length: end - start }),
        }
        from = end;
    }
    Ok(parts)
}

fn open(at: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(openat(CWD, at, flags, Mode::empty())?.into())
}

fn wrong(path: &Path, error: io::Error) -> FileError {
    FileError::at(&shown(path))(error)
}

fn shown(path: &Path) -> String {
    format!("/{}", path.display())
}

/// Counts what an archive will have.
struct Measure {
    length: u64,
    hasher: DefaultHasher,
}

impl Target for Measure {
    fn head(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.length += bytes.len() as u64;
        self.hasher.write(bytes);
        Ok(())
    }

    fn note(&mut self, found: &Metadata) {
        for number in [found.ino(), found.ctime().cast_unsigned(), found.ctime_nsec().cast_unsigned()] {
            self.hasher.write_u64(number);
        }
    }

    fn data(&mut self, _: &Path, parts: &[Part]) -> Result<(), FileError> {
        let stored: u64 = parts.iter().map(|part| part.length).sum();
        self.length = self.length.saturating_add(stored.next_multiple_of(BLOCK));
        Ok(())
    }
}

/// Sends an archive to whoever reads it.
struct Sending {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    /// Bytes that are not sent.
    skip: u64,
    /// Bytes that are to come, the skipped ones too.
    left: u64,
    held: Vec<u8>,
}

impl Sending {
    fn push(&mut self, mut bytes: &[u8]) -> Result<(), FileError> {
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or(FileError::Changed)?;
        let skipped = usize::try_from(self.skip).map_or(bytes.len(), |skip| skip.min(bytes.len()));
        self.skip -= skipped as u64;
        bytes = &bytes[skipped..];
        while !bytes.is_empty() {
            let taken = bytes.len().min(PIECE - self.held.len());
            self.held.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if self.held.len() == PIECE {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), FileError> {
        let piece = Bytes::from(std::mem::take(&mut self.held));
        if piece.is_empty() {
            return Ok(());
        }
        self.pieces.blocking_send(Ok(piece)).map_err(|_| FileError::BrokenOff("nobody takes the archive any more"))
    }

    /// All of it was sent, and no byte less than was said.
    fn finish(&mut self) -> Result<(), FileError> {
        if self.left > 0 {
            return Err(FileError::Changed);
        }
        self.flush()
    }

    fn part(&mut self, file: &File, path: &Path, part: Part) -> Result<(), FileError> {
        let Part { mut offset, mut length } = part;
        let skipped = self.skip.min(length);
        self.left = self.left.checked_sub(skipped).ok_or(FileError::Changed)?;
        (self.skip, offset, length) = (self.skip - skipped, offset + skipped, length - skipped);
        let mut buffer = vec![0; PIECE];
        while length > 0 {
            let most = usize::try_from(length).map_or(PIECE, |length| length.min(PIECE));
            match file.read_at(&mut buffer[..most], offset) {
                Ok(0) => return Err(FileError::Changed),
                Ok(read) => {
                    self.push(&buffer[..read])?;
                    (offset, length) = (offset + read as u64, length - read as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(wrong(path, error)),
            }
        }
        Ok(())
    }
}

impl Target for Sending {
    fn head(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.push(bytes)
    }

    fn note(&mut self, _: &Metadata) {}

    fn data(&mut self, path: &Path, parts: &[Part]) -> Result<(), FileError> {
        let stored: u64 = parts.iter().map(|part| part.length).sum();
        if stored == 0 {
            return Ok(());
        }
        let padding = padding(stored);
        if self.skip >= stored {
            self.skip -= stored;
            self.left = self.left.checked_sub(stored).ok_or(FileError::Changed)?;
            return self.push(&vec![0; padding]);
        }
        let file = open(path).map_err(|error| wrong(path, error))?;
        for part in parts {
            self.part(&file, path, *part)?;
        }
        self.push(&vec![0; padding])
    }
}
