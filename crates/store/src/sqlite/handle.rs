//! [`Sqlite`]: the database in one file, its threads, and the way to them.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use domain::PodId;
use rusqlite::Connection;
use tokio::sync::{broadcast, mpsc};

use super::cache::RunCache;
use super::checkpoint::Checkpoints;
use super::connection::connect;
use super::files::{self, Files};
use super::health::Health;
use super::reader::Readers;
use super::schema;
use super::writer::{Answers, ChangeFeed, Command, Queue, Request, Writer};
use crate::config::Config;
use crate::error::StoreError;
use crate::found::{FirstCheck, FoundDatabase};
use crate::record::{CHANGE_QUEUE, GatewayEpoch, RunChange};

/// A store in SQLite: a handle that is cheap to clone.
///
/// When the last one is dropped, what is queued is still written, and the files
/// are let go of; that drop waits for it.
#[derive(Clone, Debug)]
pub struct Sqlite {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// `None` only while this is dropped.
    channels: Option<Channels>,
    news: ChangeFeed,
    epoch: GatewayEpoch,
    timeout: Duration,
    health: Arc<Health>,
    retention_ms: u64,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Channels {
    writer: Queue,
    readers: Readers,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Without senders the threads end; the writer last lets go of the lock.
        self.channels = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the store has panicked");
            }
        }
    }
}

impl Sqlite {
    /// Opens the database in the configured directory, whatever `url` says; makes it if
    /// there is none, and brings its schema up. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// What stands in the way: another process, a newer schema, a damaged or
    /// foreign file, the disk.
    pub fn open(config: &Config) -> Result<Self, StoreError> {
        config.check()?;
        Self::open_in(config, &config.directory, |_| Ok(None))
    }

    /// Whether there is a database in this directory, as an error.
    pub(crate) fn find(directory: &Path) -> Result<(), StoreError> {
        let missing = || std::io::Error::from(std::io::ErrorKind::NotFound);
        let there = files::has_database(directory);
        there.then_some(()).ok_or_else(|| StoreError::file("find the database in", directory, missing()))
    }

    /// The one in this directory, unless `judge` says no to what it is before its schema is
    /// brought up. What that returns is kept then.
    pub(crate) fn open_in<E: From<StoreError>>(
        config: &Config,
        directory: &Path,
        judge: impl FnOnce(&FoundDatabase) -> Result<Option<FirstCheck>, E>,
    ) -> Result<Self, E> {
        let files = files::take(directory)?;
        let mut conn = connect(&files)?;
        let found = schema::look(&conn, &files.database)?;
        let first = judge(&found)?;
        schema::migrate(&mut conn, &found, first.as_ref())?;
        Ok(Self::start(config, directory, files, conn)?)
    }

    fn start(config: &Config, directory: &Path, files: Files, conn: Connection) -> Result<Self, StoreError> {
        files.note_made();
        let epoch = GatewayEpoch::random()?;
        let (readers, mut threads) = Readers::start(config.readers, &files.database)?;
        let (news, _) = broadcast::channel(CHANGE_QUEUE);
        let (queue, commands) = mpsc::channel(config.queue);
        let database = files.database.clone();
        let health = Arc::new(Health::of(directory));
        health.refill();
        let writer = Writer {
            conn,
            epoch,
            cache: RunCache::default(),
            news: news.clone(),
            answers: Answers::start()?,
            checkpoints: Checkpoints::start(&files.database)?,
            files,
            health: Arc::clone(&health),
        };
        threads.push(writer.start(commands).map_err(|e| StoreError::file("start the writer of", database, e))?);
        Ok(Self {
            inner: Arc::new(Inner {
                channels: Some(Channels { writer: queue, readers }),
                news,
                epoch,
                timeout: Duration::from_millis(config.timeout_ms),
                health,
                retention_ms: config.retention_ms(),
                threads,
            }),
        })
    }

    /// This run of the gateway.
    pub(crate) fn epoch(&self) -> GatewayEpoch {
        self.inner.epoch
    }

    /// Whether it can be written, where that was in doubt.
    pub(crate) fn last_error(&self) -> Option<StoreError> {
        self.inner.health.last_error()
    }

    pub(crate) fn retention_ms(&self) -> u64 {
        self.inner.retention_ms
    }

    /// Every change of state from now on, once it is durable.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<(PodId, RunChange)> {
        self.inner.news.subscribe()
    }

    pub(crate) async fn write<C: Command>(&self, command: C) -> Result<C::Answer, StoreError> {
        let (job, answer) = Request::job(command);
        let channels = self.inner.channels.as_ref().ok_or(StoreError::Closed)?;
        let work = async {
            channels.writer.send(job).await.map_err(|_| StoreError::Closed)?;
            answer.await.map_err(|_| StoreError::Closed)?
        };
        let late = StoreError::Timeout { operation: C::NAME };
        tokio::time::timeout(self.inner.timeout, work).await.unwrap_or(Err(late))
    }

    pub(crate) async fn read<T: Send + 'static>(
        &self,
        operation: &'static str,
        question: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let channels = self.inner.channels.as_ref().ok_or(StoreError::Closed)?;
        let answer = tokio::time::timeout(self.inner.timeout, channels.readers.ask(question)).await;
        answer.unwrap_or(Err(StoreError::Timeout { operation }))
    }
}
