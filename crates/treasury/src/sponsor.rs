//! For whom the operator deploys vaults: the agents of linked holders.

use async_trait::async_trait;
use domain::relay::RelayJournalError;
use domain::{PodId, Wallet};
use relay::{SponsorPolicy, VaultDeployment};
use store::{DeployState, Store, StoreError, VaultDeploy};

/// Who knows them.
#[derive(Clone, Debug)]
pub(crate) struct StoreSponsor(pub(crate) Store);

#[async_trait]
impl SponsorPolicy for StoreSponsor {
    async fn sponsors(&self, vault: &VaultDeployment) -> Result<Option<Wallet>, RelayJournalError> {
        let Ok(agent) = vault.pod_id.parse::<PodId>() else { return Ok(None) };
        self.holder(agent, vault).await.map_err(|error| RelayJournalError(error.to_string()))
    }
}

impl StoreSponsor {
    /// The holder of an agent that lives, if this is the vault that it is to have and
    /// does not have yet.
    async fn holder(&self, agent: PodId, vault: &VaultDeployment) -> Result<Option<Wallet>, StoreError> {
        let Some(record) = self.0.last_run(agent).await?.filter(|record| record.state.is_live()) else {
            return Ok(None);
        };
        let link = self.0.link_of(record.wallet).await?;
        let linked = link.is_some_and(|link| link.owner == vault.owner);
        let due = self.0.deploy_of(agent).await?.is_some_and(|deploy| is_due(&deploy, vault));
        Ok((linked && due).then_some(record.wallet))
    }
}

/// Whether an agent's vault is this one, and still to come. Its holder may link himself
/// to another owner: that vault is another one.
fn is_due(deploy: &VaultDeploy, vault: &VaultDeployment) -> bool {
    let is_this = (deploy.owner, deploy.agent_wallet) == (vault.owner, vault.agent_wallet);
    is_this && deploy.state != DeployState::Deployed
}

#[cfg(test)]
mod tests {
    use domain::{Address, Event, RunId, StopReason, UnixMillis};
    use fixtures::{NOW, TempStore, reservation};
    use store::{AccountLink, RunReservation};

    use super::*;

    const OWNER: Address = Address::repeat_byte(1);
    const HOLDER: Wallet = Wallet([3; 32]);
    const AGENT_WALLET: Address = Address::repeat_byte(2);

    const RUN: RunId = RunId::from_bits(7);

    fn agent() -> PodId {
        PodId::minted(RUN)
    }

    fn vault() -> VaultDeployment {
        VaultDeployment { pod_id: agent().to_string(), owner: OWNER, agent_wallet: AGENT_WALLET }
    }

    async fn link(store: &Store, owner: Address, at: UnixMillis) {
        let signed = || String::new();
        let link = AccountLink {
            holder: HOLDER,
            owner,
            text: signed(),
            holder_signature: signed(),
            owner_signature: signed(),
            signed_at: at,
        };
        assert!(store.keep_link(link).await.unwrap());
    }

    fn deploy(state: DeployState) -> VaultDeploy {
        VaultDeploy {
            pod: agent(),
            owner: OWNER,
            agent_wallet: AGENT_WALLET,
            address: Address::ZERO,
            state,
            consent: None,
            tx: None,
            reason: None,
        }
    }

    #[tokio::test]
    async fn fault_2_6_an_agent_whose_holder_links_himself_anew_has_one_vault_paid_for() {
        let store = TempStore::open().await;
        let sponsor = StoreSponsor(store.clone());
        reserve(&store).await;
        store.put_deploy(deploy(DeployState::Unsigned), NOW).await.unwrap();
        let throwaway = Address::repeat_byte(9);
        link(&store, throwaway, NOW).await;
        let other = VaultDeployment { owner: throwaway, ..vault() };
        assert_eq!(sponsor.sponsors(&other).await.unwrap(), None, "the agent's vault is another one");
        link(&store, OWNER, NOW.plus(1)).await;
        assert_eq!(sponsor.sponsors(&vault()).await.unwrap(), Some(HOLDER));
        store.put_deploy(deploy(DeployState::Deployed), NOW).await.unwrap();
        assert_eq!(sponsor.sponsors(&vault()).await.unwrap(), None, "it is there already");
    }

    #[tokio::test]
    async fn fault_2_6_a_vault_is_paid_for_while_its_linked_holders_agent_runs() {
        let store = TempStore::open().await;
        let sponsor = StoreSponsor(store.clone());
        let sponsors = async |vault: VaultDeployment| sponsor.sponsors(&vault).await.unwrap() == Some(HOLDER);
        assert!(!sponsors(vault()).await, "there is no such agent");
        reserve(&store).await;
        store.put_deploy(deploy(DeployState::Unsigned), NOW).await.unwrap();
        assert!(!sponsors(vault()).await, "its holder is linked to nobody");
        link(&store, OWNER, NOW).await;
        assert!(sponsors(vault()).await, "it is being created");
        assert!(!sponsors(VaultDeployment { owner: AGENT_WALLET, ..vault() }).await, "a throwaway key");
        assert!(!sponsors(VaultDeployment { agent_wallet: OWNER, ..vault() }).await, "another agent's key");
        assert!(!sponsors(VaultDeployment { pod_id: "a-pod".to_owned(), ..vault() }).await, "no agent's name");
        store.advance(RUN, Event::Stop(StopReason::Requested), NOW).await.unwrap();
        store.advance(RUN, Event::Gone, NOW).await.unwrap();
        assert!(!sponsors(vault()).await, "it has ended");
    }

    async fn reserve(store: &Store) {
        let request = RunReservation { id: RUN, wallet: HOLDER, ..reservation(1, 7) };
        assert!(matches!(store.reserve(request).await.unwrap(), store::Admission::Reserved(_)));
    }
}
