//! The directory, its rights, and the lock that keeps a second process out.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::StoreError;

const DATABASE: &str = "palatine.db";
const LOCK: &str = "lock";
/// Written once the database is on the disk: from then on there is one, or it is lost.
const MADE: &str = "made";
/// What lies beside a database only after it was made. An older version left no [`MADE`].
const SIGNS: [&str; 3] = [MADE, "palatine.db-wal", durable::BallastFile::NAME];
/// For whoever looks into [`MADE`].
const MEANING: &str = "palatine.db was made here: where it is empty or missing, it is lost.\n";
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// The store's files, for as long as this lives ours alone.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) database: PathBuf,
    made: PathBuf,
    _lock: File,
}

impl Files {
    /// Writes down that the database is on the disk. Where that fails, as on a full disk,
    /// it is tried at the next start.
    pub(crate) fn note_made(&self) {
        match durable::create("store.made", &self.made, MEANING.as_bytes()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                tracing::warn!(%error, path = %self.made.display(), "the mark that a database exists cannot be written");
            }
        }
    }
}

/// Whether there is a database in this directory.
pub(crate) fn has_database(directory: &Path) -> bool {
    directory.join(DATABASE).is_file()
}

/// Makes or takes the directory, and locks it.
pub(crate) fn take(directory: &Path) -> Result<Files, StoreError> {
    make_directory(directory).map_err(|e| StoreError::file("make the directory", directory, e))?;
    let lock = lock(directory)?;
    let (database, made) = (directory.join(DATABASE), directory.join(MADE));
    find_lost(directory, &database)?;
    // Before SQLite makes it: its journals take over the file's mode.
    private_file(&database).map_err(|e| StoreError::file("open", &database, e))?;
    Ok(Files { database, made, _lock: lock })
}

/// SQLite takes an empty file for a new database, and would throw away its journal too.
fn find_lost(directory: &Path, database: &Path) -> Result<(), StoreError> {
    match std::fs::metadata(database) {
        Ok(found) if found.len() > 0 => return Ok(()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(StoreError::file("look at", database, error));
        }
        Ok(_) | Err(_) => {}
    }
    match SIGNS.into_iter().find(|sign| directory.join(sign).exists()) {
        Some(sign) => Err(StoreError::Lost { directory: directory.to_owned(), database: DATABASE, sign }),
        None => Ok(()),
    }
}

fn make_directory(directory: &Path) -> io::Result<()> {
    if let Some(parent) = directory.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(DIRECTORY_MODE).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => tighten(directory, DIRECTORY_MODE),
        made => made,
    }
}

fn private_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(FILE_MODE).open(path)?;
    tighten(path, FILE_MODE)?;
    Ok(file)
}

/// Takes rights away, never gives any.
fn tighten(path: &Path, mode: u32) -> io::Result<()> {
    let held = std::fs::metadata(path)?.permissions().mode() & 0o7777;
    if held & !mode == 0 { Ok(()) } else { std::fs::set_permissions(path, Permissions::from_mode(held & mode)) }
}

fn lock(directory: &Path) -> Result<File, StoreError> {
    let path = directory.join(LOCK);
    let file = private_file(&path).map_err(|e| StoreError::file("open", &path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse(directory.to_owned())),
        Err(TryLockError::Error(error)) => Err(StoreError::file("lock", &path, error)),
    }
}
