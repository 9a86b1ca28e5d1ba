//! Keys, sealed: one for all who ask at once, and none that another sealing key opens.

use std::path::Path;
use std::sync::Arc;

use domain::{Address, Event, PodId, StopReason, UnixMillis};
use palatine_store::{
    Config, RunPod, RunReservation, SealedIdentity, SealedKeys, SealedKeysError, SecretName, Store, StoreError,
};
use seal::Key;
use secrecy::ExposeSecret;
use tempfile::TempDir;

use crate::help::{NOW, Place, config, folder, id, open, pod, reopen, reservation, reserved};

fn sealed(n: u8) -> SealedIdentity {
    SealedIdentity { address: Address::repeat_byte(n), sealed: vec![n; 72] }
}

fn key(n: u8) -> Key {
    Key::new(Box::new([n; 32]))
}

/// Removes the POD of run `n`.
async fn remove(store: &Store, n: u64) {
    store.advance(id(n), Event::Stop(StopReason::Removed), NOW).await.unwrap();
    store.end(id(n), None, NOW).await.unwrap();
}

pub(crate) async fn of_fifty_who_keep_a_key_at_once_all_have_the_same(place: &Place) {
    let one = open(place).await;
    // SQLite is one process's; of PostgreSQL there are two gateways.
    let other = match place {
        Place::Sqlite(_) => one.clone(),
        Place::Url(_) => open(place).await,
    };
    reserved(&one, reservation(1, 1)).await;
    let asked = (0..50).map(|n: u8| {
        let store = if n.is_multiple_of(2) { one.clone() } else { other.clone() };
        tokio::spawn(async move {
            let secret = store.keep_secret(SecretName::Tokens, vec![n; 72], NOW).await.unwrap();
            (secret, store.keep_identity(pod(1), sealed(n), NOW).await.unwrap())
        })
    });
    let mut answers = Vec::new();
    for answer in asked.collect::<Vec<_>>() {
        answers.push(answer.await.unwrap());
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    assert_eq!(answers[0].1, sealed(answers[0].1.sealed[0]), "address and key are one maker's");
    assert_eq!(one.secret(SecretName::Tokens).await.unwrap().as_ref(), Some(&answers[0].0));
    assert_eq!(other.identity_of(pod(1)).await.unwrap().as_ref(), Some(&answers[0].1));
    assert_eq!(one.secret(SecretName::Check).await.unwrap(), None);
}

pub(crate) async fn a_key_that_is_kept_is_there_after_a_restart_and_never_replaced(place: &Place) {
    let store = open(place).await;
    reserved(&store, reservation(1, 1)).await;
    store.keep_secret(SecretName::Tokens, vec![1; 72], NOW).await.unwrap();
    store.keep_identity(pod(1), sealed(1), NOW).await.unwrap();
    drop(store);
    let store = open(place).await;
    assert_eq!(store.keep_secret(SecretName::Tokens, vec![2; 72], NOW).await.unwrap(), [1; 72]);
    assert_eq!(store.keep_identity(pod(1), sealed(2), NOW).await.unwrap(), sealed(1));
}

pub(crate) async fn a_removed_pod_leaves_no_key_and_one_of_the_same_id_has_none(place: &Place) {
    let store = open(place).await;
    let named = PodId::chosen("mine").unwrap();
    let called = |n| RunReservation { pod: RunPod::New { name: Some(named), ephemeral: false }, ..reservation(1, n) };
    let nobody = store.keep_identity(named, sealed(1), NOW).await;
    assert!(matches!(nobody, Err(StoreError::NoPod(id)) if id == named), "{nobody:?}");
    reserved(&store, called(1)).await;
    reserved(&store, reservation(2, 2)).await;
    for (pod, n) in [(named, 1), (pod(2), 2)] {
        store.keep_identity(pod, sealed(n), NOW).await.unwrap();
    }
    assert!(!store.was_removed(named).await.unwrap());
    remove(&store, 1).await;
    assert!(store.was_removed(named).await.unwrap() && !store.was_removed(pod(2)).await.unwrap());
    assert_eq!(store.identity_of(named).await.unwrap(), None);
    let late = store.keep_identity(named, sealed(1), NOW).await;
    assert!(matches!(late, Err(StoreError::NoPod(id)) if id == named), "{late:?}");
    reserved(&store, called(3)).await;
    assert_eq!(store.identity_of(named).await.unwrap(), None, "its key went with the other one");
    assert!(!store.was_removed(named).await.unwrap());
    assert_eq!(store.identity_of(pod(2)).await.unwrap(), Some(sealed(2)));
    remove(&store, 2).await;
    assert!(store.was_removed(pod(2)).await.unwrap() && !store.was_removed(pod(77)).await.unwrap());
    // Keys are sealed here from a later instant on: the removals before it had left them.
    store.keep_secret(SecretName::Check, vec![1; 72], UnixMillis(u64::MAX >> 1)).await.unwrap();
    assert!(!store.was_removed(pod(2)).await.unwrap());
}

pub(crate) async fn fifty_keepers_and_a_removal_at_once_leave_no_key_behind(place: &Place) {
    let store = open(place).await;
    reserved(&store, reservation(1, 1)).await;
    let keepers: Vec<_> = (0..50)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { store.keep_identity(pod(1), sealed(n), NOW).await })
        })
        .collect();
    remove(&store, 1).await;
    for keeper in keepers {
        let kept = keeper.await.unwrap();
        assert!(matches!(kept, Ok(_) | Err(StoreError::NoPod(_))), "{kept:?}");
    }
    let taken_again = reserved(&store, reservation(1, 2)).await;
    assert_eq!(store.identity_of(taken_again.pod).await.unwrap(), None);
    assert_eq!(store.identity_of(pod(1)).await.unwrap(), None);
}

/// The place's configuration with a sealing key in this folder.
fn with_key(place: &Place, folder: &Path) -> Config {
    Config { sealing_key_file: folder.join("deep/sealing.key"), ..place.config() }
}

async fn keys(store: &Store, config: &Config) -> SealedKeys {
    SealedKeys::open_or_create(store, config, NOW).await.unwrap()
}

fn files(folder: &TempDir) -> usize {
    std::fs::read_dir(folder.path()).unwrap().count()
}

pub(crate) async fn fifty_gateways_that_begin_at_once_with_one_sealing_key_have_the_same_keys(place: &Place) {
    let (store, home) = (open(place).await, folder());
    reserved(&store, reservation(1, 1)).await;
    let config = Arc::new(with_key(place, home.path()));
    let gateways = (0..50).map(|n| {
        let (store, config) = (store.clone(), Arc::clone(&config));
        tokio::spawn(async move {
            let keys = keys(&store, &config).await;
            let token = keys.keep_secret(SecretName::Tokens, &key(n), NOW).await.unwrap();
            let own = keys.keep_identity(pod(1), Address::repeat_byte(n), &key(n), NOW).await.unwrap();
            (*token.expose_secret(), *own.expose_secret())
        })
    });
    let mut answers = Vec::new();
    for gateway in gateways.collect::<Vec<_>>() {
        answers.push(gateway.await.unwrap());
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    let keys = SealedKeys::open(&store, &config).await.unwrap();
    assert_eq!(*keys.secret(SecretName::Tokens).await.unwrap().unwrap().expose_secret(), answers[0].0);
    assert_eq!(*keys.identity_of(pod(1)).await.unwrap().unwrap().expose_secret(), answers[0].1);
}

pub(crate) async fn another_sealing_key_or_none_is_refused_by_name_and_nothing_is_made(place: &Place) {
    let (store, home, others) = (open(place).await, folder(), folder());
    let (own, foreign) = (with_key(place, home.path()), with_key(place, others.path()));
    let early = SealedKeys::open(&store, &own).await.unwrap_err();
    assert!(matches!(early, SealedKeysError::Unsealed(_)) && files(&home) == 0, "{early}");
    keys(&store, &own).await.keep_secret(SecretName::Tokens, &key(1), NOW).await.unwrap();
    let lost = SealedKeys::open_or_create(&store, &foreign, NOW).await.unwrap_err();
    assert!(matches!(lost, SealedKeysError::Missing { .. }), "{lost}");
    assert_eq!(files(&others), 0, "no new key is made over sealed ones");
    seal::read_or_create("sealing.key", &foreign.sealing_key_file).unwrap();
    let refused = SealedKeys::open_or_create(&store, &foreign, NOW).await.unwrap_err();
    assert!(matches!(refused, SealedKeysError::Foreign { .. }), "{refused}");
    for (said, word) in
        [(lost.to_string(), "put it back from its backup"), (refused.to_string(), "from another gateway")]
    {
        let file = foreign.sealing_key_file.display().to_string();
        assert!(said.contains(&file) && said.contains(word) && said.contains("[store] sealing_key_file"), "{said}");
    }
    let again = keys(&store, &own).await.secret(SecretName::Tokens).await.unwrap().unwrap();
    assert_eq!(*again.expose_secret(), [1; 32]);
}

pub(crate) async fn no_key_opens_in_another_ones_row(place: &Place) {
    let (store, home) = (open(place).await, folder());
    let keys = keys(&store, &with_key(place, home.path())).await;
    for n in 1..=3 {
        reserved(&store, reservation(n, n)).await;
    }
    let (one, two) = (Address::repeat_byte(1), Address::repeat_byte(2));
    keys.keep_identity(pod(1), one, &key(1), NOW).await.unwrap();
    let stolen = store.identity_of(pod(1)).await.unwrap().unwrap();
    assert!(!stolen.sealed.windows(8).any(|bytes| bytes == [1; 8]), "it is not in the clear");
    // Another POD's row, the same with another address, another table.
    store.keep_identity(pod(2), stolen.clone(), NOW).await.unwrap();
    store.keep_identity(pod(3), SealedIdentity { address: two, ..stolen.clone() }, NOW).await.unwrap();
    store.keep_secret(SecretName::Tokens, stolen.sealed, NOW).await.unwrap();
    for n in [2, 3] {
        let refused = keys.identity_of(pod(n)).await.unwrap_err();
        assert!(matches!(&refused, SealedKeysError::Damaged { of, .. } if *of == pod(n).to_string()), "{refused}");
    }
    let refused = keys.secret(SecretName::Tokens).await.unwrap_err();
    assert!(matches!(refused, SealedKeysError::Damaged { .. }), "{refused}");
    assert_eq!(*keys.identity_of(pod(1)).await.unwrap().unwrap().expose_secret(), [1; 32]);
}

#[tokio::test]
async fn a_removed_pods_sealed_key_is_in_no_file_of_a_closed_sqlite_store() {
    let folder = folder();
    let store = reopen(&folder).await;
    let mark = *b"the sealed key of a POD that is removed, in seventy-two bytes of its own";
    for n in 1..=9 {
        reserved(&store, reservation(n, n)).await;
        let sealed = if n == 5 { mark.to_vec() } else { vec![7; 72] };
        store.keep_identity(pod(n), SealedIdentity { address: Address::ZERO, sealed }, NOW).await.unwrap();
    }
    let holds_it = || {
        let all = std::fs::read_dir(config(&folder).directory).unwrap();
        let found = all.map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
        found.into_iter().any(|bytes| bytes.windows(mark.len()).any(|bytes| *bytes == mark))
    };
    assert!(holds_it(), "or the rest of this test would prove nothing");
    remove(&store, 5).await;
    drop(store);
    assert!(!holds_it());
}
