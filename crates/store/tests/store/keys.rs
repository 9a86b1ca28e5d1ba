//! Keys, sealed: one for all who ask at once, and none that another sealing key opens.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use domain::{Address, Event, PodId, StopReason, UnixMillis};
use palatine_store::{
    Config, DeployState, LostKeys, ResealError, Resealed, RestoredKeys, RestoredTokens, RunPod, RunReservation,
    SealedIdentity, SealedKeys, SealedKeysError, SealingKeyFile, SecretName, Store, StoreError, TriedKey, VaultConsent,
    VaultDeploy, find_lost_keys, forget_lost_keys, reseal, restore_keys,
};
use rusqlite::Connection;
use seal::Key;
use secrecy::ExposeSecret;
use tempfile::TempDir;

use crate::help::{NOW, Place, config, database_of, folder, id, leave, open, pod, reopen, reservation, reserved};

fn sealed(n: u8) -> SealedIdentity {
    SealedIdentity { address: Address::repeat_byte(n), sealed: vec![n; 72] }
}

fn key(n: u8) -> Key {
    Key::new(Box::new([n; 32]))
}

/// Removes the POD of run `n`.
async fn remove(store: &Store, n: u64) {
    remove_at(store, n, NOW).await;
}

async fn remove_at(store: &Store, n: u64, now: UnixMillis) {
    store.advance(id(n), Event::Stop(StopReason::Removed), now).await.unwrap();
    store.end(id(n), None, now).await.unwrap();
}

/// Run `n` of a new POD of this id, of wallet `holder`.
fn called(holder: u64, n: u64, name: &str) -> RunReservation {
    let name = Some(PodId::chosen(name).unwrap());
    RunReservation { pod: RunPod::New { name, ephemeral: false }, ..reservation(holder, n) }
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
            let secret = store.keep_secret(SecretName::Tokens, vec![n; 72], None, NOW).await.unwrap();
            (secret, store.keep_identity(pod(1), sealed(n), None, NOW).await.unwrap())
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
    store.keep_secret(SecretName::Tokens, vec![1; 72], None, NOW).await.unwrap();
    store.keep_identity(pod(1), sealed(1), None, NOW).await.unwrap();
    drop(store);
    let store = open(place).await;
    assert_eq!(store.keep_secret(SecretName::Tokens, vec![2; 72], None, NOW).await.unwrap(), [1; 72]);
    assert_eq!(store.keep_identity(pod(1), sealed(2), None, NOW).await.unwrap(), sealed(1));
}

pub(crate) async fn a_removed_pod_leaves_no_key_and_one_of_the_same_id_has_none(place: &Place) {
    let store = open(place).await;
    let named = PodId::chosen("mine").unwrap();
    let called = |n| RunReservation { pod: RunPod::New { name: Some(named), ephemeral: false }, ..reservation(1, n) };
    let nobody = store.keep_identity(named, sealed(1), None, NOW).await;
    assert!(matches!(nobody, Err(StoreError::NoPod(id)) if id == named), "{nobody:?}");
    reserved(&store, called(1)).await;
    reserved(&store, reservation(2, 2)).await;
    for (pod, n) in [(named, 1), (pod(2), 2)] {
        store.keep_identity(pod, sealed(n), None, NOW).await.unwrap();
    }
    assert!(!store.was_erased(named).await.unwrap());
    remove(&store, 1).await;
    assert!(store.was_erased(named).await.unwrap() && !store.was_erased(pod(2)).await.unwrap());
    assert_eq!(store.identity_of(named).await.unwrap(), None);
    let late = store.keep_identity(named, sealed(1), None, NOW).await;
    assert!(matches!(late, Err(StoreError::NoPod(id)) if id == named), "{late:?}");
    reserved(&store, called(3)).await;
    assert_eq!(store.identity_of(named).await.unwrap(), None, "its key went with the other one");
    // Whoever has the id now: what an earlier version left of the key is not this one's.
    assert!(store.was_erased(named).await.unwrap());
    assert_eq!(store.keep_old_identity(named, sealed(1), None, NOW).await.unwrap(), None);
    assert_eq!(store.identity_of(named).await.unwrap(), None);
    assert_eq!(store.keep_identity(named, sealed(5), None, NOW).await.unwrap(), sealed(5));
    assert_eq!(store.identity_of(pod(2)).await.unwrap(), Some(sealed(2)));
    assert_eq!(store.keep_old_identity(pod(2), sealed(7), None, NOW).await.unwrap(), Some(sealed(2)));
    remove(&store, 2).await;
    let gone = store.keep_old_identity(pod(2), sealed(7), None, NOW).await;
    assert!(matches!(gone, Err(StoreError::NoPod(_))), "{gone:?}");
    assert!(store.was_erased(pod(2)).await.unwrap() && !store.was_erased(pod(77)).await.unwrap());
    // Keys are sealed here from a later instant on: the removals before it had left them.
    store.keep_secret(SecretName::Check, vec![1; 72], None, UnixMillis(u64::MAX >> 1)).await.unwrap();
    assert!(!store.was_erased(pod(2)).await.unwrap());
}

pub(crate) async fn fifty_keepers_and_a_removal_at_once_leave_no_key_behind(place: &Place) {
    let store = open(place).await;
    reserved(&store, reservation(1, 1)).await;
    let keepers: Vec<_> = (0..50)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { store.keep_identity(pod(1), sealed(n), None, NOW).await })
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
    Config { sealing_key_file: folder.join("deep/sealing.key").into(), ..place.config() }
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

pub(crate) async fn of_gateways_that_begin_at_once_with_files_of_their_own_one_makes_a_key(place: &Place) {
    let homes: Vec<_> = (0..4).map(|_| folder()).collect();
    let begin = homes.iter().map(|home| {
        let config = with_key(place, home.path());
        tokio::spawn(async move { SealedKeys::open_store(&config, NOW).await })
    });
    let mut open = Vec::new();
    for begun in begin.collect::<Vec<_>>() {
        match begun.await.unwrap() {
            Ok((store, keys)) => open.push((store, keys.keep_secret(SecretName::Tokens, &key(1), NOW).await.unwrap())),
            // Whose it is and what to do is said; of two processes at one file, the second is kept out.
            Err(SealedKeysError::Missing { .. } | SealedKeysError::Store(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(open.len(), 1);
    assert_eq!(homes.iter().filter(|home| files(home) > 0).count(), 1, "a key that seals nothing lies nowhere");
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
    seal::read_or_create("sealing.key", foreign.sealing_key_file.path()).unwrap();
    let refused = SealedKeys::open_or_create(&store, &foreign, NOW).await.unwrap_err();
    assert!(matches!(refused, SealedKeysError::Foreign { .. }), "{refused}");
    for (said, word) in
        [(lost.to_string(), "put it back from its backup"), (refused.to_string(), "from another gateway")]
    {
        let file = foreign.sealing_key_file.path().display().to_string();
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
    store.keep_identity(pod(2), stolen.clone(), None, NOW).await.unwrap();
    store.keep_identity(pod(3), SealedIdentity { address: two, ..stolen.clone() }, None, NOW).await.unwrap();
    store.keep_secret(SecretName::Tokens, stolen.sealed, None, NOW).await.unwrap();
    for n in [2, 3] {
        let refused = keys.identity_of(pod(n)).await.unwrap_err();
        assert!(matches!(&refused, SealedKeysError::Damaged { of, .. } if *of == pod(n).to_string()), "{refused}");
    }
    let refused = keys.secret(SecretName::Tokens).await.unwrap_err();
    assert!(matches!(refused, SealedKeysError::Damaged { .. }), "{refused}");
    assert_eq!(*keys.identity_of(pod(1)).await.unwrap().unwrap().expose_secret(), [1; 32]);
}

pub(crate) async fn a_key_in_the_former_default_place_is_found_and_no_second_one_made(place: &Place) {
    let (store, home, before) = (open(place).await, folder(), folder());
    let former = with_key(place, before.path());
    keys(&store, &former).await.keep_secret(SecretName::Tokens, &key(1), NOW).await.unwrap();
    let (file, former) = (home.path().join("sealing.key"), former.sealing_key_file.path().to_owned());
    let sealing_key_file = SealingKeyFile::Default { file: file.clone(), former: former.clone() };
    let unset = Config { sealing_key_file, ..place.config() };
    let found = keys(&store, &unset).await.secret(SecretName::Tokens).await.unwrap().unwrap();
    assert_eq!((*found.expose_secret(), files(&home)), ([1; 32], 0));
    // Another key there is none; what is configured is not looked for elsewhere.
    std::fs::write(&former, [9; 32]).unwrap();
    let refused = SealedKeys::open_or_create(&store, &unset, NOW).await.unwrap_err();
    assert!(matches!(&refused, SealedKeysError::Missing { file: said, .. } if *said == file), "{refused}");
    assert_eq!(files(&home), 0);
}

pub(crate) async fn a_default_key_is_made_in_its_own_place_where_nothing_is_sealed(place: &Place) {
    let (store, home, others) = (open(place).await, folder(), folder());
    let former = others.path().join("sealing.key");
    seal::read_or_create("sealing.key", &former).unwrap();
    let file = home.path().join("sealing.key");
    let unset = Config { sealing_key_file: SealingKeyFile::Default { file: file.clone(), former }, ..place.config() };
    keys(&store, &unset).await;
    assert!(file.exists(), "another gateway's key is not taken");
}

/// A store with two keys of PODs and one of tokens, and nobody who uses it.
async fn sealed_store(place: &Place, config: &Config) {
    let store = open(place).await;
    let keys = keys(&store, config).await;
    for n in 1..=2_u8 {
        reserved(&store, reservation(n.into(), n.into())).await;
        keys.keep_identity(pod(n.into()), Address::repeat_byte(n), &key(n), NOW).await.unwrap();
    }
    keys.keep_secret(SecretName::Tokens, &key(9), NOW).await.unwrap();
    drop(keys);
    leave(place, store).await;
}

/// The keys of [`sealed_store`], as this configuration opens them.
async fn opened(place: &Place, config: &Config) -> Result<Vec<[u8; 32]>, SealedKeysError> {
    let (store, keys) = SealedKeys::open_store(config, NOW).await?;
    let mut all = vec![*keys.secret(SecretName::Tokens).await?.unwrap().expose_secret()];
    for n in 1..=2 {
        all.extend(keys.identity_of(pod(n)).await?.map(|key| *key.expose_secret()));
    }
    drop(keys);
    leave(place, store).await;
    Ok(all)
}

pub(crate) async fn all_keys_are_sealed_anew_under_another_key_or_none(place: &Place) {
    let (home, others) = (folder(), folder());
    let (before, after) = (with_key(place, home.path()), with_key(place, others.path()));
    let new = after.sealing_key_file.path();
    sealed_store(place, &before).await;
    let running = open(place).await;
    reseal(&before, new).await.unwrap_err();
    assert_eq!(files(&others), 0, "a gateway uses it");
    leave(place, running).await;
    assert_eq!(reseal(&before, new).await.unwrap(), Resealed { keys: 3, already: false });
    assert_eq!(opened(place, &after).await.unwrap(), [[9; 32], [1; 32], [2; 32]]);
    let refused = opened(place, &before).await.unwrap_err();
    assert!(matches!(refused, SealedKeysError::Foreign { .. }), "{refused}");
    // Who was killed before it was told asks again.
    assert_eq!(reseal(&before, new).await.unwrap(), Resealed { keys: 3, already: true });
    // A copy of the key in use is no other key.
    let copy = others.path().join("copy.key");
    std::fs::copy(new, &copy).unwrap();
    let refused = reseal(&after, &copy).await.unwrap_err();
    assert!(matches!(&refused, ResealError::SameKey { new, .. } if *new == copy), "{refused}");
    assert_eq!(reseal(&after, new).await.unwrap(), Resealed { keys: 3, already: true });
    // One that does not open stays what it is, with all others.
    let store = open(place).await;
    reserved(&store, reservation(3, 3)).await;
    store.keep_identity(pod(3), sealed(3), None, NOW).await.unwrap();
    leave(place, store).await;
    let damaged = reseal(&after, &others.path().join("third.key")).await.unwrap_err();
    let named = |of: &str| of == pod(3).to_string();
    assert!(matches!(&damaged, ResealError::Keys(SealedKeysError::Damaged { of, .. }) if named(of)), "{damaged}");
    assert_eq!(opened(place, &after).await.unwrap().len(), 3);
}

pub(crate) async fn lost_keys_are_set_aside_and_forgotten_and_the_gateway_begins_again(place: &Place) {
    let home = folder();
    let config = with_key(place, home.path());
    sealed_store(place, &config).await;
    assert!(find_lost_keys(&config).await.unwrap().is_empty());
    let aside = home.path().join("lost.json");
    assert!(forget_lost_keys(&config, &aside, NOW).await.unwrap().is_empty() && !aside.exists());
    std::fs::remove_file(config.sealing_key_file.path()).unwrap();
    let refused = opened(place, &config).await.unwrap_err();
    assert!(matches!(refused, SealedKeysError::Missing { .. }), "{refused}");
    let all = LostKeys {
        check: true,
        tokens: true,
        pods: vec![(pod(1), Address::repeat_byte(1)), (pod(2), Address::repeat_byte(2))],
        tried: vec![TriedKey { file: config.sealing_key_file.path().to_owned(), is_foreign: false }],
    };
    assert_eq!(find_lost_keys(&config).await.unwrap(), all);
    assert!(!config.sealing_key_file.path().exists(), "looking makes nothing");
    assert_eq!(forget_lost_keys(&config, &aside, NOW).await.unwrap(), all);
    let kept = std::fs::read_to_string(&aside).unwrap();
    assert!([pod(1).to_string(), pod(2).to_string(), "tokens".to_owned()].iter().all(|of| kept.contains(of)), "{kept}");
    let fresh = opened(place, &config).await.unwrap();
    assert!(fresh.len() == 1 && fresh[0] != [9; 32], "a new key of the tokens, and none of a POD");
    assert!(find_lost_keys(&config).await.unwrap().is_empty());
}

/// The key of [`sealed_store`] in the former default place, and nothing in the default one.
fn in_former_place(place: &Place, home: &TempDir, before: &Config) -> Config {
    let (file, former) = (home.path().join("sealing.key"), before.sealing_key_file.path().to_owned());
    Config { sealing_key_file: SealingKeyFile::Default { file, former }, ..place.config() }
}

fn set_mode(file: &Path, mode: u32) {
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).unwrap();
}

pub(crate) async fn a_former_key_that_cannot_be_read_is_not_lost_and_one_beside_a_new_key_is_found(place: &Place) {
    let (home, others) = (folder(), folder());
    let before = with_key(place, others.path());
    sealed_store(place, &before).await;
    let unset = in_former_place(place, &home, &before);
    let former = before.sealing_key_file.path();
    set_mode(former, 0o644);
    let aside = home.path().join("aside.json");
    let refused = forget_lost_keys(&unset, &aside, NOW).await.unwrap_err();
    assert!(matches!(&refused, ResealError::Keys(SealedKeysError::Former { .. })) && files(&home) == 0, "{refused}");
    let refused = opened(place, &unset).await.unwrap_err();
    let is_missing = |error: &SealedKeysError| matches!(error, SealedKeysError::Former { is_not, .. } if matches!(**is_not, SealedKeysError::Missing { .. }));
    assert!(is_missing(&refused), "{refused}");
    // Both are named, and how to do without the second.
    let (said, why) = (refused.to_string(), std::error::Error::source(&refused).unwrap().to_string());
    assert!(said.contains(&home.path().join("sealing.key").display().to_string()), "{said}");
    assert!(
        said.contains("set [store] sealing_key_file") && why.contains(&former.display().to_string()),
        "{said}: {why}"
    );
    set_mode(former, 0o600);
    // As a reseal leaves it that is killed once it has made the new key, in the default place.
    let new = unset.sealing_key_file.path();
    seal::read_or_create("new-sealing.key", new).unwrap();
    assert_eq!(opened(place, &unset).await.unwrap().len(), 3);
    assert!(find_lost_keys(&unset).await.unwrap().is_empty());
    assert_eq!(reseal(&unset, new).await.unwrap(), Resealed { keys: 3, already: false });
    std::fs::remove_file(former).unwrap();
    assert_eq!(opened(place, &unset).await.unwrap().len(), 3);
    std::fs::remove_file(new).unwrap();
    let lost = opened(place, &unset).await.unwrap_err().to_string();
    assert!(lost.contains(&new.display().to_string()) && lost.contains(&former.display().to_string()), "{lost}");
}

pub(crate) async fn keys_that_were_set_aside_come_back_to_pods_that_are_there_and_have_none(place: &Place) {
    let home = folder();
    let config = with_key(place, home.path());
    sealed_store(place, &config).await;
    let store = open(place).await;
    let sealing = keys(&store, &config).await;
    for n in 3..=4_u8 {
        reserved(&store, reservation(n.into(), n.into())).await;
        sealing.keep_identity(pod(n.into()), Address::repeat_byte(n), &key(n), NOW).await.unwrap();
    }
    drop(sealing);
    leave(place, store).await;
    let (saved, aside) = (home.path().join("saved.key"), home.path().join("aside.json"));
    std::fs::rename(config.sealing_key_file.path(), &saved).unwrap();
    forget_lost_keys(&config, &aside, NOW).await.unwrap();
    let (store, sealing) = SealedKeys::open_store(&config, NOW).await.unwrap();
    sealing.keep_identity(pod(2), Address::repeat_byte(7), &key(7), NOW).await.unwrap();
    remove(&store, 3).await;
    drop(sealing);
    leave(place, store).await;
    let closed = restore_keys(&config, &aside, None, true, NOW).await.unwrap();
    assert_eq!(closed, RestoredKeys { closed: 5, ..RestoredKeys::default() });
    let done = restore_keys(&config, &aside, Some(&saved), false, NOW).await.unwrap();
    let tokens = Some(RestoredTokens::Left);
    assert_eq!(done, RestoredKeys { restored: 2, has_key: 1, removed: 1, closed: 0, tokens });
    let again = restore_keys(&config, &aside, Some(&saved), false, NOW).await.unwrap();
    assert_eq!(again, RestoredKeys { restored: 0, has_key: 3, removed: 1, closed: 0, tokens });
    let (_store, sealing) = SealedKeys::open_store(&config, NOW).await.unwrap();
    for (n, kept) in [(1, Some(1)), (2, Some(7)), (4, Some(4))] {
        let found = sealing.identity_of(pod(n)).await.unwrap().map(|key| key.expose_secret()[0]);
        assert_eq!(found, kept);
    }
}

pub(crate) async fn a_key_that_was_set_aside_is_no_later_pods_of_that_id_whatever_clocks_said(place: &Place) {
    let home = folder();
    let (config, fast) = (with_key(place, home.path()), NOW.plus(600_000));
    let (first, other) = (PodId::chosen("first").unwrap(), PodId::chosen("other").unwrap());
    let store = open(place).await;
    let sealing = keys(&store, &config).await;
    reserved(&store, called(2, 2, "other")).await;
    remove_at(&store, 2, fast.plus(600_000)).await;
    reserved(&store, called(1, 1, "first")).await;
    reserved(&store, called(2, 3, "other")).await;
    for (pod, n) in [(first, 1), (other, 2)] {
        sealing.keep_identity(pod, Address::repeat_byte(n), &key(n), NOW).await.unwrap();
    }
    drop(sealing);
    leave(place, store).await;
    let (saved, aside) = (home.path().join("saved.key"), home.path().join("aside.json"));
    std::fs::rename(config.sealing_key_file.path(), &saved).unwrap();
    forget_lost_keys(&config, &aside, fast).await.unwrap();
    let store = open(place).await;
    remove(&store, 1).await;
    reserved(&store, called(1, 4, "first")).await;
    leave(place, store).await;
    let done = restore_keys(&config, &aside, Some(&saved), false, NOW).await.unwrap();
    assert_eq!((done.restored, done.removed), (1, 1));
    let store = open(place).await;
    assert_eq!(store.identity_of(first).await.unwrap(), None, "that key went with the other POD");
    assert!(store.identity_of(other).await.unwrap().is_some(), "this one was there all the time");
}

pub(crate) async fn a_removal_is_before_or_after_the_first_sealing_whatever_clocks_said(place: &Place) {
    let (store, home, fast) = (open(place).await, folder(), NOW.plus(600_000));
    let (before, after) = (PodId::chosen("before").unwrap(), PodId::chosen("after").unwrap());
    reserved(&store, called(1, 1, "before")).await;
    reserved(&store, called(2, 2, "after")).await;
    remove_at(&store, 1, fast).await;
    SealedKeys::open_or_create(&store, &with_key(place, home.path()), NOW.plus(1)).await.unwrap();
    assert!(!store.was_erased(before).await.unwrap(), "its files were its version's to erase");
    remove_at(&store, 2, UnixMillis(1)).await;
    assert!(store.was_erased(after).await.unwrap());
    reserved(&store, called(2, 3, "after")).await;
    assert_eq!(store.keep_old_identity(after, sealed(1), None, NOW).await.unwrap(), None);
}

pub(crate) async fn the_key_of_the_tokens_comes_back_where_that_is_asked_for(place: &Place) {
    let home = folder();
    let config = with_key(place, home.path());
    sealed_store(place, &config).await;
    let (saved, aside) = (home.path().join("saved.key"), home.path().join("aside.json"));
    std::fs::rename(config.sealing_key_file.path(), &saved).unwrap();
    forget_lost_keys(&config, &aside, NOW).await.unwrap();
    for (with_tokens, tokens) in
        [(false, RestoredTokens::Left), (true, RestoredTokens::Restored), (true, RestoredTokens::Same)]
    {
        let done = restore_keys(&config, &aside, Some(&saved), with_tokens, NOW).await.unwrap();
        assert_eq!(done.tokens, Some(tokens));
        assert_eq!(opened(place, &config).await.unwrap()[0] == [9; 32], with_tokens);
    }
    assert_eq!(opened(place, &config).await.unwrap(), [[9; 32], [1; 32], [2; 32]]);
}

pub(crate) async fn keys_under_another_sealing_key_are_tested_with_it_one_by_one(place: &Place) {
    let (home, others) = (folder(), folder());
    let (config, other) = (with_key(place, home.path()), with_key(place, others.path()));
    sealed_store(place, &config).await;
    seal::read_or_create("sealing.key", other.sealing_key_file.path()).unwrap();
    let theirs = with_foreign_row(place, &other).await;
    let lost = find_lost_keys(&other).await.unwrap();
    assert!(lost.check && lost.tokens && lost.pods.len() == 2 && !lost.pods.contains(&theirs), "{lost:?}");
    let file = other.sealing_key_file.path().to_owned();
    assert_eq!(lost.tried, [TriedKey { file, is_foreign: true }]);
}

/// One more POD, whose key is sealed with the sealing key of another configuration.
async fn with_foreign_row(place: &Place, other: &Config) -> (PodId, Address) {
    let elsewhere = folder();
    let store = open(place).await;
    reserved(&store, reservation(3, 3)).await;
    let apart = Config { sealing_key_file: other.sealing_key_file.clone(), ..config(&elsewhere) };
    let (apart_store, apart_keys) = SealedKeys::open_store(&apart, NOW).await.unwrap();
    reserved(&apart_store, reservation(3, 3)).await;
    let address = Address::repeat_byte(3);
    apart_keys.keep_identity(pod(3), address, &key(3), NOW).await.unwrap();
    let row = apart_store.identity_of(pod(3)).await.unwrap().unwrap();
    store.keep_identity(pod(3), row, None, NOW).await.unwrap();
    leave(place, store).await;
    (pod(3), address)
}

pub(crate) async fn what_was_erased_stays_so_when_lost_keys_are_forgotten(place: &Place) {
    let home = folder();
    let config = with_key(place, home.path());
    sealed_store(place, &config).await;
    let store = open(place).await;
    remove(&store, 1).await;
    leave(place, store).await;
    std::fs::remove_file(config.sealing_key_file.path()).unwrap();
    forget_lost_keys(&config, &home.path().join("aside.json"), NOW.plus(1_000)).await.unwrap();
    let (store, _keys) = SealedKeys::open_store(&config, NOW.plus(2_000)).await.unwrap();
    assert!(store.was_erased(pod(1)).await.unwrap() && !store.was_erased(pod(2)).await.unwrap());
}

pub(crate) async fn no_vault_is_drafted_or_paid_for_any_more_whose_key_is_forgotten(place: &Place) {
    let home = folder();
    let config = with_key(place, home.path());
    sealed_store(place, &config).await;
    let store = open(place).await;
    let sealing = keys(&store, &config).await;
    reserved(&store, reservation(3, 3)).await;
    sealing.keep_identity(pod(3), Address::repeat_byte(3), &key(3), NOW).await.unwrap();
    drop(sealing);
    for (n, state) in [(1, DeployState::Unsigned), (2, DeployState::Deployed), (3, DeployState::Deploying)] {
        let (owner, agent_wallet) = (Address::repeat_byte(8), Address::repeat_byte(n));
        let consent = Some(VaultConsent { deadline: 9, signature: vec![9; 65] });
        let deploy = VaultDeploy {
            pod: pod(n.into()),
            owner,
            agent_wallet,
            address: owner,
            state,
            consent,
            tx: None,
            reason: None,
        };
        store.put_deploy(deploy, NOW).await.unwrap();
    }
    leave(place, store).await;
    std::fs::remove_file(config.sealing_key_file.path()).unwrap();
    forget_lost_keys(&config, &home.path().join("aside.json"), NOW).await.unwrap();
    let store = open(place).await;
    assert_eq!(store.deploy_of(pod(1)).await.unwrap(), None);
    assert!(store.deploy_of(pod(2)).await.unwrap().is_some(), "what is on the chain stays known");
    assert_eq!(store.deploying().await.unwrap(), [], "the gateway pays for none");
    let back = store.deploy_of(pod(3)).await.unwrap().unwrap();
    assert_eq!((back.state, back.consent), (DeployState::Unsigned, None));
    assert!(back.reason.is_some_and(|reason| reason.contains("key was lost")));
}

pub(crate) async fn a_key_that_is_sealed_with_the_key_of_before_is_not_kept(place: &Place) {
    let store = open(place).await;
    reserved(&store, reservation(1, 1)).await;
    let check = store.keep_secret(SecretName::Check, vec![1; 72], None, NOW).await.unwrap();
    let before = Some(vec![2; 72]);
    let secret = store.keep_secret(SecretName::Tokens, vec![2; 72], before.clone(), NOW).await.unwrap_err();
    let identity = store.keep_identity(pod(1), sealed(2), before.clone(), NOW).await.unwrap_err();
    let old = store.keep_old_identity(pod(1), sealed(2), before, NOW).await.unwrap_err();
    for refused in [secret, identity, old] {
        assert!(matches!(refused, StoreError::Resealed), "{refused}");
    }
    assert_eq!(store.identity_of(pod(1)).await.unwrap(), None);
    assert_eq!(store.secret(SecretName::Tokens).await.unwrap(), None);
    assert_eq!(store.keep_identity(pod(1), sealed(1), Some(check), NOW).await.unwrap(), sealed(1));
}

fn database(config: &Config) -> Connection {
    Connection::open(config.directory.join("palatine.db")).unwrap()
}

fn schema(config: &Config) -> i64 {
    database(config).query_row("PRAGMA user_version", (), |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn lost_keys_of_an_older_schema_are_forgotten_and_sealed_anew_without_its_gateway() {
    let folder = folder();
    let config = config(&folder);
    drop(database_of(6, &config.directory));
    database(&config).execute_batch(include_str!("../../src/sqlite/schema/7.sql")).unwrap();
    let sealer = seal::Sealer::new(&key(5));
    let check = sealer.seal(b"palatine", b"secrets\0check").unwrap();
    let insert = "INSERT INTO secrets (name, sealed, made_at) VALUES ('check', ?1, 5)";
    database(&config).execute(insert, (check,)).unwrap();
    database(&config).pragma_update(None, "user_version", 7).unwrap();
    let refused = SealedKeys::open_store(&config, NOW).await.unwrap_err();
    assert!(matches!(refused, SealedKeysError::Missing { .. }), "{refused}");
    forget_lost_keys(&config, &folder.path().join("aside.json"), NOW).await.unwrap();
    let done = reseal(&config, &folder.path().join("new.key")).await.unwrap();
    assert_eq!((done, schema(&config)), (Resealed { keys: 0, already: false }, 7));
    let config = Config { sealing_key_file: folder.path().join("new.key").into(), ..config };
    drop(SealedKeys::open_store(&config, NOW).await.unwrap());
}

#[tokio::test]
async fn a_refused_sealing_key_leaves_the_database_as_it_was_and_so_does_who_only_opens_it() {
    let folder = folder();
    let config = config(&folder);
    drop(database_of(6, &config.directory));
    std::fs::write(config.sealing_key_file.path(), "no key").unwrap();
    let refused = SealedKeys::open_store(&config, NOW).await.unwrap_err();
    assert!(matches!(refused, SealedKeysError::Key(_)), "{refused}");
    assert_eq!(schema(&config), 6);
    std::fs::remove_file(config.sealing_key_file.path()).unwrap();
    let refused = Store::open_existing(&config).await.unwrap_err();
    assert!(matches!(refused, StoreError::Older { found: 6, .. }), "{refused}");
    assert!(refused.to_string().contains("start its gateway once"), "{refused}");
    assert_eq!(schema(&config), 6);
    drop(SealedKeys::open_store(&config, NOW).await.unwrap());
    assert!(schema(&config) > 6);
    drop(Store::open_existing(&config).await.unwrap());
    database(&config).pragma_update(None, "user_version", 9_999).unwrap();
    let refused = Store::open_existing(&config).await.unwrap_err();
    assert!(matches!(refused, StoreError::Newer { .. }), "{refused}");
}

#[tokio::test]
async fn a_removed_pods_sealed_key_is_in_no_file_of_a_closed_sqlite_store() {
    const PODS: u64 = 400;
    let folder = folder();
    let store = reopen(&folder).await;
    let mark = |n: u64| format!("the sealed key of POD {n:03}, in seventy-two bytes of its own {n:013}").into_bytes();
    assert_eq!(mark(1).len(), 72);
    // In no order: pages are split, and their rows move.
    let order: Vec<u64> = (1..=PODS).map(|n| n * 163 % (PODS + 1)).collect();
    for (at, n) in order.iter().copied().enumerate() {
        reserved(&store, reservation(n, n)).await;
        let identity = SealedIdentity { address: Address::ZERO, sealed: mark(n) };
        store.keep_identity(pod(n), identity, None, NOW).await.unwrap();
        if at >= 50 && order[at - 50].is_multiple_of(3) {
            remove(&store, order[at - 50]).await;
        }
    }
    let marks = || {
        let all = std::fs::read_dir(config(&folder).directory).unwrap().map(|entry| entry.unwrap().path());
        // The others are of zeros, or of a few words.
        let of_database = all.filter(|path| path.display().to_string().contains("palatine.db"));
        let found = of_database.map(|path| std::fs::read(path).unwrap());
        let marks = found.flat_map(|bytes| bytes.windows(25).filter_map(number).collect::<Vec<u64>>());
        let mut marks: Vec<u64> = marks.collect();
        marks.sort_unstable();
        marks
    };
    assert!(marks().iter().any(|n| n.is_multiple_of(3)), "or the rest of this test would prove nothing");
    for n in order[order.len() - 50..].iter().filter(|n| n.is_multiple_of(3)) {
        remove(&store, *n).await;
    }
    drop(store);
    let kept: Vec<u64> = (1..=PODS).filter(|n| !n.is_multiple_of(3)).collect();
    assert_eq!(marks(), kept, "one copy of each key that is there, and none of another");
}

/// The number in a mark of [`a_removed_pods_sealed_key_is_in_no_file_of_a_closed_sqlite_store`].
fn number(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes.strip_prefix(b"the sealed key of POD ")?).ok()?.parse().ok()
}
