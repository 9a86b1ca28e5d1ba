//! Keypair files, as the Solana command line writes them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use auth::Keypair;
use secrecy::{ExposeSecret, SecretString};

/// A keypair file is 64 numbers; one much longer is something else.
const MAX_BYTES: u64 = 4096;

/// Reads a keypair.
pub(crate) fn read(path: &Path) -> Result<Keypair> {
    let name = || format!("read the keypair {}", path.display());
    let length = fs::metadata(path).with_context(name)?.len();
    anyhow::ensure!(length <= MAX_BYTES, "{} is no Solana keypair: it has {length} bytes", path.display());
    let text = SecretString::from(fs::read_to_string(path).with_context(name)?);
    Keypair::from_json(text.expose_secret()).with_context(name)
}

/// Makes a keypair in a new file, readable by its owner alone.
pub(crate) fn make(path: &Path) -> Result<Keypair> {
    let mut random = [0; 32];
    getrandom::fill(&mut random).context("gather randomness")?;
    let keypair = Keypair::generate(&random);
    durable::create("keypair", path, keypair.to_json().expose_secret().as_bytes())
        .with_context(|| format!("make {} (an existing file is never replaced)", path.display()))?;
    Ok(keypair)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_made_keypair_is_private_readable_again_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("id.json");
        let wallet = make(&path).unwrap().wallet();
        assert_eq!(read(&path).unwrap().wallet(), wallet);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(make(&path).unwrap_err().to_string().contains("never replaced"));
        assert_eq!(read(&path).unwrap().wallet(), wallet);
    }
}
