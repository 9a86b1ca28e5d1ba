//! Which volumes a POD's next runs have.

use domain::{PodId, UnixMillis, VolumeName, VolumeState, Wallet};
use rusqlite::{Connection, OptionalExtension, params};

use super::handle::Sqlite;
use super::row::key_of;
use super::volumes::{by_name, of_pod};
use super::writer::{Command, Tx};
use crate::codec::integer;
use crate::error::StoreError;
use crate::mounts::{MountOutcome, MountStore, MountingPod, NewMount, check};
use crate::volumes::FoundVolume;

impl MountStore for Sqlite {
    async fn mount_volume(&self, new: NewMount) -> Result<MountOutcome, StoreError> {
        self.write(new).await
    }

    async fn unmount_volume(&self, wallet: Wallet, pod: PodId, name: VolumeName) -> Result<MountOutcome, StoreError> {
        self.write(Unmount { wallet, pod, name }).await
    }

    async fn pod_volumes(&self, wallet: Wallet, pod: PodId) -> Result<Option<Vec<FoundVolume>>, StoreError> {
        let read = move |conn: &Connection| {
            let found = look_up(conn, &wallet, &pod, UnixMillis(0));
            let found = found.map_err(|error| StoreError::sql("read a POD's volumes", error))?;
            found.map(|pod| of_pod(conn, pod.key)).transpose()
        };
        self.read("read a POD's volumes", read).await
    }
}

fn look_up(conn: &Connection, wallet: &Wallet, pod: &PodId, now: UnixMillis) -> rusqlite::Result<Option<MountingPod>> {
    let Some(key) = key_of(conn, pod)? else { return Ok(None) };
    let sql = "SELECT stopped_at IS NULL, CASE WHEN coalesce(data_until, ?3 + 1) > ?3 THEN data_node END FROM pods \
               WHERE key = ?1 AND wallet = ?2";
    conn.prepare_cached(sql)?
        .query_row(params![key.0.cast_signed(), &wallet.0, integer(now.0)], |row| {
            Ok(MountingPod { key, runs: row.get(0)?, data_node: row.get(1)? })
        })
        .optional()
}

impl Command for NewMount {
    type Answer = MountOutcome;
    const NAME: &'static str = "give a POD a volume";

    fn apply(&self, tx: &Tx<'_>) -> Result<MountOutcome, StoreError> {
        let fail = |error| StoreError::sql(Self::NAME, error);
        let Self { wallet, pod, mount, now } = self;
        let Some(pod) = look_up(tx.conn, wallet, pod, *now).map_err(fail)? else { return Ok(MountOutcome::NoPod) };
        if pod.runs {
            return Ok(MountOutcome::Runs);
        }
        let volume = by_name(tx.conn, wallet, &mount.name)?.filter(|volume| volume.state == VolumeState::Ready);
        let Some(volume) = volume else { return Ok(MountOutcome::NoVolume) };
        if let Err(refused) = check(&pod, &of_pod(tx.conn, pod.key)?, mount, &volume) {
            return Ok(refused);
        }
        let write = || {
            delete(tx.conn, &pod, &mount.name)?;
            let sql = "INSERT INTO volume_mounts (pod, volume, name, path, run) VALUES (?1, ?2, ?3, ?4, NULL)";
            tx.conn.prepare_cached(sql)?.execute(params![
                pod.key.0.cast_signed(),
                volume.id.bits().cast_signed(),
                mount.name.as_str(),
                mount.path.as_str()
            ])
        };
        write().map_err(fail)?;
        Ok(MountOutcome::Changed(of_pod(tx.conn, pod.key)?))
    }
}

struct Unmount {
    wallet: Wallet,
    pod: PodId,
    name: VolumeName,
}

impl Command for Unmount {
    type Answer = MountOutcome;
    const NAME: &'static str = "take a volume from a POD";

    fn apply(&self, tx: &Tx<'_>) -> Result<MountOutcome, StoreError> {
        let fail = |error| StoreError::sql(Self::NAME, error);
        let found = look_up(tx.conn, &self.wallet, &self.pod, UnixMillis(0)).map_err(fail)?;
        let Some(pod) = found else { return Ok(MountOutcome::NoPod) };
        if pod.runs {
            return Ok(MountOutcome::Runs);
        }
        if delete(tx.conn, &pod, &self.name).map_err(fail)? == 0 {
            return Ok(MountOutcome::NoVolume);
        }
        Ok(MountOutcome::Changed(of_pod(tx.conn, pod.key)?))
    }
}

fn delete(conn: &Connection, pod: &MountingPod, name: &VolumeName) -> rusqlite::Result<usize> {
    let sql = "DELETE FROM volume_mounts WHERE pod = ?1 AND name = ?2";
    conn.prepare_cached(sql)?.execute((pod.key.0.cast_signed(), name.as_str()))
}
