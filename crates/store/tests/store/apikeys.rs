use domain::{KeyForm, KeyId, KeyScope};
use palatine_store::{ApiKeyOutcome, ApiKeyRecord, IdempotencyKey, NewApiKey, Store};

use crate::help::{DAY_MS, NOW, Place, bytes, leave, open, wallet};

/// Keys that a wallet of these tests may have.
const MOST: u32 = 3;

pub(crate) const fn key_id(n: u64) -> KeyId {
    KeyId::from_bits(u64::MAX - n)
}

/// Key `n` of wallet `holder`, for a day.
pub(crate) fn new_key(holder: u64, n: u64) -> NewApiKey {
    let key = ApiKeyRecord {
        id: key_id(n),
        wallet: wallet(holder),
        name: Some(format!("key {n}")),
        form: KeyForm::E2b,
        scope: KeyScope::Run,
        digest: bytes(n),
        created_at: NOW.plus(n),
        expires_at: NOW.plus(DAY_MS),
        used_at: None,
    };
    NewApiKey { key, idempotency: None, most: MOST }
}

fn asked(word: &str, request: u64, new: NewApiKey) -> NewApiKey {
    NewApiKey { idempotency: Some(IdempotencyKey { key: word.to_owned(), request: bytes(request) }), ..new }
}

async fn ids(store: &Store, holder: u64) -> Vec<KeyId> {
    store.api_keys_of(wallet(holder)).await.unwrap().iter().map(|key| key.id).collect()
}

pub(crate) async fn a_key_is_read_as_it_was_kept_until_its_own_wallet_revokes_it(place: &Place) {
    let store = open(place).await;
    let plain = |new: NewApiKey| {
        let key = ApiKeyRecord { name: None, form: KeyForm::Palatine, scope: KeyScope::Read, ..new.key };
        NewApiKey { key, ..new }
    };
    for new in [new_key(1, 1), plain(new_key(1, 2)), new_key(2, 3)] {
        assert_eq!(store.keep_api_key(new).await.unwrap(), ApiKeyOutcome::Kept);
    }
    leave(place, store).await;
    let store = open(place).await;
    assert_eq!(store.api_key(key_id(1)).await.unwrap(), Some(new_key(1, 1).key));
    assert_eq!(store.api_key(key_id(2)).await.unwrap(), Some(plain(new_key(1, 2)).key));
    assert_eq!(ids(&store, 1).await, [key_id(2), key_id(1)]);
    assert!(!store.revoke_api_key(wallet(2), key_id(1)).await.unwrap(), "it is another wallet's");
    assert!(store.revoke_api_key(wallet(1), key_id(1)).await.unwrap());
    assert_eq!(store.api_key(key_id(1)).await.unwrap(), None);
    assert!(!store.revoke_api_key(wallet(1), key_id(1)).await.unwrap());
    assert_eq!(ids(&store, 2).await, [key_id(3)]);
}

pub(crate) async fn of_fifty_keys_made_at_once_a_wallet_gets_as_many_as_it_may(place: &Place) {
    let store = open(place).await;
    let asked: Vec<_> = (0..50)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { store.keep_api_key(new_key(1, n)).await.unwrap() })
        })
        .collect();
    let mut kept = 0;
    for outcome in asked {
        match outcome.await.unwrap() {
            ApiKeyOutcome::Kept => kept += 1,
            ApiKeyOutcome::TooMany => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((kept, ids(&store, 1).await.len()), (3, 3));
}

pub(crate) async fn a_key_that_is_over_makes_room_for_another(place: &Place) {
    let store = open(place).await;
    for n in 0..3 {
        assert_eq!(store.keep_api_key(new_key(1, n)).await.unwrap(), ApiKeyOutcome::Kept);
    }
    let at = |time, new: NewApiKey| {
        let key = ApiKeyRecord { created_at: time, expires_at: time.plus(DAY_MS), ..new.key };
        NewApiKey { key, ..new }
    };
    let just = at(NOW.plus(DAY_MS - 1), new_key(1, 4));
    assert_eq!(store.keep_api_key(just).await.unwrap(), ApiKeyOutcome::TooMany);
    assert_eq!(ids(&store, 1).await.len(), 3, "what is refused removes nothing");
    let later = at(NOW.plus(DAY_MS), new_key(1, 5));
    assert_eq!(store.keep_api_key(later).await.unwrap(), ApiKeyOutcome::Kept);
    assert_eq!(ids(&store, 1).await, [key_id(5)]);
}

pub(crate) async fn a_retry_has_one_key_and_not_two(place: &Place) {
    let store = open(place).await;
    let first = asked("k", 9, new_key(1, 1));
    assert_eq!(store.keep_api_key(first).await.unwrap(), ApiKeyOutcome::Kept);
    let again = asked("k", 9, new_key(1, 2));
    assert_eq!(store.keep_api_key(again).await.unwrap(), ApiKeyOutcome::Replaced(key_id(1)));
    assert_eq!(ids(&store, 1).await, [key_id(2)]);
    assert_eq!(store.api_key(key_id(1)).await.unwrap(), None, "nobody knows that one");
    assert_eq!(store.keep_api_key(asked("k", 8, new_key(1, 3))).await.unwrap(), ApiKeyOutcome::Mismatch);
    // Another wallet's word is another word.
    assert_eq!(store.keep_api_key(asked("k", 8, new_key(2, 4))).await.unwrap(), ApiKeyOutcome::Kept);
    // Where there is room for no more, a retry takes the place of its own.
    for n in 5..7 {
        assert_eq!(store.keep_api_key(new_key(1, n)).await.unwrap(), ApiKeyOutcome::Kept);
    }
    let retry = asked("k", 9, new_key(1, 7));
    assert_eq!(store.keep_api_key(retry).await.unwrap(), ApiKeyOutcome::Replaced(key_id(2)));
    // A day later the word stands for nothing any more, and a key that was revoked is forgotten.
    let late = asked("k", 8, new_key(1, 8));
    let key = ApiKeyRecord { created_at: NOW.plus(DAY_MS + 7), expires_at: NOW.plus(2 * DAY_MS), ..late.key.clone() };
    assert_eq!(store.keep_api_key(NewApiKey { key, ..late }).await.unwrap(), ApiKeyOutcome::Kept);
    assert!(store.revoke_api_key(wallet(1), key_id(8)).await.unwrap());
    let anew = asked("k", 7, new_key(1, 9));
    assert_eq!(store.keep_api_key(anew).await.unwrap(), ApiKeyOutcome::Kept);
}

pub(crate) async fn the_last_use_that_was_noted_is_shown_and_never_goes_back(place: &Place) {
    let store = open(place).await;
    store.keep_api_key(new_key(1, 1)).await.unwrap();
    store.keep_api_key(new_key(1, 2)).await.unwrap();
    let used = async |n| store.api_key(key_id(n)).await.unwrap().unwrap().used_at;
    store.note_api_keys_used(vec![(key_id(1), NOW.plus(7)), (key_id(99), NOW)]).await.unwrap();
    assert_eq!((used(1).await, used(2).await), (Some(NOW.plus(7)), None));
    store.note_api_keys_used(vec![(key_id(1), NOW.plus(6)), (key_id(2), NOW.plus(8))]).await.unwrap();
    assert_eq!((used(1).await, used(2).await), (Some(NOW.plus(7)), Some(NOW.plus(8))));
    store.note_api_keys_used(Vec::new()).await.unwrap();
}

pub(crate) async fn a_key_that_is_long_over_is_forgotten(place: &Place) {
    let store = open(place).await;
    store.keep_api_key(new_key(1, 1)).await.unwrap();
    assert_eq!(store.prune(NOW.plus(2 * DAY_MS)).await.unwrap().api_keys, 0);
    assert!(store.api_key(key_id(1)).await.unwrap().is_some(), "who uses it is told that it is over");
    assert_eq!(store.prune(NOW.plus(31 * DAY_MS)).await.unwrap().api_keys, 1);
    assert_eq!(store.api_key(key_id(1)).await.unwrap(), None);
}
