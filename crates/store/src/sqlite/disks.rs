//! What disks took: from a node's marks to the wallets' totals.

use domain::{DiskChange, DiskMark, MeteredDisk, UnixMillis, Usage, Wallet};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::row::key_of;
use super::totals::keep_total;
use crate::billing::{DiskKey, DiskSums, HeardTimes, HeldDisk};
use crate::codec::{integer, millis, natural};

/// Counts a mark: what was held up to it goes to the sums. Whether it is about a disk that some
/// wallet has on this node.
pub(crate) fn count(
    conn: &Connection,
    node: &str,
    cursor: i64,
    times: HeardTimes,
    mark: &DiskMark,
    sums: &mut DiskSums,
) -> rusqlite::Result<bool> {
    let (began, ended) = (times.start(mark.at), times.end(mark.at));
    match mark.change {
        DiskChange::Down { since } => {
            for held in many(conn, "SELECT wallet, mib, since FROM disk_meters WHERE node = ?1", (node,))? {
                sums.add(&held, times.end(since));
            }
            conn.prepare_cached("UPDATE disk_meters SET since = ?2 WHERE node = ?1")?
                .execute((node, integer(began.0)))?;
            Ok(true)
        }
        DiskChange::Level { disk, mib } => {
            let Some(key) = key_of_disk(conn, disk)? else { return Ok(mib == 0) };
            let wallet = owner(conn, node, disk, key)?;
            // What was counted ends here, also where it is nobody's any more: who had it pays no longer.
            take(conn, Some(node), key, |held| sums.add(held, ended))?;
            let Some(wallet) = wallet else { return Ok(mib == 0) };
            if mib > 0 {
                conn.prepare_cached(
                    "INSERT INTO disk_meters (node, kind, id, wallet, mib, since, cursor) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                )?
                .execute(params![
                    node,
                    key.kind,
                    key.id,
                    &wallet.0,
                    integer(mib),
                    integer(began.0),
                    cursor
                ])?;
            }
            Ok(true)
        }
    }
}

fn key_of_disk(conn: &Connection, disk: MeteredDisk) -> rusqlite::Result<Option<DiskKey>> {
    Ok(match disk {
        MeteredDisk::Volume(id) => Some(DiskKey::volume(id)),
        MeteredDisk::Snapshot(id) => Some(DiskKey::snapshot(id)),
        MeteredDisk::Data(pod) => key_of(conn, &pod)?.map(DiskKey::data),
    })
}

/// Whose a disk of this node is. What its owner has removed is nobody's.
fn owner(conn: &Connection, node: &str, disk: MeteredDisk, key: DiskKey) -> rusqlite::Result<Option<Wallet>> {
    let sql = match disk {
        MeteredDisk::Volume(_) => "SELECT wallet FROM volumes WHERE id = ?1 AND node = ?2 AND state <> 'removing'",
        MeteredDisk::Snapshot(_) => "SELECT wallet FROM snapshots WHERE id = ?1 AND node = ?2 AND state <> 'removing'",
        MeteredDisk::Data(_) => {
            "SELECT wallet FROM pods WHERE key = ?1 AND (data_node = ?2 OR EXISTS \
             (SELECT 1 FROM runs WHERE runs.id = pods.last_run AND runs.node = ?2))"
        }
    };
    conn.prepare_cached(sql)?.query_row((key.id, node), |row| Ok(Wallet(row.get(0)?))).optional()
}

/// Ends the count of a disk; what was held of it, on one node or on all.
fn take(conn: &Connection, node: Option<&str>, key: DiskKey, mut held: impl FnMut(&HeldDisk)) -> rusqlite::Result<()> {
    let rest = "FROM disk_meters WHERE kind = ?1 AND id = ?2 AND (?3 IS NULL OR node = ?3)";
    let select = format!("SELECT wallet, mib, since {rest}");
    many(conn, &select, (key.kind, key.id, node))?.iter().for_each(&mut held);
    conn.prepare_cached(&format!("DELETE {rest}"))?.execute((key.kind, key.id, node)).map(drop)
}

/// A disk was never its owner's: nothing of it counts.
pub(crate) fn forget(conn: &Connection, key: DiskKey) -> rusqlite::Result<()> {
    take(conn, None, key, |_| ())
}

/// Its owner has removed a disk: it counts up to here and no further, whatever its node holds yet.
pub(crate) fn close(conn: &Connection, key: DiskKey, now: UnixMillis) -> rusqlite::Result<()> {
    let sql = "SELECT disk_meters.wallet, mib, since, heard_at FROM disk_meters \
               JOIN cursors ON cursors.n = disk_meters.cursor WHERE kind = ?1 AND id = ?2";
    let mut sums = DiskSums::default();
    for (held, heard) in heard(conn, sql, (key.kind, key.id))? {
        sums.add(&held, now.min(heard));
    }
    take(conn, None, key, |_| ())?;
    charge(conn, &sums)
}

/// A node has a journal that nobody saw before: what its earlier ones said it holds counts until
/// they were last heard of. The new one says anew what is there.
pub(crate) fn close_of_node(conn: &Connection, node: &str, now: UnixMillis) -> rusqlite::Result<()> {
    let sql = "SELECT disk_meters.wallet, mib, since, heard_at FROM disk_meters \
               JOIN cursors ON cursors.n = disk_meters.cursor WHERE disk_meters.node = ?1";
    let mut sums = DiskSums::default();
    for (held, heard) in heard(conn, sql, (node,))? {
        sums.add(&held, now.min(heard));
    }
    conn.prepare_cached("DELETE FROM disk_meters WHERE node = ?1")?.execute((node,))?;
    charge(conn, &sums)
}

/// Adds sums to the totals.
pub(crate) fn charge(conn: &Connection, sums: &DiskSums) -> rusqlite::Result<()> {
    sums.charges().try_for_each(|(wallet, used)| keep_total(conn, &wallet, used, false))
}

/// What is held of a wallet's disks and is in no total yet, up to `now`, or until their nodes were
/// last heard of.
pub(crate) fn running(conn: &Connection, wallet: &Wallet, now: UnixMillis) -> rusqlite::Result<Usage> {
    let sql = "SELECT disk_meters.wallet, mib, since, heard_at FROM disk_meters \
               JOIN cursors ON cursors.n = disk_meters.cursor WHERE disk_meters.wallet = ?1";
    let held = heard(conn, sql, (&wallet.0,))?;
    let used = held.iter().map(|(held, heard)| held.used(now.min(*heard)));
    Ok(Usage { disk_mib_ms: used.fold(0, u64::saturating_add), ..Usage::default() })
}

fn many(conn: &Connection, sql: &str, params: impl rusqlite::Params) -> rusqlite::Result<Vec<HeldDisk>> {
    conn.prepare_cached(sql)?.query_map(params, decode)?.collect()
}

fn heard(conn: &Connection, sql: &str, params: impl rusqlite::Params) -> rusqlite::Result<Vec<(HeldDisk, UnixMillis)>> {
    conn.prepare_cached(sql)?.query_map(params, |row| Ok((decode(row)?, millis(row.get(3)?))))?.collect()
}

fn decode(row: &Row<'_>) -> rusqlite::Result<HeldDisk> {
    Ok(HeldDisk { wallet: Wallet(row.get(0)?), mib: natural(row.get(1)?), since: millis(row.get(2)?) })
}
