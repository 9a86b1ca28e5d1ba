//! One entry of an archive, with its extended headers read under our bounds.
//!
//! The archive library reads extended headers of any size into memory, so it is
//! asked for raw entries, and the headers are put together here.

use std::io::Read;

use tar::{Entry, EntryType, PaxExtensions};

use super::LayerError;
use super::root::Attributes;

/// Bytes of the extended headers of one entry at most.
const MAX_EXTENDED: u64 = 1 << 20;
/// Permissions that are kept; see the module's head.
const FILE_MODE: u32 = 0o1777;
const DIRECTORY_MODE: u32 = 0o3777;

/// What an entry is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum What {
    File,
    Directory,
    Symlink(Vec<u8>),
    Hardlink(Vec<u8>),
}

/// An entry's head.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) path: Vec<u8>,
    pub(super) what: What,
    pub(super) attributes: Attributes,
}

/// Extended headers that stand before the entry they are for.
#[derive(Default)]
pub(super) struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<i64>,
}

impl Extended {
    /// Takes a raw entry: an extended header is remembered, any other entry's
    /// head is returned.
    pub(super) fn take<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<Option<Head>, LayerError> {
        match entry.header().entry_type() {
            EntryType::GNULongName => self.path = Some(long_name(entry)?),
            EntryType::GNULongLink => self.link = Some(long_name(entry)?),
            EntryType::XHeader => self.records(&bytes(entry)?)?,
            // Global headers hold comments (git writes its commit here).
            EntryType::XGlobalHeader => drop(bytes(entry)?),
            _ => return std::mem::take(self).head(entry).map(Some),
        }
        Ok(None)
    }

    fn records(&mut self, records: &[u8]) -> Result<(), LayerError> {
        for record in PaxExtensions::new(records) {
            let record = record.map_err(malformed)?;
            let value = record.value_bytes();
            match record.key_bytes() {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"uid" => self.uid = Some(number(value)?),
                b"gid" => self.gid = Some(number(value)?),
                b"mtime" => self.mtime = Some(seconds(value)?),
                // The raw entry is as long as its plain header says; another
                // length here would make two readers see two archives.
                b"size" => return Err(LayerError::Malformed("a size in an extended header".into())),
                key if key.starts_with(b"GNU.sparse.") => return Err(LayerError::Malformed("a sparse file".into())),
                _ => {}
            }
        }
        Ok(())
    }

    fn head<R: Read>(self, entry: &Entry<'_, R>) -> Result<Head, LayerError> {
        let header = entry.header();
        let old = header.as_old();
        let path = self.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = self.link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned)).unwrap_or_default();
        let special = |kind| Err(LayerError::Special { path: super::error::shown(&path), kind });
        let what = match header.entry_type() {
            // Archives older than directories' own type mark them by a slash.
            EntryType::Regular if path.ends_with(b"/") => What::Directory,
            EntryType::Regular | EntryType::Continuous => What::File,
            EntryType::Directory => What::Directory,
            EntryType::Symlink => What::Symlink(link),
            EntryType::Link => What::Hardlink(link),
            EntryType::Char => return special("character device"),
            EntryType::Block => return special("block device"),
            EntryType::Fifo => return special("fifo"),
            EntryType::GNUSparse => return special("sparse file"),
            _ => return special("entry of unknown type"),
        };
        let kept = if what == What::Directory { DIRECTORY_MODE } else { FILE_MODE };
        let attributes = Attributes {
            mode: field(&old.mode, header.mode())? & kept,
            uid: id(self.uid.map_or_else(|| field(&old.uid, header.uid()), Ok)?)?,
            gid: id(self.gid.map_or_else(|| field(&old.gid, header.gid()), Ok)?)?,
            mtime: match self.mtime {
                Some(mtime) => mtime,
                None => i64::try_from(field(&old.mtime, header.mtime())?).map_err(malformed)?,
            },
        };
        Ok(Head { path, what, attributes })
    }
}

/// A number of a header. Left empty, it is zero, as to every other tool.
fn field<T: Default>(raw: &[u8], read: std::io::Result<T>) -> Result<T, LayerError> {
    match read {
        Err(_) if raw.iter().all(|byte| matches!(byte, 0 | b' ')) => Ok(T::default()),
        read => read.map_err(malformed),
    }
}

fn bytes<R: Read>(entry: &mut Entry<'_, R>) -> Result<Vec<u8>, LayerError> {
    if entry.size() > MAX_EXTENDED {
        return Err(LayerError::Malformed("an extended header of more than 1 MiB".into()));
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(malformed)?;
    Ok(bytes)
}

fn long_name<R: Read>(entry: &mut Entry<'_, R>) -> Result<Vec<u8>, LayerError> {
    let mut name = bytes(entry)?;
    if name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

fn malformed(why: impl ToString) -> LayerError {
    LayerError::Malformed(why.to_string())
}

fn number(value: &[u8]) -> Result<u64, LayerError> {
    std::str::from_utf8(value).map_err(malformed)?.parse().map_err(malformed)
}

/// Whole seconds of a time such as `1700000000.123`.
fn seconds(value: &[u8]) -> Result<i64, LayerError> {
    let text = std::str::from_utf8(value).map_err(malformed)?;
    text.split('.').next().unwrap_or(text).parse().map_err(malformed)
}

fn id(id: u64) -> Result<u32, LayerError> {
    // The last id means "leave as it is" to the kernel.
    u32::try_from(id).ok().filter(|id| *id != u32::MAX).ok_or_else(|| malformed("an owner's id is out of range"))
}
