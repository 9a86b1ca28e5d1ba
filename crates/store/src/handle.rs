//! [`Store`]: what the rest of the house sees.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use domain::{Event, PodId, RunId, UnixMillis, Usage, Wallet};
use rusqlite::{Connection, OpenFlags};
use tokio::sync::{broadcast, mpsc};
use wire::node::AgentMark;
use wire::public::StateChange;

use crate::admission::{Admission, Probe, Reservation, Spend, Stamp};
use crate::billing::{self, CountMarks, Counted, Cursor};
use crate::checkpoint::Checkpoints;
use crate::config::Config;
use crate::error::StoreError;
use crate::files;
use crate::health::Health;
use crate::life::{self, Advance, Advanced, NoteBalance, Observation, Observe};
use crate::pod::{self, RemovePod};
use crate::prune::{Prune, Pruned};
use crate::reader::Readers;
use crate::record::{Below, Epoch, KeptData, Record};
use crate::row::{find, find_live, many, select_runs};
use crate::rows::Rows;
use crate::schema;
use crate::writer::{Answers, Command, News, Queue, Request, Writer};

/// How long SQLite waits for another program's lock.
pub(crate) const BUSY: Duration = Duration::from_secs(5);
/// Prepared statements kept by one connection.
pub(crate) const STATEMENTS: usize = 64;
/// Changes of state that a slow subscriber may lag behind before it has to read
/// them from the store.
const NEWS: usize = 4096;
/// Agents in one list at most.
const MAX_LISTED: u32 = 1000;

/// The store: a handle that is cheap to clone.
///
/// When the last one is dropped, what is queued is still written, and the files
/// are let go of; that drop waits for it.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// `None` only while this is dropped.
    channels: Option<Channels>,
    news: News,
    epoch: Epoch,
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

impl Store {
    /// Opens the database, makes it if there is none, and brings its schema up.
    /// Must be called in a tokio runtime.
    ///
    /// # Errors
    /// What stands in the way: another process, a newer schema, a damaged or
    /// foreign file, the disk.
    pub fn open(config: &Config) -> Result<Self, StoreError> {
        config.check()?;
        let files = files::take(&config.directory)?;
        let conn = connect(&files)?;
        files.note_made();
        let epoch = Epoch(getrandom::u64().map_err(|_| StoreError::Value("no random numbers from the system"))?);
        let (readers, mut threads) = Readers::start(config.readers, &files.database)?;
        let (news, _) = broadcast::channel(NEWS);
        let (queue, commands) = mpsc::channel(config.queue);
        let database = files.database.clone();
        let health = Arc::new(Health::of(&config.directory));
        health.refill();
        let writer = Writer {
            conn,
            epoch,
            rows: Rows::default(),
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
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.inner.epoch
    }

    /// Spends a message.
    ///
    /// # Errors
    /// [`StoreError::Replayed`] if it was spent before.
    pub async fn spend(&self, stamp: Stamp) -> Result<(), StoreError> {
        self.write(Spend { stamp, essential: false }).await
    }

    /// The same for what must work on a full disk too.
    ///
    /// # Errors
    /// As [`Store::spend`].
    pub async fn spend_essential(&self, stamp: Stamp) -> Result<(), StoreError> {
        self.write(Spend { stamp, essential: true }).await
    }

    /// Whether it can be written and read. A store that could not be written is tried
    /// again by this.
    ///
    /// # Errors
    /// What stands in the way.
    pub async fn check(&self) -> Result<(), StoreError> {
        self.get(RunId::from_bits(0)).await?;
        if self.inner.health.trouble().is_some() { self.write(Probe).await } else { Ok(()) }
    }

    /// Spends a message and takes its wallet's slot, in one transaction.
    ///
    /// # Errors
    /// Only for faults of the store; every other answer is an [`Admission`].
    pub async fn reserve(&self, reservation: Reservation) -> Result<Admission, StoreError> {
        self.write(reservation).await
    }

    /// Takes one step of a run's life; tells subscribers when it is durable.
    ///
    /// # Errors
    /// [`StoreError::Unknown`], [`StoreError::Refused`], faults of the store.
    pub async fn advance(&self, id: RunId, event: Event, now: UnixMillis) -> Result<Advanced, StoreError> {
        self.write(Advance { id, event, node: None, seen: None, kept: None, now }).await
    }

    /// Ends a run of which its node holds nothing any more but what it keeps of the
    /// POD's data. A run that ends with its data removed takes its POD with it.
    ///
    /// # Errors
    /// As [`Store::advance`].
    pub async fn end(&self, id: RunId, kept: Option<KeptData>, now: UnixMillis) -> Result<Advanced, StoreError> {
        self.write(Advance { id, event: Event::Gone, node: None, seen: None, kept, now }).await
    }

    /// Forgets all of a POD but what its wallet used and that its id was its holder's;
    /// `false` while a run of it is live. One that is not there is removed already.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn remove_pod(&self, pod: PodId, now: UnixMillis) -> Result<bool, StoreError> {
        self.write(RemovePod { pod, now }).await
    }

    /// Writes down the node that is about to be told of a reserved agent.
    ///
    /// # Errors
    /// As [`Store::advance`].
    pub async fn place(&self, id: RunId, node: &str, now: UnixMillis) -> Result<Advanced, StoreError> {
        let node = Some(node.to_owned());
        self.write(Advance { id, event: Event::Placed, node, seen: None, kept: None, now }).await
    }

    /// Takes a step together with what the node said.
    ///
    /// # Errors
    /// As [`Store::advance`].
    pub async fn settle(
        &self,
        id: RunId,
        event: Event,
        seen: Observation,
        now: UnixMillis,
    ) -> Result<Advanced, StoreError> {
        self.write(Advance { id, event, node: None, seen: Some(seen), kept: None, now }).await
    }

    /// Notes what the node said, with no step.
    ///
    /// # Errors
    /// [`StoreError::Unknown`], faults of the store.
    pub async fn observe(&self, id: RunId, seen: Observation) -> Result<Record, StoreError> {
        self.write(Observe { id, seen }).await
    }

    /// Notes how long the holder's balance has been below the tier.
    ///
    /// # Errors
    /// [`StoreError::Unknown`], faults of the store.
    pub async fn note_balance(&self, id: RunId, below: Below) -> Result<(), StoreError> {
        self.write(NoteBalance { id, below }).await
    }

    /// Counts marks of a node's journal, each exactly once, whatever is sent
    /// again. An empty stretch says that the journal was heard of.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn count_marks(
        &self,
        node: &str,
        journal: &str,
        marks: Vec<AgentMark>,
        now: UnixMillis,
    ) -> Result<Counted, StoreError> {
        self.write(CountMarks { node: node.to_owned(), journal: journal.to_owned(), marks, now }).await
    }

    /// Forgets a bite of what is old. Call again while [`Pruned::more`] says so.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn prune(&self, now: UnixMillis) -> Result<Pruned, StoreError> {
        self.write(Prune { now, retention_ms: self.inner.retention_ms }).await
    }

    /// A run.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn get(&self, id: RunId) -> Result<Option<Record>, StoreError> {
        const NAME: &str = "read a run";
        self.read(NAME, move |conn| find(conn, NAME, id)).await
    }

    /// The last run of a POD; `None` of one that is not there or was removed.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn last_run(&self, id: PodId) -> Result<Option<Record>, StoreError> {
        const NAME: &str = "read a POD";
        self.read(NAME, move |conn| pod::last_run(conn, NAME, &id)).await
    }

    /// The last runs of a wallet's PODs: the live one, then those that do not run, the
    /// newest POD first.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn of(&self, wallet: Wallet, limit: u32) -> Result<Vec<Record>, StoreError> {
        self.read("list a wallet's PODs", move |conn| of(conn, &wallet, limit.min(MAX_LISTED))).await
    }

    /// The live run of a wallet.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn live_of(&self, wallet: Wallet) -> Result<Option<Record>, StoreError> {
        const NAME: &str = "read a wallet's live run";
        self.read(NAME, move |conn| find_live(conn, NAME, &wallet)).await
    }

    /// All live runs, oldest first.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn live(&self) -> Result<Vec<Record>, StoreError> {
        const NAME: &str = "list the live runs";
        self.read(NAME, |conn| many(conn, NAME, select_runs!("WHERE ended_at IS NULL ORDER BY runs.id"), ())).await
    }

    /// The changes of a POD's state after this number, over all its runs, oldest first.
    ///
    /// # Errors
    /// [`StoreError::NoPod`], faults of the store.
    pub async fn changes(&self, id: PodId, after: u64) -> Result<Vec<StateChange>, StoreError> {
        self.read("read a POD's changes", move |conn| life::changes(conn, id, after)).await
    }

    /// Every change of state from now on, once it is durable. A subscriber that
    /// lags too far learns so, and reads what it missed by [`Store::changes`].
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<(PodId, StateChange)> {
        self.inner.news.subscribe()
    }

    /// How far a node's journal is counted.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn mark_cursor(&self, node: &str) -> Result<Option<Cursor>, StoreError> {
        let node = node.to_owned();
        self.read("read a node's cursor", move |conn| billing::cursor(conn, &node)).await
    }

    /// What a wallet used up to `now`, the live run included, and how many of its runs
    /// were ever ready.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn usage(&self, wallet: Wallet, now: UnixMillis) -> Result<(Usage, u64), StoreError> {
        self.read("read a wallet's usage", move |conn| billing::usage(conn, &wallet, now)).await
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

fn connect(files: &files::Files) -> Result<Connection, StoreError> {
    let sql = |error| StoreError::sql("open the database", error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = Connection::open_with_flags(&files.database, flags).map_err(sql)?;
    conn.busy_timeout(BUSY).map_err(sql)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    conn.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -65536; PRAGMA temp_store = MEMORY; \
         PRAGMA wal_autocheckpoint = 0; PRAGMA journal_size_limit = 67108864;",
    )
    .map_err(sql)?;
    schema::migrate(&mut conn, &files.database)?;
    Ok(conn)
}

fn of(conn: &Connection, wallet: &Wallet, limit: u32) -> Result<Vec<Record>, StoreError> {
    const NAME: &str = "list a wallet's PODs";
    let mut runs = Vec::from_iter(find_live(conn, NAME, wallet)?);
    runs.extend(pod::stopped(conn, NAME, wallet, limit)?);
    runs.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(runs)
}
