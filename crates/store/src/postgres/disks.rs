//! What disks took: from a node's marks to the wallets' totals. The row of a volume or a POD is
//! locked before its disk's, and that before the totals, whoever works with them: of a removal and
//! a mark of what is removed, one waits for the other.

use domain::{DiskChange, DiskMark, MeteredDisk, UnixMillis, Usage, Wallet};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row, query};

use super::row::hold;
use super::totals::keep_total;
use crate::billing::{DiskKey, DiskSums, HeardTimes, HeldDisk};
use crate::codec::{integer, millis, natural};

/// Counts a mark: what was held up to it goes to the sums. Whether it is about a disk that some
/// wallet has on this node.
pub(crate) async fn count(
    conn: &mut PgConnection,
    node: &str,
    cursor: i64,
    times: HeardTimes,
    mark: &DiskMark,
    sums: &mut DiskSums,
) -> sqlx::Result<bool> {
    let (began, ended) = (times.start(mark.at), times.end(mark.at));
    match mark.change {
        DiskChange::Down { since } => {
            // What was held is locked first, so that what is counted here is not counted elsewhere.
            let sql = "SELECT wallet, mib, since FROM disk_meters WHERE node = $1 ORDER BY kind, id FOR UPDATE";
            for row in query(sql).bind(node).fetch_all(&mut *conn).await? {
                sums.add(&decode(&row)?, times.end(since));
            }
            let moved = query("UPDATE disk_meters SET since = $2 WHERE node = $1").bind(node).bind(integer(began.0));
            moved.execute(conn).await?;
            Ok(true)
        }
        DiskChange::Level { disk, mib } => {
            let Some(key) = key_of_disk(conn, disk).await? else { return Ok(mib == 0) };
            let wallet = owner(conn, node, disk, key).await?;
            // What was counted ends here, also where it is nobody's any more: who had it pays no longer.
            let sql = "DELETE FROM disk_meters WHERE kind = $1 AND id = $2 AND node = $3 RETURNING wallet, mib, since";
            for row in query(sql).bind(key.kind).bind(key.id).bind(node).fetch_all(&mut *conn).await? {
                sums.add(&decode(&row)?, ended);
            }
            let Some(wallet) = wallet else { return Ok(mib == 0) };
            if mib > 0 {
                let sql = "INSERT INTO disk_meters (node, kind, id, wallet, mib, since, cursor) \
                           VALUES ($1, $2, $3, $4, $5, $6, $7)";
                let new = query(sql).bind(node).bind(key.kind).bind(key.id).bind(wallet.0);
                new.bind(integer(mib)).bind(integer(began.0)).bind(cursor).execute(conn).await?;
            }
            Ok(true)
        }
    }
}

async fn key_of_disk(conn: &mut PgConnection, disk: MeteredDisk) -> sqlx::Result<Option<DiskKey>> {
    Ok(match disk {
        MeteredDisk::Volume(id) => Some(DiskKey::volume(id)),
        MeteredDisk::Snapshot(id) => Some(DiskKey::snapshot(id)),
        MeteredDisk::Data(pod) => hold(conn, &pod).await?.map(DiskKey::data),
    })
}

/// Whose a disk of this node is. What its owner has removed is nobody's.
async fn owner(conn: &mut PgConnection, node: &str, disk: MeteredDisk, key: DiskKey) -> sqlx::Result<Option<Wallet>> {
    let sql = match disk {
        MeteredDisk::Volume(_) => {
            "SELECT wallet FROM volumes WHERE id = $1 AND node = $2 AND state <> 'removing' FOR SHARE"
        }
        MeteredDisk::Snapshot(_) => {
            "SELECT wallet FROM snapshots WHERE id = $1 AND node = $2 AND state <> 'removing' FOR SHARE"
        }
        MeteredDisk::Data(_) => {
            "SELECT wallet FROM pods WHERE key = $1 AND (data_node = $2 OR EXISTS \
             (SELECT 1 FROM runs WHERE runs.id = pods.last_run AND runs.node = $2))"
        }
    };
    let found = query(sql).bind(key.id).bind(node).fetch_optional(conn).await?;
    found.map(|row| Ok(Wallet(row.try_get(0)?))).transpose()
}

/// A disk was never its owner's, whose row is gone: nothing of it counts.
pub(crate) async fn forget(conn: &mut PgConnection, key: DiskKey) -> sqlx::Result<()> {
    let delete = query("DELETE FROM disk_meters WHERE kind = $1 AND id = $2").bind(key.kind).bind(key.id);
    delete.execute(conn).await.map(drop)
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
pub(crate) async fn close_of_node(conn: &mut PgConnection, node: &str, now: UnixMillis) -> sqlx::Result<()> {
    let sql = "DELETE FROM disk_meters d USING cursors c WHERE c.n = d.cursor AND d.node = $1 \
               RETURNING d.wallet, d.mib, d.since, c.heard_at";
    let mut sums = DiskSums::default();
    for row in query(sql).bind(node).fetch_all(&mut *conn).await? {
        sums.add(&decode(&row)?, now.min(millis(row.try_get(3)?)));
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
