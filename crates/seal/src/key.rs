//! 32 secret bytes, and the file that holds them.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, ExposeSecretMut, SecretBox};

const KEY_BYTES: usize = 32;
/// Permission bits that others than the owner hold.
const FOREIGN: u32 = 0o077;

/// A secret key. Wiped from memory when dropped, never shown.
pub type Key = SecretBox<[u8; KEY_BYTES]>;

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It cannot be read or made.
    #[error("{operation} {path}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others may read it.
    #[error("{0} can be read by others: chmod 600 it")]
    Readable(PathBuf),
    /// Not 32 bytes.
    #[error("{0} does not hold exactly 32 bytes")]
    Length(PathBuf),
}

impl KeyError {
    /// Whether there simply is no such file.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::File { source, .. } if source.kind() == ErrorKind::NotFound)
    }
}

/// For who names the file in an error of its own.
impl From<KeyError> for io::Error {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::File { source, .. } => source,
            error @ (KeyError::Readable(_) | KeyError::Length(_)) => Self::new(ErrorKind::InvalidData, error),
        }
    }
}

/// A new key of the operating system's random bytes.
///
/// # Errors
/// When it has none.
pub fn generate() -> io::Result<Key> {
    let mut key = SecretBox::new(Box::new([0; KEY_BYTES]));
    getrandom::fill(key.expose_secret_mut()).map_err(io::Error::other)?;
    Ok(key)
}

/// Reads a key.
///
/// # Errors
/// [`KeyError`] names the file; [`KeyError::is_absent`] if there is none.
pub fn read(path: &Path) -> Result<Key, KeyError> {
    let failed = |source| KeyError::File { operation: "read the key", path: path.to_owned(), source };
    let mut file = File::open(path).map_err(failed)?;
    let held = file.metadata().map_err(failed)?;
    if held.permissions().mode() & FOREIGN != 0 {
        return Err(KeyError::Readable(path.to_owned()));
    }
    if held.len() != KEY_BYTES as u64 {
        return Err(KeyError::Length(path.to_owned()));
    }
    let mut key = SecretBox::new(Box::new([0; KEY_BYTES]));
    file.read_exact(key.expose_secret_mut()).map_err(failed)?;
    Ok(key)
}

/// Reads a key, or makes one (mode 0600) where there is none. However many ask at once,
/// all get the same one, and it is on the disk before any of them has it. `what` names
/// its failpoints.
///
/// # Errors
/// [`KeyError`] names the file.
pub fn read_or_create(what: &str, path: &Path) -> Result<Key, KeyError> {
    match read(path) {
        Err(error) if error.is_absent() => create(what, path),
        Ok(key) => settle(path).map(|()| key),
        Err(error) => Err(error),
    }
}

/// Whoever made the file may have died before it was durable, or have only just copied it.
fn settle(path: &Path) -> Result<(), KeyError> {
    let synced = File::open(path).and_then(|file| file.sync_all()).and_then(|()| durable::sync_parent(path));
    synced.map_err(|source| KeyError::File { operation: "make durable the key", path: path.to_owned(), source })
}

fn create(what: &str, path: &Path) -> Result<Key, KeyError> {
    let making = |source| KeyError::File { operation: "make the key", path: path.to_owned(), source };
    let key = generate().map_err(making)?;
    durable::make_dir(&format!("{what} folder"), durable::parent(path)).map_err(making)?;
    match durable::create(what, path, key.expose_secret()) {
        // Another process of ours was faster: its key is the key.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let key = read(path)?;
            settle(path).map(|()| key)
        }
        created => created.map(|()| key).map_err(making),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_key_is_made_once_for_its_owner_alone_and_read_ever_after() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("deep/a.key");
        let first = read_or_create("a.key", &path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(first.expose_secret(), read_or_create("a.key", &path).unwrap().expose_secret());
        assert_eq!(first.expose_secret(), read(&path).unwrap().expose_secret());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        assert_ne!(first.expose_secret(), generate().unwrap().expose_secret());
    }

    #[test]
    fn of_many_who_make_it_at_once_all_have_the_same() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a.key");
        let keys: Vec<[u8; 32]> = std::thread::scope(|scope| {
            let makers: Vec<_> = (0..50).map(|_| scope.spawn(|| read_or_create("a.key", &path))).collect();
            makers.into_iter().map(|maker| *maker.join().unwrap().unwrap().expose_secret()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
    }

    #[test]
    fn a_key_that_is_not_there_that_others_may_read_or_that_is_cut_short_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a.key");
        assert!(read(&path).unwrap_err().is_absent());
        fs::write(&path, [1; 32]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(read_or_create("a.key", &path), Err(KeyError::Readable(_))));
        fs::write(&path, [1; 31]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(read_or_create("a.key", &path), Err(KeyError::Length(_))));
    }
}
