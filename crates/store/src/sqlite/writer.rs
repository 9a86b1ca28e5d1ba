//! The one thread that writes.
//!
//! It takes what is queued, runs it in one transaction, commits (one `fsync`),
//! and only then answers everybody. A command looks first and writes last: when
//! it says no, it has written nothing. Should SQLite itself refuse one command,
//! the transaction is rolled back and its commands are run again one by one, so
//! that only the culprit fails; should the disk refuse, all of them are told so.

use std::cell::RefCell;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use domain::PodId;
use rusqlite::Connection;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::cache::RunCache;
use super::checkpoint::Checkpoints;
use super::files::Files;
use super::health::Health;
use crate::error::StoreError;
use crate::record::{GatewayEpoch, RunChange};

/// Commands in one transaction at most: bounds how long the first one waits.
const MAX_BATCH: usize = 1024;
/// Answered transactions on their way to the callers' runtime at most.
const MAX_ANSWERS: usize = 16;

/// What the writer does for one caller. Must be repeatable, and write nothing
/// when it answers with an error of its own.
pub(crate) trait Command: Send + 'static {
    /// What the caller gets.
    type Answer: Send + 'static;
    /// Names the operation in errors.
    const NAME: &'static str;
    /// Whether it may use the room that is kept for when the disk is full: an agent's
    /// steps, what it used, and the signatures of calls that must work then.
    fn is_essential(&self) -> bool {
        false
    }
    /// Runs inside the transaction.
    fn apply(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError>;
}

/// A transaction, as commands see it.
pub(crate) struct Tx<'a> {
    pub(crate) conn: &'a Connection,
    pub(crate) epoch: GatewayEpoch,
    pub(crate) cache: &'a RunCache,
    news: RefCell<Vec<(PodId, RunChange)>>,
}

impl Tx<'_> {
    /// Tells subscribers, once this is durable.
    pub(crate) fn announce(&self, pod: PodId, change: RunChange) {
        self.news.borrow_mut().push((pod, change));
    }
}

/// A command with its caller.
pub(crate) trait Job: Send {
    /// Names the operation.
    fn name(&self) -> &'static str;
    /// Runs it and keeps the answer. Errors only for what SQLite refused.
    fn run(&mut self, tx: &Tx<'_>) -> Result<(), StoreError>;
    /// Whether it goes on when the disk is full.
    fn is_essential(&self) -> bool;
    /// Answers the caller: with what was kept, or with why nothing was done.
    fn settle(self: Box<Self>, outcome: Result<(), StoreError>);
}

/// Where the answer to a command comes.
pub(crate) type Answer<C> = oneshot::Receiver<Result<<C as Command>::Answer, StoreError>>;

pub(crate) struct Request<C: Command> {
    command: C,
    answer: Option<Result<C::Answer, StoreError>>,
    reply: oneshot::Sender<Result<C::Answer, StoreError>>,
}

impl<C: Command> Request<C> {
    /// The job, and where its answer comes.
    pub(crate) fn job(command: C) -> (Box<dyn Job>, Answer<C>) {
        let (reply, receiver) = oneshot::channel();
        (Box::new(Self { command, answer: None, reply }), receiver)
    }
}

impl<C: Command> Job for Request<C> {
    fn name(&self) -> &'static str {
        C::NAME
    }

    fn run(&mut self, tx: &Tx<'_>) -> Result<(), StoreError> {
        let answer = self.command.apply(tx);
        let refused = match &answer {
            Err(error) if error.is_of_the_disk() || matches!(error, StoreError::Sql { .. }) => Err(error.clone()),
            Ok(_) | Err(_) => Ok(()),
        };
        self.answer = Some(answer);
        refused
    }

    fn is_essential(&self) -> bool {
        self.command.is_essential()
    }

    fn settle(self: Box<Self>, outcome: Result<(), StoreError>) {
        let answer = match outcome {
            Ok(()) => self.answer.unwrap_or(Err(StoreError::Closed)),
            Err(error) => Err(error),
        };
        // A caller that went away has still been served.
        let _ = self.reply.send(answer);
    }
}

/// Jobs that are on the disk. Whoever drops this answers their callers.
pub(crate) struct Done(Vec<Box<dyn Job>>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.drain(..).for_each(|job| job.settle(Ok(())));
    }
}

/// Takes the answers to the callers' runtime in one go: waking each caller from
/// the writer's thread would cost a switch of threads for every one of them.
pub(crate) struct Answers(mpsc::Sender<Done>);

impl Answers {
    /// Starts the task that hands them out. Must be called in a runtime.
    pub(crate) fn start() -> Result<Self, StoreError> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| StoreError::NoRuntime)?;
        let (give, mut taken) = mpsc::channel::<Done>(MAX_ANSWERS);
        runtime.spawn(async move { while taken.recv().await.is_some() {} });
        Ok(Self(give))
    }

    /// Should the runtime be slow or gone, the answers are given from here.
    fn give(&self, done: Done) {
        if let Err(TrySendError::Full(done) | TrySendError::Closed(done)) = self.0.try_send(done) {
            drop(done);
        }
    }
}

pub(crate) type Queue = mpsc::Sender<Box<dyn Job>>;
pub(crate) type ChangeFeed = broadcast::Sender<(PodId, RunChange)>;

/// The writer's state.
pub(crate) struct Writer {
    pub(crate) conn: Connection,
    pub(crate) epoch: GatewayEpoch,
    pub(crate) cache: RunCache,
    pub(crate) news: ChangeFeed,
    pub(crate) answers: Answers,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) files: Files,
    pub(crate) health: Arc<Health>,
}

impl Writer {
    /// Starts the thread. It ends when the queue's last sender is gone, and lets
    /// go of the files then.
    pub(crate) fn start(self, queue: mpsc::Receiver<Box<dyn Job>>) -> std::io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || self.serve(queue))
    }

    fn serve(self, mut queue: mpsc::Receiver<Box<dyn Job>>) {
        let mut batch = Vec::with_capacity(MAX_BATCH);
        while queue.blocking_recv_many(&mut batch, MAX_BATCH) > 0 {
            metrics::gauge!("palatine_store_queue_commands").set(gauge(queue.len()));
            self.batch(&mut batch);
            self.checkpoints.look(&self.conn);
            self.health.refill();
        }
        self.checkpoints.end();
        if let Err((_, error)) = self.conn.close() {
            tracing::warn!(%error, database = %self.files.database.display(), "the database did not close cleanly");
        }
    }

    fn batch(&self, batch: &mut Vec<Box<dyn Job>>) {
        metrics::histogram!("palatine_store_batch_commands").record(gauge(batch.len()));
        if let Some(error) = self.health.starved() {
            return self.without_room(batch, &error);
        }
        match self.transact(batch) {
            Ok(()) => {
                self.health.works();
                self.answers.give(Done(std::mem::replace(batch, Vec::with_capacity(MAX_BATCH))));
            }
            Err(error @ StoreError::Full { .. }) => self.without_room(batch, &error),
            Err(error) if error.is_of_the_disk() => self.fail(batch, &error),
            Err(_) => self.one_by_one(batch),
        }
    }

    /// The disk is full. What is essential is done with the room that was kept for it,
    /// and with what the log still has; everything else is told.
    fn without_room(&self, batch: &mut Vec<Box<dyn Job>>, error: &StoreError) {
        let (mut essential, mut other): (Vec<_>, Vec<_>) = batch.drain(..).partition(|job| job.is_essential());
        self.fail(&mut other, error);
        if essential.is_empty() {
            return;
        }
        self.health.release();
        // A log that is copied begins again where it has its room already.
        self.checkpoints.now(&self.conn);
        match self.transact(&mut essential) {
            Ok(()) => self.answers.give(Done(essential)),
            Err(error) if error.is_of_the_disk() => self.fail(&mut essential, &error),
            Err(_) => self.one_by_one(&mut essential),
        }
    }

    fn fail(&self, batch: &mut Vec<Box<dyn Job>>, error: &StoreError) {
        self.health.fails(error);
        fail(batch, error);
    }

    fn one_by_one(&self, batch: &mut Vec<Box<dyn Job>>) {
        for mut job in batch.drain(..) {
            let outcome = self.transact(std::slice::from_mut(&mut job));
            if let Err(error) = &outcome {
                tracing::error!(%error, source = std::error::Error::source(error), "a write was refused");
            }
            job.settle(outcome);
        }
    }

    /// All or nothing, and on the disk when it returns.
    fn transact(&self, jobs: &mut [Box<dyn Job>]) -> Result<(), StoreError> {
        let began = Instant::now();
        let sql = |operation| move |error| StoreError::sql(operation, error);
        self.cached("BEGIN IMMEDIATE").map_err(sql("begin a transaction"))?;
        let tx = Tx { conn: &self.conn, epoch: self.epoch, cache: &self.cache, news: RefCell::default() };
        let done = jobs
            .iter_mut()
            .try_for_each(|job| job.run(&tx))
            .inspect(|()| pass(jobs, "committing"))
            .and_then(|()| self.cached("COMMIT").map_err(sql("commit a transaction")));
        if done.is_err() {
            self.roll_back();
            return done;
        }
        pass(jobs, "committed");
        metrics::histogram!("palatine_store_commit_seconds").record(began.elapsed().as_secs_f64());
        for change in tx.news.into_inner() {
            // Nobody listens: nobody is told.
            let _ = self.news.send(change);
        }
        Ok(())
    }

    fn roll_back(&self) {
        self.cache.forget_all();
        // SQLite rolls back by itself on some errors; a second time is one too many.
        if self.conn.is_autocommit() {
            return;
        }
        if let Err(error) = self.cached("ROLLBACK") {
            tracing::error!(%error, "a transaction could not be rolled back");
        }
    }

    fn cached(&self, sql: &'static str) -> rusqlite::Result<()> {
        self.conn.prepare_cached(sql)?.execute(()).map(drop)
    }
}

/// A failpoint for each kind of write there is.
fn pass(jobs: &[Box<dyn Job>], step: &str) {
    if cfg!(debug_assertions) {
        jobs.iter().for_each(|job| durable::failpoint(job.name(), step));
    }
}

fn fail(batch: &mut Vec<Box<dyn Job>>, error: &StoreError) {
    if batch.is_empty() {
        return;
    }
    let callers = batch.len();
    tracing::error!(%error, source = std::error::Error::source(error), callers, "a transaction failed: nothing of it was done");
    metrics::counter!("palatine_store_failed_transactions_total").increment(1);
    batch.drain(..).for_each(|job| job.settle(Err(error.clone())));
}

fn gauge(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, channel};

    use super::super::handle::Sqlite;
    use super::*;
    use crate::Config;

    /// Keeps the writer busy, so that what comes next is one transaction.
    struct Hold(Mutex<Receiver<()>>);

    impl Command for Hold {
        type Answer = ();
        const NAME: &'static str = "hold the writer";

        fn apply(&self, _: &Tx<'_>) -> Result<(), StoreError> {
            let _ = self.0.lock().map(|held| held.recv());
            Ok(())
        }
    }

    /// Writes a message, and then again if it is to fail.
    struct Twice(u8, bool);

    impl Command for Twice {
        type Answer = ();
        const NAME: &'static str = "write twice";

        fn apply(&self, tx: &Tx<'_>) -> Result<(), StoreError> {
            for _ in 0..=u8::from(self.1) {
                tx.conn
                    .execute("INSERT INTO spent (key, expires_at) VALUES (?1, 0)", ([self.0],))
                    .map_err(|error| StoreError::sql(Self::NAME, error))?;
            }
            Ok(())
        }
    }

    struct Count;

    impl Command for Count {
        type Answer = Vec<Vec<u8>>;
        const NAME: &'static str = "read what is written";

        fn apply(&self, tx: &Tx<'_>) -> Result<Vec<Vec<u8>>, StoreError> {
            let sql = |error| StoreError::sql(Self::NAME, error);
            let mut all = tx.conn.prepare("SELECT key FROM spent ORDER BY key").map_err(sql)?;
            let rows = all.query_map((), |row| row.get(0)).map_err(sql)?;
            rows.collect::<Result<_, _>>().map_err(sql)
        }
    }

    #[tokio::test]
    async fn of_a_transaction_in_which_one_command_fails_all_others_are_kept() {
        let room = tempfile::tempdir().unwrap();
        let config = Config { directory: room.path().join("store"), ..Config::default() };
        let store = Sqlite::open(&config).unwrap();
        let (release, held) = channel();
        let ask = |command| {
            let store = store.clone();
            async move { store.write(command).await }
        };
        let hold = store.write(Hold(Mutex::new(held)));
        let three = async {
            // All three are queued before the writer is let go.
            let (first, second, third) = (ask(Twice(1, false)), ask(Twice(2, true)), ask(Twice(3, false)));
            let (first, second, third, ()) = tokio::join!(first, second, third, async move {
                drop(release);
            });
            (first, second, third)
        };
        let (held, (first, second, third)) = tokio::join!(hold, three);
        assert!(held.is_ok() && first.is_ok() && third.is_ok());
        assert!(matches!(second, Err(StoreError::Sql { operation: "write twice", .. })), "{second:?}");
        assert_eq!(store.write(Count).await.unwrap(), [[1], [3]]);
    }
}
