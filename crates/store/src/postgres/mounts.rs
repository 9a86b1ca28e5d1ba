//! Which volumes a POD's next runs have.

use domain::{PodId, UnixMillis, VolumeName, VolumeState, Wallet};
use sqlx::{PgConnection, Row, query};

use super::database::{Command, Postgres, Tx};
use super::row;
use super::volumes::{by_name, hold, of_pod, one};
use crate::codec::integer;
use crate::error::StoreError;
use crate::mounts::{MountOutcome, MountStore, MountingPod, NewMount, check};
use crate::volumes::FoundVolume;

impl MountStore for Postgres {
    async fn mount_volume(&self, new: NewMount) -> Result<MountOutcome, StoreError> {
        self.write(new).await
    }

    async fn unmount_volume(&self, wallet: Wallet, pod: PodId, name: VolumeName) -> Result<MountOutcome, StoreError> {
        self.write(Unmount { wallet, pod, name }).await
    }

    async fn pod_volumes(&self, wallet: Wallet, pod: PodId) -> Result<Option<Vec<FoundVolume>>, StoreError> {
        self.write(List { wallet, pod }).await
    }
}

/// The POD, which is not removed until the transaction ends. Its wallet is held by whoever
/// changes something: no run of it begins meanwhile.
async fn look_up(
    conn: &mut PgConnection,
    wallet: &Wallet,
    pod: &PodId,
    now: UnixMillis,
) -> sqlx::Result<Option<MountingPod>> {
    let Some(key) = row::hold(conn, pod).await? else { return Ok(None) };
    let sql = "SELECT stopped_at IS NULL, CASE WHEN data_until IS NULL OR data_until > $3 THEN data_node END FROM pods \
               WHERE key = $1 AND wallet = $2";
    let found = query(sql).bind(key.0.cast_signed()).bind(wallet.0).bind(integer(now.0)).fetch_optional(conn).await?;
    found.map(|row| Ok(MountingPod { key, runs: row.try_get(0)?, data_node: row.try_get(1)? })).transpose()
}

impl Command for NewMount {
    type Answer = MountOutcome;
    const NAME: &'static str = "give a POD a volume";

    async fn apply(&self, tx: &mut Tx) -> Result<MountOutcome, StoreError> {
        self.mount(tx.conn()).await.map_err(|error| StoreError::postgres(Self::NAME, error))
    }
}

impl NewMount {
    async fn mount(&self, conn: &mut PgConnection) -> sqlx::Result<MountOutcome> {
        let Self { wallet, pod, mount, now } = self;
        hold(conn, wallet).await?;
        let Some(pod) = look_up(conn, wallet, pod, *now).await? else { return Ok(MountOutcome::NoPod) };
        if pod.runs {
            return Ok(MountOutcome::Runs);
        }
        let volume = one(conn, by_name(*wallet, mount.name.as_str())).await?;
        let Some(volume) = volume.filter(|volume| volume.state == VolumeState::Ready) else {
            return Ok(MountOutcome::NoVolume);
        };
        if let Err(refused) = check(&pod, &of_pod(conn, pod.key).await?, mount, &volume) {
            return Ok(refused);
        }
        delete(conn, &pod, &mount.name).await?;
        query("INSERT INTO volume_mounts (pod, volume, name, path, run) VALUES ($1, $2, $3, $4, NULL)")
            .bind(pod.key.0.cast_signed())
            .bind(volume.id.bits().cast_signed())
            .bind(mount.name.as_str())
            .bind(mount.path.as_str())
            .execute(&mut *conn)
            .await?;
        Ok(MountOutcome::Changed(of_pod(conn, pod.key).await?))
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

    async fn apply(&self, tx: &mut Tx) -> Result<MountOutcome, StoreError> {
        self.unmount(tx.conn()).await.map_err(|error| StoreError::postgres(Self::NAME, error))
    }
}

impl Unmount {
    async fn unmount(&self, conn: &mut PgConnection) -> sqlx::Result<MountOutcome> {
        hold(conn, &self.wallet).await?;
        let found = look_up(conn, &self.wallet, &self.pod, UnixMillis(0)).await?;
        let Some(pod) = found else { return Ok(MountOutcome::NoPod) };
        if pod.runs {
            return Ok(MountOutcome::Runs);
        }
        if delete(conn, &pod, &self.name).await? == 0 {
            return Ok(MountOutcome::NoVolume);
        }
        Ok(MountOutcome::Changed(of_pod(conn, pod.key).await?))
    }
}

async fn delete(conn: &mut PgConnection, pod: &MountingPod, name: &VolumeName) -> sqlx::Result<u64> {
    let delete = query("DELETE FROM volume_mounts WHERE pod = $1 AND name = $2");
    Ok(delete.bind(pod.key.0.cast_signed()).bind(name.as_str()).execute(conn).await?.rows_affected())
}

struct List {
    wallet: Wallet,
    pod: PodId,
}

impl Command for List {
    type Answer = Option<Vec<FoundVolume>>;
    const NAME: &'static str = "read a POD's volumes";

    async fn apply(&self, tx: &mut Tx) -> Result<Self::Answer, StoreError> {
        let list = async |conn: &mut PgConnection| match look_up(conn, &self.wallet, &self.pod, UnixMillis(0)).await? {
            Some(pod) => of_pod(conn, pod.key).await.map(Some),
            None => Ok(None),
        };
        list(tx.conn()).await.map_err(|error| StoreError::postgres(Self::NAME, error))
    }
}
