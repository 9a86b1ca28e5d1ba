//! The keys of the local EVM chain: each a keystore with its password beside it.
//! They are worth nothing anywhere else, so guessing at them need not be slow.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use identity::{Identity, KdfCost};
use secrecy::SecretString;

/// Bytes of a password, before they are written in hex.
const PASSWORD_BYTES: usize = 32;

/// One key: where it lies.
#[derive(Clone, Debug)]
pub(crate) struct DevKeyFile {
    pub(crate) keystore: PathBuf,
    pub(crate) password_file: PathBuf,
}

impl DevKeyFile {
    pub(crate) fn at(dir: &Path, name: &str) -> Self {
        Self { keystore: dir.join(format!("{name}.json")), password_file: dir.join(format!("{name}.password")) }
    }

    /// The key; made the first time.
    pub(crate) fn open(&self) -> Result<Identity> {
        let password = self.password()?;
        Ok(Identity::load_or_create(&self.keystore, &password, KdfCost::LIGHT)?)
    }

    /// Forgets the key: the chain it was for is gone.
    pub(crate) fn forget(&self) -> Result<()> {
        for path in [&self.keystore, &self.password_file] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("remove {}", path.display()));
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    fn password(&self) -> Result<SecretString> {
        let path = &self.password_file;
        if !path.exists() {
            let mut random = [0; PASSWORD_BYTES];
            getrandom::fill(&mut random).context("gather randomness")?;
            durable::create("password", path, hex::encode(random).as_bytes())
                .with_context(|| format!("write {}", path.display()))?;
        }
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        Ok(SecretString::from(text))
    }
}
