//! PostgreSQL alone: several gateways at one database, a server that is killed, a full disk.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use domain::{Address, Event, HolderAllowance, PodId, State, StopReason};
use fixtures::{PATIENCE, Postgres, cut_at_commit};
use palatine_store::{
    Admission, Config, CopyError, ResealError, Resealed, RunReservation, SealedIdentity, SealedKeys, SealedKeysError,
    SecretName, Store, StoreError, forget_lost_keys, reseal,
};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use sqlx::{AssertSqlSafe, Connection, PgConnection, raw_sql};

use crate::apikeys::{key_id, new_key};
use crate::help::{
    NOW, Place, folder, id, make_database, new_database, open, parse, pod, reservation, reserved, wallet,
};

fn config(url: &str) -> Config {
    Config { url: Some(parse(url)), connections: 8, timeout_ms: 30_000, ..Config::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_share_one_slot_per_wallet_and_hear_of_each_others_changes() {
    let place = Place::postgres().await;
    let (one, other) = (open(&place).await, open(&place).await);
    assert_ne!(one.epoch(), other.epoch());
    let mut news = other.subscribe();
    let asked: Vec<_> = (0..50)
        .map(|n| {
            let store = if n % 2 == 0 { one.clone() } else { other.clone() };
            tokio::spawn(async move { store.reserve(reservation(1, n)).await.unwrap() })
        })
        .collect();
    let mut granted = Vec::new();
    for answer in asked {
        match answer.await.unwrap() {
            Admission::Reserved(record) => granted.push(record),
            Admission::Busy(_) => {}
            other => panic!("{other:?}"),
        }
    }
    let [record] = granted.as_slice() else { panic!("{granted:?}") };
    one.advance(record.id, Event::Stop(StopReason::Requested), NOW).await.unwrap();
    let (of, first) = news.recv().await.unwrap();
    assert_eq!((of, first.seq, first.state), (record.pod, 1, State::Reserved));
    assert_eq!(news.recv().await.unwrap().1.seq, 2);
    let live = other.live_epochs().await.unwrap();
    assert!(live.contains(&one.epoch()) && live.contains(&other.epoch()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_gateways_that_start_at_once_on_an_empty_database_both_come_up() {
    let place = Place::postgres().await;
    let stores = tokio::join!(open(&place), open(&place), open(&place));
    reserved(&stores.0, reservation(1, 1)).await;
    assert!(stores.2.get(id(1)).await.unwrap().is_some());
}

#[tokio::test]
async fn a_newer_schema_and_another_programs_database_are_refused_and_left_alone() {
    let (newer, foreign) = (new_database().await, new_database().await);
    drop(Store::open(&config(&newer)).await.unwrap());
    execute(&newer, "UPDATE palatine SET version = 9999").await;
    let refused = Store::open(&config(&newer)).await.unwrap_err();
    assert!(matches!(refused, StoreError::Newer { found: 9_999, .. }), "{refused}");
    execute(&foreign, "CREATE TABLE t (x INT)").await;
    let refused = Store::open(&config(&foreign)).await.unwrap_err();
    assert!(matches!(refused, StoreError::Foreign(_)), "{refused}");
}

#[tokio::test]
async fn a_database_of_the_first_version_is_brought_up_with_all_it_holds() {
    let url = new_database().await;
    execute(&url, include_str!("../../src/postgres/schema/1.sql")).await;
    execute(&url, "UPDATE palatine SET version = 1").await;
    execute(
        &url,
        "INSERT INTO pods (key, name, wallet, last_run, brought, ephemeral, created_at, stopped_at) \
         VALUES (7, 'mine', decode(repeat('01', 32), 'hex'), 7, FALSE, FALSE, 5, 6)",
    )
    .await;
    let store = Store::open(&config(&url)).await.unwrap();
    let named = PodId::chosen("mine").unwrap();
    assert_eq!(store.identity_of(named).await.unwrap(), None);
    let identity = SealedIdentity { address: Address::repeat_byte(1), sealed: vec![1; 72] };
    assert_eq!(store.keep_identity(named, identity.clone(), None, NOW).await.unwrap(), identity);
    // As a gateway of that version, which still runs, removes a POD and gives its id again.
    execute(&url, "UPDATE pods SET removed_at = 9 WHERE key = 7").await;
    execute(&url, "UPDATE pods SET removed_at = NULL WHERE key = 7").await;
    assert_eq!(store.identity_of(named).await.unwrap(), None);
    assert!(store.was_erased(named).await.unwrap(), "also where the other gateway knows nothing of that");
}

/// What a gateway of the third version says when it reserves run `n` for wallet 1, of whose
/// slots it knows nothing.
fn reserved_by_the_third_version(n: u64) -> String {
    let wallet = "decode('0000000000000001' || repeat('00', 24), 'hex')";
    format!(
        "INSERT INTO runs (id, wallet, generation, state, agent_type, image, tier, tier_min, cores, memory_mib, \
         public, spawned_at, epoch, pod, disk_mib, changes) VALUES ({n}, {wallet}, 1, 'reserved', 'echo', \
         decode(repeat('00', 32), 'hex'), 'standard', 500000, 2, 2048, FALSE, 5, 5, {n}, 10240, 1) \
         ON CONFLICT DO NOTHING; \
         INSERT INTO pods (key, wallet, last_run, brought, ephemeral, created_at) \
         SELECT {n}, {wallet}, {n}, FALSE, FALSE, 5 WHERE EXISTS (SELECT FROM runs WHERE id = {n})"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_of_the_third_version_is_brought_up_while_a_gateway_of_that_one_still_works_with_it() {
    let url = new_database().await;
    for schema in [
        include_str!("../../src/postgres/schema/1.sql"),
        include_str!("../../src/postgres/schema/2.sql"),
        include_str!("../../src/postgres/schema/3.sql"),
        "UPDATE palatine SET version = 3",
        reserved_by_the_third_version(7).as_str(),
    ] {
        execute(&url, schema).await;
    }
    let store = Store::open(&config(&url)).await.unwrap();
    let live = store.live_of(wallet(1)).await.unwrap();
    assert_eq!(live.iter().map(|run| (run.pod, run.slot)).collect::<Vec<_>>(), [(pod(7), 0)]);
    assert_eq!(store.reserve(reservation(1, 1)).await.unwrap(), Admission::Busy(pod(7)));
    let two = HolderAllowance { agents: 2, cores: 4, memory_mib: 4096 };
    assert_eq!(reserved(&store, RunReservation { allowance: two, ..reservation(1, 2) }).await.slot, 1);
    // The other gateway finds its one slot taken.
    execute(&url, &reserved_by_the_third_version(8)).await;
    assert_eq!(store.live_of(wallet(1)).await.unwrap().len(), 2);
    store.advance(id(7), Event::Stop(StopReason::Requested), NOW).await.unwrap();
    store.end(id(7), None, NOW).await.unwrap();
    // And takes it once it is free, which this one sees.
    execute(&url, &reserved_by_the_third_version(9)).await;
    assert_eq!(store.reserve(reservation(1, 3)).await.unwrap(), Admission::Busy(pod(9)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_together_let_no_wallet_have_more_than_its_tier_gives() {
    let place = Place::postgres().await;
    let (one, other) = (open(&place).await, open(&place).await);
    let allowance = HolderAllowance { agents: 5, cores: 6, memory_mib: 8192 };
    let asked: Vec<_> = (0..50)
        .map(|n| {
            let store = if n % 2 == 0 { one.clone() } else { other.clone() };
            let reservation = RunReservation { allowance, ..reservation(1, n) };
            tokio::spawn(async move { store.reserve(reservation).await.unwrap() })
        })
        .collect();
    for answer in asked {
        let answer = answer.await.unwrap();
        assert!(matches!(answer, Admission::Reserved(_) | Admission::AllowanceExceeded(_)), "{answer:?}");
    }
    // Each has two cores of six.
    let slots: BTreeSet<_> = one.live_of(wallet(1)).await.unwrap().iter().map(|run| run.slot).collect();
    assert_eq!(slots, [0, 1, 2].into());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_one_gateway_revoked_opens_nothing_at_the_other() {
    let place = Place::postgres().await;
    let (one, other) = (open(&place).await, open(&place).await);
    one.keep_api_key(new_key(1, 1)).await.unwrap();
    assert!(other.api_key(key_id(1)).await.unwrap().is_some());
    assert!(one.revoke_api_key(wallet(1), key_id(1)).await.unwrap());
    assert_eq!(other.api_key(key_id(1)).await.unwrap(), None);
}

#[tokio::test]
async fn a_migration_may_take_longer_than_any_caller_waits() {
    let url = new_database().await;
    execute(&url, include_str!("../../src/postgres/schema/1.sql")).await;
    execute(&url, include_str!("../../src/postgres/schema/2.sql")).await;
    execute(&url, "UPDATE palatine SET version = 2").await;
    execute(
        &url,
        "INSERT INTO pods (key, name, wallet, last_run, brought, ephemeral, created_at, removed_at) \
         VALUES (7, 'gone', decode(repeat('01', 32), 'hex'), 0, FALSE, FALSE, 5, 6), \
         (8, 'mine', decode(repeat('01', 32), 'hex'), 8, FALSE, FALSE, 5, NULL)",
    )
    .await;
    // As many rows, which are written for a while.
    execute(
        &url,
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM pg_sleep(4); RETURN NEW; END $$; \
         CREATE TRIGGER slow BEFORE UPDATE ON pods FOR EACH ROW EXECUTE FUNCTION slow()",
    )
    .await;
    let store = Store::open(&Config { timeout_ms: 3_000, ..config(&url) }).await.unwrap();
    assert!(store.was_erased(PodId::chosen("gone").unwrap()).await.unwrap());
    assert!(!store.was_erased(PodId::chosen("mine").unwrap()).await.unwrap());
}

#[tokio::test]
async fn lost_keys_of_the_second_version_are_forgotten_without_its_gateway() {
    let (home, url) = (folder(), new_database().await);
    execute(&url, include_str!("../../src/postgres/schema/1.sql")).await;
    execute(&url, include_str!("../../src/postgres/schema/2.sql")).await;
    execute(&url, "UPDATE palatine SET version = 2").await;
    let insert = "INSERT INTO secrets (name, sealed, made_at) VALUES ('check', decode(repeat('01', 72), 'hex'), 5)";
    execute(&url, insert).await;
    let config = Config { sealing_key_file: home.path().join("sealing.key").into(), ..config(&url) };
    let refused = SealedKeys::open_store(&config, NOW).await.unwrap_err();
    assert!(matches!(refused, SealedKeysError::Missing { .. }), "{refused}");
    forget_lost_keys(&config, &home.path().join("aside.json"), NOW).await.unwrap();
    drop(SealedKeys::open_store(&config, NOW).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_was_only_paused_keeps_no_key_under_the_sealing_key_of_before() {
    let (home, url) = (folder(), new_database().await);
    let config = Config { sealing_key_file: home.path().join("sealing.key").into(), ..config(&url) };
    let (store, keys) = SealedKeys::open_store(&config, NOW).await.unwrap();
    for n in 1..=2 {
        reserved(&store, reservation(n, n)).await;
    }
    keys.keep_secret(SecretName::Tokens, &seal::generate().unwrap(), NOW).await.unwrap();
    keys.keep_identity(pod(2), Address::ZERO, &seal::generate().unwrap(), NOW).await.unwrap();
    // Its lease is over, and it does not know.
    let mut resealed = None;
    for _ in 0..10 {
        execute(&url, "DELETE FROM gateways").await;
        match reseal(&config, &home.path().join("new.key")).await {
            Err(ResealError::Database(CopyError::InUse(_))) => {}
            done => {
                resealed = Some(done.unwrap());
                break;
            }
        }
    }
    assert!(resealed.is_some());
    let key = seal::generate().unwrap();
    let refused = keys.keep_identity(pod(1), Address::ZERO, &key, NOW).await.unwrap_err();
    assert!(matches!(refused, SealedKeysError::Store(StoreError::Resealed)), "{refused}");
    assert_eq!(store.identity_of(pod(1)).await.unwrap(), None);
    // What is there is not damaged: it is sealed with another key.
    let (token, identity) = (keys.secret(SecretName::Tokens).await, keys.identity_of(pod(2)).await);
    for refused in [token.unwrap_err(), identity.unwrap_err()] {
        assert!(matches!(refused, SealedKeysError::Store(StoreError::Resealed)), "{refused}");
    }
    tokio::time::timeout(PATIENCE, keys.resealed()).await.expect("it is told to end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_without_an_answer_is_told_as_not_known_and_the_same_command_again_says_that_it_is_done() {
    let (home, url) = (folder(), new_database().await);
    let config = Config { sealing_key_file: home.path().join("sealing.key").into(), ..config(&url) };
    drop(SealedKeys::open_store(&config, NOW).await.unwrap());
    execute(&url, "DELETE FROM gateways").await;
    let cut = Config { url: Some(parse(&cut_at_commit(&url, home.path()))), ..config.clone() };
    let new = home.path().join("new.key");
    let unknown = reseal(&cut, &new).await.unwrap_err();
    assert!(matches!(unknown, ResealError::Unknown(StoreError::Unreachable { .. })), "{unknown}");
    assert!(unknown.to_string().contains("keep every sealing key"), "{unknown}");
    assert_eq!(reseal(&config, &new).await.unwrap(), Resealed { keys: 0, already: true });
    std::fs::remove_file(&new).unwrap();
    let (lost, aside) = (&config.sealing_key_file, home.path().join("aside.json"));
    std::fs::remove_file(lost.path()).unwrap();
    let unknown = forget_lost_keys(&cut, &aside, NOW).await.unwrap_err();
    assert!(matches!(unknown, ResealError::Unknown(_)) && aside.exists(), "{unknown}");
    assert!(forget_lost_keys(&config, &aside, NOW).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_set_aside_already_and_was_not_committed_is_no_obstacle_to_the_same_command() {
    let (home, url) = (folder(), new_database().await);
    let config = Config { sealing_key_file: home.path().join("sealing.key").into(), ..config(&url) };
    drop(SealedKeys::open_store(&config, NOW).await.unwrap());
    execute(&url, "DELETE FROM gateways").await;
    std::fs::remove_file(config.sealing_key_file.path()).unwrap();
    let aside = home.path().join("aside.json");
    std::fs::write(&aside, "of something else").unwrap();
    let refused = forget_lost_keys(&config, &aside, NOW).await.unwrap_err();
    assert!(matches!(refused, ResealError::Aside { .. }), "{refused}");
    std::fs::remove_file(&aside).unwrap();
    // As one that is killed before the end leaves it.
    execute(
        &url,
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$; \
                   CREATE TRIGGER no BEFORE UPDATE ON secrets FOR EACH ROW EXECUTE FUNCTION no()",
    )
    .await;
    forget_lost_keys(&config, &aside, NOW).await.unwrap_err();
    assert!(aside.exists());
    execute(&url, "DROP TRIGGER no ON secrets").await;
    forget_lost_keys(&config, &aside, NOW.plus(1)).await.unwrap();
    assert!(SealedKeys::open_store(&config, NOW).await.is_ok());
}

async fn execute(url: &str, sql: &str) {
    let mut conn = PgConnection::connect(url).await.unwrap();
    raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut conn).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_reservation_survives_kill_9_of_the_server_and_none_is_half_there() {
    let mut server = Postgres::start();
    let url = make_database(&server, "killed").await;
    let store = Store::open(&config(&url)).await.unwrap();
    let (mut kept, mut asked) = (Vec::new(), 0);
    for round in 0..3_u64 {
        let ends = Arc::new(AtomicBool::new(false));
        let callers: Vec<_> = (0..8_u64)
            .map(|caller| tokio::spawn(reserve_until(store.clone(), round * 1_000_000 + caller, Arc::clone(&ends))))
            .collect();
        tokio::time::sleep(std::time::Duration::from_millis(700)).await;
        server.kill();
        ends.store(true, Ordering::Relaxed);
        for caller in callers {
            let (granted, last) = caller.await.unwrap();
            kept.extend(granted);
            asked += last;
        }
        server.start_again();
    }
    assert!(!kept.is_empty() && asked > 0);
    for n in &kept {
        let run = store.get(id(*n)).await.unwrap();
        assert!(run.is_some(), "reservation {n} was acknowledged and is gone");
    }
    // Whatever is there is there whole: run, POD, spent message.
    for run in store.live().await.unwrap() {
        let n = run.id.bits();
        assert_eq!(store.last_run(pod(n)).await.unwrap().map(|last| last.id), Some(run.id));
        assert_eq!(store.reserve(reservation(n, n)).await.unwrap(), Admission::Replayed);
    }
}

/// Reserves for one wallet after the other; those that were granted, and how many were asked for.
async fn reserve_until(store: Store, from: u64, ends: Arc<AtomicBool>) -> (Vec<u64>, u64) {
    let (mut granted, mut asked) = (Vec::new(), 0);
    for n in (from..).step_by(8) {
        if ends.load(Ordering::Relaxed) {
            break;
        }
        asked += 1;
        match store.reserve(reservation(n, n)).await {
            Ok(Admission::Reserved(_)) => granted.push(n),
            Ok(other) => panic!("{other:?}"),
            Err(error) => {
                assert!(error.retryable(), "{error:?}");
                break;
            }
        }
    }
    (granted, asked)
}

/// Big enough for an empty cluster, and soon full.
const SIZE: &std::ffi::CStr = c"size=96m,mode=0711";

#[test]
fn a_full_disk_of_the_server_fails_everybody_cleanly_and_room_heals_it() {
    let folder = folder();
    #[expect(unsafe_code, reason = "a namespace of this thread's own; no other thread of the test exists yet")]
    // SAFETY: only the mount table is unshared; no file descriptor is.
    let unshared = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) };
    unshared.expect("this test makes a mount of its own: run it as root");
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .expect("keep our mounts to ourselves");
    mount("tmpfs", folder.path(), "tmpfs", MountFlags::empty(), SIZE).expect("mount a tiny disk");
    std::os::unix::fs::chown(folder.path(), Some(65534), Some(65534)).unwrap();
    let mut server = Postgres::start_in(folder.path(), &["min_wal_size=32MB", "max_wal_size=32MB"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let url = make_database(&server, "tiny").await;
        let store = Store::open(&config(&url)).await.unwrap();
        fill_and_heal(&mut server, &store, folder.path()).await;
    });
}

async fn fill_and_heal(server: &mut Postgres, store: &Store, folder: &std::path::Path) {
    reserved(store, reservation(1, 1)).await;
    let ballast = folder.join("ballast");
    let mut file = std::fs::File::create(&ballast).unwrap();
    while std::io::Write::write_all(&mut file, &[0_u8; 65_536]).is_ok() {}
    // As long as it is open, its room is not given back.
    drop(file);
    let (mut kept, mut failed) = (vec![1], Vec::new());
    for n in 100..200_000_u64 {
        match store.reserve(reservation(n, n)).await {
            Ok(Admission::Reserved(_)) => kept.push(n),
            Ok(other) => panic!("{other:?}"),
            Err(error) => {
                assert!(error.retryable(), "{error:?}");
                failed.push(n);
            }
        }
        if failed.len() >= 20 {
            break;
        }
    }
    assert!(failed.len() >= 20, "the disk never got full");
    std::fs::remove_file(&ballast).unwrap();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while let Err(error) = store.check().await {
        assert!(std::time::Instant::now() < until, "it does not heal: {error}");
        // A server whose log found no room has ended itself.
        if !server.is_running() {
            server.start_again();
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    for n in &failed {
        assert_eq!(store.live_of(wallet(*n)).await.unwrap(), [], "{n} failed and took its slot");
        // Neither was the message spent.
        reserved(store, reservation(*n, *n)).await;
    }
    for n in kept.iter().chain(&failed) {
        assert!(store.get(id(*n)).await.unwrap().is_some(), "{n}");
    }
}
