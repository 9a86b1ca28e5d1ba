//! What disks took: from a node's marks to the wallets' totals. The row of a volume or a POD is
//! locked before its disk's, and that before the totals, whoever works with them: of a removal and
//! a mark of what is removed, one waits for the other.

use domain::{DiskChange, DiskMark, MeteredDisk, UnixMillis, Usage, Wallet};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row, query};

use super::row::hold;
use super::totals::keep_total;
use crate::billing::{DiskKey, DiskSums, HeldDisk};
use crate::codec::{integer, millis, natural};

/// Counts a mark: what was held up to it goes to the sums. Whether it is about a disk that some
/// wallet has on this node.
pub(crate) async fn count(
    conn: &mut PgConnection,
    node: &str,
    cursor: i64,
    mark: &DiskMark,
    sums: &mut DiskSums,
) -> sqlx::Result<bool> {
    let at = millis(integer(mark.at.0));
    match mark.change {
        DiskChange::Down { since } => {
            // What was held is locked first, so that what is counted here is not counted elsewhere.
            let sql = "SELECT wallet, mib, since FROM disk_meters WHERE node = $1 ORDER BY kind, id FOR UPDATE";
            for row in query(sql).bind(node).fetch_all(&mut *conn).await? {
                sums.add(&decode(&row)?, since);
            }
            let moved = query("UPDATE disk_meters SET since = $2 WHERE node = $1").bind(node).bind(integer(at.0));
            moved.execute(conn).await?;
            Ok(true)
        }
        DiskChange::Level { disk, mib } => {
            let Some((key, wallet)) = owner(conn, node, disk).await? else { return Ok(mib == 0) };
            let sql = "DELETE FROM disk_meters WHERE kind = $1 AND id = $2 AND node = $3 RETURNING wallet, mib, since";
            for row in query(sql).bind(key.kind).bind(key.id).bind(node).fetch_all(&mut *conn).await? {
                sums.add(&decode(&row)?, at);
            }
            if mib > 0 {
                let sql = "INSERT INTO disk_meters (node, kind, id, wallet, mib, since, cursor) \
                           VALUES ($1, $2, $3, $4, $5, $6, $7)";
                let new = query(sql).bind(node).bind(key.kind).bind(key.id).bind(wallet.0);
                new.bind(integer(mib)).bind(integer(at.0)).bind(cursor).execute(conn).await?;
            }
            Ok(true)
        }
    }
}

/// Whose a disk of this node is. What its owner has removed is nobody's.
async fn owner(conn: &mut PgConnection, node: &str, disk: MeteredDisk) -> sqlx::Result<Option<(DiskKey, Wallet)>> {
    let (key, sql) = match disk {
        MeteredDisk::Volume(id) => {
            let sql = "SELECT wallet FROM volumes WHERE id = $1 AND node = $2 AND state <> 'removing' FOR SHARE";
            (DiskKey::volume(id), sql)
        }
        MeteredDisk::Snapshot(id) => {
            let sql = "SELECT wallet FROM snapshots WHERE id = $1 AND node = $2 AND state <> 'removing' FOR SHARE";
            (DiskKey::snapshot(id), sql)
        }
        MeteredDisk::Data(pod) => {
            let Some(pod) = hold(conn, &pod).await? else { return Ok(None) };
            let sql = "SELECT wallet FROM pods WHERE key = $1 AND (data_node = $2 OR EXISTS \
                       (SELECT 1 FROM runs WHERE runs.id = pods.last_run AND runs.node = $2))";
            (DiskKey::data(pod), sql)
        }
    };
    let found = query(sql).bind(key.id).bind(node).fetch_optional(conn).await?;
    found.map(|row| Ok((key, Wallet(row.try_get(0)?)))).transpose()
}

/// Its owner has removed a disk, which is written: it counts up to here and no further, whatever
/// its node holds yet.
pub(crate) async fn close(conn: &mut PgConnection, key: DiskKey, now: UnixMillis) -> sqlx::Result<()> {
    let sql = "DELETE FROM disk_meters d USING cursors c WHERE c.n = d.cursor AND d.kind = $1 AND d.id = $2 \
               RETURNING d.wallet, d.mib, d.since, c.heard_at";
    let mut sums = DiskSums::default();
    for row in query(sql).bind(key.kind).bind(key.id).fetch_all(&mut *conn).await? {
        sums.add(&decode(&row)?, now.min(millis(row.try_get(3)?)));
    }
    charge(conn, &sums).await
}

/// A node has a journal that nobody saw before: what its earlier ones said it holds counts until
/// they were last heard of. The new one says anew what is there.
pub(crate) async fn close_of_node(conn: &mut PgConnection, node: &str) -> sqlx::Result<()> {
    let sql = "DELETE FROM disk_meters d USING cursors c WHERE c.n = d.cursor AND d.node = $1 \
               RETURNING d.wallet, d.mib, d.since, c.heard_at";
    let mut sums = DiskSums::default();
    for row in query(sql).bind(node).fetch_all(&mut *conn).await? {
        sums.add(&decode(&row)?, millis(row.try_get(3)?));
    }
    charge(conn, &sums).await
}

/// Adds sums to the totals.
pub(crate) async fn charge(conn: &mut PgConnection, sums: &DiskSums) -> sqlx::Result<()> {
    for (wallet, used) in sums.charges() {
        keep_total(conn, &wallet, used, false).await?;
    }
    Ok(())
}

/// What is held of a wallet's disks and is in no total yet, up to `now`, or until their nodes were
/// last heard of.
pub(crate) async fn running(conn: &mut PgConnection, wallet: &Wallet, now: UnixMillis) -> sqlx::Result<Usage> {
    let sql = "SELECT d.wallet, d.mib, d.since, c.heard_at FROM disk_meters d \
               JOIN cursors c ON c.n = d.cursor WHERE d.wallet = $1";
    let mut disk_mib_ms: u64 = 0;
    for row in query(sql).bind(wallet.0).fetch_all(conn).await? {
        let used = decode(&row)?.used(now.min(millis(row.try_get(3)?)));
        disk_mib_ms = disk_mib_ms.saturating_add(used);
    }
    Ok(Usage { disk_mib_ms, ..Usage::default() })
}

fn decode(row: &PgRow) -> sqlx::Result<HeldDisk> {
    Ok(HeldDisk { wallet: Wallet(row.try_get(0)?), mib: natural(row.try_get(1)?), since: millis(row.try_get(2)?) })
}
