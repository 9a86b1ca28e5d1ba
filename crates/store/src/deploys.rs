//! Vaults that PODs are to have: what their owners signed, and how far each is.

use domain::{Address, B256, PodId, UnixMillis};

use crate::port::port;

/// Deployments in one list at most.
pub(crate) const MAX_LISTED: u32 = 256;

/// How far a vault is on its way onto the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeployState {
    /// Its owner has not signed for it yet.
    Unsigned,
    /// Signed for; on its way.
    Deploying,
    /// On the chain.
    Deployed,
    /// The chain refused it.
    Failed,
}

impl DeployState {
    const ALL: [Self; 4] = [Self::Unsigned, Self::Deploying, Self::Deployed, Self::Failed];

    /// The state as it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unsigned => "unsigned",
            Self::Deploying => "deploying",
            Self::Deployed => "deployed",
            Self::Failed => "failed",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// A POD's vault on its way onto the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultDeploy {
    /// Whose vault.
    pub pod: PodId,
    /// Who owns it.
    pub owner: Address,
    /// The agent's own address.
    pub agent_wallet: Address,
    /// Where it is, or will be.
    pub address: Address,
    /// How far it is.
    pub state: DeployState,
    /// The owner's signature, and the Unix second at which it ends.
    pub consent: Option<VaultConsent>,
    /// The transaction.
    pub tx: Option<B256>,
    /// Why it failed.
    pub reason: Option<String>,
}

impl VaultDeploy {
    /// How the reason begins where the vault that stands is not for the agent wallet that was told.
    pub const OTHER_WALLET: &str = "the vault has another agent wallet: ";

    /// Whether it was found on the chain for an agent wallet that is not the POD's key, and no key
    /// of the POD's own was told: nobody has signed for it here. Earlier versions let one fail so
    /// that had told the POD's own key.
    #[must_use]
    pub fn is_for_another_key(&self) -> bool {
        let told_own = self.reason.as_ref().is_some_and(|reason| reason.starts_with(Self::OTHER_WALLET));
        self.state == DeployState::Failed && self.consent.is_none() && !told_own
    }
}

/// An owner's signature for a vault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultConsent {
    /// Unix seconds until which it is good.
    pub deadline: u64,
    /// The signature's bytes.
    pub signature: Vec<u8>,
}

port! {
    /// Vaults on their way.
    DeployStore {
        /// Notes how far a POD's vault is. One that is deployed stays so; one that is deploying by its
        /// owner's consent is not replaced by one without.
        /// [`StoreError::NoPod`](crate::StoreError::NoPod).
        fn put_deploy(&self, deploy: VaultDeploy, now: UnixMillis) -> ();

        /// A POD's vault.
        fn deploy_of(&self, pod: PodId) -> Option<VaultDeploy>;

        /// Whether a vault is on its way to this address.
        fn is_deploying(&self, vault: Address) -> bool;

        /// Notes that a POD's vault that is on its way could not go on: others are next.
        fn postpone_deploy(&self, pod: PodId, now: UnixMillis) -> ();

        /// The vaults that are on their way, the longest untouched first.
        fn deploying(&self) -> Vec<VaultDeploy>;
    }
}
