//! Time that is counted.

use domain::SteadyInstant;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row, query};

use super::database::{Command, Postgres, Tx};
use crate::codec::{integer, natural};
use crate::counted::{CountedTime, FORGOTTEN_BEHIND_MS, TimeCount, TimeStore, counted};
use crate::error::StoreError;

const WRITTEN: &str = "SELECT boot, steady_ms, counted_ms FROM counted_time";

impl TimeStore for Postgres {
    async fn count_time(&self, now: SteadyInstant) -> Result<u64, StoreError> {
        let written = self.many("read the time that was counted", query(WRITTEN), decode).await?;
        match counted(&written, now) {
            CountedTime { ms, is_due: false } => Ok(ms),
            CountedTime { is_due: true, .. } => self.write(CountTime(now)).await,
        }
    }
}

fn decode(row: &PgRow) -> sqlx::Result<TimeCount> {
    let at = SteadyInstant { boot: row.try_get(0)?, millis: natural(row.try_get(1)?) };
    Ok(TimeCount { at, counted_ms: natural(row.try_get(2)?) })
}

struct CountTime(SteadyInstant);

impl Command for CountTime {
    type Answer = u64;
    const NAME: &'static str = "count the time";

    async fn apply(&self, tx: &mut Tx) -> Result<u64, StoreError> {
        self.count(tx.conn()).await.map_err(|error| StoreError::postgres(Self::NAME, error))
    }
}

impl CountTime {
    async fn count(&self, conn: &mut PgConnection) -> sqlx::Result<u64> {
        // Of two gateways that count at once one waits: neither goes on from what is old.
        query("LOCK TABLE counted_time IN SHARE ROW EXCLUSIVE MODE").execute(&mut *conn).await?;
        let rows = query(WRITTEN).fetch_all(&mut *conn).await?;
        let written = rows.iter().map(decode).collect::<sqlx::Result<Vec<_>>>()?;
        let CountedTime { ms, .. } = counted(&written, self.0);
        query(
            "INSERT INTO counted_time (boot, steady_ms, counted_ms) VALUES ($1, $2, $3) \
             ON CONFLICT (boot) DO UPDATE SET steady_ms = excluded.steady_ms, counted_ms = excluded.counted_ms",
        )
        .bind(self.0.boot)
        .bind(integer(self.0.millis))
        .bind(integer(ms))
        .execute(&mut *conn)
        .await?;
        let behind = integer(ms.saturating_sub(FORGOTTEN_BEHIND_MS));
        query("DELETE FROM counted_time WHERE counted_ms < $1").bind(behind).execute(conn).await?;
        Ok(ms)
    }
}
