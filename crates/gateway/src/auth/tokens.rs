//! The key of the agents' tokens: sealed in the store, one for all its gateways.

use std::path::{Path, PathBuf};

use domain::UnixMillis;
use seal::{Key, KeyError};
use secrecy::ExposeSecret;
use store::{SealedKeys, SealedKeysError, SecretName};

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum TokenKeyError {
    /// The file of an earlier version.
    #[error("import the key of the agents' tokens ([gateway] token_key_file)")]
    File(#[from] KeyError),
    /// The store.
    #[error("the key of the agents' tokens")]
    Keys(#[from] SealedKeysError),
    /// Neither store nor file has it, and there are agents that run with tokens of it.
    #[error(
        "the key of the agents' tokens is neither in the database nor in {0} ([gateway] token_key_file), and agents run \
         whose tokens it made: put that file back, or stop the agents with the program that has it"
    )]
    Lost(PathBuf),
    /// A new one.
    #[error("make the key of the agents' tokens")]
    Random(#[source] std::io::Error),
}

/// The key that is in the store. The first time it is taken from the file in which
/// earlier versions kept it, so that tokens go on being good; where there is none either,
/// one is made, unless agents run already (`has_runs`): their tokens were made by another.
/// The file stays, and is not read again.
///
/// # Errors
/// [`TokenKeyError`].
pub async fn token_key(keys: &SealedKeys, file: &Path, has_runs: bool, now: UnixMillis) -> Result<Key, TokenKeyError> {
    if let Some(key) = keys.secret(SecretName::Tokens).await? {
        return Ok(key);
    }
    let (key, imported) = match seal::read(file) {
        Ok(key) => (key, true),
        Err(error) if error.is_absent() && has_runs => return Err(TokenKeyError::Lost(file.to_owned())),
        Err(error) if error.is_absent() => (seal::generate().map_err(TokenKeyError::Random)?, false),
        Err(error) => return Err(error.into()),
    };
    let kept = keys.keep_secret(SecretName::Tokens, &key, now).await?;
    if imported && kept.expose_secret() == key.expose_secret() {
        let file = file.display();
        tracing::info!(%file, "the key of the agents' tokens is in the store now; its file is not read again; keep it as long as backups of an older database");
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use auth::TokenIssuer;
    use domain::RunId;
    use fixtures::{NOW, store_config};
    use store::Store;
    use tempfile::TempDir;

    use super::*;

    async fn keys(home: &TempDir) -> SealedKeys {
        let config = store_config(home);
        let store = Store::open(&config).await.unwrap();
        SealedKeys::open_or_create(&store, &config, NOW).await.unwrap()
    }

    /// What the last version left: 32 bytes, mode 0600.
    fn old_file(home: &TempDir, bytes: &[u8], mode: u32) -> std::path::PathBuf {
        let path = home.path().join("token.key");
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[tokio::test]
    async fn the_last_versions_tokens_stay_good_and_its_file_is_not_needed_again() {
        let home = tempfile::tempdir().unwrap();
        let file = old_file(&home, &[7; 32], 0o600);
        let before = TokenIssuer::new(&Key::new(Box::new([7; 32]))).token(RunId::from_bits(3));
        let key = token_key(&keys(&home).await, &file, false, NOW).await.unwrap();
        assert_eq!(TokenIssuer::new(&key).token(RunId::from_bits(3)).expose_secret(), before.expose_secret());
        assert!(file.exists(), "an import removes nothing");
        fs::write(&file, [8; 32]).unwrap();
        let again = token_key(&keys(&home).await, &file, false, NOW).await.unwrap();
        assert_eq!(again.expose_secret(), &[7; 32], "the store wins");
    }

    #[tokio::test]
    async fn without_a_file_a_key_is_made_once_and_none_is_written() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("token.key");
        let first = token_key(&keys(&home).await, &file, false, NOW).await.unwrap();
        let again = token_key(&keys(&home).await, &file, false, NOW).await.unwrap();
        assert_eq!(first.expose_secret(), again.expose_secret());
        assert!(!file.exists());
    }

    #[tokio::test]
    async fn an_old_file_that_cannot_be_trusted_is_refused_and_no_other_key_is_made() {
        let home = tempfile::tempdir().unwrap();
        let keys = keys(&home).await;
        for (bytes, mode) in [(&[1_u8; 32][..], 0o644), (&[1; 31], 0o600)] {
            let file = old_file(&home, bytes, mode);
            assert!(matches!(token_key(&keys, &file, false, NOW).await, Err(TokenKeyError::File(_))));
        }
        assert!(keys.secret(SecretName::Tokens).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn while_agents_run_whose_tokens_another_key_made_no_new_one_is() {
        let home = tempfile::tempdir().unwrap();
        let keys = keys(&home).await;
        let file = home.path().join("token.key");
        assert!(matches!(token_key(&keys, &file, true, NOW).await, Err(TokenKeyError::Lost(_))));
        assert!(keys.secret(SecretName::Tokens).await.unwrap().is_none());
        let file = old_file(&home, &[7; 32], 0o600);
        let key = token_key(&keys, &file, true, NOW).await.unwrap();
        assert_eq!(key.expose_secret(), &[7; 32]);
    }
}
