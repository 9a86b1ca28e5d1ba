//! The treasury on a real chain.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use domain::{Address, UnixMillis};
use fixtures::{
    CHAIN_ID, EvmChain, NOW, TOKEN_NAME, TOKEN_VERSION, TempStore, pod, reservation, store_config, until, wallet,
};
use identity::Identity;
use palatine_treasury::{Config, Identities, IdentityError, ServicesConfig, Treasury, TreasuryError, standing_wallet};
use serde_json::json;
use store::{AccountLink, DeployState, SealedKeys, Store, VaultConsent, VaultDeploy};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

async fn link(store: &Store, owner: Address, signed_at: UnixMillis) {
    let (text, holder_signature, owner_signature) = Default::default();
    let link = AccountLink { holder: wallet(1), owner, text, holder_signature, owner_signature, signed_at };
    assert!(store.keep_link(link).await.unwrap());
}

/// A treasury whose one agent's holder is linked, and the keys of its agents.
struct Home {
    treasury: Treasury,
    identities: Identities,
    store: TempStore,
    _folder: TempDir,
}

impl Home {
    async fn on(evm: &EvmChain, owner: &Identity) -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        let (store, folder) = (TempStore::open().await, tempfile::tempdir().unwrap());
        store.reserve(reservation(1, 1)).await.unwrap();
        link(&store, owner.address(), NOW).await;
        let keys = SealedKeys::open_or_create(&store, &store_config(&folder), NOW).await.unwrap();
        let (identities, key_file) = (folder.path().join("identities"), folder.path().join("identities.key"));
        let identities = Identities::new(store.clone(), keys, &Config { identities, key_file });
        // The chain's token is one of those that payments are taken in, or nothing works on it.
        let tokens = json!([{
            "chain_id": CHAIN_ID, "network": "cronos-testnet", "address": evm.deployed.usdc, "name": TOKEN_NAME,
            "version": TOKEN_VERSION,
        }]);
        let x402 = serde_json::from_value(json!({ "tokens": tokens })).unwrap();
        let (options, ends) = (ServicesConfig { x402, ..ServicesConfig::default() }, CancellationToken::new());
        let treasury = Treasury::start(options, evm.config(), store.clone(), identities.clone(), None, ends);
        let treasury = treasury.await.unwrap();
        until("the chain answers", async || treasury.probe().await.ok()).await;
        Self { treasury, identities, store, _folder: folder }
    }

    async fn deploy(&self) -> VaultDeploy {
        self.store.deploy_of(pod(1)).await.unwrap().unwrap()
    }
}

#[tokio::test]
async fn a_vault_that_stands_for_a_key_that_is_gone_has_no_other_made_and_is_found_once_that_key_is_given() {
    let evm = EvmChain::start().await;
    let owner = Identity::generate().unwrap();
    let (before, other) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    evm.create_vault(pod(1).as_str(), &owner, before.address()).await;
    let home = Home::on(&evm, &owner).await;
    let asked = async || home.treasury.agent_vault(pod(1), wallet(1)).await;
    for _ in 0..2 {
        let refused = asked().await.unwrap_err();
        let TreasuryError::KeyMissing { pod: of, vault, wallet } = &refused else { panic!("{refused}") };
        let deploy = home.deploy().await;
        assert_eq!((*of, *vault, *wallet), (pod(1), deploy.address, before.address()));
        assert_eq!((deploy.state, deploy.reason), (DeployState::Failed, Some(refused.to_string())));
        assert!(refused.to_string().contains(&format!("palatine pod identity import {}", pod(1))), "{refused}");
        assert_eq!(home.store.identity_of(pod(1)).await.unwrap(), None, "no key is made");
    }
    let refused = home.identities.import(pod(1), &other, NOW).await.unwrap_err();
    let told = matches!(refused, IdentityError::OtherWallet { wallet, given, .. }
        if (wallet, given) == (before.address(), other.address()));
    assert!(told, "{refused}");
    // Whoever imports it while no gateway runs asks the chain as well.
    let stands = standing_wallet(&evm.config(), &home.store, pod(1)).await.unwrap();
    assert_eq!(stands, Some(before.address()));
    home.identities.import(pod(1), &before, NOW).await.unwrap();
    // Without anybody's asking.
    until("the vault is found", async || (home.deploy().await.state == DeployState::Deployed).then_some(())).await;
    let found = asked().await.unwrap().unwrap();
    assert_eq!((found.agent_wallet, found.reason), (before.address(), None));
}

#[tokio::test]
async fn a_holder_whose_agents_key_is_gone_may_have_a_vault_of_another_owner() {
    let evm = EvmChain::start().await;
    let (owner, second) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    evm.create_vault(pod(1).as_str(), &owner, Address::repeat_byte(9)).await;
    let home = Home::on(&evm, &owner).await;
    home.treasury.agent_vault(pod(1), wallet(1)).await.unwrap_err();
    link(&home.store, second.address(), NOW.plus(1)).await;
    let vault = home.treasury.agent_vault(pod(1), wallet(1)).await.unwrap().unwrap();
    let key = home.identities.find(pod(1), NOW).await.unwrap().unwrap();
    assert_eq!((vault.owner, vault.agent_wallet), (second.address(), key.address()));
}

fn told(n: u64, owner: Address, agent_wallet: Address, vault: Address, state: DeployState) -> VaultDeploy {
    let (consent, tx, reason) = (None, None, None);
    VaultDeploy { pod: pod(n), owner, agent_wallet, address: vault, state, consent, tx, reason }
}

#[tokio::test]
async fn a_vault_of_another_key_where_the_agents_own_was_told_does_not_count_as_found() {
    let evm = EvmChain::start().await;
    let (owner, before) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let home = Home::on(&evm, &owner).await;
    // Its key is made and told with its vault; then another vault is deployed in that place.
    let drafted = home.treasury.agent_vault(pod(1), wallet(1)).await.unwrap().unwrap();
    evm.create_vault(pod(1).as_str(), &owner, before.address()).await;
    let found = home.treasury.agent_vault(pod(1), wallet(1)).await.unwrap().unwrap();
    assert_eq!(found.agent_wallet, drafted.agent_wallet);
    assert!(found.reason.unwrap().contains(&before.address().to_string()));
    assert!(!home.deploy().await.is_for_another_key(), "its own key was told");
}

#[tokio::test]
async fn a_vault_that_stands_for_another_key_does_not_hide_that_the_agents_own_was_told() {
    let evm = EvmChain::start().await;
    let (owner, second) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    evm.create_vault(pod(1).as_str(), &owner, Address::repeat_byte(9)).await;
    let home = Home::on(&evm, &owner).await;
    let vault = evm.connect().await.vault_of(pod(1).as_str(), owner.address()).await.unwrap();
    let own = told(1, owner.address(), Address::repeat_byte(5), vault, DeployState::Unsigned);
    // As earlier versions wrote it down.
    let reason = Some(format!("the vault has another agent wallet: {}", Address::repeat_byte(9)));
    let before = VaultDeploy { reason, state: DeployState::Failed, ..own.clone() };
    for own in [own, before] {
        home.store.put_deploy(own.clone(), NOW).await.unwrap();
        let refused = home.treasury.agent_vault(pod(1), wallet(1)).await.unwrap_err();
        assert!(matches!(refused, TreasuryError::KeyMissing { .. }), "{refused}");
        assert_eq!(home.deploy().await, own);
    }
    link(&home.store, second.address(), NOW.plus(1)).await;
    let refused = home.treasury.agent_vault(pod(1), wallet(1)).await.unwrap_err();
    let lost = matches!(&refused, TreasuryError::Identity(error) if matches!(**error, IdentityError::Lost(_)));
    assert!(lost, "{refused}");
    assert_eq!(home.store.identity_of(pod(1)).await.unwrap(), None, "no second key is made");
}

#[tokio::test]
async fn a_vault_that_cannot_go_on_keeps_no_other_from_it() {
    let evm = EvmChain::start().await;
    let (owner, agent) = (Identity::generate().unwrap(), Address::repeat_byte(9));
    evm.create_vault(pod(2).as_str(), &owner, agent).await;
    let home = Home::on(&evm, &owner).await;
    // More than are looked at in one go.
    for n in 2..=300 {
        home.store.reserve(reservation(n, n)).await.unwrap();
    }
    let vault = evm.connect().await.vault_of(pod(2).as_str(), owner.address()).await.unwrap();
    // Without a relayer those that do not stand wait.
    for n in [1].into_iter().chain(3..=300) {
        let nowhere = told(n, owner.address(), agent, Address::repeat_byte(6), DeployState::Deploying);
        let consent = Some(VaultConsent { deadline: NOW.0 / 1000, signature: vec![1; 65] });
        home.store.put_deploy(VaultDeploy { consent, ..nowhere }, NOW).await.unwrap();
    }
    let stands = told(2, owner.address(), agent, vault, DeployState::Deploying);
    home.store.put_deploy(stands, NOW.plus(1)).await.unwrap();
    let state = async || home.store.deploy_of(pod(2)).await.unwrap().map(|deploy| deploy.state);
    let (unknown, deploying) = (home.treasury.vault(agent).await, home.treasury.vault(Address::repeat_byte(6)).await);
    assert!(matches!(unknown, Err(TreasuryError::UnknownVault)), "{unknown:?}");
    assert!(matches!(deploying, Err(TreasuryError::Deploying)), "{deploying:?}");
    let tasks = home.treasury.tasks(Address::repeat_byte(6)).await;
    assert!(matches!(tasks, Err(TreasuryError::Deploying)), "{tasks:?}");
    until("the second goes on", async || (state().await == Some(DeployState::Deployed)).then_some(())).await;
    assert_eq!(home.deploy().await.state, DeployState::Deploying);
}

#[tokio::test]
async fn a_vault_that_was_to_stand_and_does_not_is_its_owners_to_sign_for() {
    let evm = EvmChain::start().await;
    let (owner, agent) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let home = Home::on(&evm, &owner).await;
    let vault = evm.connect().await.vault_of(pod(1).as_str(), owner.address()).await.unwrap();
    // As a single endpoint's lie left it, or a chain that went another way.
    let failed = told(1, owner.address(), agent.address(), vault, DeployState::Failed);
    home.store.put_deploy(failed, NOW).await.unwrap();
    home.identities.import(pod(1), &agent, NOW).await.unwrap();
    // There is no relayer that could send it.
    until("it is unsigned", async || (home.deploy().await.state == DeployState::Unsigned).then_some(())).await;
    let asked = home.treasury.agent_vault(pod(1), wallet(1)).await.unwrap().unwrap();
    assert_eq!((asked.agent_wallet, asked.state.as_str()), (agent.address(), "unsigned"));
}
