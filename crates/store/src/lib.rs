//! The only SQL: PODs, their runs, spent messages, usage, and what the money leaves.
//!
//! What consumers ask of it are ports: one narrow trait for each need, written down with
//! the types that it speaks of. Two databases are behind them, and one suite that both
//! run. Rules that need no database (what a step makes of a run, what a batch makes of
//! the index) are pure, and written once.
//!
//! | file | holds |
//! |---|---|
//! | `store`, `config`, `url` | [`Store`]: which database, and where it is |
//! | `port` | how a port is written |
//! | `admission`, `life`, `pod`, `record` | reservations; runs, their steps and history; what lasts of a POD |
//! | `billing` | marks, usage |
//! | `counted` | time that no step of a clock shortens or stretches |
//! | `apikeys` | what wallets let programs do in their names |
//! | `images` | images that holders bring |
//! | `keys`, `sealed` | the keys that gateways share, sealed; [`SealedKeys`]: in the clear for who has the sealing key |
//! | `sealing`, `reseal`, `aside` | where that key lies; all keys under another one, or set aside as that is lost |
//! | `links`, `prices`, `deploys` | owners, prices, vaults to be |
//! | `payments`, `purposes`, `relays` | what was paid for requests, what each authorization pays for, what the relayer took on |
//! | `index`, `outbox` | what was read of the chain, and what is sent to it |
//! | `prune` | what is forgotten, and when |
//! | `codec`, `columns`, `error` | values in columns; what can go wrong |
//! | `found` | what a database is before its schema is brought up |
//! | `copy`, `table` | from one database to another |
//! | `sqlite`, `postgres` | the databases |

mod admission;
mod apikeys;
mod aside;
mod billing;
mod codec;
mod columns;
mod config;
mod copy;
mod counted;
mod deploys;
mod error;
mod found;
mod images;
mod index;
mod keys;
mod life;
mod links;
mod mounts;
mod outbox;
mod payments;
mod pod;
mod port;
mod postgres;
mod prices;
mod prune;
mod purposes;
mod record;
mod relays;
mod reseal;
mod sealed;
mod sealing;
mod snapshots;
mod sqlite;
mod store;
mod table;
mod url;
mod volumes;

pub use admission::{Admission, AdmissionStore, IdempotencyKey, ReplayKey, RunPod, RunReservation};
pub use apikeys::{ApiKeyOutcome, ApiKeyRecord, ApiKeyStore, NewApiKey};
pub use billing::{MarkCursor, MarksOutcome, RunMark, UsageStore};
pub use config::Config;
pub use copy::copy;
pub use counted::TimeStore;
pub use deploys::{DeployState, DeployStore, VaultConsent, VaultDeploy};
pub use error::{Cause, StoreError};
pub use images::{
    FinishOutcome, HeldImageRecord, HeldImageState, HeldImageStore, ImageOutcome, ImageQuota, NewImageUpload,
    OverImage, OverQuota, ReadyImage,
};
pub use index::{IndexId, IndexStore, IndexedVault, StoreLedger};
pub use keys::{KeyStore, SealedIdentity, SecretName};
pub use life::{AgentObservation, AgentStore, StepOutcome};
pub use links::{AccountLink, LinkStore};
pub use mounts::{MountOutcome, MountStore, NewMount};
pub use outbox::{OutboxOutcome, OutboxStore, StoreOutbox};
pub use payments::{NextPaymentState, PaymentStore, StorePayments};
pub use pod::{KeptPod, MAX_STOPPED_PODS};
pub use postgres::Postgres;
pub use prices::{PriceStore, Prices};
pub use prune::{MaintenanceStore, PruneReport};
pub use record::{BelowTier, GatewayEpoch, KeptData, PodRowId, RunChange, RunExpiry, RunRecord};
pub use relays::{RelayStore, StoreRelayJournal};
pub use reseal::{
    LostKeys, ResealError, Resealed, RestoredKeys, RestoredTokens, find_lost_keys, forget_lost_keys, reseal,
    restore_keys,
};
pub use sealed::{SealedKeys, SealedKeysError, TriedKey};
pub use sealing::SealingKeyFile;
pub use snapshots::{NewSnapshot, SnapshotOutcome, SnapshotRecord, SnapshotSettlement, SnapshotStore};
pub use sqlite::Sqlite;
pub use store::Store;
pub use table::{Copied, CopiedTable, CopyError};
pub use url::{StoreUrl, StoreUrlError};
pub use volumes::{
    FoundVolume, GrowthOutcome, NewVolume, RunVolume, VolumeGrowth, VolumeOutcome, VolumeQuota, VolumeRecord,
    VolumeRefusal, VolumeRemoval, VolumeStore,
};
