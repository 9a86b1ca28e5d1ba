//! The folder that a file lies in.

use std::fs::File;
use std::io;
use std::path::Path;

/// Makes what happened to the names in a file's folder last.
///
/// # Errors
/// When the disk will not.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    File::open(parent(path))?.sync_all()
}

/// The folder of a path; that of a bare name is where we are.
#[must_use]
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => path,
    }
}
