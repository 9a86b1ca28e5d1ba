//! Volumes.

use domain::{RunId, UnixMillis, VolumeId, VolumeMount, VolumeName, VolumeState, Wallet};
use rusqlite::{Connection, Row, params};

use super::disks;
use super::handle::Sqlite;
use super::writer::{Command, Tx};
use crate::admission::{RunPod, RunReservation};
use crate::billing::DiskKey;
use crate::codec::{id_column, integer, natural};
use crate::error::StoreError;
use crate::record::{PodRowId, RunRecord};
use crate::volumes::{
    FoundVolume, GrowthOutcome, MAX_UNSETTLED, NewVolume, RunVolume, VolumeGrowth, VolumeOutcome, VolumeRecord,
    VolumeRefusal, VolumeRemoval, VolumeRow, VolumeStore, check, name_of, path_of, quota_full,
};

/// A volume with the live run's POD that has it.
const SELECT: &str = "SELECT volumes.id, volumes.wallet, volumes.name, volumes.size_mib, volumes.node, volumes.state, \
                      volumes.created_at, volume_mounts.pod, pods.name, volume_mounts.path FROM volumes \
                      LEFT JOIN volume_mounts ON volume_mounts.volume = volumes.id AND volume_mounts.run IS NOT NULL \
                      LEFT JOIN pods ON pods.key = volume_mounts.pod";

impl VolumeStore for Sqlite {
    async fn reserve_volume(&self, new: NewVolume) -> Result<VolumeOutcome, StoreError> {
        self.write(new).await
    }

    async fn volume_made(&self, id: VolumeId) -> Result<bool, StoreError> {
        self.write(Made(id)).await
    }

    async fn reserve_growth(&self, growth: VolumeGrowth) -> Result<GrowthOutcome, StoreError> {
        self.write(growth).await
    }

    async fn growth_refused(&self, id: VolumeId, before_mib: u64, asked_mib: u64) -> Result<(), StoreError> {
        self.write(Refused { id, before_mib, asked_mib }).await
    }

    async fn remove_volume(&self, wallet: Wallet, id: VolumeId, now: UnixMillis) -> Result<VolumeRemoval, StoreError> {
        self.write(Remove { wallet, id, now }).await
    }

    async fn forget_volume(&self, id: VolumeId) -> Result<(), StoreError> {
        self.write(Forget(id)).await
    }

    async fn volume(&self, wallet: Wallet, id: VolumeId) -> Result<Option<VolumeRecord>, StoreError> {
        self.read("read a volume", move |conn| find(conn, &wallet, id)).await
    }

    async fn volumes_of(&self, wallet: Wallet) -> Result<Vec<VolumeRecord>, StoreError> {
        let list = move |conn: &Connection| many(conn, "WHERE volumes.wallet = ?1 ORDER BY volumes.name", (&wallet.0,));
        self.read("list a wallet's volumes", list).await
    }

    async fn unsettled_volumes(&self) -> Result<Vec<VolumeRecord>, StoreError> {
        let rest = "WHERE volumes.id IN (SELECT id FROM (SELECT id, node, created_at, \
                    row_number() OVER (PARTITION BY node, wallet ORDER BY created_at, id) AS turn FROM volumes \
                    WHERE state <> 'ready' AND state <> 'copying') AS each_ones ORDER BY \
                    row_number() OVER (PARTITION BY node ORDER BY turn, created_at, id), created_at LIMIT ?1) \
                    ORDER BY volumes.created_at";
        self.read("list the volumes that are being made or removed", move |conn| many(conn, rest, (MAX_UNSETTLED,)))
            .await
    }

    async fn run_volumes(&self, run: RunId) -> Result<Vec<RunVolume>, StoreError> {
        self.read("read a run's volumes", move |conn| run_volumes(conn, run)).await
    }
}

pub(crate) fn find(conn: &Connection, wallet: &Wallet, id: VolumeId) -> Result<Option<VolumeRecord>, StoreError> {
    let found = many(conn, "WHERE volumes.id = ?1 AND volumes.wallet = ?2", (column(id), &wallet.0))?;
    Ok(found.into_iter().next())
}

fn many(conn: &Connection, rest: &str, params: impl rusqlite::Params) -> Result<Vec<VolumeRecord>, StoreError> {
    let fail = |error| StoreError::sql("read volumes", error);
    let mut select = conn.prepare_cached(&format!("{SELECT} {rest}")).map_err(fail)?;
    let rows = select.query_map(params, decode).map_err(fail)?;
    rows.map(|row| row.map_err(fail)?.record()).collect()
}

fn decode(row: &Row<'_>) -> rusqlite::Result<VolumeRow> {
    let pod: Option<i64> = row.get(7)?;
    let attached = pod.map(|pod| Ok::<_, rusqlite::Error>((pod, row.get(8)?, row.get(9)?))).transpose()?;
    Ok(VolumeRow {
        id: row.get(0)?,
        wallet: row.get(1)?,
        name: row.get(2)?,
        size_mib: row.get(3)?,
        node: row.get(4)?,
        state: row.get(5)?,
        created_at: row.get(6)?,
        attached,
    })
}

const fn column(id: VolumeId) -> i64 {
    id.bits().cast_signed()
}

/// The volumes' sizes in MiB, how many they are, and the bytes of their snapshots and of what is
/// kept of PODs that do not run: of one wallet.
pub(crate) fn used(conn: &Connection, wallet: &Wallet, now: UnixMillis) -> rusqlite::Result<(u64, u32, u64)> {
    let (mib, count): (i64, u32) = conn
        .prepare_cached("SELECT coalesce(sum(size_mib), 0), count(*) FROM volumes WHERE wallet = ?1")?
        .query_row((&wallet.0,), |row| Ok((row.get(0)?, row.get(1)?)))?;
    let kept: i64 = conn
        .prepare_cached(
            "SELECT coalesce(sum(data_bytes), 0) FROM pods WHERE wallet = ?1 AND stopped_at IS NOT NULL \
             AND removed_at IS NULL AND data_node IS NOT NULL AND coalesce(data_until, ?2 + 1) > ?2",
        )?
        .query_row((&wallet.0, integer(now.0)), |row| row.get(0))?;
    let copies: i64 = conn
        .prepare_cached("SELECT coalesce(sum(bytes), 0) FROM snapshots WHERE wallet = ?1")?
        .query_row((&wallet.0,), |row| row.get(0))?;
    Ok((natural(mib), count, natural(kept).saturating_add(natural(copies))))
}

impl Command for NewVolume {
    type Answer = VolumeOutcome;
    const NAME: &'static str = "reserve a volume";

    fn apply(&self, tx: &Tx<'_>) -> Result<VolumeOutcome, StoreError> {
        let Self { volume, quota } = self;
        let fail = |error| StoreError::sql(Self::NAME, error);
        if let Some(there) = by_name(tx.conn, &volume.wallet, &volume.name)? {
            return Ok(VolumeOutcome::Exists(there));
        }
        let (mib, count, kept) = used(tx.conn, &volume.wallet, volume.created_at).map_err(fail)?;
        if count >= quota.volumes {
            return Ok(VolumeOutcome::TooMany);
        }
        if let Some(used_mib) = quota_full(mib, kept, volume.size_mib, *quota) {
            return Ok(VolumeOutcome::QuotaFull { used_mib });
        }
        let insert = "INSERT INTO volumes (id, wallet, name, size_mib, node, state, created_at) \
                      VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        let row = params![
            column(volume.id),
            &volume.wallet.0,
            volume.name.as_str(),
            integer(volume.size_mib),
            volume.node,
            volume.state.as_str(),
            integer(volume.created_at.0)
        ];
        tx.conn.prepare_cached(insert).and_then(|mut insert| insert.execute(row)).map_err(fail)?;
        Ok(VolumeOutcome::Reserved(volume.clone()))
    }
}

struct Made(VolumeId);

impl Command for Made {
    type Answer = bool;
    const NAME: &'static str = "note that a volume was made";

    fn apply(&self, tx: &Tx<'_>) -> Result<bool, StoreError> {
        let made = || -> rusqlite::Result<bool> {
            let mut update =
                tx.conn.prepare_cached("UPDATE volumes SET state = iif(state = 'creating', 'ready', state) WHERE id = ?1 AND state <> 'removing'")?;
            Ok(update.execute((column(self.0),))? == 1)
        };
        made().map_err(|error| StoreError::sql(Self::NAME, error))
    }
}

impl Command for VolumeGrowth {
    type Answer = GrowthOutcome;
    const NAME: &'static str = "reserve a volume's growth";

    fn apply(&self, tx: &Tx<'_>) -> Result<GrowthOutcome, StoreError> {
        let fail = |error| StoreError::sql(Self::NAME, error);
        let volume = find(tx.conn, &self.wallet, self.id)?;
        let before_mib = match self.of(volume.as_ref()) {
            Ok(before_mib) => before_mib,
            Err(refused) => return Ok(*refused),
        };
        let (mib, _, kept) = used(tx.conn, &self.wallet, self.now).map_err(fail)?;
        let more_mib = self.size_mib - before_mib;
        if let Some(used_mib) = quota_full(mib, kept, more_mib, self.quota).filter(|_| more_mib > 0) {
            return Ok(GrowthOutcome::QuotaFull { used_mib });
        }
        set_size(tx.conn, self.id, self.size_mib).map_err(fail)?;
        let volume = volume.map(|volume| VolumeRecord { size_mib: self.size_mib, ..volume });
        Ok(volume.map_or(GrowthOutcome::Unknown, |volume| GrowthOutcome::Reserved { volume, before_mib }))
    }
}

fn set_size(conn: &Connection, id: VolumeId, size_mib: u64) -> rusqlite::Result<usize> {
    conn.prepare_cached("UPDATE volumes SET size_mib = ?2 WHERE id = ?1")?.execute((column(id), integer(size_mib)))
}

struct Refused {
    id: VolumeId,
    before_mib: u64,
    asked_mib: u64,
}

impl Command for Refused {
    type Answer = ();
    const NAME: &'static str = "take a volume's growth back";

    fn apply(&self, tx: &Tx<'_>) -> Result<(), StoreError> {
        let sql = "UPDATE volumes SET size_mib = ?2 WHERE id = ?1 AND size_mib = ?3";
        let row = (column(self.id), integer(self.before_mib), integer(self.asked_mib));
        let back = tx.conn.prepare_cached(sql).and_then(|mut update| update.execute(row));
        back.map(drop).map_err(|error| StoreError::sql(Self::NAME, error))
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

    fn is_essential(&self) -> bool {
        true
    }

    fn apply(&self, tx: &Tx<'_>) -> Result<VolumeRemoval, StoreError> {
        let Some(volume) = find(tx.conn, &self.wallet, self.id)? else { return Ok(VolumeRemoval::Unknown) };
        let count = "SELECT count(*) FROM snapshots WHERE volume = ?1";
        let snapshots = tx.conn.prepare_cached(count);
        let snapshots = snapshots.and_then(|mut count| count.query_row((column(self.id),), |row| row.get(0)));
        let snapshots = natural(snapshots.map_err(|error| StoreError::sql(Self::NAME, error))?);
        if let Some(refused) = VolumeRemoval::refused(&volume, snapshots) {
            return Ok(refused);
        }
        let sql = "UPDATE volumes SET state = 'removing' WHERE id = ?1";
        let marked = tx.conn.prepare_cached(sql).and_then(|mut update| update.execute((column(self.id),)));
        let closed = marked.and_then(|_| disks::close(tx.conn, DiskKey::volume(self.id), self.now));
        closed.map_err(|error| StoreError::sql(Self::NAME, error))?;
        Ok(VolumeRemoval::Removing(VolumeRecord { state: VolumeState::Removing, ..volume }))
    }
}

struct Forget(VolumeId);

impl Command for Forget {
    type Answer = ();
    const NAME: &'static str = "forget a volume";

    fn is_essential(&self) -> bool {
        true
    }

    fn apply(&self, tx: &Tx<'_>) -> Result<(), StoreError> {
        let forget = || -> rusqlite::Result<()> {
            let sql = "DELETE FROM volumes WHERE id = ?1 AND state IN ('creating', 'removing')";
            if tx.conn.prepare_cached(sql)?.execute((column(self.0),))? > 0 {
                // What never became its owner's is not paid for, whatever its node has said of it.
                disks::forget(tx.conn, DiskKey::volume(self.0))?;
            }
            Ok(())
        };
        forget().map_err(|error| StoreError::sql(Self::NAME, error))
    }
}

fn run_volumes(conn: &Connection, run: RunId) -> Result<Vec<RunVolume>, StoreError> {
    let fail = |error| StoreError::sql("read a run's volumes", error);
    let sql = "SELECT volumes.id, volume_mounts.name, volume_mounts.path, volumes.node FROM volume_mounts \
               JOIN volumes ON volumes.id = volume_mounts.volume WHERE volume_mounts.run = ?1 ORDER BY volumes.id";
    let mut select = conn.prepare_cached(sql).map_err(fail)?;
    let row = |row: &Row<'_>| -> rusqlite::Result<(i64, String, String, String)> {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
    };
    let rows = select.query_map((id_column(run),), row).map_err(fail)?;
    rows.map(|row| {
        let (id, name, path, node) = row.map_err(fail)?;
        let mount = VolumeMount { name: name_of(&name)?, path: path_of(&path)? };
        Ok(RunVolume { id: VolumeId::from_bits(id.cast_unsigned()), mount, node })
    })
    .collect()
}

/// The volumes that a reserved run is to have.
pub(crate) struct Mounts(Vec<FoundVolume>);

impl Mounts {
    /// Looks the volumes up, and whether the run can have them. Nobody else writes between this
    /// and [`Mounts::attach`].
    pub(crate) fn look_up(
        conn: &Connection,
        reservation: &RunReservation,
        last: Option<PodRowId>,
    ) -> Result<Result<Self, VolumeRefusal>, StoreError> {
        let found = match (&reservation.pod, last) {
            (RunPod::Existing(_), Some(pod)) => of_pod(conn, pod)?,
            (RunPod::Existing(_) | RunPod::New { .. }, _) => named(conn, &reservation.wallet, &reservation.volumes)?,
        };
        Ok(check(&found).map(|()| Self(found)))
    }

    /// Gives them to the run.
    pub(crate) fn attach(&self, conn: &Connection, record: &RunRecord) -> rusqlite::Result<()> {
        for FoundVolume { mount, volume } in &self.0 {
            let Some(volume) = volume else { continue };
            conn.prepare_cached(
                "INSERT INTO volume_mounts (pod, volume, name, path, run) VALUES (?1, ?2, ?3, ?4, ?5) \
                 ON CONFLICT (pod, volume) DO UPDATE SET run = ?5",
            )?
            .execute(params![
                record.pod_key.0.cast_signed(),
                column(volume.id),
                mount.name.as_str(),
                mount.path.as_str(),
                id_column(record.id)
            ])?;
        }
        Ok(())
    }
}

/// A wallet's volume of this name.
pub(crate) fn by_name(
    conn: &Connection,
    wallet: &Wallet,
    name: &VolumeName,
) -> Result<Option<VolumeRecord>, StoreError> {
    let rest = "WHERE volumes.wallet = ?1 AND volumes.name = ?2";
    Ok(many(conn, rest, (&wallet.0, name.as_str()))?.into_iter().next())
}

fn named(conn: &Connection, wallet: &Wallet, mounts: &[VolumeMount]) -> Result<Vec<FoundVolume>, StoreError> {
    let find = |mount: &VolumeMount| {
        let volume = by_name(conn, wallet, &mount.name)?;
        Ok(FoundVolume { mount: mount.clone(), volume })
    };
    mounts.iter().map(find).collect()
}

/// The volumes that each run of this POD has, those that are gone included.
pub(crate) fn of_pod(conn: &Connection, pod: PodRowId) -> Result<Vec<FoundVolume>, StoreError> {
    let fail = |error| StoreError::sql("read a POD's volumes", error);
    let sql = "SELECT volume, name, path FROM volume_mounts WHERE pod = ?1 ORDER BY volume";
    let mut select = conn.prepare_cached(sql).map_err(fail)?;
    let row =
        |row: &Row<'_>| -> rusqlite::Result<(i64, String, String)> { Ok((row.get(0)?, row.get(1)?, row.get(2)?)) };
    let rows: Vec<_> =
        select.query_map((pod.0.cast_signed(),), row).map_err(fail)?.collect::<rusqlite::Result<_>>().map_err(fail)?;
    let find = |(id, name, path): (i64, String, String)| {
        let volume = many(conn, "WHERE volumes.id = ?1", (id,))?.into_iter().next();
        Ok(FoundVolume { mount: VolumeMount { name: name_of(&name)?, path: path_of(&path)? }, volume })
    };
    rows.into_iter().map(find).collect()
}
