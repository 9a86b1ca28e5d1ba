//! What is kept of what a wallet has used and has no more.

use domain::{Usage, Wallet};
use sqlx::{PgConnection, Row, query};

use crate::codec::{integer, natural};

pub(crate) async fn totals(conn: &mut PgConnection, wallet: &Wallet) -> sqlx::Result<(Usage, u64)> {
    let sql = "SELECT uptime_ms, core_ms, mib_ms, disk_mib_ms, spawns FROM totals WHERE wallet = $1";
    let Some(row) = query(sql).bind(wallet.0).fetch_optional(conn).await? else { return Ok(Default::default()) };
    let usage = Usage {
        uptime_ms: natural(row.try_get(0)?),
        core_ms: natural(row.try_get(1)?),
        mib_ms: natural(row.try_get(2)?),
        disk_mib_ms: natural(row.try_get(3)?),
    };
    Ok((usage, natural(row.try_get(4)?)))
}

/// Adds to what is kept of a wallet's forgotten runs and of the disks it had.
pub(crate) async fn keep_total(
    conn: &mut PgConnection,
    wallet: &Wallet,
    used: Usage,
    was_ready: bool,
) -> sqlx::Result<()> {
    // Sums end where the columns do, as they do in SQLite.
    query(
        "INSERT INTO totals AS t (wallet, uptime_ms, core_ms, mib_ms, disk_mib_ms, spawns) \
         VALUES ($1, $2, $3, $4, $5, $6) \
         ON CONFLICT (wallet) DO UPDATE SET \
         uptime_ms = least(t.uptime_ms::numeric + excluded.uptime_ms, 9223372036854775807)::bigint, \
         core_ms = least(t.core_ms::numeric + excluded.core_ms, 9223372036854775807)::bigint, \
         mib_ms = least(t.mib_ms::numeric + excluded.mib_ms, 9223372036854775807)::bigint, \
         disk_mib_ms = least(t.disk_mib_ms::numeric + excluded.disk_mib_ms, 9223372036854775807)::bigint, \
         spawns = t.spawns + excluded.spawns",
    )
    .bind(wallet.0)
    .bind(integer(used.uptime_ms))
    .bind(integer(used.core_ms))
    .bind(integer(used.mib_ms))
    .bind(integer(used.disk_mib_ms))
    .bind(i64::from(was_ready))
    .execute(conn)
    .await
    .map(drop)
}
