//! What the tests share.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use domain::{ImageDigest, PodId, RunId, Tier, TierName, UnixMillis, Wallet};
use fixtures::Postgres;
use palatine_store::{Admission, Config, Idempotency, PodChoice, Record, Reservation, Stamp, Store, StoreUrl};
use sqlx::{AssertSqlSafe, Connection, PgConnection, raw_sql};
use tempfile::TempDir;

pub(crate) const NOW: UnixMillis = UnixMillis(1_700_000_000_000);
pub(crate) const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// Where a store of a test lies: it may be opened again and again.
pub(crate) enum Place {
    Sqlite(TempDir),
    /// A database of the test's own, in PostgreSQL or wherever this says.
    Url(StoreUrl),
}

impl Place {
    pub(crate) fn sqlite() -> Self {
        Self::Sqlite(room())
    }

    pub(crate) async fn postgres() -> Self {
        Self::Url(parse(&new_database().await))
    }

    pub(crate) fn config(&self) -> Config {
        match self {
            Self::Sqlite(room) => config(room),
            Self::Url(url) => {
                Config { url: Some(url.clone()), connections: 8, timeout_ms: 60_000, ..Config::default() }
            }
        }
    }
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

pub(crate) fn config(directory: &TempDir) -> Config {
    Config { directory: directory.path().join("store"), ..Config::default() }
}

pub(crate) async fn open(place: &Place) -> Store {
    Store::open(&place.config()).await.expect("the store opens")
}

/// The SQLite store in this directory.
pub(crate) async fn reopen(directory: &TempDir) -> Store {
    Store::open(&config(directory)).await.expect("the store opens")
}

pub(crate) fn room() -> TempDir {
    tempfile::tempdir().expect("a directory of our own")
}

pub(crate) fn bytes(n: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&n.to_be_bytes());
    bytes
}

pub(crate) fn wallet(n: u64) -> Wallet {
    Wallet(bytes(n))
}

pub(crate) fn id(n: u64) -> RunId {
    RunId::from_bits(n)
}

/// The POD whose first run is `n`.
pub(crate) fn pod(n: u64) -> PodId {
    PodId::minted(id(n))
}

pub(crate) fn stamp(n: u64) -> Stamp {
    Stamp { key: bytes(n), expires_at: NOW.plus(330_000) }
}

/// Agent `n` of wallet `holder`, by message `n`.
pub(crate) fn wish(holder: u64, n: u64) -> Reservation {
    Reservation {
        stamp: stamp(n),
        id: id(n),
        wallet: wallet(holder),
        agent_type: "echo".to_owned(),
        image: ImageDigest(bytes(77)),
        tier: TierName::try_from("standard".to_owned()).expect("a tier's name"),
        tier_config: Tier { min: 500_000, cores: 2, memory: 2048, disk: Tier::DEFAULT_DISK_MIB },
        public: false,
        pod: PodChoice::New { name: None, ephemeral: false },
        brought: false,
        idempotency: None,
        now: NOW,
    }
}

pub(crate) fn keyed(holder: u64, n: u64, key: &str, request: u64) -> Reservation {
    let idempotency = Some(Idempotency { key: key.to_owned(), request: bytes(request) });
    Reservation { idempotency, ..wish(holder, n) }
}

/// Reserves, and must get it.
pub(crate) async fn reserved(store: &Store, wish: Reservation) -> Record {
    match store.reserve(wish).await.expect("the store works") {
        Admission::Reserved(record) => record,
        other => panic!("not reserved: {other:?}"),
    }
}
