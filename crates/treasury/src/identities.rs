//! The agents' keys: one keystore each, in one folder of the gateway's.
//!
//! An agent has one identity, however many replicas: its key lies here and
//! nowhere else, and signs here. No guest holds it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use domain::PodId;
use identity::{Identity, KdfCost, KeyFileError};
use moka::future::Cache;
use secrecy::SecretString;

/// Opened keys that are held in memory.
const HELD: u64 = 1024;

/// Why an agent's key cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Its file.
    #[error("open the agent's key")]
    File(#[source] Arc<KeyFileError>),
    /// The task that opened it was cut off.
    #[error("opening the agent's key was cut off")]
    CutOff,
}

/// Whether a key may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IfMissing {
    /// There is none yet.
    Create,
    /// Its address is known: a new key would be another agent.
    Refuse,
}

/// All agents' keys.
#[derive(Clone, Debug)]
pub(crate) struct Identities {
    folder: PathBuf,
    password: SecretString,
    held: Cache<PodId, Arc<Identity>>,
}

impl Identities {
    pub(crate) fn new(folder: &Path, password: SecretString) -> Self {
        Self { folder: folder.to_owned(), password, held: Cache::new(HELD) }
    }

    /// An agent's key. Whoever asks at the same time waits for the same opening.
    pub(crate) async fn of(&self, agent: PodId, if_missing: IfMissing) -> Result<Arc<Identity>, IdentityError> {
        let path = self.folder.join(format!("{agent}.json"));
        let password = self.password.clone();
        let opening = async move {
            let open = move || match if_missing {
                IfMissing::Create => Identity::load_or_create(&path, &password, KdfCost::STANDARD),
                IfMissing::Refuse => Identity::load(&path, &password),
            };
            // Derivation takes a core for most of a second.
            let opened = tokio::task::spawn_blocking(open).await.map_err(|_| IdentityError::CutOff)?;
            opened.map(Arc::new).map_err(|error| IdentityError::File(Arc::new(error)))
        };
        self.held.try_get_with(agent, opening).await.map_err(|error| match &*error {
            IdentityError::File(error) => IdentityError::File(Arc::clone(error)),
            IdentityError::CutOff => IdentityError::CutOff,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identities(folder: &Path) -> Identities {
        Identities::new(folder, "a password of its own".into())
    }

    #[tokio::test]
    async fn two_replicas_that_start_at_once_have_one_key() {
        let folder = tempfile::tempdir().unwrap();
        let agent = PodId::minted(domain::RunId::from_bits(7));
        let (one, two) = (identities(folder.path()), identities(folder.path()));
        let (one, two) = tokio::join!(one.of(agent, IfMissing::Create), two.of(agent, IfMissing::Create));
        assert_eq!(one.unwrap().address(), two.unwrap().address());
    }

    #[tokio::test]
    async fn a_key_whose_address_is_known_is_never_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let error = identities(folder.path())
            .of(PodId::minted(domain::RunId::from_bits(7)), IfMissing::Refuse)
            .await
            .unwrap_err();
        assert!(matches!(error, IdentityError::File(error) if error.is_absent()));
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    }
}
