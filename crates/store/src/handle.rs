//! [`Store`]: what the rest of the house sees.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use domain::{AgentId, Event, UnixMillis, Usage, Wallet};
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
use crate::life::{self, Advance, Advanced, NoteBalance, NoteErased, Observation, Observe};
use crate::prune::{Prune, Pruned};
use crate::reader::Readers;
use crate::record::{Below, Epoch, Record};
use crate::row::{find, find_live, many, select_agents};
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
        self.get(AgentId::from_bits(0)).await?;
        if self.inner.health.trouble().is_some() { self.write(Probe).await } else { Ok(()) }
    }

    /// Spends a message and takes its wallet's slot, in one transaction.
    ///
    /// # Errors
    /// Only for faults of the store; every other answer is an [`Admission`].
    pub async fn reserve(&self, reservation: Reservation) -> Result<Admission, StoreError> {
        self.write(reservation).await
    }

    /// Takes one step of an agent's life; tells subscribers when it is durable.
    ///
    /// # Errors
    /// [`StoreError::Unknown`], [`StoreError::Refused`], faults of the store.
    pub async fn advance(&self, id: AgentId, event: Event, now: UnixMillis) -> Result<Advanced, StoreError> {
        self.write(Advance { id, event, node: None, seen: None, kept_until: None, now }).await
    }

    /// Ends an agent of which its node holds nothing any more but, until then, its
    /// disks.
    ///
    /// # Errors
    /// As [`Store::advance`].
    pub async fn bury(
        &self,
        id: AgentId,
        kept_until: Option<UnixMillis>,
        now: UnixMillis,
    ) -> Result<Advanced, StoreError> {
        self.write(Advance { id, event: Event::Gone, node: None, seen: None, kept_until, now }).await
    }

    /// Notes that the disks of an agent that has ended are erased.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn note_erased(&self, id: AgentId) -> Result<(), StoreError> {
        self.write(NoteErased { id }).await
    }

    /// Writes down the node that is about to be told of a reserved agent.
    ///
    /// # Errors
    /// As [`Store::advance`].
    pub async fn place(&self, id: AgentId, node: &str, now: UnixMillis) -> Result<Advanced, StoreError> {
        let node = Some(node.to_owned());
        self.write(Advance { id, event: Event::Placed, node, seen: None, kept_until: None, now }).await
    }

    /// Takes a step together with what the node said.
    ///
    /// # Errors
    /// As [`Store::advance`].
    pub async fn settle(
        &self,
        id: AgentId,
        event: Event,
        seen: Observation,
        now: UnixMillis,
    ) -> Result<Advanced, StoreError> {
        self.write(Advance { id, event, node: None, seen: Some(seen), kept_until: None, now }).await
    }

    /// Notes what the node said, with no step.
    ///
    /// # Errors
    /// [`StoreError::Unknown`], faults of the store.
    pub async fn observe(&self, id: AgentId, seen: Observation) -> Result<Record, StoreError> {
        self.write(Observe { id, seen }).await
    }

    /// Notes how long the holder's balance has been below the tier.
    ///
    /// # Errors
    /// [`StoreError::Unknown`], faults of the store.
    pub async fn note_balance(&self, id: AgentId, below: Below) -> Result<(), StoreError> {
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

    /// An agent.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn get(&self, id: AgentId) -> Result<Option<Record>, StoreError> {
        const NAME: &str = "read an agent";
        self.read(NAME, move |conn| find(conn, NAME, id)).await
    }

    /// The agents of a wallet, newest first, the ended ones included.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn of(&self, wallet: Wallet, limit: u32) -> Result<Vec<Record>, StoreError> {
        self.read("list a wallet's agents", move |conn| of(conn, &wallet, limit.min(MAX_LISTED))).await
    }

    /// The live agent of a wallet.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn live_of(&self, wallet: Wallet) -> Result<Option<Record>, StoreError> {
        const NAME: &str = "read a wallet's live agent";
        self.read(NAME, move |conn| find_live(conn, NAME, &wallet)).await
    }

    /// All live agents, oldest first.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn live(&self) -> Result<Vec<Record>, StoreError> {
        const NAME: &str = "list the live agents";
        self.read(NAME, |conn| {
            many(conn, NAME, select_agents!("INDEXED BY agents_live WHERE ended_at IS NULL ORDER BY id"), ())
        })
        .await
    }

    /// The changes of an agent's state after this number, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Unknown`], faults of the store.
    pub async fn changes(&self, id: AgentId, after: u64) -> Result<Vec<StateChange>, StoreError> {
        self.read("read an agent's changes", move |conn| life::changes(conn, id, after)).await
    }

    /// Every change of state from now on, once it is durable. A subscriber that
    /// lags too far learns so, and reads what it missed by [`Store::changes`].
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<(AgentId, StateChange)> {
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

    /// What a wallet used up to `now`, the running agent included, and how many
    /// of its agents were ever ready.
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
    const NAME: &str = "list a wallet's agents";
    let mut agents = Vec::from_iter(find_live(conn, NAME, wallet)?);
    agents.extend(many(
        conn,
        NAME,
        select_agents!("WHERE wallet = ?1 AND ended_at IS NOT NULL ORDER BY id DESC LIMIT ?2"),
        (wallet.0, limit),
    )?);
    agents.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(agents)
}
