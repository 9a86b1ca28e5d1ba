//! The log's way into the database file.
//!
//! A checkpoint of a long log takes tens of milliseconds, and commits wait for the
//! disk as long: a thread of its own copies it in slices while commits go on. When
//! the log is long and nearly all of it is copied, the writer does the rest between
//! two commits, so that the log starts again from its beginning instead of growing
//! for ever.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, MAIN_DB, OpenFlags};

use crate::error::StoreError;

/// Pages of log (4 KiB each) that are worth a slice: enough that a page which is
/// written again and again is copied once, and few enough for the disk.
const SLICE: i32 = 1024;
/// Pages from which on the log is to start again.
const LONG: i32 = 8192;
/// Pages that the writer copies itself: less than a commit takes.
const SHORT: i32 = 64;
/// Pages from which on the writer waits for no thread: 256 MiB.
const TOO_LONG: i32 = 65_536;

/// The thread, and the writer's way to wake it.
pub(crate) struct Checkpoints {
    wake: SyncSender<()>,
    thread: JoinHandle<()>,
}

impl Checkpoints {
    pub(crate) fn start(database: &Path) -> Result<Self, StoreError> {
        let sql = |error| StoreError::sql("open the database for checkpoints", error);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(database, flags).map_err(sql)?;
        conn.execute_batch("PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0").map_err(sql)?;
        let (wake, woken) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("store-checkpoint".to_owned())
            .spawn(move || serve(&conn, &woken))
            .map_err(|error| StoreError::file("start the checkpoints of", database, error))?;
        Ok(Self { wake, thread })
    }

    /// After a commit: does the short rest, or has a slice done.
    pub(crate) fn look(&self, writer: &Connection) {
        let Some((pages, copied)) = run(writer, CheckpointMode::NOOP) else { return };
        let rest = pages - copied;
        let long = pages >= LONG;
        if long && rest <= SHORT || pages > TOO_LONG {
            run(writer, CheckpointMode::PASSIVE);
            return;
        }
        if rest < SLICE && !long {
            return;
        }
        if let Err(TrySendError::Disconnected(())) = self.wake.try_send(()) {
            // Without the thread the log must still not grow for ever.
            run(writer, CheckpointMode::PASSIVE);
        }
    }

    /// Copies what it can, at once.
    pub(crate) fn now(&self, writer: &Connection) {
        run(writer, CheckpointMode::PASSIVE);
    }

    /// Ends the thread and waits for it.
    pub(crate) fn end(self) {
        drop(self.wake);
        if self.thread.join().is_err() {
            tracing::error!("the store's checkpoint thread has panicked");
        }
    }
}

fn serve(conn: &Connection, woken: &Receiver<()>) {
    while woken.recv().is_ok() {
        run(conn, CheckpointMode::PASSIVE);
    }
}

/// Pages of the log, and how many of them are copied. A checkpoint that fails
/// loses nothing: the log keeps everything, and the next one starts over.
fn run(conn: &Connection, mode: CheckpointMode) -> Option<(i32, i32)> {
    match conn.wal_checkpoint_v2(Some(MAIN_DB), mode) {
        Ok(pages) => Some(pages),
        Err(error) => {
            tracing::warn!(%error, "a checkpoint of the database failed");
            metrics::counter!("palatine_store_failed_checkpoints_total").increment(1);
            None
        }
    }
}
