//! Who signs for the EVM: a key file, and where its password comes from. Never
//! from the command line.

use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use identity::Identity;
use secrecy::SecretString;

use crate::cli::Signer;
use crate::up::{LocalStackInfo, StateDir};

/// The variable that may hold the password of who signs, for machines.
pub(crate) const PASSWORD: &str = "PALATINE_PASSWORD";
/// The variable that may hold the password of a POD's key file.
pub(crate) const POD_PASSWORD: &str = "POD_PASSWORD";
/// The longest password file.
const MAX_PASSWORD: u64 = 4096;

/// Where the key and its password lie.
#[derive(Clone, Debug)]
pub(crate) struct KeystoreLocation {
    pub(crate) keystore: PathBuf,
    password_file: Option<PathBuf>,
}

impl KeystoreLocation {
    /// The place that is meant: named, or the development owner of the stack that
    /// runs here.
    pub(crate) fn find(signer: &Signer, state: &StateDir) -> Result<Option<Self>> {
        if let Some(keystore) = &signer.keystore {
            return Ok(Some(Self { keystore: keystore.clone(), password_file: signer.password_file.clone() }));
        }
        let owner = |stack: LocalStackInfo| Self {
            keystore: stack.owner_keystore,
            password_file: Some(stack.owner_password_file),
        };
        Ok(state.running()?.map(owner))
    }

    /// The key.
    pub(crate) fn open(&self) -> Result<Identity> {
        let password = password(PASSWORD, self.password_file.as_deref(), &self.keystore)?;
        Identity::load(&self.keystore, &password).with_context(|| format!("open {}", self.keystore.display()))
    }
}

/// The key that is meant.
pub(crate) fn open(signer: &Signer, state: &StateDir) -> Result<Identity> {
    let location = KeystoreLocation::find(signer, state)?;
    location.context("no EVM key: pass --keystore FILE, or make one with: palatine wallet new FILE")?.open()
}

/// The password: from the file, this variable, or whoever sits there.
pub(crate) fn password(variable: &str, file: Option<&Path>, keystore: &Path) -> Result<SecretString> {
    if let Some(file) = file {
        return from_file(file);
    }
    if let Some(password) = std::env::var_os(variable) {
        return Ok(SecretString::from(password.into_string().ok().with_context(|| format!("{variable} is no text"))?));
    }
    if !std::io::stdin().is_terminal() {
        bail!("the password of {} is needed: pass --password-file FILE, or set {variable}", keystore.display());
    }
    let asked = rpassword::prompt_password(format!("Password of {}: ", keystore.display()));
    Ok(SecretString::from(asked.context("read the password")?))
}

/// A new password, asked for twice where somebody sits there.
pub(crate) fn new_password(variable: &str, file: Option<&Path>, keystore: &Path) -> Result<SecretString> {
    let first = password(variable, file, keystore)?;
    let asked = file.is_none() && std::env::var_os(variable).is_none();
    if asked {
        let second = rpassword::prompt_password("The same again: ").context("read the password")?;
        if secrecy::ExposeSecret::expose_secret(&first) != second {
            bail!("the two passwords differ; nothing was written");
        }
    }
    Ok(first)
}

fn from_file(path: &Path) -> Result<SecretString> {
    let name = || format!("read the password file {}", path.display());
    let length = fs::metadata(path).with_context(name)?.len();
    anyhow::ensure!(length <= MAX_PASSWORD, "{} is no password file: it has {length} bytes", path.display());
    let mut text = fs::read_to_string(path).with_context(name)?;
    // The line's end is the editor's, not the password's.
    text.truncate(text.trim_end_matches(['\n', '\r']).len());
    Ok(SecretString::from(text))
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn a_password_file_is_read_without_its_line_end_and_never_without_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        fs::write(&path, " a b \r\n").unwrap();
        assert_eq!(from_file(&path).unwrap().expose_secret(), " a b ");
        fs::write(&path, vec![b'x'; 5000]).unwrap();
        assert!(from_file(&path).unwrap_err().to_string().contains("5000 bytes"));
    }
}
