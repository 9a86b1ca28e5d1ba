//! For whom the operator deploys vaults: the agents of linked holders.

use async_trait::async_trait;
use domain::AgentId;
use relay::journal::JournalError;
use relay::{Deployment, Sponsor};
use store::{Store, StoreError};

/// Who knows them.
#[derive(Clone, Debug)]
pub(crate) struct StoreSponsor(pub(crate) Store);

#[async_trait]
impl Sponsor for StoreSponsor {
    async fn sponsors(&self, vault: &Deployment) -> Result<bool, JournalError> {
        let Ok(agent) = vault.pod_id.parse::<AgentId>() else { return Ok(false) };
        self.is_due(agent, vault).await.map_err(|error| JournalError(error.to_string()))
    }
}

impl StoreSponsor {
    /// Whether this is the vault that the agent is to have, and the agent lives.
    async fn is_due(&self, agent: AgentId, vault: &Deployment) -> Result<bool, StoreError> {
        let Some(record) = self.0.get(agent).await?.filter(|record| record.state.is_live()) else { return Ok(false) };
        let link = self.0.link_of(record.wallet).await?;
        let deploy = self.0.deploy_of(agent).await?;
        let linked = link.is_some_and(|link| link.owner == vault.owner);
        Ok(linked && deploy.is_some_and(|deploy| deploy.agent_wallet == vault.agent_wallet))
    }
}

#[cfg(test)]
mod tests {
    use domain::{Address, Event, ImageDigest, StopReason, Tier, TierName, UnixMillis, Wallet};
    use store::{Deploy, Link, Reservation, Stamp};
    use wire::vault::{VaultState, pod_id};

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_700_000_000_000);
    const OWNER: Address = Address::repeat_byte(1);
    const AGENT_WALLET: Address = Address::repeat_byte(2);

    fn agent() -> AgentId {
        AgentId::from_bits(7)
    }

    fn vault() -> Deployment {
        Deployment { pod_id: pod_id(agent()), owner: OWNER, agent_wallet: AGENT_WALLET }
    }

    async fn link(store: &Store) {
        let signed = || String::new();
        let link = Link {
            holder: Wallet([3; 32]),
            owner: OWNER,
            text: signed(),
            holder_signature: signed(),
            owner_signature: signed(),
            signed_at: NOW,
        };
        assert!(store.keep_link(link).await.unwrap());
    }

    #[tokio::test]
    async fn fault_2_6_a_vault_is_paid_for_while_its_linked_holders_agent_lives() {
        let room = tempfile::tempdir().unwrap();
        let config = store::Config { directory: room.path().to_owned(), ..store::Config::default() };
        let store = Store::open(&config).unwrap();
        let sponsor = StoreSponsor(store.clone());
        let sponsors = async |vault: Deployment| sponsor.sponsors(&vault).await.unwrap();
        assert!(!sponsors(vault()).await, "there is no such agent");
        reserve(&store).await;
        let deploy = Deploy {
            agent: agent(),
            owner: OWNER,
            agent_wallet: AGENT_WALLET,
            address: Address::ZERO,
            state: VaultState::Unsigned,
            consent: None,
            tx: None,
            reason: None,
        };
        store.put_deploy(deploy, NOW).await.unwrap();
        assert!(!sponsors(vault()).await, "its holder is linked to nobody");
        link(&store).await;
        assert!(sponsors(vault()).await, "it is being created");
        assert!(!sponsors(Deployment { owner: AGENT_WALLET, ..vault() }).await, "a throwaway key");
        assert!(!sponsors(Deployment { agent_wallet: OWNER, ..vault() }).await, "another agent's key");
        assert!(!sponsors(Deployment { pod_id: "a-pod".to_owned(), ..vault() }).await, "no agent's name");
        store.advance(agent(), Event::Stop(StopReason::Requested), NOW).await.unwrap();
        store.advance(agent(), Event::Gone, NOW).await.unwrap();
        assert!(!sponsors(vault()).await, "it has ended");
    }

    async fn reserve(store: &Store) {
        let wish = Reservation {
            stamp: Stamp { key: [9; 32], expires_at: NOW.plus(330_000) },
            id: agent(),
            wallet: Wallet([3; 32]),
            agent_type: "echo".to_owned(),
            image: ImageDigest([7; 32]),
            tier: TierName::try_from("standard".to_owned()).unwrap(),
            tier_config: Tier { min: 500_000, cores: 2, memory: 2048 },
            public: false,
            idempotency: None,
            now: NOW,
        };
        assert!(matches!(store.reserve(wish).await.unwrap(), store::Admission::Reserved(_)));
    }
}
