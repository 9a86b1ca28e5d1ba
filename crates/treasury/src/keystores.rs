//! The key files of earlier versions: one Web3 keystore a POD, in one folder of one
//! machine. They are read until their keys are in the store, and nothing is written.

use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use alloy_primitives::hex;
use domain::{Address, PodId};
use identity::{Identity, KeyFileError, Keystore};
use seal::KeyError;
use secrecy::{ExposeSecret, SecretString};

use crate::config::Config;

const ENDING: &str = "json";

/// Why a key file is not read.
#[derive(Debug, thiserror::Error)]
pub enum LegacyKeyError {
    /// Whether there is one.
    #[error("look for the agent's key file {path} ([treasury] identities)")]
    Look {
        /// Where.
        path: PathBuf,
        /// Why that is not known.
        source: io::Error,
    },
    /// The file of its password.
    #[error("the password of the agents' key files ([treasury] key_file)")]
    Password(#[from] KeyError),
    /// The keystore.
    #[error("the agent's key file ([treasury] identities)")]
    Keystore(#[from] KeyFileError),
}

/// The folder.
#[derive(Clone, Debug)]
pub(crate) struct LegacyKeystores {
    folder: Arc<PathBuf>,
    password_file: Arc<PathBuf>,
}

impl LegacyKeystores {
    pub(crate) fn of(config: &Config) -> Self {
        Self { folder: Arc::new(config.identities.clone()), password_file: Arc::new(config.key_file.clone()) }
    }

    fn path(&self, pod: PodId) -> PathBuf {
        self.folder.join(format!("{pod}.{ENDING}"))
    }

    /// Whether there is one of this POD.
    pub(crate) fn has(&self, pod: PodId) -> Result<bool, LegacyKeyError> {
        let path = self.path(pod);
        match path.symlink_metadata() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(LegacyKeyError::Look { path, source }),
        }
    }

    /// The PODs of which there is one.
    pub(crate) fn pods(&self) -> io::Result<Vec<PodId>> {
        let entries = match self.folder.read_dir() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let paths = entries.map(|entry| entry.map(|entry| PathBuf::from(entry.file_name())));
        let paths: Vec<PathBuf> = paths.collect::<io::Result<_>>()?;
        let files = paths.iter().filter(|path| path.extension() == Some(OsStr::new(ENDING)));
        Ok(files.filter_map(|path| path.file_stem()?.to_str()?.parse().ok()).collect())
    }

    /// Opens the one of this POD. Takes a core for most of a second.
    pub(crate) fn open(&self, pod: PodId) -> Result<Option<Identity>, LegacyKeyError> {
        if !self.has(pod)? {
            return Ok(None);
        }
        let key = seal::read(&self.password_file)?;
        let password = SecretString::from(hex::encode(key.expose_secret()));
        match Identity::load(&self.path(pod), &password) {
            // Its POD was removed just now.
            Err(error) if error.is_absent() => Ok(None),
            opened => Ok(opened.map(Some)?),
        }
    }

    /// Whose key the one of this POD says it holds, without opening it.
    pub(crate) fn address(&self, pod: PodId) -> Result<Option<Address>, KeyFileError> {
        Keystore::read(&self.path(pod)).map(|keystore| keystore.address())
    }

    /// Overwrites and removes the one of this POD.
    pub(crate) fn wipe(&self, pod: PodId) -> io::Result<()> {
        durable::wipe("identity", &self.path(pod))
    }

    /// What to name in a log.
    pub(crate) fn folder(&self) -> String {
        self.folder.display().to_string()
    }
}
