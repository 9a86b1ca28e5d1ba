//! From one database to another and back, with something in every table.

use domain::payment::{PaidRequestHash, Payment, PaymentLease, Payments};
use domain::relay::{DailyQuota, RelayEntry, RelayJournal, RelayState};
use domain::{
    Address, B256, DiskChange, DiskMark, Event, Mark, MarkKind, MeteredDisk, SteadyInstant, StopReason, U256, Usdc,
};
use palatine_store::{
    AccountLink, Copied, CopyError, DeployState, KeptData, RunMark, SealedIdentity, SecretName, SnapshotSettlement,
    Store, StoreUrl, VaultDeploy, copy,
};
use relay::conformance;

use crate::help::{
    DAY_MS, NOW, Place, folder, id, keyed, new_database, open, parse, pod, reservation, reserved, wallet,
};
use crate::{apikeys, copies, images, index, outbox, volumes};

/// Something in every table there is.
async fn fill(store: &Store) {
    reserved(store, keyed(1, 1, "k", 9)).await;
    store.place(id(1), "one", NOW).await.unwrap();
    let mark = RunMark { run: id(1), mark: Mark { seq: 1, at: NOW, kind: MarkKind::Ready } };
    store.count_marks("one", "a", vec![mark], vec![], NOW).await.unwrap();
    store.set_prices(pod(1), [("/v1".to_owned(), Usdc(7))].into()).await.unwrap();
    store.put_deploy(deploy(), NOW).await.unwrap();
    // One that is forgotten leaves its usage.
    reserved(store, reservation(2, 2)).await;
    store.advance(id(2), Event::Stop(StopReason::Removed), NOW).await.unwrap();
    store.end(id(2), None, NOW).await.unwrap();
    volumes::made(store, volumes::new_volume(3, 1, "work")).await;
    let snapshot = copies::reserve(store, copies::new_snapshot(3, 1, 1)).await.id;
    store.settle_snapshot(snapshot, SnapshotSettlement::Made { size_mib: 100, bytes: 5 }).await.unwrap();
    reserved(store, volumes::with(3, 3, &[("work", "/workspace")])).await;
    let change = DiskChange::Level { disk: MeteredDisk::Volume(volumes::volume_id(1)), mib: 100 };
    store.count_marks("n1", "a", vec![], vec![DiskMark { seq: 1, at: NOW, change }], NOW).await.unwrap();
    store.advance(id(3), Event::Stop(StopReason::Balance), NOW).await.unwrap();
    store.end(id(3), Some(KeptData { until: Some(NOW.plus(DAY_MS)), bytes: 5 }), NOW).await.unwrap();
    store.count_time(SteadyInstant { boot: [1; 16], millis: 5 }).await.unwrap();
    store.keep_link(link()).await.unwrap();
    store.keep_secret(SecretName::Check, vec![1; 72], None, NOW).await.unwrap();
    store.keep_identity(pod(1), sealed(), None, NOW).await.unwrap();
    store.keep_api_key(apikeys::new_key(1, 1)).await.unwrap();
    store.note_api_keys_used(vec![(apikeys::key_id(1), NOW)]).await.unwrap();
    images::fill(store).await;
    index::fill(store).await;
    store.outbox_write(outbox::entry("a", 0)).await.unwrap();
    pay(store).await;
}

fn link() -> AccountLink {
    let (holder_signature, owner_signature) = ("h".to_owned(), "ö".to_owned());
    let text = "both\n'\"; --".to_owned();
    AccountLink {
        holder: wallet(1),
        owner: Address::repeat_byte(1),
        text,
        holder_signature,
        owner_signature,
        signed_at: NOW,
    }
}

fn sealed() -> SealedIdentity {
    SealedIdentity { address: Address::repeat_byte(2), sealed: vec![2; 72] }
}

fn deploy() -> VaultDeploy {
    let (owner, agent_wallet, address) = (Address::repeat_byte(1), Address::repeat_byte(2), Address::repeat_byte(3));
    let (consent, tx, reason) = (None, Some(B256::repeat_byte(9)), None);
    VaultDeploy { pod: pod(1), owner, agent_wallet, address, state: DeployState::Deploying, consent, tx, reason }
}

async fn pay(store: &Store) {
    let mut fee = conformance::fee_payment(1, 1);
    fee.signed.authorization.valid_before = U256::from(u64::MAX);
    let mut payment = Payment {
        signed: conformance::fee_payment(2, 2).signed,
        request: PaidRequestHash(B256::repeat_byte(5)),
        resource: "agent".to_owned(),
        seen_at: NOW,
    };
    payment.signed.authorization.valid_before = U256::from(u64::MAX);
    store.payments().reserve(&payment, PaymentLease { id: u64::MAX, until: NOW.plus(9) }, NOW).await.unwrap();
    let entry = RelayEntry { payment: Some(fee), state: RelayState::Paying, ..conformance::entry(1) };
    let quota = DailyQuota { subject: "who".to_owned(), day: 1, add: 2, limit: 3 };
    store.relay_journal(338).admit(&[entry], &[quota]).await.unwrap();
}

fn sqlite_url(folder: &tempfile::TempDir) -> StoreUrl {
    format!("sqlite://{}", folder.path().join("store").display()).parse().unwrap()
}

/// The tables that hold nothing.
fn empty(copied: &Copied) -> Vec<&str> {
    copied.tables.iter().filter(|table| table.rows == 0).map(|table| table.table.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_goes_to_postgres_and_back_and_is_what_it_was() {
    let (first, last) = (folder(), folder());
    let (from, over, back) = (sqlite_url(&first), parse(&new_database().await), sqlite_url(&last));
    let store = open(&Place::Url(from.clone())).await;
    fill(&store).await;
    // While it is in use, nothing is copied.
    assert!(matches!(copy(&from, &over).await, Err(CopyError::Store(_))));
    drop(store);
    let default_key = first.path().join("store/sealing.key");
    seal::read_or_create("sealing.key", &default_key).unwrap();
    let there = copy(&from, &over).await.unwrap();
    assert!(there.is_sealed && there.default_key.as_ref() == Some(&default_key), "the folder is not to be thrown away");
    assert_eq!(empty(&there), Vec::<&str>::new(), "every table is tried");
    assert!(matches!(copy(&from, &over).await, Err(CopyError::NotEmpty(_))));
    // The gateway of before has left its key where the copy's is looked for.
    let its_key = last.path().join("store/sealing.key");
    seal::read_or_create("sealing.key", &its_key).unwrap();
    let refused = copy(&over, &back).await.unwrap_err();
    assert!(matches!(&refused, CopyError::HoldsKey(file) if *file == its_key), "{refused}");
    assert!(refused.to_string().contains(&its_key.display().to_string()), "{refused}");
    std::fs::remove_file(its_key).unwrap();
    let again = copy(&over, &back).await.unwrap();
    assert_eq!(again, Copied { default_key: None, ..there });
    assert!(matches!(copy(&over, &back).await, Err(CopyError::NotEmpty(_))));
    let moved = open(&Place::Url(over.clone())).await;
    assert!(matches!(copy(&over, &sqlite_url(&folder())).await, Err(CopyError::InUse(_))));
    let returned = open(&Place::Url(back)).await;
    for store in [&moved, &returned] {
        assert_eq!(store.live_of(wallet(1)).await.unwrap().len(), 1);
        assert_eq!(store.secret(SecretName::Check).await.unwrap(), Some(vec![1; 72]));
        assert_eq!(store.identity_of(pod(1)).await.unwrap(), Some(sealed()));
        assert_eq!(store.volumes_of(wallet(3)).await.unwrap().len(), 1);
        assert_eq!(store.api_key(apikeys::key_id(1)).await.unwrap().and_then(|key| key.used_at), Some(NOW));
        // New rows have numbers of their own.
        assert_ne!(
            store.chain_index(338, Address::repeat_byte(77)).await.unwrap(),
            store.chain_index(1, Address::ZERO).await.unwrap()
        );
        store.count_marks("two", "b", Vec::new(), vec![], NOW).await.unwrap();
        reserved(store, reservation(9, 9)).await;
    }
}
