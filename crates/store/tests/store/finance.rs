//! Links, prices and vaults to be.

use domain::{Address, B256, UnixMillis, Usdc};
use palatine_store::{AccountLink, DeployState, Prices, StoreError, VaultConsent, VaultDeploy};

use crate::help::{NOW, Place, bytes, open, pod, reservation, reserved, wallet};

fn owner(n: u8) -> Address {
    Address::repeat_byte(n)
}

fn link(by: u8, signed_at: UnixMillis) -> AccountLink {
    AccountLink {
        holder: wallet(1),
        owner: owner(by),
        text: "both".to_owned(),
        holder_signature: "h".to_owned(),
        owner_signature: "o".to_owned(),
        signed_at,
    }
}

pub(crate) async fn the_newest_link_of_a_holder_counts_and_an_older_one_is_not_replayed(place: &Place) {
    let store = open(place).await;
    assert_eq!(store.link_of(wallet(1)).await.unwrap(), None);
    assert!(store.keep_link(link(1, NOW)).await.unwrap());
    assert!(store.keep_link(link(2, NOW.plus(1))).await.unwrap());
    assert!(!store.keep_link(link(1, NOW)).await.unwrap());
    assert!(!store.keep_link(link(3, NOW.plus(1))).await.unwrap());
    drop(store);
    assert_eq!(open(place).await.link_of(wallet(1)).await.unwrap(), Some(link(2, NOW.plus(1))));
}

pub(crate) async fn prices_are_set_whole(place: &Place) {
    let store = open(place).await;
    let first = [("/v1".to_owned(), Usdc(10)), ("/v2".to_owned(), Usdc(20))].into();
    let second = [("/v1".to_owned(), Usdc(u64::from(u32::MAX)))].into();
    for n in [1, 2] {
        reserved(&store, reservation(n, n)).await;
    }
    store.set_prices(pod(1), first).await.unwrap();
    store.set_prices(pod(2), [("/".to_owned(), Usdc(1))].into()).await.unwrap();
    store.set_prices(pod(1), second).await.unwrap();
    assert_eq!(store.prices_of(pod(1)).await.unwrap(), [("/v1".to_owned(), Usdc(u64::from(u32::MAX)))].into());
    assert_eq!(store.prices_of(pod(2)).await.unwrap().len(), 1);
    assert!(store.prices_of(pod(3)).await.unwrap().is_empty());
    let nobody = store.set_prices(pod(3), Prices::new()).await;
    assert!(matches!(nobody, Err(StoreError::NoPod(id)) if id == pod(3)), "{nobody:?}");
}

fn deploy(state: DeployState) -> VaultDeploy {
    VaultDeploy {
        pod: pod(1),
        owner: owner(1),
        agent_wallet: owner(2),
        address: owner(3),
        state,
        consent: Some(VaultConsent { deadline: 1_700_000_000, signature: vec![1; 65] }),
        tx: Some(B256::from(bytes(9))),
        reason: None,
    }
}

pub(crate) async fn a_vault_that_is_deployed_stays_so_whatever_a_slower_writer_believes(place: &Place) {
    let store = open(place).await;
    reserved(&store, reservation(1, 1)).await;
    store.put_deploy(deploy(DeployState::Deploying), NOW).await.unwrap();
    assert_eq!(store.deploying().await.unwrap(), [deploy(DeployState::Deploying)]);
    assert!(store.is_deploying(owner(3)).await.unwrap() && !store.is_deploying(owner(2)).await.unwrap());
    store.put_deploy(deploy(DeployState::Deployed), NOW).await.unwrap();
    store.put_deploy(deploy(DeployState::Failed), NOW).await.unwrap();
    assert_eq!(store.deploy_of(pod(1)).await.unwrap(), Some(deploy(DeployState::Deployed)));
    assert!(store.deploying().await.unwrap().is_empty() && !store.is_deploying(owner(3)).await.unwrap());
}

pub(crate) async fn a_consent_that_was_given_is_not_lost_to_a_slower_writer_without_one(place: &Place) {
    let store = open(place).await;
    reserved(&store, reservation(1, 1)).await;
    let drafted = VaultDeploy { consent: None, tx: None, ..deploy(DeployState::Unsigned) };
    store.put_deploy(drafted.clone(), NOW).await.unwrap();
    store.put_deploy(deploy(DeployState::Deploying), NOW).await.unwrap();
    let failed = VaultDeploy { state: DeployState::Failed, ..drafted.clone() };
    for slower in [drafted.clone(), failed] {
        store.put_deploy(slower, NOW).await.unwrap();
        assert_eq!(store.deploy_of(pod(1)).await.unwrap(), Some(deploy(DeployState::Deploying)));
    }
    store.put_deploy(deploy(DeployState::Failed), NOW).await.unwrap();
    store.put_deploy(drafted.clone(), NOW).await.unwrap();
    assert_eq!(store.deploy_of(pod(1)).await.unwrap(), Some(drafted));
}

pub(crate) async fn a_vault_that_could_not_go_on_comes_after_all_others(place: &Place) {
    let store = open(place).await;
    let deploying = |n| VaultDeploy { pod: pod(n), ..deploy(DeployState::Deploying) };
    for n in 1..=3 {
        reserved(&store, reservation(n, n)).await;
        store.put_deploy(deploying(n), NOW.plus(n)).await.unwrap();
    }
    store.postpone_deploy(pod(1), NOW.plus(4)).await.unwrap();
    store.postpone_deploy(pod(77), NOW.plus(4)).await.unwrap();
    assert_eq!(store.deploying().await.unwrap(), [deploying(2), deploying(3), deploying(1)]);
    store.put_deploy(deploy(DeployState::Deployed), NOW).await.unwrap();
    store.postpone_deploy(pod(1), NOW.plus(5)).await.unwrap();
    assert_eq!(store.deploy_of(pod(1)).await.unwrap(), Some(deploy(DeployState::Deployed)));
}
