//! Extended attributes, all of them.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{XattrFlags, fremovexattr, fsetxattr, lgetxattr, lgetxattr_query, llistxattr, llistxattr_query};
use rustix::io::Errno;

/// The attribute of a disk's root that names the last archive that it was filled from.
pub(super) const IMPORT: &CStr = c"trusted.palatine.import";
/// Bytes of one value, and of all names of a file: the kernel's bounds.
const MAX_BYTES: usize = 64 * 1024;

/// Names and values, in the order of the names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes(pub(super) Vec<(CString, Vec<u8>)>);

/// Those of a file or folder that is no link, but for our own.
pub(super) fn read_of(path: &Path) -> io::Result<Attributes> {
    let mut found = Vec::new();
    for name in names(path)? {
        if name.as_c_str() != IMPORT
            && let Some(value) = read(path, &name)?
        {
            found.push((name, value));
        }
    }
    found.sort_unstable();
    Ok(Attributes(found))
}

/// One of them, if it is there.
pub(super) fn read(path: &Path, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    let length = match lgetxattr_query(path, name) {
        Ok(length) => length.min(MAX_BYTES),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut value = vec![0; length];
    let length = if length == 0 { 0 } else { lgetxattr(path, name, &mut value[..])? };
    value.truncate(length);
    Ok(Some(value))
}

/// Gives one to a file or folder; whether its file system can keep it.
pub(super) fn write(file: impl AsFd, name: &CStr, value: &[u8]) -> io::Result<bool> {
    match fsetxattr(file, name, value, XattrFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::PERM | Errno::INVAL) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Has a folder have those of another one, and no others.
pub(super) fn copy(from: &Path, to: &Path, folder: impl AsFd) -> io::Result<()> {
    let wanted = names(from)?;
    for name in names(to)?.iter().filter(|name| !wanted.contains(name)) {
        match fremovexattr(&folder, name.as_c_str()) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    for name in wanted {
        if let Some(value) = read(from, &name)? {
            write(&folder, &name, &value)?;
        }
    }
    Ok(())
}

fn names(path: &Path) -> io::Result<Vec<CString>> {
    // Most files have none, which costs one call.
    let length = match llistxattr_query(path) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Ok(length) => length.min(MAX_BYTES),
        Err(error) => return Err(error.into()),
    };
    let mut bytes = vec![0; length];
    let length = llistxattr(path, &mut bytes[..])?;
    let names = bytes[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names.map(|name| CString::new(name).map_err(io::Error::other)).collect()
}
