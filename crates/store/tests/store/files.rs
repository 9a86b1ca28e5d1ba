use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use palatine_store::{Config, Store, StoreError};
use rusqlite::Connection;

use crate::help::{config, id, open, reserved, room, wish};

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn nobody_else_may_read_the_files_even_where_they_lay_open_before() {
    let room = room();
    let directory = config(&room).directory;
    std::fs::create_dir(&directory).unwrap();
    std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o755)).unwrap();
    let store = open(&room);
    reserved(&store, wish(1, 1)).await;
    assert_eq!(mode(&directory), 0o700);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        names.push(path.file_name().unwrap().to_string_lossy().into_owned());
    }
    names.sort();
    assert_eq!(names, ["lock", "palatine.db", "palatine.db-shm", "palatine.db-wal"]);
}

#[tokio::test]
async fn a_second_process_is_kept_out_and_let_in_once_the_first_is_gone() {
    let room = room();
    let store = open(&room);
    let clone = store.clone();
    drop(store);
    assert!(matches!(Store::open(&config(&room)), Err(StoreError::InUse(_))));
    drop(clone);
    open(&room);
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() {
    let room = room();
    drop(open(&room));
    let database = config(&room).directory.join("palatine.db");
    let conn = Connection::open(&database).unwrap();
    conn.pragma_update(None, "user_version", 9_999).unwrap();
    drop(conn);
    let refused = Store::open(&config(&room)).unwrap_err();
    assert!(matches!(refused, StoreError::Newer { found: 9_999, .. }), "{refused}");
    assert!(refused.to_string().contains("schema 9999"), "{refused}");
    let found: i64 =
        Connection::open(&database).unwrap().query_row("PRAGMA user_version", (), |row| row.get(0)).unwrap();
    assert_eq!(found, 9_999);
}

#[tokio::test]
async fn a_database_of_another_program_is_refused() {
    let room = room();
    let directory = config(&room).directory;
    std::fs::create_dir(&directory).unwrap();
    Connection::open(directory.join("palatine.db")).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    assert!(matches!(Store::open(&config(&room)), Err(StoreError::Foreign(_))));
}

#[tokio::test]
async fn a_file_that_is_no_database_is_said_to_be_damaged() {
    let room = room();
    let directory = config(&room).directory;
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("palatine.db"), [0x5A; 8192]).unwrap();
    let refused = Store::open(&config(&room)).unwrap_err();
    assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused:?}");
}

#[tokio::test]
async fn a_page_that_rots_is_an_error_of_who_reads_it_and_not_a_wrong_answer() {
    let room = room();
    let store = open(&room);
    for n in 0..200 {
        reserved(&store, wish(n, n)).await;
    }
    drop(store);
    let database = config(&room).directory.join("palatine.db");
    let mut pages = std::fs::read(&database).unwrap();
    // All but the first page, which holds the schema.
    pages[4096..].fill(0x5A);
    std::fs::write(&database, pages).unwrap();
    let store = open(&room);
    assert!(matches!(store.get(id(1)).await, Err(StoreError::Corrupt { .. })));
    assert!(matches!(store.reserve(wish(900, 900)).await, Err(StoreError::Corrupt { .. })));
}

#[tokio::test]
async fn another_programs_lock_is_said_to_be_one_and_is_outlived() {
    let room = room();
    let store = open(&room);
    let other = Connection::open(config(&room).directory.join("palatine.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = store.reserve(wish(1, 1)).await.unwrap_err();
    assert!(matches!(refused, StoreError::Locked { .. }), "{refused:?}");
    assert!(refused.retryable());
    other.execute_batch("ROLLBACK").unwrap();
    reserved(&store, wish(1, 1)).await;
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_named() {
    let room = room();
    let file = room.path().join("file");
    std::fs::write(&file, "").unwrap();
    let refused = Store::open(&Config { directory: file.join("store"), ..Config::default() }).unwrap_err();
    assert!(refused.to_string().contains("file/store"), "{refused}");
    assert!(matches!(refused, StoreError::File { .. }));
}
