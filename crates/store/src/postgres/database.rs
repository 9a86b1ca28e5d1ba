//! [`Postgres`]: the pool of connections, and how one command becomes one transaction.
//!
//! Each command is a transaction of its own; the server groups their commits. A command
//! that the server undoes to break a tie is tried again a few times. Several gateways
//! may use one database: nothing is remembered here between two commands.

use std::sync::Arc;
use std::time::Duration;

use domain::{PodId, Wallet};
use sqlx::postgres::{PgArguments, PgConnectOptions, PgPool, PgPoolOptions, PgRow};
use sqlx::query::Query;
use sqlx::{PgConnection, Transaction, query};
use tokio::sync::broadcast;
use tokio_util::task::AbortOnDropHandle;

use super::{lease, news, schema};
use crate::config::Config;
use crate::error::StoreError;
use crate::found::{FirstCheck, FoundDatabase};
use crate::record::{GatewayEpoch, RunChange};

/// How often a command is tried that met a tie.
const TRIES: usize = 5;
/// Prepared statements kept by one connection.
const STATEMENTS: usize = 128;
/// Milliseconds after which an unused transaction is ended by the server, should this
/// process hang while it holds locks.
const IDLE_IN_TRANSACTION_MS: u64 = 10_000;

/// A store in PostgreSQL: a handle that is cheap to clone.
#[derive(Clone, Debug)]
pub struct Postgres {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pool: PgPool,
    epoch: GatewayEpoch,
    timeout: Duration,
    retention_ms: u64,
    news: news::ChangeFeed,
    _tasks: [AbortOnDropHandle<()>; 2],
}

/// A query with its arguments.
pub(crate) type Statement<'q> = Query<'q, sqlx::Postgres, PgArguments>;

/// What is done in one transaction. Must be repeatable.
pub(crate) trait Command: Send + Sync {
    /// What the caller gets.
    type Answer: Send;
    /// Names the operation in errors.
    const NAME: &'static str;
    /// Runs inside the transaction, which is committed unless this fails or calls
    /// [`Tx::take_back`].
    fn apply(&self, tx: &mut Tx) -> impl Future<Output = Result<Self::Answer, StoreError>> + Send;
}

/// A transaction, as commands see it.
pub(crate) struct Tx {
    inner: Transaction<'static, sqlx::Postgres>,
    pub(crate) epoch: GatewayEpoch,
    taken_back: bool,
    told: bool,
}

/// What names the lock of a wallet: its first bytes. Two that have them in common wait for
/// each other, and nothing else.
pub(crate) fn wallet_lock(wallet: &Wallet) -> i64 {
    let [a, b, c, d, e, f, g, h, ..] = wallet.0;
    i64::from_be_bytes([a, b, c, d, e, f, g, h])
}

impl Tx {
    pub(crate) fn conn(&mut self) -> &mut PgConnection {
        &mut self.inner
    }

    /// Undoes what was written; the answer stays.
    pub(crate) const fn take_back(&mut self) {
        self.taken_back = true;
    }

    /// Tells the listeners of all gateways, once this is durable.
    pub(crate) async fn announce(&mut self, pod: PodId, change: &RunChange) -> sqlx::Result<()> {
        self.told = true;
        news::write(&mut self.inner, pod, change).await
    }

    /// Reads from here on see the database as it is at one instant. To be called first.
    pub(crate) async fn snapshot(&mut self) -> sqlx::Result<()> {
        let sql = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY";
        query(sql).execute(&mut *self.inner).await.map(drop)
    }
}

impl Postgres {
    /// Connects, and brings the schema up unless `judge` says no to what it is before. What that
    /// returns is kept with it.
    ///
    /// # Errors
    /// What stands in the way: the server, a newer schema, another program's database.
    pub(crate) async fn open<E: From<StoreError>>(
        config: &Config,
        options: PgConnectOptions,
        judge: impl FnOnce(&FoundDatabase) -> Result<Option<FirstCheck>, E> + Send,
    ) -> Result<Self, E> {
        let timeout = Duration::from_millis(config.timeout_ms);
        let place = place(&options);
        let pool = PgPoolOptions::new()
            .max_connections(config.connections)
            .acquire_timeout(timeout)
            .connect_with(bounded(options, config.timeout_ms))
            .await
            .map_err(|error| StoreError::postgres("connect to the database", error))?;
        let mut conn = pool.acquire().await.map_err(|error| StoreError::postgres("connect to the database", error))?;
        schema::migrate(&mut conn, &place, judge).await?;
        drop(conn);
        let epoch = GatewayEpoch::random()?;
        let lease = lease::keep(pool.clone(), epoch).await?;
        let (news, listener) = news::start(pool.clone()).await?;
        let inner = Inner {
            pool,
            epoch,
            timeout,
            retention_ms: config.retention_ms(),
            news,
            _tasks: [AbortOnDropHandle::new(lease), AbortOnDropHandle::new(listener)],
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub(crate) fn epoch(&self) -> GatewayEpoch {
        self.inner.epoch
    }

    pub(crate) fn retention_ms(&self) -> u64 {
        self.inner.retention_ms
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<(PodId, RunChange)> {
        self.inner.news.subscribe()
    }

    /// Runs a command as a transaction of its own. When this returns, it is on the disk.
    pub(crate) async fn write<C: Command>(&self, command: C) -> Result<C::Answer, StoreError> {
        self.within(C::NAME, async {
            for _ in 1..TRIES {
                match self.transact(&command).await {
                    Err(error) if error.is_tie() => tracing::debug!(%error, "a transaction is tried again"),
                    done => return done,
                }
            }
            self.transact(&command).await
        })
        .await
    }

    async fn transact<C: Command>(&self, command: &C) -> Result<C::Answer, StoreError> {
        let fail = |error| StoreError::postgres(C::NAME, error);
        let inner = self.inner.pool.begin().await.map_err(fail)?;
        let mut tx = Tx { inner, epoch: self.inner.epoch, taken_back: false, told: false };
        let answer = command.apply(&mut tx).await?;
        if tx.taken_back {
            tx.inner.rollback().await.map_err(fail)?;
            return Ok(answer);
        }
        tx.inner.commit().await.map_err(fail)?;
        if tx.told {
            self.inner.news.look();
        }
        Ok(answer)
    }

    /// Runs one statement by itself; answers with how many rows it wrote.
    pub(crate) async fn execute(&self, operation: &'static str, statement: Statement<'_>) -> Result<u64, StoreError> {
        self.within(operation, async {
            let done = statement.execute(&self.inner.pool).await;
            done.map(|done| done.rows_affected()).map_err(|error| StoreError::postgres(operation, error))
        })
        .await
    }

    /// At most one row.
    pub(crate) async fn one<T: Send>(
        &self,
        operation: &'static str,
        statement: Statement<'_>,
        decode: impl Fn(&PgRow) -> sqlx::Result<T> + Send,
    ) -> Result<Option<T>, StoreError> {
        self.within(operation, async {
            let row = statement.fetch_optional(&self.inner.pool).await;
            let found = row.and_then(|row| row.map(|row| decode(&row)).transpose());
            found.map_err(|error| StoreError::postgres(operation, error))
        })
        .await
    }

    /// All rows.
    pub(crate) async fn many<T: Send>(
        &self,
        operation: &'static str,
        statement: Statement<'_>,
        decode: impl Fn(&PgRow) -> sqlx::Result<T> + Send,
    ) -> Result<Vec<T>, StoreError> {
        self.within(operation, async {
            let rows = statement.fetch_all(&self.inner.pool).await;
            let found = rows.and_then(|rows| rows.iter().map(decode).collect());
            found.map_err(|error| StoreError::postgres(operation, error))
        })
        .await
    }

    async fn within<T>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        tokio::time::timeout(self.inner.timeout, work).await.unwrap_or(Err(StoreError::Timeout { operation }))
    }
}

/// What it is called in errors: never with its password.
fn place(options: &PgConnectOptions) -> String {
    format!("the database {} at {}", options.get_database().unwrap_or("?"), options.get_host())
}

/// What is answered is on the disk, whatever the server's own configuration says; and
/// nothing waits for ever.
pub(crate) fn bounded(options: PgConnectOptions, timeout_ms: u64) -> PgConnectOptions {
    options
        .application_name("palatine")
        .statement_cache_capacity(STATEMENTS)
        .options([("synchronous_commit", "on"), ("default_transaction_isolation", "read committed")])
        .options([("statement_timeout", timeout_ms), ("lock_timeout", timeout_ms)])
        .options([("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION_MS)])
}
