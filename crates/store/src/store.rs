//! [`Store`]: the one of the two databases that the configuration names.

use domain::PodId;
use tokio::sync::broadcast;

use crate::config::Config;
use crate::error::StoreError;
use crate::found::{FirstCheck, FoundDatabase};
use crate::postgres::Postgres;
use crate::record::{GatewayEpoch, RunChange};
use crate::sqlite::Sqlite;
use crate::url::Place;

/// A store: a handle that is cheap to clone. Its methods are those of the ports.
///
/// When the last handle of one in SQLite is dropped, what is queued is still written, and
/// the files are let go of; that drop waits for it.
#[derive(Clone, Debug)]
pub enum Store {
    /// One file, one process.
    Sqlite(Sqlite),
    /// A server, and as many gateways as there are.
    Postgres(Postgres),
}

impl From<Sqlite> for Store {
    fn from(store: Sqlite) -> Self {
        Self::Sqlite(store)
    }
}

impl Store {
    /// Opens the database, makes its tables if there are none, and brings its schema up.
    ///
    /// # Errors
    /// What stands in the way: another process, a newer schema, a damaged or foreign
    /// database, the disk, the server.
    pub async fn open(config: &Config) -> Result<Self, StoreError> {
        Self::open_unless(config, |_| Ok(None)).await
    }

    /// Opens a database that a gateway of this version has made; its schema stays as it is.
    ///
    /// # Errors
    /// As of [`Store::open`], where there is no database, and [`StoreError::Older`].
    pub async fn open_existing(config: &Config) -> Result<Self, StoreError> {
        if let Place::Sqlite(directory) = config.place() {
            Sqlite::find(&directory)?;
        }
        Self::open_unless(config, |found| found.must_be_current().map(|()| None)).await
    }

    /// Opens the database, unless `judge` says no to what it is before its schema is brought up. What
    /// that returns is kept with the schema.
    pub(crate) async fn open_unless<E: From<StoreError>>(
        config: &Config,
        judge: impl FnOnce(&FoundDatabase) -> Result<Option<FirstCheck>, E> + Send,
    ) -> Result<Self, E> {
        config.check().map_err(StoreError::from)?;
        match config.place() {
            Place::Sqlite(directory) => Sqlite::open_in(config, &directory, judge).map(Self::Sqlite),
            Place::Postgres(options) => Postgres::open(config, *options, judge).await.map(Self::Postgres),
        }
    }

    /// This run of the gateway.
    #[must_use]
    pub fn epoch(&self) -> GatewayEpoch {
        match self {
            Self::Sqlite(store) => store.epoch(),
            Self::Postgres(store) => store.epoch(),
        }
    }

    /// Every change of state from now on, once it is durable, whichever gateway makes it.
    /// A subscriber that lags too far learns so, and reads what it missed by
    /// [`Store::changes`].
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<(PodId, RunChange)> {
        match self {
            Self::Sqlite(store) => store.subscribe(),
            Self::Postgres(store) => store.subscribe(),
        }
    }
}
