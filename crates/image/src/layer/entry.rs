//! One entry of an archive, with its extended headers read under our bounds.
//!
//! As containers' own tools read them: a later record counts, an extended header's
//! size is the entry's, and links, directories and devices have no bytes whatever
//! their size says.

use std::io::Read;

use tar::{EntryType, Header, PaxExtensions};

use super::LayerError;
use super::archive::TarReader;
use super::capabilities::FileCapabilities;
use super::error::shown;
use super::root::Attributes;
use super::sparse::{self, SparseMap};

/// Bytes of the extended headers of one entry at most.
const MAX_EXTENDED: u64 = 1 << 20;
/// Permissions that are kept; see the module's head.
const MODE: u32 = 0o7777;

/// What an entry is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    File,
    /// A file with holes.
    Holes(SparseMap),
    Directory,
    Symlink(Vec<u8>),
    Hardlink(Vec<u8>),
    /// What no image may put into a guest.
    Device(&'static str),
}

/// An entry's head.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct EntryHeader {
    pub(super) path: Vec<u8>,
    pub(super) what: EntryKind,
    pub(super) attributes: Attributes,
    /// What a program may do beyond its user's rights.
    pub(super) capabilities: Option<FileCapabilities>,
}

/// Extended headers that stand before the entry they are for.
#[derive(Default)]
pub(super) struct ExtendedHeaders {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<i64>,
    size: Option<u64>,
    capabilities: Option<FileCapabilities>,
    sparse: sparse::SparseRecords,
}

impl ExtendedHeaders {
    /// Takes an entry: an extended header is remembered, any other entry's head is
    /// returned, and its bytes are opened.
    pub(super) fn take<R: Read>(
        &mut self,
        header: &Header,
        archive: &mut TarReader<R>,
    ) -> Result<Option<EntryHeader>, LayerError> {
        match header.entry_type() {
            EntryType::GNULongName => self.path = Some(long_name(header, archive)?),
            EntryType::GNULongLink => self.link = Some(long_name(header, archive)?),
            EntryType::XHeader => self.records(&bytes(header, archive)?)?,
            // Global headers hold comments (git writes its commit here).
            EntryType::XGlobalHeader => drop(bytes(header, archive)?),
            _ => return std::mem::take(self).head(header, archive).map(Some),
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
                b"size" => self.size = Some(number(value)?),
                FileCapabilities::RECORD => self.capabilities = Some(FileCapabilities::parse(value)?),
                key => {
                    if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                        self.sparse.take(key, value)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn head<R: Read>(mut self, header: &Header, archive: &mut TarReader<R>) -> Result<EntryHeader, LayerError> {
        let old = header.as_old();
        let path = self.sparse.name.take().or(self.path.take());
        let path = path.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = self.link.take();
        let link = link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned)).unwrap_or_default();
        let what = match header.entry_type() {
            // Archives older than directories' own type mark them by a slash.
            EntryType::Regular if path.ends_with(b"/") => EntryKind::Directory,
            EntryType::Regular | EntryType::Continuous => {
                archive.open(self.stored(header)?).map_err(read)?;
                std::mem::take(&mut self.sparse).map(archive)?.map_or(EntryKind::File, EntryKind::Holes)
            }
            EntryType::GNUSparse => EntryKind::Holes(sparse::map_of(header, self.stored(header)?, archive)?),
            EntryType::Directory => EntryKind::Directory,
            EntryType::Symlink => EntryKind::Symlink(link),
            EntryType::Link => EntryKind::Hardlink(link),
            EntryType::Char => EntryKind::Device("character device"),
            EntryType::Block => EntryKind::Device("block device"),
            EntryType::Fifo => EntryKind::Device("fifo"),
            kind => return Err(LayerError::Unknown { path: shown(&path), kind: char::from(kind.as_byte()) }),
        };
        let attributes = Attributes {
            mode: field(&old.mode, header.mode())? & MODE,
            uid: id(self.uid.map_or_else(|| field(&old.uid, header.uid()), Ok)?)?,
            gid: id(self.gid.map_or_else(|| field(&old.gid, header.gid()), Ok)?)?,
            mtime: match self.mtime {
                Some(mtime) => mtime,
                None => i64::try_from(field(&old.mtime, header.mtime())?).map_err(malformed)?,
            },
        };
        Ok(EntryHeader { path, what, attributes, capabilities: self.capabilities })
    }

    /// How many bytes the archive holds of a file.
    fn stored(&self, header: &Header) -> Result<u64, LayerError> {
        self.size.map_or_else(|| field(&header.as_old().size, header.entry_size()), Ok)
    }
}

/// A number of a header. Left empty, it is zero, as to every other tool.
fn field<T: Default>(raw: &[u8], read: std::io::Result<T>) -> Result<T, LayerError> {
    match read {
        Err(_) if raw.iter().all(|byte| matches!(byte, 0 | b' ')) => Ok(T::default()),
        read => read.map_err(malformed),
    }
}

fn bytes<R: Read>(header: &Header, archive: &mut TarReader<R>) -> Result<Vec<u8>, LayerError> {
    let size = header.entry_size().map_err(read)?;
    if size > MAX_EXTENDED {
        return Err(LayerError::Malformed("an extended header of more than 1 MiB".into()));
    }
    archive.open(size).map_err(read)?;
    let mut bytes = Vec::new();
    archive.read_to_end(&mut bytes).map_err(read)?;
    Ok(bytes)
}

fn long_name<R: Read>(header: &Header, archive: &mut TarReader<R>) -> Result<Vec<u8>, LayerError> {
    let mut name = bytes(header, archive)?;
    if name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

fn read(error: std::io::Error) -> LayerError {
    super::error::read(&error)
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
