//! Volumes.

use domain::{RunId, UnixMillis, VolumeId, VolumeMount, VolumeState, Wallet};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row, query};

use super::database::{Command, Postgres, Statement, Tx, wallet_lock};
use super::disks;
use crate::admission::{RunPod, RunReservation};
use crate::billing::DiskKey;
use crate::codec::{id_column, integer, natural};
use crate::error::StoreError;
use crate::record::{PodRowId, RunRecord};
use crate::volumes::{
    FoundVolume, GrowthOutcome, MAX_UNSETTLED, NewVolume, RunVolume, VolumeGrowth, VolumeOutcome, VolumeRecord,
    VolumeRefusal, VolumeRemoval, VolumeRow, VolumeStore, check, name_of, path_of, quota_full,
};

/// Volumes with the live run's POD that has each.
macro_rules! select_volumes {
    ($rest:literal) => {
        concat!(
            "SELECT volumes.id, volumes.wallet, volumes.name, volumes.size_mib, volumes.node, volumes.state, \
             volumes.created_at, volume_mounts.pod, pods.name, volume_mounts.path FROM volumes \
             LEFT JOIN volume_mounts ON volume_mounts.volume = volumes.id AND volume_mounts.run IS NOT NULL \
             LEFT JOIN pods ON pods.key = volume_mounts.pod ",
            $rest
        )
    };
}

impl VolumeStore for Postgres {
    async fn reserve_volume(&self, new: NewVolume) -> Result<VolumeOutcome, StoreError> {
        self.write(new).await
    }

    async fn volume_made(&self, id: VolumeId) -> Result<bool, StoreError> {
        let update = query(
            "UPDATE volumes SET state = CASE state WHEN 'creating' THEN 'ready' ELSE state END \
             WHERE id = $1 AND state <> 'removing'",
        )
        .bind(column(id));
        Ok(self.execute("note that a volume was made", update).await? == 1)
    }

    async fn reserve_growth(&self, growth: VolumeGrowth) -> Result<GrowthOutcome, StoreError> {
        self.write(growth).await
    }

    async fn growth_refused(&self, id: VolumeId, before_mib: u64, asked_mib: u64) -> Result<(), StoreError> {
        let update = query("UPDATE volumes SET size_mib = $2 WHERE id = $1 AND size_mib = $3").bind(column(id));
        let update = update.bind(integer(before_mib)).bind(integer(asked_mib));
        self.execute("take a volume's growth back", update).await.map(drop)
    }

    async fn remove_volume(&self, wallet: Wallet, id: VolumeId, now: UnixMillis) -> Result<VolumeRemoval, StoreError> {
        self.write(Remove { wallet, id, now }).await
    }

    async fn forget_volume(&self, id: VolumeId) -> Result<(), StoreError> {
        self.write(Forget(id)).await
    }

    async fn volume(&self, wallet: Wallet, id: VolumeId) -> Result<Option<VolumeRecord>, StoreError> {
        self.one("read a volume", by_id(wallet, id), decode).await
    }

    async fn volumes_of(&self, wallet: Wallet) -> Result<Vec<VolumeRecord>, StoreError> {
        let sql = select_volumes!("WHERE volumes.wallet = $1 ORDER BY volumes.name COLLATE \"C\"");
        self.many("list a wallet's volumes", query(sql).bind(wallet.0), decode).await
    }

    async fn unsettled_volumes(&self) -> Result<Vec<VolumeRecord>, StoreError> {
        let sql = select_volumes!(
            "WHERE volumes.id IN (SELECT id FROM (SELECT id, node, created_at, \
                    row_number() OVER (PARTITION BY node, wallet ORDER BY created_at, id) AS turn FROM volumes \
                    WHERE state <> 'ready' AND state <> 'copying') AS each_ones ORDER BY \
                    row_number() OVER (PARTITION BY node ORDER BY turn, created_at, id), created_at LIMIT $1) \
                    ORDER BY volumes.created_at"
        );
        let list = query(sql).bind(i64::from(MAX_UNSETTLED));
        self.many("list the volumes that are being made or removed", list, decode).await
    }

    async fn run_volumes(&self, run: RunId) -> Result<Vec<RunVolume>, StoreError> {
        let sql = "SELECT volumes.id, volume_mounts.name, volume_mounts.path, volumes.node FROM volume_mounts \
                   JOIN volumes ON volumes.id = volume_mounts.volume WHERE volume_mounts.run = $1 ORDER BY volumes.id";
        let row = |row: &PgRow| {
            let id = VolumeId::from_bits(row.try_get::<i64, _>(0)?.cast_unsigned());
            Ok(RunVolume { id, mount: mount(row.try_get(1)?, row.try_get(2)?)?, node: row.try_get(3)? })
        };
        self.many("read a run's volumes", query(sql).bind(id_column(run)), row).await
    }
}

pub(crate) fn by_id(wallet: Wallet, id: VolumeId) -> Statement<'static> {
    query(select_volumes!("WHERE volumes.id = $1 AND volumes.wallet = $2")).bind(column(id)).bind(wallet.0)
}

pub(crate) fn by_name(wallet: Wallet, name: &str) -> Statement<'_> {
    query(select_volumes!("WHERE volumes.wallet = $1 AND volumes.name = $2")).bind(wallet.0).bind(name)
}

const fn column(id: VolumeId) -> i64 {
    id.bits().cast_signed()
}

fn decode(row: &PgRow) -> sqlx::Result<VolumeRecord> {
    let pod: Option<i64> = row.try_get(7)?;
    let attached = pod.map(|pod| Ok::<_, sqlx::Error>((pod, row.try_get(8)?, row.try_get(9)?))).transpose()?;
    let volume = VolumeRow {
        id: row.try_get(0)?,
        wallet: row.try_get(1)?,
        name: row.try_get(2)?,
        size_mib: row.try_get(3)?,
        node: row.try_get(4)?,
        state: row.try_get(5)?,
        created_at: row.try_get(6)?,
        attached,
    };
    volume.record().map_err(wrong)
}

fn wrong(error: StoreError) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(error))
}

fn mount(name: &str, path: &str) -> sqlx::Result<VolumeMount> {
    Ok(VolumeMount { name: name_of(name).map_err(wrong)?, path: path_of(path).map_err(wrong)? })
}

pub(crate) async fn one(conn: &mut PgConnection, select: Statement<'_>) -> sqlx::Result<Option<VolumeRecord>> {
    select.fetch_optional(conn).await?.as_ref().map(decode).transpose()
}

/// One of this wallet's at a time: each sees what the one before wrote.
pub(crate) async fn hold(conn: &mut PgConnection, wallet: &Wallet) -> sqlx::Result<()> {
    query("SELECT pg_advisory_xact_lock($1)").bind(wallet_lock(wallet)).execute(conn).await.map(drop)
}

/// The volumes' sizes in MiB, how many they are, and the bytes of their snapshots and of what is
/// kept of PODs that do not run: of one wallet.
pub(crate) async fn used(conn: &mut PgConnection, wallet: &Wallet, now: UnixMillis) -> sqlx::Result<(u64, u64, u64)> {
    let sql = "SELECT coalesce(sum(size_mib), 0)::bigint, count(*), (SELECT coalesce(sum(data_bytes), 0)::bigint FROM pods \
               WHERE wallet = $1 AND stopped_at IS NOT NULL AND removed_at IS NULL AND data_node IS NOT NULL \
               AND (data_until IS NULL OR data_until > $2)), (SELECT coalesce(sum(bytes), 0)::bigint FROM snapshots \
               WHERE wallet = $1) FROM volumes WHERE wallet = $1";
    let row = query(sql).bind(wallet.0).bind(integer(now.0)).fetch_one(conn).await?;
    let bytes = natural(row.try_get(2)?).saturating_add(natural(row.try_get(3)?));
    Ok((natural(row.try_get(0)?), natural(row.try_get(1)?), bytes))
}

impl Command for NewVolume {
    type Answer = VolumeOutcome;
    const NAME: &'static str = "reserve a volume";

    async fn apply(&self, tx: &mut Tx) -> Result<VolumeOutcome, StoreError> {
        self.reserve(tx.conn()).await.map_err(|error| StoreError::postgres(Self::NAME, error))
    }
}

impl NewVolume {
    async fn reserve(&self, conn: &mut PgConnection) -> sqlx::Result<VolumeOutcome> {
        let Self { volume, quota } = self;
        hold(conn, &volume.wallet).await?;
        if let Some(there) = one(conn, by_name(volume.wallet, volume.name.as_str())).await? {
            return Ok(VolumeOutcome::Exists(there));
        }
        let (mib, count, kept) = used(conn, &volume.wallet, volume.created_at).await?;
        if count >= u64::from(quota.volumes) {
            return Ok(VolumeOutcome::TooMany);
        }
        if let Some(used_mib) = quota_full(mib, kept, volume.size_mib, *quota) {
            return Ok(VolumeOutcome::QuotaFull { used_mib });
        }
        query(
            "INSERT INTO volumes (id, wallet, name, size_mib, node, state, created_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(column(volume.id))
        .bind(volume.wallet.0)
        .bind(volume.name.as_str())
        .bind(integer(volume.size_mib))
        .bind(&volume.node)
        .bind(volume.state.as_str())
        .bind(integer(volume.created_at.0))
        .execute(conn)
        .await?;
        Ok(VolumeOutcome::Reserved(volume.clone()))
    }
}

impl Command for VolumeGrowth {
    type Answer = GrowthOutcome;
    const NAME: &'static str = "reserve a volume's growth";

    async fn apply(&self, tx: &mut Tx) -> Result<GrowthOutcome, StoreError> {
        self.reserve(tx.conn()).await.map_err(|error| StoreError::postgres(Self::NAME, error))
    }
}

impl VolumeGrowth {
    async fn reserve(&self, conn: &mut PgConnection) -> sqlx::Result<GrowthOutcome> {
        hold(conn, &self.wallet).await?;
        let volume = one(conn, by_id(self.wallet, self.id)).await?;
        let before_mib = match self.of(volume.as_ref()) {
            Ok(before_mib) => before_mib,
            Err(refused) => return Ok(*refused),
        };
        let (mib, _, kept) = used(conn, &self.wallet, self.now).await?;
        let more_mib = self.size_mib - before_mib;
        if let Some(used_mib) = quota_full(mib, kept, more_mib, self.quota).filter(|_| more_mib > 0) {
            return Ok(GrowthOutcome::QuotaFull { used_mib });
        }
        let update = query("UPDATE volumes SET size_mib = $2 WHERE id = $1").bind(column(self.id));
        update.bind(integer(self.size_mib)).execute(conn).await?;
        let volume = volume.map(|volume| VolumeRecord { size_mib: self.size_mib, ..volume });
        Ok(volume.map_or(GrowthOutcome::Unknown, |volume| GrowthOutcome::Reserved { volume, before_mib }))
    }
}

struct Remove {
    wallet: Wallet,
    id: VolumeId,
    now: UnixMillis,
}

impl Command for Remove {
    type Answer = VolumeRemoval;
    const NAME: &'static str = "remove a volume";

    async fn apply(&self, tx: &mut Tx) -> Result<VolumeRemoval, StoreError> {
        self.remove(tx.conn()).await.map_err(|error| StoreError::postgres(Self::NAME, error))
    }
}

impl Remove {
    async fn remove(&self, conn: &mut PgConnection) -> sqlx::Result<VolumeRemoval> {
        hold(conn, &self.wallet).await?;
        let Some(volume) = one(conn, by_id(self.wallet, self.id)).await? else { return Ok(VolumeRemoval::Unknown) };
        let count = query("SELECT count(*) FROM snapshots WHERE volume = $1").bind(column(self.id));
        let snapshots = natural(count.fetch_one(&mut *conn).await?.try_get(0)?);
        if let Some(refused) = VolumeRemoval::refused(&volume, snapshots) {
            return Ok(refused);
        }
        query("UPDATE volumes SET state = 'removing' WHERE id = $1").bind(column(self.id)).execute(&mut *conn).await?;
        disks::close(conn, DiskKey::volume(self.id), self.now).await?;
        Ok(VolumeRemoval::Removing(VolumeRecord { state: VolumeState::Removing, ..volume }))
    }
}

struct Forget(VolumeId);

impl Command for Forget {
    type Answer = ();
    const NAME: &'static str = "forget a volume";

    async fn apply(&self, tx: &mut Tx) -> Result<(), StoreError> {
        self.forget(tx.conn()).await.map_err(|error| StoreError::postgres(Self::NAME, error))
    }
}

impl Forget {
    async fn forget(&self, conn: &mut PgConnection) -> sqlx::Result<()> {
        let delete = query("DELETE FROM volumes WHERE id = $1 AND state IN ('creating', 'removing')");
        if delete.bind(column(self.0)).execute(&mut *conn).await?.rows_affected() > 0 {
            // What never became its owner's is not paid for, whatever its node has said of it.
            disks::forget(conn, DiskKey::volume(self.0)).await?;
        }
        Ok(())
    }
}

/// The volumes that a reserved run is to have.
pub(crate) struct Mounts(Vec<FoundVolume>);

impl Mounts {
    /// Looks the volumes up, and whether the run can have them. Their wallet is held.
    pub(crate) async fn look_up(
        conn: &mut PgConnection,
        reservation: &RunReservation,
        last: Option<PodRowId>,
    ) -> sqlx::Result<Result<Self, VolumeRefusal>> {
        let found = match (&reservation.pod, last) {
            (RunPod::Existing(_), Some(pod)) => of_pod(conn, pod).await?,
            (RunPod::Existing(_) | RunPod::New { .. }, _) => {
                named(conn, reservation.wallet, &reservation.volumes).await?
            }
        };
        Ok(check(&found).map(|()| Self(found)))
    }

    /// Gives them to the run.
    pub(crate) async fn attach(&self, conn: &mut PgConnection, record: &RunRecord) -> sqlx::Result<()> {
        for FoundVolume { mount, volume } in &self.0 {
            let Some(volume) = volume else { continue };
            query(
                "INSERT INTO volume_mounts (pod, volume, name, path, run) VALUES ($1, $2, $3, $4, $5) \
                 ON CONFLICT (pod, volume) DO UPDATE SET run = $5",
            )
            .bind(record.pod_key.0.cast_signed())
            .bind(column(volume.id))
            .bind(mount.name.as_str())
            .bind(mount.path.as_str())
            .bind(id_column(record.id))
            .execute(&mut *conn)
            .await?;
        }
        Ok(())
    }
}

async fn named(conn: &mut PgConnection, wallet: Wallet, mounts: &[VolumeMount]) -> sqlx::Result<Vec<FoundVolume>> {
    let mut found = Vec::new();
    for mount in mounts {
        let volume = one(conn, by_name(wallet, mount.name.as_str())).await?;
        found.push(FoundVolume { mount: mount.clone(), volume });
    }
    Ok(found)
}

/// The volumes that each run of this POD has, those that are gone included.
pub(crate) async fn of_pod(conn: &mut PgConnection, pod: PodRowId) -> sqlx::Result<Vec<FoundVolume>> {
    let sql = "SELECT volume, name, path FROM volume_mounts WHERE pod = $1 ORDER BY volume";
    let mut found = Vec::new();
    for row in query(sql).bind(pod.0.cast_signed()).fetch_all(&mut *conn).await? {
        let select = query(select_volumes!("WHERE volumes.id = $1")).bind(row.try_get::<i64, _>(0)?);
        found.push(FoundVolume { mount: mount(row.try_get(1)?, row.try_get(2)?)?, volume: one(conn, select).await? });
    }
    Ok(found)
}
