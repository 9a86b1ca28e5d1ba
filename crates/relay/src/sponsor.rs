//! For whom vaults are deployed at the operator's cost.

use async_trait::async_trait;

use crate::class::Deployment;
use crate::journal::JournalError;

/// Who knows the agents and their owners.
#[async_trait]
pub trait Sponsor: Send + Sync {
    /// Whether the operator pays for this vault: it must be that of an agent that is
    /// live or being created, whose holder is linked to the vault's owner.
    async fn sponsors(&self, vault: &Deployment) -> Result<bool, JournalError>;
}

/// Pays for nobody's vault.
pub(crate) struct Nobody;

#[async_trait]
impl Sponsor for Nobody {
    async fn sponsors(&self, _: &Deployment) -> Result<bool, JournalError> {
        Ok(false)
    }
}

/// Pays for everybody's vault: for tests.
#[cfg(feature = "fake")]
#[derive(Debug)]
pub struct Anybody;

#[cfg(feature = "fake")]
#[async_trait]
impl Sponsor for Anybody {
    async fn sponsors(&self, _: &Deployment) -> Result<bool, JournalError> {
        Ok(true)
    }
}
