//! The heads of a tar archive, as GNU tar, BSD's and Python's write them: with extended headers, long
//! names and sparse files. They are read here, not by a library: that would hold as many of their bytes as
//! an archive likes, and fill the holes of files with zeros.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;

use bytes::{Buf as _, Bytes};
use rustix::fs::Timespec;
use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};
use tokio::sync::mpsc;

use super::attributes;
use super::error::FileError;
use super::pax;
use super::upload::Piece;

const BLOCK: usize = 512;
const MODE: u32 = 0o7777;
/// Extended headers and long names of one entry.
const MAX_HEADS: u32 = 4;
/// Parts of one sparse file.
const MAX_PARTS: usize = 1_000_000;
/// Digits of a number in the list of these.
const MAX_DIGITS: usize = 20;
/// Bytes that may follow an archive's end: a tape's record has more blocks than it.
const MAX_REST: u64 = 16 * 1024 * 1024;
/// Bytes of a name that are told.
const SHOWN: usize = 512;

pub(super) fn bad(said: impl Into<String>) -> FileError {
    FileError::Unpackable(said.into())
}

pub(super) fn shown(name: &[u8]) -> String {
    wire::printable(&String::from_utf8_lossy(name), SHOWN)
}

/// How long a sparse file is, and which parts of it (where, how long) are in the archive, one after the other.
pub(super) type SparseMap = (u64, Vec<(u64, u64)>);

/// The bytes of an archive, as they come.
pub(super) struct Source {
    pieces: mpsc::Receiver<Piece>,
    held: Bytes,
    ended: bool,
    /// How many were taken.
    pub(super) at: u64,
}

impl Source {
    /// Of these pieces.
    pub(super) fn new(pieces: mpsc::Receiver<Piece>) -> Self {
        Self { pieces, held: Bytes::new(), ended: false, at: 0 }
    }

    /// The next bytes, so many at most; none at the end.
    pub(super) fn take(&mut self, most: u64) -> Result<Bytes, FileError> {
        while self.held.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Piece::Bytes(bytes)) => self.held = bytes,
                Some(Piece::End) => self.ended = true,
                None => return Err(FileError::BrokenOff("its end did not come")),
            }
        }
        let length = usize::try_from(most).map_or(self.held.len(), |most| most.min(self.held.len()));
        self.at += length as u64;
        Ok(self.held.split_to(length))
    }

    /// So many bytes, and no less.
    fn exact(&mut self, buffer: &mut [u8]) -> Result<(), FileError> {
        let mut filled = 0;
        while filled < buffer.len() {
            let mut bytes = self.take((buffer.len() - filled) as u64)?;
            if bytes.is_empty() {
                return Err(bad(format!("the archive is cut off at byte {}", self.at)));
            }
            let length = bytes.len();
            bytes.copy_to_slice(&mut buffer[filled..filled + length]);
            filled += length;
        }
        Ok(())
    }

    /// A head that is held: so many bytes, and what fills their last block.
    fn held(&mut self, length: u64, what: &str) -> Result<Vec<u8>, FileError> {
        if length > pax::MAX_HEAD {
            let said = format!("{what} at byte {} has {length} bytes, of {} at most", self.at, pax::MAX_HEAD);
            return Err(bad(said));
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        self.exact(&mut bytes)?;
        self.pad(length)?;
        Ok(bytes)
    }

    /// What fills the last block of so many bytes.
    pub(super) fn pad(&mut self, length: u64) -> Result<(), FileError> {
        let mut padding = [0; BLOCK];
        let rest = usize::try_from(length % BLOCK as u64).unwrap_or(0);
        if rest > 0 { self.exact(&mut padding[rest..]) } else { Ok(()) }
    }

    /// Nothing follows but what fills a tape's record.
    pub(super) fn must_end(&mut self) -> Result<(), FileError> {
        let mut rest = 0;
        loop {
            let bytes = self.take(u64::MAX)?;
            if bytes.is_empty() {
                return Ok(());
            }
            rest += bytes.len() as u64;
            if rest > MAX_REST {
                return Err(bad(format!("more than {MAX_REST} bytes follow the archive's end")));
            }
        }
    }
}

/// What is told of an entry.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) kind: EntryType,
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) modified: Timespec,
    pub(super) attributes: Vec<(CString, Vec<u8>)>,
    /// Of a device: its numbers.
    pub(super) device: Option<(u32, u32)>,
    /// Bytes of it in the archive.
    pub(super) stored: u64,
    /// Its size, and which bytes are there, where some are not.
    pub(super) sparse: Option<SparseMap>,
}

/// What extended headers and long names say of the entry that follows.
#[derive(Default)]
struct Said {
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    /// How many of them there were.
    heads: u32,
}

/// The next entry; none at the archive's end.
pub(super) fn next(source: &mut Source) -> Result<Option<Entry>, FileError> {
    let mut said = Said::default();
    loop {
        let at = source.at;
        let mut block = [0; BLOCK];
        source.exact(&mut block)?;
        if block.iter().all(|byte| *byte == 0) {
            return if said.heads == 0 { Ok(None) } else { Err(bad("the archive ends with a head of no entry")) };
        }
        let header = Header::from_byte_slice(&block);
        if !is_whole(&block, header) {
            let said = format!("at byte {at} of the archive is no header of tar; is it another format, or damaged?");
            return Err(bad(said));
        }
        let number = |read: io::Result<u64>, what: &str| {
            read.map_err(|_| bad(format!("the header at byte {at} of the archive has no {what}")))
        };
        let stored = number(header.entry_size(), "size")?;
        match header.entry_type() {
            EntryType::XHeader => {
                let bytes = source.held(stored, "an extended header")?;
                let records = pax::records(&bytes);
                let records = records.ok_or_else(|| bad(format!("the extended header at byte {at} cannot be read")))?;
                said.records.extend(records.into_iter().map(|(key, value)| (key.to_vec(), value.to_vec())));
            }
            EntryType::XGlobalHeader => {
                let bytes = source.held(stored, "a global header")?;
                global(&bytes, at)?;
                continue;
            }
            EntryType::GNULongName => said.path = Some(text(source.held(stored, "a long name")?)),
            EntryType::GNULongLink => said.link = Some(text(source.held(stored, "a long name")?)),
            _ => return entry(header, stored, said, source).map(Some),
        }
        said.heads += 1;
        if said.heads > MAX_HEADS {
            return Err(bad(format!("too many heads of one entry, up to byte {at}")));
        }
    }
}

fn is_whole(block: &[u8; BLOCK], header: &Header) -> bool {
    let sum: u32 = block[..148].iter().chain(&block[156..]).map(|byte| u32::from(*byte)).sum();
    header.cksum().is_ok_and(|cksum| cksum == sum + 8 * u32::from(b' '))
}

/// A header of all entries after it: what it may say is a comment.
fn global(bytes: &[u8], at: u64) -> Result<(), FileError> {
    let records = pax::records(bytes).ok_or_else(|| bad(format!("the global header at byte {at} cannot be read")))?;
    let of_all = |key: &[u8]| matches!(key, b"path" | b"linkpath" | b"size" | b"uid" | b"gid" | b"mtime");
    match records.into_iter().find(|(key, _)| of_all(key) || key.starts_with(b"GNU.") || key.starts_with(pax::XATTR)) {
        Some((key, _)) => Err(bad(format!("the global header at byte {at} says {} of all entries", shown(key)))),
        None => Ok(()),
    }
}

/// A name that ends where a NUL is.
fn text(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    bytes
}

fn entry(header: &Header, stored: u64, said: Said, source: &mut Source) -> Result<Entry, FileError> {
    let Said { mut records, path, link, .. } = said;
    let sparse_name = records.remove(b"GNU.sparse.name".as_slice());
    let path = sparse_name.or(records.remove(b"path".as_slice())).or(path);
    let path = path.unwrap_or_else(|| header.path_bytes().into_owned());
    let link = records.remove(b"linkpath".as_slice()).or(link);
    let link = link.or_else(|| header.link_name_bytes().map(|link| link.into_owned())).unwrap_or_default();
    let odd = |what: &str| bad(format!("{}: its {what} cannot be read", shown(&path)));
    let number = |key: &[u8], what: &str| {
        let value = records.get(key).map(|value| std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()));
        value.map(|value: Option<u64>| value.ok_or_else(|| odd(what))).transpose()
    };
    let stored = number(b"size", "size")?.unwrap_or(stored);
    let uid = number(b"uid", "owner")?.map_or_else(|| header.uid().map_err(|_| odd("owner")), Ok)?;
    let gid = number(b"gid", "group")?.map_or_else(|| header.gid().map_err(|_| odd("group")), Ok)?;
    let (seconds, nanoseconds) = match records.get(b"mtime".as_slice()) {
        Some(time) => pax::time(time).ok_or_else(|| odd("time"))?,
        None => (i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0), 0),
    };
    let mut kind = header.entry_type();
    // Old archives have folders whose names end so.
    if matches!(kind, EntryType::Regular) && path.ends_with(b"/") {
        kind = EntryType::Directory;
    }
    let real = number(b"GNU.sparse.realsize", "size")?;
    let sparse = match (kind, records.get(b"GNU.sparse.major".as_slice()).map(Vec::as_slice), real) {
        (EntryType::GNUSparse, ..) => Some(old_sparse(header, stored, source).map_err(|why| of(&path, why))?),
        (_, Some(b"1"), Some(real)) => Some((real, Vec::new())),
        (_, None, _) if !records.keys().any(|key| key.starts_with(b"GNU.sparse.")) => None,
        _ => {
            let said = "it is sparse in a form that is not read; make the archive with --sparse-version=1.0";
            return Err(bad(format!("{}: {said}", shown(&path))));
        }
    };
    let xattr = |(key, value): (Vec<u8>, Vec<u8>)| {
        let name = CString::new(key.strip_prefix(pax::XATTR)?).ok()?;
        (name.as_c_str() != attributes::IMPORT).then_some((name, value))
    };
    let id = |id: u64, what: &str| u32::try_from(id).ok().filter(|id| *id != u32::MAX).ok_or_else(|| odd(what));
    let device = header.device_major().ok().flatten().zip(header.device_minor().ok().flatten());
    Ok(Entry {
        kind,
        device,
        uid: id(uid, "owner")?,
        gid: id(gid, "group")?,
        mode: header.mode().map_err(|_| odd("mode"))? & MODE,
        modified: Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() },
        stored,
        sparse,
        link,
        attributes: records.into_iter().filter_map(xattr).collect(),
        path,
    })
}

pub(super) fn of(path: &[u8], why: FileError) -> FileError {
    match why {
        FileError::Unpackable(why) => bad(format!("{}: {why}", shown(path))),
        why => why,
    }
}

/// The parts of a sparse file in GNU tar's own form: four in its header, more in blocks after it.
fn old_sparse(header: &Header, stored: u64, source: &mut Source) -> Result<SparseMap, FileError> {
    let gnu = header.as_gnu().ok_or_else(|| bad("it is sparse, and no header of GNU tar"))?;
    let unread = |_| bad("the list of its parts cannot be read");
    let mut parts = Vec::new();
    let mut add = |slots: &[GnuSparseHeader]| {
        for slot in slots.iter().filter(|slot| !slot.is_empty()) {
            if parts.len() == MAX_PARTS {
                return Err(bad(format!("it has more than {MAX_PARTS} parts")));
            }
            parts.push((slot.offset().map_err(unread)?, slot.length().map_err(unread)?));
        }
        Ok(())
    };
    add(&gnu.sparse)?;
    let mut goes_on = gnu.is_extended();
    while goes_on {
        let mut more = GnuExtSparseHeader::new();
        source.exact(more.as_mut_bytes())?;
        add(more.sparse())?;
        goes_on = more.is_extended();
    }
    let real = gnu.real_size().map_err(unread)?;
    checked(real, stored, parts)
}

/// The list at the head of the bytes of a sparse file in the form of extended headers; with it, how many
/// bytes of the archive it takes.
pub(super) fn new_sparse(real: u64, stored: u64, source: &mut Source) -> Result<(SparseMap, u64), FileError> {
    let (mut numbers, mut held, mut taken) = (Vec::new(), Vec::new(), 0_u64);
    let mut wanted = 1;
    while numbers.len() < wanted {
        let mut block = [0; BLOCK];
        taken += BLOCK as u64;
        if taken > stored {
            return Err(bad("the list of its parts is longer than it"));
        }
        source.exact(&mut block)?;
        for byte in block {
            match byte {
                b'\n' if numbers.len() < wanted => {
                    let number = std::str::from_utf8(&held).ok().and_then(|text| text.parse::<u64>().ok());
                    numbers.push(number.ok_or_else(|| bad("the list of its parts cannot be read"))?);
                    held.clear();
                    if let [count] = numbers[..] {
                        let count = usize::try_from(count).ok().filter(|count| *count <= MAX_PARTS);
                        wanted = 1 + 2 * count.ok_or_else(|| bad(format!("it has more than {MAX_PARTS} parts")))?;
                    }
                }
                byte if numbers.len() < wanted && held.len() < MAX_DIGITS => held.push(byte),
                _ => {}
            }
        }
    }
    let parts = numbers[1..].chunks_exact(2).map(|part| (part[0], part[1])).collect();
    Ok((checked(real, stored - taken, parts)?, taken))
}

/// Parts that lie one after the other in a file of this size, and are as many bytes as are there.
fn checked(real: u64, stored: u64, parts: Vec<(u64, u64)>) -> Result<SparseMap, FileError> {
    let (mut end, mut sum) = (0, 0_u64);
    for (offset, length) in &parts {
        let ends = offset.checked_add(*length).filter(|ends| *offset >= end && *ends <= real);
        end = ends.ok_or_else(|| bad("its parts lie over each other, or beyond its end"))?;
        sum += length;
    }
    if sum == stored { Ok((real, parts)) } else { Err(bad("its parts are not as many bytes as it has")) }
}
