//! What the tests share.

use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use fixtures::Postgres;
pub(crate) use fixtures::{NOW, bytes, pod, replay_key, reservation, run as id, store_config as config, wallet};
use palatine_store::{Admission, Config, IdempotencyKey, RunRecord, RunReservation, Store, StoreUrl};
use sqlx::{AssertSqlSafe, Connection, PgConnection, raw_sql};
use tempfile::TempDir;

pub(crate) const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// Where a store of a test lies: it may be opened again and again.
pub(crate) enum Place {
    Sqlite(TempDir),
    /// A database of the test's own, in PostgreSQL or wherever this says.
    Url(StoreUrl),
}

impl Place {
    pub(crate) fn sqlite() -> Self {
        Self::Sqlite(folder())
    }

    pub(crate) async fn postgres() -> Self {
        Self::Url(parse(&new_database().await))
    }

    pub(crate) fn config(&self) -> Config {
        match self {
            Self::Sqlite(folder) => config(folder),
            Self::Url(url) => {
                Config { url: Some(url.clone()), connections: 8, timeout_ms: 60_000, ..Config::default() }
            }
        }
    }
}

/// What each version made of the one before it, up to the last that is written by hand here.
const SCHEMA: [&str; 8] = [
    include_str!("../../src/sqlite/schema/1.sql"),
    include_str!("../../src/sqlite/schema/2.sql"),
    include_str!("../../src/sqlite/schema/3.sql"),
    include_str!("../../src/sqlite/schema/4.sql"),
    include_str!("../../src/sqlite/schema/5.sql"),
    include_str!("../../src/sqlite/schema/6.sql"),
    include_str!("../../src/sqlite/schema/7.sql"),
    include_str!("../../src/sqlite/schema/8.sql"),
];

/// An empty SQLite database in a new directory, as this version made it.
pub(crate) fn database_of(version: usize, directory: &Path) -> rusqlite::Connection {
    std::fs::create_dir(directory).unwrap();
    let conn = rusqlite::Connection::open(directory.join("palatine.db")).unwrap();
    for sql in &SCHEMA[..version] {
        conn.execute_batch(sql).unwrap();
    }
    conn.pragma_update(None, "application_id", 0x504C_544E).unwrap();
    conn.pragma_update(None, "user_version", u32::try_from(version).unwrap()).unwrap();
    conn
}

/// The server of this process's tests. What keeps it ends it with the process.
fn server() -> &'static Postgres {
    static SERVER: OnceLock<Postgres> = OnceLock::new();
    SERVER.get_or_init(Postgres::start)
}

/// An empty database of the server.
pub(crate) async fn new_database() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let name = format!("test{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let server = tokio::task::spawn_blocking(server).await.expect("the server starts");
    make_database(server, &name).await
}

pub(crate) async fn make_database(server: &Postgres, name: &str) -> String {
    let mut conn = PgConnection::connect(&server.url("postgres")).await.expect("the server answers");
    let make = raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}")));
    make.execute(&mut conn).await.expect("a database is made");
    conn.close().await.expect("the connection closes");
    server.url(name)
}

pub(crate) fn parse(url: &str) -> StoreUrl {
    url.parse().expect("the URL of a database")
}

pub(crate) async fn open(place: &Place) -> Store {
    Store::open(&place.config()).await.expect("the store opens")
}

/// Lets go of a store. In PostgreSQL, its gateway counts for gone at once.
pub(crate) async fn leave(place: &Place, store: Store) {
    drop(store);
    let Place::Url(url) = place else { return };
    let shown = url.to_string();
    let name = shown.rsplit('/').next().expect("the database's name");
    let mut conn = PgConnection::connect(&server().url(name)).await.expect("the server answers");
    raw_sql("DELETE FROM gateways").execute(&mut conn).await.expect("the gateways are forgotten");
    conn.close().await.expect("the connection closes");
}

/// The SQLite store in this directory.
pub(crate) async fn reopen(directory: &TempDir) -> Store {
    Store::open(&config(directory)).await.expect("the store opens")
}

pub(crate) fn folder() -> TempDir {
    tempfile::tempdir().expect("a directory of our own")
}

pub(crate) fn keyed(holder: u64, n: u64, key: &str, request: u64) -> RunReservation {
    let idempotency = Some(IdempotencyKey { key: key.to_owned(), request: bytes(request) });
    RunReservation { idempotency, ..reservation(holder, n) }
}

/// Reserves, and must get it.
pub(crate) async fn reserved(store: &Store, reservation: RunReservation) -> RunRecord {
    match store.reserve(reservation).await.expect("the store works") {
        Admission::Reserved(record) => record,
        other => panic!("not reserved: {other:?}"),
    }
}
