//! Snapshots of volumes. Whoever changes one holds its wallet first, and then the volume's row.

use domain::{SnapshotId, SnapshotState, UnixMillis, VolumeId, VolumeState, Wallet};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row, query};

use super::database::{Command, Postgres, Statement, Tx};
use super::disks;
use super::volumes::{by_id, hold, one as one_volume, used};
use crate::billing::DiskKey;
use crate::codec::{integer, natural};
use crate::error::StoreError;
use crate::snapshots::{
    MAX_UNSETTLED, NewSnapshot, SnapshotOutcome, SnapshotRecord, SnapshotRow, SnapshotSettlement, SnapshotStore, copied,
};
use crate::volumes::quota_full;

macro_rules! select_snapshots {
    ($rest:literal) => {
        concat!(
            "SELECT id, volume, wallet, node, state, size_mib, bytes, created_at, ordered, error FROM snapshots ",
            $rest
        )
    };
}

impl SnapshotStore for Postgres {
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
        let delete = query("DELETE FROM snapshots WHERE id = $1 AND state = 'removing'").bind(column(id));
        self.execute("forget a snapshot", delete).await.map(drop)
    }

    async fn snapshots_of(&self, wallet: Wallet, volume: VolumeId) -> Result<Vec<SnapshotRecord>, StoreError> {
        let list = query(select_snapshots!("WHERE volume = $1 AND wallet = $2 ORDER BY created_at, id"));
        let list = list.bind(volume.bits().cast_signed()).bind(wallet.0);
        self.many("list a volume's snapshots", list, decode).await
    }

    async fn unsettled_snapshots(&self) -> Result<Vec<SnapshotRecord>, StoreError> {
        let list = query(select_snapshots!(
            "WHERE id IN (SELECT id FROM (SELECT id, node, created_at, \
                    row_number() OVER (PARTITION BY node, wallet ORDER BY created_at, id) AS turn FROM snapshots \
                    WHERE state NOT IN ('ready', 'failed')) AS each_ones ORDER BY \
                    row_number() OVER (PARTITION BY node ORDER BY turn, created_at, id), created_at LIMIT $1) \
                    ORDER BY created_at"
        ));
        self.many("list the snapshots that are not settled", list.bind(i64::from(MAX_UNSETTLED)), decode).await
    }
}

const fn column(id: SnapshotId) -> i64 {
    id.bits().cast_signed()
}

fn decode(row: &PgRow) -> sqlx::Result<SnapshotRecord> {
    let snapshot = SnapshotRow {
        id: row.try_get(0)?,
        volume: row.try_get(1)?,
        wallet: row.try_get(2)?,
        node: row.try_get(3)?,
        state: row.try_get(4)?,
        size_mib: row.try_get(5)?,
        bytes: row.try_get(6)?,
        created_at: row.try_get(7)?,
        ordered: row.try_get(8)?,
        error: row.try_get(9)?,
    };
    snapshot.record().map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

async fn one(conn: &mut PgConnection, select: Statement<'_>) -> sqlx::Result<Option<SnapshotRecord>> {
    select.fetch_optional(conn).await?.as_ref().map(decode).transpose()
}

/// A wallet's snapshot of a volume.
fn named(wallet: Wallet, volume: VolumeId, id: SnapshotId) -> Statement<'static> {
    let select = query(select_snapshots!("WHERE id = $1 AND volume = $2 AND wallet = $3"));
    select.bind(column(id)).bind(volume.bits().cast_signed()).bind(wallet.0)
}

async fn set_volume(conn: &mut PgConnection, id: VolumeId, from: VolumeState, to: VolumeState) -> sqlx::Result<()> {
    let update = query("UPDATE volumes SET state = $3 WHERE id = $1 AND state = $2");
    update.bind(id.bits().cast_signed()).bind(from.as_str()).bind(to.as_str()).execute(conn).await.map(drop)
}

impl Command for NewSnapshot {
    type Answer = SnapshotOutcome;
    const NAME: &'static str = "reserve a snapshot";

    async fn apply(&self, tx: &mut Tx) -> Result<SnapshotOutcome, StoreError> {
        self.reserve(tx.conn()).await.map_err(|error| StoreError::postgres(Self::NAME, error))
    }
}

impl NewSnapshot {
    async fn reserve(&self, conn: &mut PgConnection) -> sqlx::Result<SnapshotOutcome> {
        hold(conn, &self.wallet).await?;
        let volume = match copied(one_volume(conn, by_id(self.wallet, self.volume)).await?) {
            Ok(volume) => volume,
            Err(refused) => return Ok(*refused),
        };
        let count = query("SELECT count(*) FROM snapshots WHERE wallet = $1").bind(self.wallet.0);
        if natural(count.fetch_one(&mut *conn).await?.try_get(0)?) >= u64::from(self.most) {
            return Ok(SnapshotOutcome::TooMany);
        }
        let (mib, _, kept) = used(conn, &self.wallet, self.now).await?;
        if let Some(used_mib) = quota_full(mib, kept, volume.size_mib, self.quota) {
            return Ok(SnapshotOutcome::QuotaFull { used_mib });
        }
        set_volume(conn, volume.id, VolumeState::Ready, VolumeState::Copying).await?;
        let record = self.record(&volume);
        query(
            "INSERT INTO snapshots (id, volume, wallet, node, state, size_mib, bytes, created_at, ordered) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0)",
        )
        .bind(column(record.id))
        .bind(record.volume.bits().cast_signed())
        .bind(record.wallet.0)
        .bind(&record.node)
        .bind(record.state.as_str())
        .bind(integer(record.size_mib))
        .bind(integer(record.bytes))
        .bind(integer(record.created_at.0))
        .execute(conn)
        .await?;
        Ok(SnapshotOutcome::Reserved(record))
    }
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

    async fn apply(&self, tx: &mut Tx) -> Result<SnapshotOutcome, StoreError> {
        self.reserve(tx.conn()).await.map_err(|error| StoreError::postgres(Self::NAME, error))
    }
}

impl Restore {
    async fn reserve(&self, conn: &mut PgConnection) -> sqlx::Result<SnapshotOutcome> {
        hold(conn, &self.wallet).await?;
        let Some(snapshot) = one(conn, named(self.wallet, self.volume, self.id)).await? else {
            return Ok(SnapshotOutcome::Unknown);
        };
        if snapshot.state != SnapshotState::Ready {
            return Ok(SnapshotOutcome::Busy(snapshot.state));
        }
        if let Err(refused) = copied(one_volume(conn, by_id(self.wallet, self.volume)).await?) {
            return Ok(*refused);
        }
        set_volume(conn, self.volume, VolumeState::Ready, VolumeState::Copying).await?;
        let order = query("UPDATE volumes SET ordered = greatest($2, ordered + 1) WHERE id = $1 RETURNING ordered");
        let order = order.bind(self.volume.bits().cast_signed()).bind(integer(self.now.0));
        let order: i64 = order.fetch_one(&mut *conn).await?.try_get(0)?;
        let update = query("UPDATE snapshots SET state = 'restoring', ordered = $2, error = NULL WHERE id = $1");
        update.bind(column(self.id)).bind(order).execute(conn).await?;
        let state = SnapshotState::Restoring;
        Ok(SnapshotOutcome::Reserved(SnapshotRecord { state, order: natural(order), error: None, ..snapshot }))
    }
}

struct Settle {
    id: SnapshotId,
    settled: SnapshotSettlement,
}

impl Command for Settle {
    type Answer = ();
    const NAME: &'static str = "settle a snapshot";

    async fn apply(&self, tx: &mut Tx) -> Result<(), StoreError> {
        self.settle(tx.conn()).await.map_err(|error| StoreError::postgres(Self::NAME, error))
    }
}

impl Settle {
    async fn settle(&self, conn: &mut PgConnection) -> sqlx::Result<()> {
        let find = || query(select_snapshots!("WHERE id = $1")).bind(column(self.id));
        let Some(found) = one(conn, find()).await? else { return Ok(()) };
        hold(conn, &found.wallet).await?;
        // What another has settled meanwhile is settled.
        let Some(snapshot) = one(conn, find()).await? else { return Ok(()) };
        let change = match (snapshot.state, &self.settled) {
            (SnapshotState::Creating, SnapshotSettlement::Made { size_mib, bytes }) => {
                let sql = "UPDATE snapshots SET state = 'ready', size_mib = $2, bytes = $3 WHERE id = $1";
                query(sql).bind(column(self.id)).bind(integer(*size_mib)).bind(integer(*bytes))
            }
            (SnapshotState::Creating, SnapshotSettlement::Refused(_)) => {
                query("DELETE FROM snapshots WHERE id = $1").bind(column(self.id))
            }
            (SnapshotState::Creating, SnapshotSettlement::Failed(why)) => {
                let sql = "UPDATE snapshots SET state = 'failed', bytes = 0, error = $2 WHERE id = $1";
                query(sql).bind(column(self.id)).bind(why)
            }
            (SnapshotState::Restoring, SnapshotSettlement::Restored) => {
                query("UPDATE snapshots SET state = 'ready' WHERE id = $1").bind(column(self.id))
            }
            (SnapshotState::Restoring, SnapshotSettlement::Refused(why) | SnapshotSettlement::Failed(why)) => {
                query("UPDATE snapshots SET state = 'ready', error = $2 WHERE id = $1").bind(column(self.id)).bind(why)
            }
            (
                SnapshotState::Creating
                | SnapshotState::Ready
                | SnapshotState::Restoring
                | SnapshotState::Removing
                | SnapshotState::Failed,
                _,
            ) => return Ok(()),
        };
        change.execute(&mut *conn).await?;
        if let (SnapshotState::Creating, SnapshotSettlement::Refused(_) | SnapshotSettlement::Failed(_)) =
            (snapshot.state, &self.settled)
        {
            disks::forget(conn, DiskKey::snapshot(self.id)).await?;
        }
        set_volume(conn, snapshot.volume, VolumeState::Copying, VolumeState::Ready).await
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

    async fn apply(&self, tx: &mut Tx) -> Result<SnapshotOutcome, StoreError> {
        self.remove(tx.conn()).await.map_err(|error| StoreError::postgres(Self::NAME, error))
    }
}

impl Remove {
    async fn remove(&self, conn: &mut PgConnection) -> sqlx::Result<SnapshotOutcome> {
        hold(conn, &self.wallet).await?;
        let Some(snapshot) = one(conn, named(self.wallet, self.volume, self.id)).await? else {
            return Ok(SnapshotOutcome::Unknown);
        };
        match snapshot.state {
            SnapshotState::Ready | SnapshotState::Removing | SnapshotState::Failed => {}
            state @ (SnapshotState::Creating | SnapshotState::Restoring) => return Ok(SnapshotOutcome::Busy(state)),
        }
        let update = query("UPDATE snapshots SET state = 'removing' WHERE id = $1").bind(column(self.id));
        update.execute(&mut *conn).await?;
        disks::close(conn, DiskKey::snapshot(self.id), self.now).await?;
        Ok(SnapshotOutcome::Reserved(SnapshotRecord { state: SnapshotState::Removing, ..snapshot }))
    }
}
