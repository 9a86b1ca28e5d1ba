//! Sealed keys.

use domain::{Address, PodId, UnixMillis};
use rusqlite::{Connection, OptionalExtension, Row};

use super::handle::Sqlite;
use super::row::key_of;
use super::secrets;
use super::writer::{Command, Tx};
use crate::codec::{id_column, integer};
use crate::error::StoreError;
use crate::keys::{KeyStore, SealedIdentity, SecretName};
use crate::record::PodRowId;

impl KeyStore for Sqlite {
    async fn keep_secret(
        &self,
        name: SecretName,
        sealed: Vec<u8>,
        check: Option<Vec<u8>>,
        now: UnixMillis,
    ) -> Result<Vec<u8>, StoreError> {
        self.write(KeepSecret { name, sealed, check, now }).await
    }

    async fn secret(&self, name: SecretName) -> Result<Option<Vec<u8>>, StoreError> {
        const NAME: &str = "read a secret";
        self.read(NAME, move |conn| secret(conn, name).map_err(|error| StoreError::sql(NAME, error))).await
    }

    async fn keep_identity(
        &self,
        pod: PodId,
        identity: SealedIdentity,
        check: Option<Vec<u8>>,
        now: UnixMillis,
    ) -> Result<SealedIdentity, StoreError> {
        self.write(KeepIdentity { pod, identity, check, now }).await
    }

    async fn identity_of(&self, pod: PodId) -> Result<Option<SealedIdentity>, StoreError> {
        const NAME: &str = "read a POD's key";
        self.read(NAME, move |conn| {
            let found = key_of(conn, &pod).and_then(|key| key.map_or(Ok(None), |key| identity(conn, key)));
            found.map_err(|error| StoreError::sql(NAME, error))
        })
        .await
    }

    async fn was_erased(&self, pod: PodId) -> Result<bool, StoreError> {
        const NAME: &str = "look for an erased key";
        self.read(NAME, move |conn| was_erased(conn, &pod).map_err(|error| StoreError::sql(NAME, error))).await
    }

    async fn keep_old_identity(
        &self,
        pod: PodId,
        identity: SealedIdentity,
        check: Option<Vec<u8>>,
        now: UnixMillis,
    ) -> Result<Option<SealedIdentity>, StoreError> {
        self.write(KeepOldIdentity(KeepIdentity { pod, identity, check, now })).await
    }
}

struct KeepSecret {
    name: SecretName,
    sealed: Vec<u8>,
    check: Option<Vec<u8>>,
    now: UnixMillis,
}

impl Command for KeepSecret {
    type Answer = Vec<u8>;
    const NAME: &'static str = "keep a secret";

    fn apply(&self, tx: &Tx<'_>) -> Result<Vec<u8>, StoreError> {
        must_be_sealed_by(tx.conn, Self::NAME, self.check.as_deref())?;
        let kept = self.write(tx.conn).map_err(|error| StoreError::sql(Self::NAME, error))?;
        kept.ok_or(StoreError::Value("a secret that is not there once it is kept"))
    }
}

impl KeepSecret {
    fn write(&self, conn: &Connection) -> rusqlite::Result<Option<Vec<u8>>> {
        secrets::insert(conn, self.name, &self.sealed, self.now)?;
        secret(conn, self.name)
    }
}

struct KeepIdentity {
    pod: PodId,
    identity: SealedIdentity,
    check: Option<Vec<u8>>,
    now: UnixMillis,
}

impl Command for KeepIdentity {
    type Answer = SealedIdentity;
    const NAME: &'static str = "keep a POD's key";

    fn apply(&self, tx: &Tx<'_>) -> Result<SealedIdentity, StoreError> {
        must_be_sealed_by(tx.conn, Self::NAME, self.check.as_deref())?;
        let kept = self.write(tx.conn).map_err(|error| StoreError::sql(Self::NAME, error))?;
        kept.ok_or(StoreError::NoPod(self.pod))
    }
}

impl KeepIdentity {
    /// `None` if there is no such POD.
    fn write(&self, conn: &Connection) -> rusqlite::Result<Option<SealedIdentity>> {
        let Some(key) = key_of(conn, &self.pod)? else { return Ok(None) };
        let sql =
            "INSERT INTO identities (pod, address, sealed, made_at) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING";
        let row = (key.0.cast_signed(), self.identity.address.0.0, &self.identity.sealed, integer(self.now.0));
        conn.prepare_cached(sql)?.execute(row)?;
        identity(conn, key)
    }
}

struct KeepOldIdentity(KeepIdentity);

impl Command for KeepOldIdentity {
    type Answer = Option<SealedIdentity>;
    const NAME: &'static str = "keep an old key of a POD";

    fn apply(&self, tx: &Tx<'_>) -> Result<Option<SealedIdentity>, StoreError> {
        let sql = |error| StoreError::sql(Self::NAME, error);
        let is_there = key_of(tx.conn, &self.0.pod).map_err(sql)?.is_some();
        if is_there && was_erased(tx.conn, &self.0.pod).map_err(sql)? {
            return Ok(None);
        }
        self.0.apply(tx).map(Some)
    }
}

/// Refuses who seals with another key than all others, by the text that its key is known by.
fn must_be_sealed_by(conn: &Connection, operation: &'static str, check: Option<&[u8]>) -> Result<(), StoreError> {
    let Some(check) = check else { return Ok(()) };
    let kept = secret(conn, SecretName::Check).map_err(|error| StoreError::sql(operation, error))?;
    if kept.as_deref() == Some(check) { Ok(()) } else { Err(StoreError::Resealed) }
}

fn secret(conn: &Connection, name: SecretName) -> rusqlite::Result<Option<Vec<u8>>> {
    let sql = "SELECT sealed FROM secrets WHERE name = ?1";
    conn.prepare_cached(sql)?.query_row((name.as_str(),), |row| row.get(0)).optional()
}

fn identity(conn: &Connection, pod: PodRowId) -> rusqlite::Result<Option<SealedIdentity>> {
    let sql = "SELECT address, sealed FROM identities WHERE pod = ?1";
    let decode =
        |row: &Row<'_>| Ok(SealedIdentity { address: Address::from(row.get::<_, [u8; 20]>(0)?), sealed: row.get(1)? });
    conn.prepare_cached(sql)?.query_row((pod.0.cast_signed(),), decode).optional()
}

fn was_erased(conn: &Connection, pod: &PodId) -> rusqlite::Result<bool> {
    let sql = "SELECT 1 FROM pods WHERE erased_at >= coalesce((SELECT made_at FROM secrets WHERE name = 'check'), 0) \
               AND (name = ?2 OR key = ?1 AND name IS NULL)";
    let name = pod.first_run().is_none().then(|| pod.as_str());
    let key = pod.first_run().map(id_column);
    conn.prepare_cached(sql)?.query_row((key, name), |_| Ok(())).optional().map(|found| found.is_some())
}
