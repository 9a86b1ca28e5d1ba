use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use domain::relay::{RelayAdmission, RelayEntry, RelayJournal, RelayState};
use domain::{Address, B256, HolderAllowance, State, StopReason};
use palatine_store::{
    Admission, Config, PruneReport, RunPod, RunReservation, SealedIdentity, SecretName, Store, StoreError,
};
use rusqlite::{Connection, params};

use crate::help::{NOW, bytes, config, database_of, folder, id, keyed, pod, reopen, reservation, reserved, wallet};

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn nobody_else_may_read_the_files_even_where_they_lay_open_before() {
    let folder = folder();
    let directory = config(&folder).directory;
    std::fs::create_dir(&directory).unwrap();
    std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o755)).unwrap();
    let store = reopen(&folder).await;
    reserved(&store, reservation(1, 1)).await;
    assert_eq!(mode(&directory), 0o700);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        names.push(path.file_name().unwrap().to_string_lossy().into_owned());
    }
    names.sort();
    assert_eq!(names, ["lock", "made", "palatine.db", "palatine.db-shm", "palatine.db-wal", "reserve"]);
}

#[tokio::test]
async fn a_second_process_is_kept_out_and_let_in_once_the_first_is_gone() {
    let folder = folder();
    let store = reopen(&folder).await;
    let clone = store.clone();
    drop(store);
    assert!(matches!(Store::open(&config(&folder)).await, Err(StoreError::InUse(_))));
    drop(clone);
    reopen(&folder).await;
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() {
    let folder = folder();
    drop(reopen(&folder).await);
    let database = config(&folder).directory.join("palatine.db");
    let conn = Connection::open(&database).unwrap();
    conn.pragma_update(None, "user_version", 9_999).unwrap();
    drop(conn);
    let refused = Store::open(&config(&folder)).await.unwrap_err();
    assert!(matches!(refused, StoreError::Newer { found: 9_999, .. }), "{refused}");
    assert!(refused.to_string().contains("schema 9999"), "{refused}");
    let found: i64 =
        Connection::open(&database).unwrap().query_row("PRAGMA user_version", (), |row| row.get(0)).unwrap();
    assert_eq!(found, 9_999);
}

#[tokio::test]
async fn a_database_of_another_program_is_refused() {
    let folder = folder();
    let directory = config(&folder).directory;
    std::fs::create_dir(&directory).unwrap();
    Connection::open(directory.join("palatine.db")).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    assert!(matches!(Store::open(&config(&folder)).await, Err(StoreError::Foreign(_))));
}

#[tokio::test]
async fn a_file_that_is_no_database_is_said_to_be_damaged() {
    let folder = folder();
    let directory = config(&folder).directory;
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("palatine.db"), [0x5A; 8192]).unwrap();
    let refused = Store::open(&config(&folder)).await.unwrap_err();
    assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused:?}");
}

#[tokio::test]
async fn fault_1_2_an_emptied_or_missing_database_is_not_taken_for_a_new_one() {
    let folder = folder();
    let directory = config(&folder).directory;
    let (database, wal) = (directory.join("palatine.db"), directory.join("palatine.db-wal"));
    let refused = async || {
        let refused = Store::open(&config(&folder)).await.unwrap_err();
        assert!(matches!(refused, StoreError::Lost { .. }), "{refused:?}");
        assert!(!refused.retryable());
        refused.to_string()
    };
    let store = reopen(&folder).await;
    reserved(&store, reservation(1, 1)).await;
    drop(store);
    let good = std::fs::read(&database).unwrap();
    std::fs::write(&database, "").unwrap();
    let said = refused().await;
    assert!(said.contains("palatine.db in ") && said.contains("made beside it"), "{said}");
    assert!(said.contains("restore it from a backup") && said.contains(&directory.display().to_string()), "{said}");
    assert_eq!(std::fs::metadata(&database).unwrap().len(), 0, "nothing was put in its place");
    std::fs::remove_file(&database).unwrap();
    refused().await;
    // An older version left other signs; SQLite would throw its log away.
    std::fs::remove_file(directory.join("made")).unwrap();
    assert!(refused().await.contains("reserve beside it"));
    std::fs::remove_file(directory.join("reserve")).unwrap();
    std::fs::write(&database, "").unwrap();
    std::fs::write(&wal, "what was not in the database yet").unwrap();
    assert!(refused().await.contains("palatine.db-wal beside it"));
    assert!(wal.exists());
    std::fs::remove_file(&wal).unwrap();
    // The repair that it names: the backup, alone.
    std::fs::write(&database, good).unwrap();
    let store = reopen(&folder).await;
    assert!(store.get(id(1)).await.unwrap().is_some());
    assert!(directory.join("made").exists());
}

#[tokio::test]
async fn fault_1_2_a_start_that_was_killed_before_there_was_a_database_is_begun_again() {
    let folder = folder();
    let directory = config(&folder).directory;
    std::fs::create_dir(&directory).unwrap();
    for name in ["lock", "palatine.db"] {
        std::fs::write(directory.join(name), "").unwrap();
    }
    reserved(&reopen(&folder).await, reservation(1, 1)).await;
}

#[tokio::test]
async fn a_page_that_rots_is_an_error_of_who_reads_it_and_not_a_wrong_answer() {
    let folder = folder();
    let store = reopen(&folder).await;
    for n in 0..200 {
        reserved(&store, reservation(n, n)).await;
    }
    drop(store);
    let database = config(&folder).directory.join("palatine.db");
    let root: u32 = {
        let conn = Connection::open(&database).unwrap();
        conn.query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'runs'", (), |row| row.get(0)).unwrap()
    };
    let mut pages = std::fs::read(&database).unwrap();
    let end = usize::try_from(root).unwrap() * 4096;
    pages[end - 4096..end].fill(0x5A);
    std::fs::write(&database, pages).unwrap();
    let store = reopen(&folder).await;
    assert!(matches!(store.get(id(1)).await, Err(StoreError::Corrupt { .. })));
    assert!(matches!(store.reserve(reservation(900, 900)).await, Err(StoreError::Corrupt { .. })));
}

#[tokio::test]
async fn another_programs_lock_is_said_to_be_one_and_is_outlived() {
    let folder = folder();
    let store = reopen(&folder).await;
    let other = Connection::open(config(&folder).directory.join("palatine.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = store.reserve(reservation(1, 1)).await.unwrap_err();
    assert!(matches!(refused, StoreError::Locked { .. }), "{refused:?}");
    assert!(refused.retryable());
    other.execute_batch("ROLLBACK").unwrap();
    reserved(&store, reservation(1, 1)).await;
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_named() {
    let folder = folder();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let refused = Store::open(&Config { directory: file.join("store"), ..Config::default() }).await.unwrap_err();
    assert!(refused.to_string().contains("file/store"), "{refused}");
    assert!(matches!(refused, StoreError::File { .. }));
}

/// A database as version 1 left it: agent 7 live and ready, agent -2 ended, message
/// 1 spent, a key that stands for agent 7.
fn first_version(directory: &Path) {
    let conn = database_of(1, directory);
    let agent = "INSERT INTO agents (id, wallet, generation, state, reason, agent_type, image, tier, tier_min, cores, \
                 memory_mib, public, spawned_at, ended_at, epoch, changes, node, runtime, restarts, was_ready, closed_ms, \
                 ready_since, mark_seq) VALUES (?1, ?2, 1, ?3, ?4, 'echo', ?5, 'standard', 500000, 2, 2048, 0, ?6, ?7, \
                 5, 2, 'local', 'qemu-tcg', 3, 1, 4000, ?8, 9)";
    let (now, none) = (i64::try_from(NOW.0).unwrap(), None::<i64>);
    conn.execute(agent, params![7, bytes(1), "ready", None::<&str>, bytes(77), now, none, now]).unwrap();
    conn.execute(agent, params![-2, bytes(1), "stopped", "requested", bytes(77), now - 9, now - 5, none]).unwrap();
    let change = "INSERT INTO changes (agent, seq, at, state) VALUES (?1, 2, ?2, ?3)";
    conn.execute(change, params![1, now + 1, "ready"]).unwrap();
    conn.execute("INSERT INTO spent (key, expires_at) VALUES (?1, ?2)", params![bytes(1), now + 330_000]).unwrap();
    let key = "INSERT INTO idempotency (wallet, key, request, agent, expires_at) VALUES (?1, 'k', ?2, 7, ?3)";
    conn.execute(key, params![bytes(1), bytes(5), now + 1]).unwrap();
}

#[tokio::test]
async fn a_database_of_the_first_version_is_brought_up_with_all_it_holds() {
    let folder = folder();
    first_version(&config(&folder).directory);
    let store = reopen(&folder).await;
    let all = store.of(wallet(1), 10).await.unwrap();
    assert_eq!(all.iter().map(|agent| agent.id).collect::<Vec<_>>(), [id(7), id(u64::MAX - 1)]);
    assert_eq!(all[0].state, State::Ready);
    assert_eq!((all[0].restarts, all[0].changes, all[0].meter.closed_ms, all[0].meter.last_seq), (3, 2, 4000, 9));
    assert_eq!(all[1].state, State::Stopped(StopReason::Requested));
    let changes = store.changes(pod(7), 0).await.unwrap();
    assert_eq!(changes.iter().map(|change| (change.seq, change.at)).collect::<Vec<_>>(), [(1, NOW), (2, NOW.plus(1))]);
    assert_eq!(store.usage(wallet(1), NOW.plus(500)).await.unwrap().0.uptime_ms, 8500);
    assert_eq!(store.reserve(reservation(2, 1)).await.unwrap(), Admission::Replayed);
    assert!(
        matches!(store.reserve(keyed(1, 3, "k", 5)).await.unwrap(), Admission::Repeated(agent) if agent.id == id(7))
    );
    assert_eq!(store.reserve(reservation(1, 4)).await.unwrap(), Admission::Busy(pod(7)));
}

/// A database as version 3 left it: a payment for a request, and one of a fee.
fn third_version(directory: &Path) {
    let conn = database_of(3, directory);
    conn.execute("INSERT INTO books (chain_id, factory) VALUES (338, ?1)", params![[1_u8; 20]]).unwrap();
    let payment = "INSERT INTO payments (chain_id, asset, payer, nonce, payee, value, valid_after, valid_before, \
                   signature, request, resource, seen_at, stage) \
                   VALUES (338, ?1, ?2, ?3, ?1, 1, 1, -1, ?3, ?3, 'agent', 1, 'reserved')";
    conn.execute(payment, params![[1_u8; 20], [2_u8; 20], bytes(3)]).unwrap();
    let name = [&[1_u8; 20][..], &[2; 20], &bytes(4)].concat();
    conn.execute("INSERT INTO relay_payments (name, \"group\") VALUES (?1, ?2)", params![name, bytes(9)]).unwrap();
}

#[tokio::test]
async fn fault_2_9_what_an_older_database_knows_as_paid_stays_so() {
    let folder = folder();
    third_version(&config(&folder).directory);
    let store = reopen(&folder).await;
    assert_eq!(store.prune(NOW.plus(1 << 50)).await.unwrap(), PruneReport::default());
    let journal = store.relay_journal(338);
    let fee = |nonce: u64, group: u64| {
        let mut payment = relay::conformance::fee_payment(1, 1);
        payment.group = B256::from(bytes(group));
        let of = &mut payment.signed.authorization;
        (of.asset, of.from, of.nonce) = (Address::repeat_byte(1), Address::repeat_byte(2), B256::from(bytes(nonce)));
        RelayEntry { payment: Some(payment), state: RelayState::Paying, ..relay::conformance::entry(1) }
    };
    assert_eq!(journal.admit(&[fee(3, 9)], &[]).await.unwrap(), RelayAdmission::PaymentUsed);
    assert_eq!(journal.admit(&[fee(4, 8)], &[]).await.unwrap(), RelayAdmission::PaymentUsed);
    let paid = journal.admit(&[fee(4, 9)], &[]).await.unwrap();
    assert_eq!(paid, RelayAdmission::New, "the group that it pays for");
}

/// A database as version 5 left it: of wallet 1 run 7 is ready, 5 failed and its disks
/// are kept, 6 was stopped and its data erased; of wallet 2 run 8 is being stopped by
/// its holder.
fn fifth_version(directory: &Path) {
    let conn = database_of(5, directory);
    let now = i64::try_from(NOW.0).unwrap();
    let agent = "INSERT INTO agents (id, wallet, generation, state, reason, agent_type, image, tier, tier_min, cores, \
                 memory_mib, public, spawned_at, ended_at, epoch, changes, node, runtime, restarts, was_ready, \
                 closed_ms, data_kept_until) VALUES (?1, ?2, 1, ?3, ?4, 'echo', ?5, 'standard', 500000, 2, 2048, 1, \
                 ?6, ?7, 5, 2, 'local', 'qemu-tcg', 0, 1, 1000, ?8)";
    let none = None::<i64>;
    let mut insert = conn.prepare(agent).unwrap();
    for (id, wallet, state, reason, ended_at, kept_until) in [
        (7, 1, "ready", None, none, none),
        (5, 1, "failed", Some("crash_loop"), Some(now - 5), Some(now + 9_000)),
        (6, 1, "stopped", Some("requested"), Some(now - 4), none),
        (8, 2, "stopping", Some("requested"), none, none),
    ] {
        insert.execute(params![id, bytes(wallet), state, reason, bytes(77), now - 100, ended_at, kept_until]).unwrap();
    }
    let change = "INSERT INTO changes (agent, seq, at, state) VALUES (7, 2, ?1, 'ready')";
    conn.execute(change, params![now + 1]).unwrap();
    conn.execute("INSERT INTO prices (agent, path, amount) VALUES (7, '/v1', 10)", ()).unwrap();
    let deploy = "INSERT INTO deploys (agent, owner, agent_wallet, address, state, changed_at) \
                  VALUES (7, ?1, ?1, ?1, 'deployed', ?2)";
    conn.execute(deploy, params![[1_u8; 20], now]).unwrap();
}

/// A database as version 6 left it: POD 7 runs, and its vault is known.
fn sixth_version(directory: &Path) {
    fifth_version(directory);
    let conn = Connection::open(directory.join("palatine.db")).unwrap();
    conn.execute_batch(include_str!("../../src/sqlite/schema/6.sql")).unwrap();
    conn.pragma_update(None, "user_version", 6).unwrap();
}

#[tokio::test]
async fn pods_of_the_sixth_version_are_what_they_were_and_may_have_keys_in_the_store() {
    let folder = folder();
    sixth_version(&config(&folder).directory);
    let store = reopen(&folder).await;
    assert_eq!(store.last_run(pod(7)).await.unwrap().unwrap().state, State::Ready);
    assert_eq!(store.deploy_of(pod(7)).await.unwrap().map(|deploy| deploy.agent_wallet), Some(Address::repeat_byte(1)));
    assert_eq!(store.identity_of(pod(7)).await.unwrap(), None);
    assert_eq!(store.secret(SecretName::Check).await.unwrap(), None);
    let identity = SealedIdentity { address: Address::repeat_byte(1), sealed: vec![1; 72] };
    assert_eq!(store.keep_identity(pod(7), identity.clone(), None, NOW).await.unwrap(), identity);
}

#[tokio::test]
async fn agents_of_the_fifth_version_become_pods_of_one_run_with_all_that_was_theirs() {
    let folder = folder();
    fifth_version(&config(&folder).directory);
    let store = reopen(&folder).await;
    let live = store.last_run(pod(7)).await.unwrap().unwrap();
    assert_eq!((live.id, live.pod, live.state, live.data), (id(7), pod(7), State::Ready, None));
    assert_eq!(live.tier_config.disk, domain::Tier::DEFAULT_DISK_MIB);
    assert_eq!(store.changes(pod(7), 0).await.unwrap().len(), 2);
    assert_eq!(store.prices_of(pod(7)).await.unwrap().len(), 1);
    assert_eq!(store.deploy_of(pod(7)).await.unwrap().map(|deploy| deploy.pod), Some(pod(7)));
    let failed = store.last_run(pod(5)).await.unwrap().unwrap();
    assert_eq!(failed.data_node.as_deref(), Some("local"));
    assert_eq!(failed.data.map(|data| data.until), Some(Some(NOW.plus(9_000))));
    let stopped = store.last_run(pod(6)).await.unwrap().unwrap();
    assert_eq!((stopped.state, stopped.data), (State::Stopped(StopReason::Requested), None));
    let order: Vec<_> = store.of(wallet(1), 10).await.unwrap().iter().map(|run| run.pod).collect();
    assert_eq!(order, [pod(7), pod(6), pod(5)]);
    // Who stopped an agent of that version was told that its data goes.
    let removed = State::Stopping(domain::EndReason::Stopped(StopReason::Removed));
    assert_eq!(store.last_run(pod(8)).await.unwrap().unwrap().state, removed);
    assert_eq!(store.usage(wallet(1), NOW).await.unwrap().1, 3);
}

/// A database as version 8 left it: of wallet 1 run 7 is ready, run 5 of another POD was stopped.
fn eighth_version(directory: &Path) {
    let conn = database_of(8, directory);
    let now = i64::try_from(NOW.0).unwrap();
    let run = "INSERT INTO runs (id, wallet, generation, state, reason, agent_type, image, tier, tier_min, cores, \
               memory_mib, public, spawned_at, ended_at, epoch, changes, node, runtime, restarts, was_ready, \
               closed_ms, pod, disk_mib) VALUES (?1, ?2, 1, ?3, ?4, 'echo', ?5, 'standard', 500000, 2, 2048, 0, ?6, \
               ?7, 5, 1, 'local', 'qemu-tcg', 0, 1, 1000, ?1, 10240)";
    let pod = "INSERT INTO pods (key, wallet, last_run, brought, ephemeral, created_at, stopped_at) \
               VALUES (?1, ?2, ?1, 0, 0, ?3, ?4)";
    for (id, state, reason, ended_at) in [(7, "ready", None, None), (5, "stopped", Some("requested"), Some(now - 4))] {
        conn.execute(run, params![id, bytes(1), state, reason, bytes(77), now - 100, ended_at]).unwrap();
        conn.execute(pod, params![id, bytes(1), now - 100, ended_at]).unwrap();
    }
}

#[tokio::test]
async fn a_run_of_the_eighth_version_has_the_first_slot_and_others_may_join_it_where_the_tier_allows() {
    let folder = folder();
    eighth_version(&config(&folder).directory);
    let store = reopen(&folder).await;
    let live = store.last_run(pod(7)).await.unwrap().unwrap();
    assert_eq!((live.slot, live.state, live.tier_config.agents), (0, State::Ready, 1));
    assert_eq!(store.reserve(reservation(1, 1)).await.unwrap(), Admission::Busy(pod(7)));
    let two = HolderAllowance { agents: 2, cores: 4, memory_mib: 4096 };
    let again = RunPod::Existing(pod(5));
    let second = RunReservation { allowance: two, pod: again, ..reservation(1, 2) };
    assert_eq!(reserved(&store, second).await.slot, 1);
    assert_eq!(store.usage(wallet(1), NOW).await.unwrap().1, 2);
    assert_eq!(store.of(wallet(1), 10).await.unwrap().len(), 2);
    let third = RunReservation { allowance: HolderAllowance { agents: 3, ..two }, ..reservation(1, 3) };
    assert!(matches!(store.reserve(third).await.unwrap(), Admission::AllowanceExceeded(_)));
}
