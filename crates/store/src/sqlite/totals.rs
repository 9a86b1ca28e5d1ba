//! What is kept of what a wallet has used and has no more.

use domain::{Usage, Wallet};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::codec::{integer, natural};

/// What is kept of a wallet.
pub(crate) fn totals(conn: &Connection, wallet: &Wallet) -> rusqlite::Result<(Usage, u64)> {
    let read = |row: &Row<'_>| {
        let usage = Usage {
            uptime_ms: natural(row.get(0)?),
            core_ms: natural(row.get(1)?),
            mib_ms: natural(row.get(2)?),
            disk_mib_ms: natural(row.get(3)?),
        };
        Ok((usage, natural(row.get(4)?)))
    };
    conn.prepare_cached("SELECT uptime_ms, core_ms, mib_ms, disk_mib_ms, spawns FROM totals WHERE wallet = ?1")?
        .query_row((&wallet.0,), read)
        .optional()
        .map(Option::unwrap_or_default)
}

/// Adds to what is kept of a wallet's forgotten agents and of the disks it had.
pub(crate) fn keep_total(conn: &Connection, wallet: &Wallet, used: Usage, was_ready: bool) -> rusqlite::Result<()> {
    let (usage, spawns) = totals(conn, wallet)?;
    let usage = usage.plus(used);
    conn.prepare_cached(
        "INSERT OR REPLACE INTO totals (wallet, uptime_ms, core_ms, mib_ms, disk_mib_ms, spawns) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![
        &wallet.0,
        integer(usage.uptime_ms),
        integer(usage.core_ms),
        integer(usage.mib_ms),
        integer(usage.disk_mib_ms),
        integer(spawns + u64::from(was_ready))
    ])
    .map(drop)
}
