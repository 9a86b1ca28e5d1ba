//! Time that is counted.

use domain::SteadyInstant;
use rusqlite::Connection;

use super::handle::Sqlite;
use super::writer::{Command, Tx};
use crate::codec::{integer, natural};
use crate::counted::{CountedTime, FORGOTTEN_BEHIND_MS, TimeCount, TimeStore, counted};
use crate::error::StoreError;

impl TimeStore for Sqlite {
    async fn count_time(&self, now: SteadyInstant) -> Result<u64, StoreError> {
        const NAME: &str = "read the time that was counted";
        let read = move |conn: &Connection| written(conn).map_err(|error| StoreError::sql(NAME, error));
        match counted(&self.read(NAME, read).await?, now) {
            CountedTime { ms, is_due: false } => Ok(ms),
            CountedTime { is_due: true, .. } => self.write(CountTime(now)).await,
        }
    }
}

fn written(conn: &Connection) -> rusqlite::Result<Vec<TimeCount>> {
    let mut select = conn.prepare_cached("SELECT boot, steady_ms, counted_ms FROM counted_time")?;
    let rows = select.query_map((), |row| {
        let at = SteadyInstant { boot: row.get(0)?, millis: natural(row.get(1)?) };
        Ok(TimeCount { at, counted_ms: natural(row.get(2)?) })
    })?;
    rows.collect()
}

struct CountTime(SteadyInstant);

impl Command for CountTime {
    type Answer = u64;
    const NAME: &'static str = "count the time";

    /// What is due is stopped on a full disk too.
    fn is_essential(&self) -> bool {
        true
    }

    fn apply(&self, tx: &Tx<'_>) -> Result<u64, StoreError> {
        self.count(tx.conn).map_err(|error| StoreError::sql(Self::NAME, error))
    }
}

impl CountTime {
    fn count(&self, conn: &Connection) -> rusqlite::Result<u64> {
        let CountedTime { ms, .. } = counted(&written(conn)?, self.0);
        conn.prepare_cached(
            "INSERT INTO counted_time (boot, steady_ms, counted_ms) VALUES (?1, ?2, ?3) \
             ON CONFLICT (boot) DO UPDATE SET steady_ms = excluded.steady_ms, counted_ms = excluded.counted_ms",
        )?
        .execute((&self.0.boot, integer(self.0.millis), integer(ms)))?;
        conn.prepare_cached("DELETE FROM counted_time WHERE counted_ms < ?1")?
            .execute((integer(ms.saturating_sub(FORGOTTEN_BEHIND_MS)),))?;
        Ok(ms)
    }
}
