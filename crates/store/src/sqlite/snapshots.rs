//! Snapshots of volumes.

use domain::{SnapshotId, SnapshotState, UnixMillis, VolumeId, VolumeState, Wallet};
use rusqlite::{Connection, Row, params};

use super::disks;
use super::handle::Sqlite;
use super::volumes::{find, used};
use super::writer::{Command, Tx};
use crate::billing::DiskKey;
use crate::codec::{integer, natural};
use crate::error::StoreError;
use crate::snapshots::{
    MAX_UNSETTLED, NewSnapshot, SnapshotOutcome, SnapshotRecord, SnapshotRow, SnapshotSettlement, SnapshotStore, copied,
};
use crate::volumes::quota_full;

const SELECT: &str =
    "SELECT id, volume, wallet, node, state, size_mib, bytes, created_at, ordered, error FROM snapshots";

impl SnapshotStore for Sqlite {
    async fn reserve_snapshot(&self, new: NewSnapshot) -> Result<SnapshotOutcome, StoreError> {
        self.write(new).await
    }

    async fn reserve_restore(
        &self,
        wallet: Wallet,
        volume: VolumeId,
        id: SnapshotId,
        now: UnixMillis,
    ) -> Result<SnapshotOutcome, StoreError> {
        self.write(Restore { wallet, volume, id, now }).await
    }

    async fn settle_snapshot(&self, id: SnapshotId, settled: SnapshotSettlement) -> Result<(), StoreError> {
        self.write(Settle { id, settled }).await
    }

    async fn remove_snapshot(
        &self,
        wallet: Wallet,
        volume: VolumeId,
        id: SnapshotId,
        now: UnixMillis,
    ) -> Result<SnapshotOutcome, StoreError> {
        self.write(Remove { wallet, volume, id, now }).await
    }

    async fn forget_snapshot(&self, id: SnapshotId) -> Result<(), StoreError> {
        self.write(Forget(id)).await
    }

    async fn snapshots_of(&self, wallet: Wallet, volume: VolumeId) -> Result<Vec<SnapshotRecord>, StoreError> {
        let rest = "WHERE volume = ?1 AND wallet = ?2 ORDER BY created_at, id";
        let key = volume.bits().cast_signed();
        self.read("list a volume's snapshots", move |conn| many(conn, rest, (key, &wallet.0))).await
    }

    async fn unsettled_snapshots(&self) -> Result<Vec<SnapshotRecord>, StoreError> {
        let rest = "WHERE id IN (SELECT id FROM (SELECT id, node, created_at, \
                    row_number() OVER (PARTITION BY node, wallet ORDER BY created_at, id) AS turn FROM snapshots \
                    WHERE state NOT IN ('ready', 'failed')) AS each_ones ORDER BY \
                    row_number() OVER (PARTITION BY node ORDER BY turn, created_at, id), created_at LIMIT ?1) \
                    ORDER BY created_at";
        self.read("list the snapshots that are not settled", move |conn| many(conn, rest, (MAX_UNSETTLED,))).await
    }
}

const fn column(id: SnapshotId) -> i64 {
    id.bits().cast_signed()
}

fn many(conn: &Connection, rest: &str, params: impl rusqlite::Params) -> Result<Vec<SnapshotRecord>, StoreError> {
    let fail = |error| StoreError::sql("read snapshots", error);
    let mut select = conn.prepare_cached(&format!("{SELECT} {rest}")).map_err(fail)?;
    let rows = select.query_map(params, decode).map_err(fail)?;
    rows.map(|row| row.map_err(fail)?.record()).collect()
}

fn decode(row: &Row<'_>) -> rusqlite::Result<SnapshotRow> {
    Ok(SnapshotRow {
        id: row.get(0)?,
        volume: row.get(1)?,
        wallet: row.get(2)?,
        node: row.get(3)?,
        state: row.get(4)?,
        size_mib: row.get(5)?,
        bytes: row.get(6)?,
        created_at: row.get(7)?,
        ordered: row.get(8)?,
        error: row.get(9)?,
    })
}

/// A wallet's snapshot of a volume.
fn one(
    conn: &Connection,
    wallet: &Wallet,
    volume: VolumeId,
    id: SnapshotId,
) -> Result<Option<SnapshotRecord>, StoreError> {
    let rest = "WHERE id = ?1 AND volume = ?2 AND wallet = ?3";
    Ok(many(conn, rest, (column(id), volume.bits().cast_signed(), &wallet.0))?.into_iter().next())
}

fn set_volume(conn: &Connection, id: VolumeId, from: VolumeState, to: VolumeState) -> rusqlite::Result<usize> {
    let sql = "UPDATE volumes SET state = ?3 WHERE id = ?1 AND state = ?2";
    conn.prepare_cached(sql)?.execute((id.bits().cast_signed(), from.as_str(), to.as_str()))
}

impl Command for NewSnapshot {
    type Answer = SnapshotOutcome;
    const NAME: &'static str = "reserve a snapshot";

    fn apply(&self, tx: &Tx<'_>) -> Result<SnapshotOutcome, StoreError> {
        let fail = |error| StoreError::sql(Self::NAME, error);
        let volume = match copied(find(tx.conn, &self.wallet, self.volume)?) {
            Ok(volume) => volume,
            Err(refused) => return Ok(*refused),
        };
        if count(tx.conn, &self.wallet).map_err(fail)? >= u64::from(self.most) {
            return Ok(SnapshotOutcome::TooMany);
        }
        let (mib, _, kept) = used(tx.conn, &self.wallet, self.now).map_err(fail)?;
        if let Some(used_mib) = quota_full(mib, kept, volume.size_mib, self.quota) {
            return Ok(SnapshotOutcome::QuotaFull { used_mib });
        }
        let record = self.record(&volume);
        let write = || {
            set_volume(tx.conn, volume.id, VolumeState::Ready, VolumeState::Copying)?;
            tx.conn
                .prepare_cached(
                    "INSERT INTO snapshots (id, volume, wallet, node, state, size_mib, bytes, created_at, ordered) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0)",
                )?
                .execute(params![
                    column(record.id),
                    record.volume.bits().cast_signed(),
                    &record.wallet.0,
                    record.node,
                    record.state.as_str(),
                    integer(record.size_mib),
                    integer(record.bytes),
                    integer(record.created_at.0)
                ])
        };
        write().map_err(fail)?;
        Ok(SnapshotOutcome::Reserved(record))
    }
}

fn count(conn: &Connection, wallet: &Wallet) -> rusqlite::Result<u64> {
    let sql = "SELECT count(*) FROM snapshots WHERE wallet = ?1";
    conn.prepare_cached(sql)?.query_row((&wallet.0,), |row| Ok(natural(row.get(0)?)))
}

struct Restore {
    wallet: Wallet,
    volume: VolumeId,
    id: SnapshotId,
    now: UnixMillis,
}

impl Command for Restore {
    type Answer = SnapshotOutcome;
    const NAME: &'static str = "reserve that a volume is put back";

    fn apply(&self, tx: &Tx<'_>) -> Result<SnapshotOutcome, StoreError> {
        let fail = |error| StoreError::sql(Self::NAME, error);
        let Some(snapshot) = one(tx.conn, &self.wallet, self.volume, self.id)? else {
            return Ok(SnapshotOutcome::Unknown);
        };
        if snapshot.state != SnapshotState::Ready {
            return Ok(SnapshotOutcome::Busy(snapshot.state));
        }
        if let Err(refused) = copied(find(tx.conn, &self.wallet, self.volume)?) {
            return Ok(*refused);
        }
        let write = || -> rusqlite::Result<u64> {
            set_volume(tx.conn, self.volume, VolumeState::Ready, VolumeState::Copying)?;
            let order = "UPDATE volumes SET ordered = max(?2, ordered + 1) WHERE id = ?1 RETURNING ordered";
            let volume = self.volume.bits().cast_signed();
            let order: i64 =
                tx.conn.prepare_cached(order)?.query_row((volume, integer(self.now.0)), |row| row.get(0))?;
            tx.conn
                .prepare_cached("UPDATE snapshots SET state = 'restoring', ordered = ?2, error = NULL WHERE id = ?1")?
                .execute((column(self.id), order))?;
            Ok(natural(order))
        };
        let order = write().map_err(fail)?;
        let state = SnapshotState::Restoring;
        Ok(SnapshotOutcome::Reserved(SnapshotRecord { state, order, error: None, ..snapshot }))
    }
}

struct Settle {
    id: SnapshotId,
    settled: SnapshotSettlement,
}

impl Command for Settle {
    type Answer = ();
    const NAME: &'static str = "settle a snapshot";

    fn is_essential(&self) -> bool {
        true
    }

    fn apply(&self, tx: &Tx<'_>) -> Result<(), StoreError> {
        let Some(snapshot) = many(tx.conn, "WHERE id = ?1", (column(self.id),))?.into_iter().next() else {
            return Ok(());
        };
        let write = || -> rusqlite::Result<()> {
            let id = column(self.id);
            match (snapshot.state, &self.settled) {
                (SnapshotState::Creating, SnapshotSettlement::Made { size_mib, bytes }) => {
                    let sql = "UPDATE snapshots SET state = 'ready', size_mib = ?2, bytes = ?3 WHERE id = ?1";
                    tx.conn.prepare_cached(sql)?.execute((id, integer(*size_mib), integer(*bytes)))?;
                }
                (SnapshotState::Creating, SnapshotSettlement::Refused(_)) => {
                    tx.conn.prepare_cached("DELETE FROM snapshots WHERE id = ?1")?.execute((id,))?;
                    disks::forget(tx.conn, DiskKey::snapshot(self.id))?;
                }
                (SnapshotState::Creating, SnapshotSettlement::Failed(why)) => {
                    let sql = "UPDATE snapshots SET state = 'failed', bytes = 0, error = ?2 WHERE id = ?1";
                    tx.conn.prepare_cached(sql)?.execute((id, why))?;
                    disks::forget(tx.conn, DiskKey::snapshot(self.id))?;
                }
                (SnapshotState::Restoring, SnapshotSettlement::Restored) => {
                    tx.conn.prepare_cached("UPDATE snapshots SET state = 'ready' WHERE id = ?1")?.execute((id,))?;
                }
                (SnapshotState::Restoring, SnapshotSettlement::Refused(why) | SnapshotSettlement::Failed(why)) => {
                    let sql = "UPDATE snapshots SET state = 'ready', error = ?2 WHERE id = ?1";
                    tx.conn.prepare_cached(sql)?.execute((id, why))?;
                }
                (
                    SnapshotState::Creating
                    | SnapshotState::Ready
                    | SnapshotState::Restoring
                    | SnapshotState::Removing
                    | SnapshotState::Failed,
                    _,
                ) => return Ok(()),
            }
            set_volume(tx.conn, snapshot.volume, VolumeState::Copying, VolumeState::Ready).map(drop)
        };
        write().map_err(|error| StoreError::sql(Self::NAME, error))
    }
}

struct Remove {
    wallet: Wallet,
    volume: VolumeId,
    id: SnapshotId,
    now: UnixMillis,
}

impl Command for Remove {
    type Answer = SnapshotOutcome;
    const NAME: &'static str = "remove a snapshot";

    fn is_essential(&self) -> bool {
        true
    }

    fn apply(&self, tx: &Tx<'_>) -> Result<SnapshotOutcome, StoreError> {
        let Some(snapshot) = one(tx.conn, &self.wallet, self.volume, self.id)? else {
            return Ok(SnapshotOutcome::Unknown);
        };
        match snapshot.state {
            SnapshotState::Ready | SnapshotState::Removing | SnapshotState::Failed => {}
            state @ (SnapshotState::Creating | SnapshotState::Restoring) => return Ok(SnapshotOutcome::Busy(state)),
        }
        let sql = "UPDATE snapshots SET state = 'removing' WHERE id = ?1";
        let marked = tx.conn.prepare_cached(sql).and_then(|mut update| update.execute((column(self.id),)));
        let closed = marked.and_then(|_| disks::close(tx.conn, DiskKey::snapshot(self.id), self.now));
        closed.map_err(|error| StoreError::sql(Self::NAME, error))?;
        Ok(SnapshotOutcome::Reserved(SnapshotRecord { state: SnapshotState::Removing, ..snapshot }))
    }
}

struct Forget(SnapshotId);

impl Command for Forget {
    type Answer = ();
    const NAME: &'static str = "forget a snapshot";

    fn is_essential(&self) -> bool {
        true
    }

    fn apply(&self, tx: &Tx<'_>) -> Result<(), StoreError> {
        let sql = "DELETE FROM snapshots WHERE id = ?1 AND state = 'removing'";
        let gone = tx.conn.prepare_cached(sql).and_then(|mut delete| delete.execute((column(self.0),)));
        gone.map(drop).map_err(|error| StoreError::sql(Self::NAME, error))
    }
}
