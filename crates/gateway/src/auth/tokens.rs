//! The key of the agents' tokens, on disk.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, ExposeSecretMut, SecretBox};

/// Permission bits that others than the owner hold.
const FOREIGN: u32 = 0o077;

/// Why the key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenKeyError {
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
    #[error("{0} can be read by others: chmod 600 it, and change the key if they may have")]
    Readable(PathBuf),
    /// Not 32 bytes.
    #[error("{0} does not hold exactly 32 bytes")]
    Length(PathBuf),
}

/// Reads the key, or makes one (mode 0600) where there is none.
///
/// # Errors
/// [`TokenKeyError`] names the file.
pub fn token_key(path: &Path) -> Result<SecretBox<[u8; 32]>, TokenKeyError> {
    match read(path) {
        Err(TokenKeyError::File { source, .. }) if source.kind() == ErrorKind::NotFound => {
            make(path).or_else(|error| match error {
                // Another process of ours was faster: its key is the key.
                TokenKeyError::File { source, .. } if source.kind() == ErrorKind::AlreadyExists => read(path),
                error => Err(error),
            })
        }
        answer => answer,
    }
}

fn read(path: &Path) -> Result<SecretBox<[u8; 32]>, TokenKeyError> {
    let failed = |source| TokenKeyError::File { operation: "read the token key", path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let held = file.metadata().map_err(failed)?;
    if held.permissions().mode() & FOREIGN != 0 {
        return Err(TokenKeyError::Readable(path.to_owned()));
    }
    if held.len() != 32 {
        return Err(TokenKeyError::Length(path.to_owned()));
    }
    let mut key = SecretBox::new(Box::new([0; 32]));
    io::Read::read_exact(&mut &file, key.expose_secret_mut()).map_err(failed)?;
    Ok(key)
}

fn make(path: &Path) -> Result<SecretBox<[u8; 32]>, TokenKeyError> {
    let failed = |operation| move |source| TokenKeyError::File { operation, path: path.to_owned(), source };
    let making = failed("make the token key");
    let mut key = SecretBox::new(Box::new([0; 32]));
    getrandom::fill(key.expose_secret_mut()).map_err(|error| making(io::Error::other(error)))?;
    durable::make_dir("token.key folder", durable::parent(path)).map_err(&making)?;
    durable::create("token.key", path, key.expose_secret()).map_err(&making)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_key_is_made_once_for_its_owner_alone_and_read_ever_after() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("deep/token.key");
        let first = token_key(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(first.expose_secret(), token_key(&path).unwrap().expose_secret());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_key_that_others_may_read_or_that_is_cut_short_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("token.key");
        fs::write(&path, [1; 32]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(token_key(&path), Err(TokenKeyError::Readable(_))));
        fs::write(&path, [1; 31]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(token_key(&path), Err(TokenKeyError::Length(_))));
    }
}
