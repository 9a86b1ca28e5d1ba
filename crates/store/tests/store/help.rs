//! What the tests share.

use domain::{ImageDigest, PodId, RunId, Tier, TierName, UnixMillis, Wallet};
use palatine_store::{Admission, Config, Idempotency, PodChoice, Record, Reservation, Stamp, Store};
use tempfile::TempDir;

pub(crate) const NOW: UnixMillis = UnixMillis(1_700_000_000_000);
pub(crate) const DAY_MS: u64 = 24 * 60 * 60 * 1000;

pub(crate) fn config(directory: &TempDir) -> Config {
    Config { directory: directory.path().join("store"), ..Config::default() }
}

pub(crate) fn open(directory: &TempDir) -> Store {
    Store::open(&config(directory)).expect("the store opens")
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
