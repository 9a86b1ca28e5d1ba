//! What the chain says of a POD's vault, for whoever gives the POD its key without a gateway.

use chain::EvmConfig;
use chain::evm::{CheckedChain, VaultStanding};
use domain::{Address, PodId};
use store::{DeployState, Store, StoreError};

use crate::deploys::{UNCONFIRMED, unanswered};
use crate::error::TreasuryError;
use crate::unavailable::ChainUnavailable;

/// The agent wallet of a POD's vault that stands; `None` where none does, and where no holder is
/// linked to an owner whose it could be.
///
/// # Errors
/// [`TreasuryError::Unavailable`] where that is not known; [`StoreError::NoPod`]; faults of the
/// store.
pub async fn standing_wallet(evm: &EvmConfig, store: &Store, pod: PodId) -> Result<Option<Address>, TreasuryError> {
    let run = store.last_run(pod).await?.ok_or(StoreError::NoPod(pod))?;
    let (known, link) = (store.deploy_of(pod).await?, store.link_of(run.wallet).await?);
    let under_way = |state| matches!(state, DeployState::Deploying | DeployState::Deployed);
    let (vault, owner) = match (known, link) {
        (Some(known), link) if under_way(known.state) || link.is_none() => (Some(known.address), known.owner),
        (_, Some(link)) => (None, link.owner),
        (_, None) => return Ok(None),
    };
    let chain = CheckedChain::connect(evm).await.map_err(ChainUnavailable::from)?;
    let vault = match vault {
        Some(vault) => vault,
        None => chain.vault_of(pod.as_str(), owner).await.map_err(unanswered)?,
    };
    match chain.standing(vault).await.map_err(unanswered)? {
        VaultStanding::Absent => Ok(None),
        VaultStanding::Unconfirmed => Err(TreasuryError::Unavailable(UNCONFIRMED.to_owned())),
        VaultStanding::Confirmed { agent_wallet } => Ok(Some(agent_wallet)),
    }
}
