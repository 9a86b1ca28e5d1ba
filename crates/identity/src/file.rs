//! The key file: one keystore, made once, for its owner alone.
//!
//! Whoever finds no file writes a draft beside the place and renames it there without
//! replacing anything: of two that race, one wins, and the other opens what won. A file
//! that others may read is refused, not mended: they may have read it.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::process::geteuid;
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::error::{KeystoreError, MAX_TEXT};
use crate::keystore::{Keystore, Randomness};
use crate::{Identity, KdfCost};

/// Permission bits that others than the owner hold.
const FOREIGN: u32 = 0o077;
/// Anybody may write here.
const WORLD_WRITABLE: u32 = 0o002;
/// What one writes here, others cannot take away.
const STICKY: u32 = 0o1000;

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The operating system refused.
    #[error("{operation} {path}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A symbolic link lies where the key file belongs.
    #[error("{0} is a symbolic link; a key file is the file itself")]
    Symlink(PathBuf),
    /// A directory, pipe or device lies where the key file belongs.
    #[error("{0} is not a regular file")]
    NotAFile(PathBuf),
    /// Another user's.
    #[error("{path} belongs to user {owner}, not to the one that runs this; chown it if it is yours")]
    Owner {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// Others may read or write it.
    #[error("{path} has mode {mode:o}: others can reach the key; chmod 600 it, and take a new key if they may have")]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Anybody may put other files in the key file's place.
    #[error("anybody may write in {0}; a key file belongs in a directory of its owner (chmod o-w)")]
    Directory(PathBuf),
    /// There is a file already, and it stays.
    #[error("{0} exists already and is never replaced")]
    Exists(PathBuf),
    /// The file is no keystore, or does not open.
    #[error("open the keystore {path}")]
    Keystore {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: KeystoreError,
    },
    /// A keystore that does not say whose key it holds.
    #[error("{0} has no `address`, so a damaged file could give another key; import it instead")]
    Unaddressed(PathBuf),
    /// Anyone could open it.
    #[error("a key file wants a password, and this one is empty")]
    EmptyPassword,
    /// No random bytes.
    #[error("draw random bytes for a key")]
    Random(#[source] io::Error),
}

impl KeyFileError {
    /// Whether there simply is no such file.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::File { source, .. } if source.kind() == ErrorKind::NotFound)
    }
}

/// Only one derivation at a time: each may take [`crate::MAX_MEMORY`].
fn derivation() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Keystore {
    /// Reads a key file without opening it: enough to show its address.
    ///
    /// # Errors
    /// [`KeyFileError`] names the file; nothing is changed.
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        check_directory(path)?;
        let file = open_private(path)?;
        let mut text = Vec::new();
        let limit = u64::try_from(MAX_TEXT).unwrap_or(u64::MAX).saturating_add(1);
        file.take(limit).read_to_end(&mut text).map_err(failed("read the key file", path))?;
        Self::parse(&text).map_err(refused(path))
    }
}

impl Identity {
    /// A new key of the operating system's random bytes.
    ///
    /// # Errors
    /// [`KeyFileError::Random`].
    pub fn generate() -> Result<Self, KeyFileError> {
        let mut secret = Zeroizing::new([0; 32]);
        draw(&mut *secret)?;
        Self::from_secret(&secret).map_err(|error| KeyFileError::Random(io::Error::other(error)))
    }

    /// Opens the key file at `path`. Blocks for as long as the derivation takes.
    ///
    /// # Errors
    /// [`KeyFileError`]; nothing is changed. [`KeyFileError::is_absent`] if there is none.
    pub fn load(path: &Path, password: &SecretString) -> Result<Self, KeyFileError> {
        let keystore = Keystore::read(path)?;
        if keystore.address().is_none() {
            return Err(KeyFileError::Unaddressed(path.to_owned()));
        }
        let _turn = derivation();
        keystore.open(password).map_err(refused(path))
    }

    /// Opens the key file at `path`, or makes one where there is none, with its
    /// directories (mode 0700). However many start at once, in threads or processes, all
    /// get the same key, and it is on the disk before any of them has it. Blocks.
    ///
    /// An absent file means a new key: where the key's address is known already, call
    /// [`Self::load`], which never makes one.
    ///
    /// # Errors
    /// [`KeyFileError`]; a file that exists is not changed.
    pub fn load_or_create(path: &Path, password: &SecretString, cost: KdfCost) -> Result<Self, KeyFileError> {
        let identity = match Self::load(path, password) {
            Err(error) if error.is_absent() => Self::make(path, password, cost),
            answer => answer,
        }?;
        // Whoever made the file may have died before it did this.
        sync_directory(parent(path))?;
        Ok(identity)
    }

    fn make(path: &Path, password: &SecretString, cost: KdfCost) -> Result<Self, KeyFileError> {
        let fresh = Self::generate()?;
        match fresh.save(path, password, cost) {
            Ok(()) => Ok(fresh),
            Err(KeyFileError::Exists(_)) => Self::load(path, password),
            Err(error) => Err(error),
        }
    }

    /// Writes this key to a new file of mode 0600, durably. Blocks.
    ///
    /// # Errors
    /// [`KeyFileError::Exists`] if anything is there already; it stays.
    pub fn save(&self, path: &Path, password: &SecretString, cost: KdfCost) -> Result<(), KeyFileError> {
        if password.expose_secret().is_empty() {
            return Err(KeyFileError::EmptyPassword);
        }
        if path.file_name().is_none() {
            return Err(KeyFileError::NotAFile(path.to_owned()));
        }
        let randomness = draw_chance()?;
        let keystore = {
            let _turn = derivation();
            Keystore::seal(self, password, cost, &randomness).map_err(refused(path))?
        };
        make_directory(parent(path))?;
        check_directory(path)?;
        write_new(path, &keystore.to_json())?;
        sync_directory(parent(path))
    }
}

fn draw(bytes: &mut [u8]) -> Result<(), KeyFileError> {
    getrandom::fill(bytes).map_err(|error| KeyFileError::Random(io::Error::other(error)))
}

fn draw_chance() -> Result<Randomness, KeyFileError> {
    let mut randomness = Randomness { salt: [0; 32], iv: [0; 16], id: [0; 16] };
    draw(&mut randomness.salt)?;
    draw(&mut randomness.iv)?;
    draw(&mut randomness.id)?;
    Ok(randomness)
}

/// Opens a file that is this user's alone. `NONBLOCK`, since a pipe would wait for its
/// other end.
fn open_private(path: &Path) -> Result<File, KeyFileError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = open(path, flags, Mode::empty()).map(File::from).map_err(|errno| match errno {
        Errno::LOOP => KeyFileError::Symlink(path.to_owned()),
        errno => failed("open the key file", path)(errno.into()),
    })?;
    let held = file.metadata().map_err(failed("look at the key file", path))?;
    if !held.is_file() {
        return Err(KeyFileError::NotAFile(path.to_owned()));
    }
    if held.uid() != geteuid().as_raw() {
        return Err(KeyFileError::Owner { path: path.to_owned(), owner: held.uid() });
    }
    if held.mode() & FOREIGN != 0 {
        return Err(KeyFileError::Open { path: path.to_owned(), mode: held.mode() & 0o7777 });
    }
    Ok(file)
}

fn check_directory(path: &Path) -> Result<(), KeyFileError> {
    let directory = parent(path);
    let mode = directory.metadata().map_err(failed("look at the key's directory", directory))?.mode();
    let anybodys = mode & WORLD_WRITABLE != 0 && mode & STICKY == 0;
    if anybodys { Err(KeyFileError::Directory(directory.to_owned())) } else { Ok(()) }
}

/// Makes the directory and those above it that are missing, and their names durable.
fn make_directory(directory: &Path) -> Result<(), KeyFileError> {
    durable::make_dir("keystore folder", directory).map_err(failed("make the key's directory", directory))
}

/// All of it under its name, or nothing, and only if the name is free.
fn write_new(path: &Path, text: &str) -> Result<(), KeyFileError> {
    match durable::create("keystore", path, text.as_bytes()) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(KeyFileError::Exists(path.to_owned())),
        written => written.map_err(failed("write the key file", path)),
    }
}

fn sync_directory(directory: &Path) -> Result<(), KeyFileError> {
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(failed("make durable", directory))
}

/// The directory a path lies in; that of a bare name is where we are.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => path,
    }
}

fn failed(operation: &'static str, path: &Path) -> impl Fn(io::Error) -> KeyFileError {
    move |source| KeyFileError::File { operation, path: path.to_owned(), source }
}

fn refused(path: &Path) -> impl FnOnce(KeystoreError) -> KeyFileError {
    move |source| KeyFileError::Keystore { path: path.to_owned(), source }
}
