//! What lasts of a POD.

use domain::{PodId, UnixMillis, Wallet};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row, query};

use super::database::{Command, Statement, Tx};
use super::disks;
use super::row::{decode, lock, names, select_runs};
use super::totals::keep_total;
use crate::billing::DiskKey;
use crate::codec::{id_column, integer, millis, natural};
use crate::error::StoreError;
use crate::pod::{MAX_STOPPED_PODS, PodIdStatus, QuotaCheck, id_from};
use crate::record::{KeptData, PodRowId, RunRecord};

/// The last run of the POD of this number or name.
const LAST_RUN: &str = select_runs!(
    "WHERE runs.id = (SELECT last_run FROM pods WHERE removed_at IS NULL \
     AND (name = $2 OR key = $1 AND name IS NULL))"
);

/// Whether a holder may have this chosen id.
pub(crate) async fn look_up(conn: &mut PgConnection, name: &PodId, wallet: &Wallet) -> sqlx::Result<PodIdStatus> {
    let sql = "SELECT key, wallet, removed_at IS NOT NULL FROM pods WHERE name = $1";
    let Some(row) = query(sql).bind(name.as_str()).fetch_optional(conn).await? else { return Ok(PodIdStatus::Free) };
    let (key, holder, removed): (i64, [u8; 32], bool) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let theirs = removed && holder == wallet.0;
    Ok(if theirs { PodIdStatus::Removed(PodRowId(key.cast_unsigned())) } else { PodIdStatus::Taken })
}

/// The last run of a POD.
pub(crate) async fn last_run(conn: &mut PgConnection, id: &PodId) -> sqlx::Result<Option<RunRecord>> {
    let found = last_run_of(id).fetch_optional(conn).await?;
    found.map(|row| decode(&row)).transpose()
}

/// What finds the last run of a POD.
pub(crate) fn last_run_of(id: &PodId) -> Statement<'static> {
    let (key, name) = names(id);
    query(LAST_RUN).bind(key).bind(name)
}

/// Whether a wallet with this disk quota may have one more POD.
pub(crate) async fn quota(
    conn: &mut PgConnection,
    wallet: &Wallet,
    disk_mib: u32,
    now: UnixMillis,
) -> sqlx::Result<QuotaCheck> {
    let sql = "SELECT key, name, data_node IS NOT NULL, data_until, coalesce(data_bytes, 0) FROM pods \
               WHERE wallet = $1 AND stopped_at IS NOT NULL AND removed_at IS NULL LIMIT $2";
    let rows = query(sql).bind(wallet.0).bind(i64::from(MAX_STOPPED_PODS)).fetch_all(conn).await?;
    let all = rows.iter().map(stopped_row).collect::<sqlx::Result<_>>()?;
    Ok(QuotaCheck::of(all, disk_mib, now))
}

/// A POD that does not run, and what is kept of it.
fn stopped_row(row: &PgRow) -> sqlx::Result<(PodId, Option<KeptData>)> {
    let key = PodRowId(row.try_get::<i64, _>(0)?.cast_unsigned());
    let pod = id_from(key, row.try_get(1)?).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    let (has, until, bytes): (bool, Option<i64>, i64) = (row.try_get(2)?, row.try_get(3)?, row.try_get(4)?);
    Ok((pod, has.then_some(KeptData { until: until.map(millis), bytes: natural(bytes) })))
}

/// Writes that a POD's run has ended, and what its node keeps.
pub(crate) async fn rest(conn: &mut PgConnection, record: &RunRecord, at: UnixMillis) -> sqlx::Result<()> {
    let data = record.data.as_ref();
    query("UPDATE pods SET stopped_at = $2, data_node = $3, data_until = $4, data_bytes = $5 WHERE key = $1")
        .bind(record.pod_key.0.cast_signed())
        .bind(integer(at.0))
        .bind(&record.data_node)
        .bind(data.and_then(|data| data.until).map(|until| integer(until.0)))
        .bind(data.map(|data| integer(data.bytes)))
        .execute(conn)
        .await
        .map(drop)
}

/// Forgets all of a POD but what its wallet used, and that its id was its holder's;
/// `false` if a later run of it was begun meanwhile. Its row is locked first, as whoever
/// sets its prices does. Its key goes by a trigger: see `schema/2.sql`.
pub(crate) async fn remove(conn: &mut PgConnection, record: &RunRecord, now: UnixMillis) -> sqlx::Result<bool> {
    let key = record.pod_key.0.cast_signed();
    // A trigger notes it as the erasure of its key. Removals after keys began to be sealed are told from those before
    // by it, and two from each other, whatever clocks say.
    let removed = query(
        "UPDATE pods SET removed_at = greatest($2, least(coalesce(erased_at, -1), 9223372036854775806) + 1, \
         coalesce((SELECT made_at FROM secrets WHERE name = 'check'), 0)), last_run = 0, stopped_at = NULL, data_node = NULL, data_until = NULL, \
         data_bytes = NULL WHERE key = $1 AND last_run = $3",
    );
    let removed = removed.bind(key).bind(integer(now.0)).bind(id_column(record.id)).execute(&mut *conn).await?;
    if removed.rows_affected() == 0 {
        return Ok(false);
    }
    disks::close(conn, DiskKey::data(record.pod_key), now).await?;
    for row in query(select_runs!("WHERE runs.pod = $1")).bind(key).fetch_all(&mut *conn).await? {
        let run = decode(&row)?;
        keep_total(conn, &run.wallet, run.usage(now), run.was_ready).await?;
        let keys = query("DELETE FROM idempotency WHERE wallet = $1 AND run = $2");
        keys.bind(run.wallet.0).bind(id_column(run.id)).execute(&mut *conn).await?;
    }
    for delete in [
        "DELETE FROM runs WHERE pod = $1",
        "DELETE FROM changes WHERE pod = $1",
        "DELETE FROM prices WHERE pod = $1",
        "DELETE FROM deploys WHERE pod = $1",
    ] {
        query(delete).bind(key).execute(&mut *conn).await?;
    }
    Ok(true)
}

/// Forgets a POD that does not run and of which no node keeps anything any more.
pub(crate) struct RemovePod {
    pub(crate) pod: PodId,
    pub(crate) now: UnixMillis,
}

impl Command for RemovePod {
    type Answer = bool;
    const NAME: &'static str = "remove a POD";

    async fn apply(&self, tx: &mut Tx) -> Result<bool, StoreError> {
        let fail = |error| StoreError::postgres(Self::NAME, error);
        let Some(last) = last_run(tx.conn(), &self.pod).await.map_err(fail)? else { return Ok(true) };
        // As it is once nobody else is at it.
        let Some(last) = lock(tx.conn(), last.id).await.map_err(fail)? else { return Err(StoreError::tie(Self::NAME)) };
        if last.state.is_live() {
            return Ok(false);
        }
        let removed = remove(tx.conn(), &last, self.now).await.map_err(fail)?;
        if removed { Ok(true) } else { Err(StoreError::tie(Self::NAME)) }
    }
}
