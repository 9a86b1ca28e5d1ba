//! For whom vaults are deployed at the operator's cost.

use async_trait::async_trait;

use domain::Wallet;

use crate::class::VaultDeployment;
use domain::relay::RelayJournalError;

/// Who knows the agents and their owners.
#[async_trait]
pub trait SponsorPolicy: Send + Sync {
    /// For whom the operator pays for this vault: it must be the one that an agent is
    /// to have, which is live or being created, and whose holder is linked to the
    /// vault's owner. That holder; `None` if the operator does not pay.
    async fn sponsors(&self, vault: &VaultDeployment) -> Result<Option<Wallet>, RelayJournalError>;
}

/// Pays for nobody's vault.
pub(crate) struct NoSponsor;

#[async_trait]
impl SponsorPolicy for NoSponsor {
    async fn sponsors(&self, _: &VaultDeployment) -> Result<Option<Wallet>, RelayJournalError> {
        Ok(None)
    }
}

/// Pays for everybody's vault, each owner being the holder too: for tests.
#[cfg(feature = "fake")]
#[derive(Debug)]
pub struct SponsorAll;

/// Pays for everybody's vault, all of them being this holder's: for tests.
#[cfg(feature = "fake")]
#[derive(Debug)]
pub struct SponsorAllAsHolder(pub Wallet);

#[cfg(feature = "fake")]
#[async_trait]
impl SponsorPolicy for SponsorAllAsHolder {
    async fn sponsors(&self, _: &VaultDeployment) -> Result<Option<Wallet>, RelayJournalError> {
        Ok(Some(self.0))
    }
}

#[cfg(feature = "fake")]
#[async_trait]
impl SponsorPolicy for SponsorAll {
    async fn sponsors(&self, vault: &VaultDeployment) -> Result<Option<Wallet>, RelayJournalError> {
        let mut holder = [0; 32];
        holder[..20].copy_from_slice(vault.owner.as_slice());
        Ok(Some(Wallet(holder)))
    }
}
