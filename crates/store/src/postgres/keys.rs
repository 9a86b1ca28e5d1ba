//! Sealed keys.

use domain::{Address, PodId, UnixMillis};
use sqlx::postgres::PgRow;
use sqlx::{Row, query};

use super::database::{Command, Postgres, Statement, Tx};
use super::row::{hold, names};
use super::secrets;
use crate::codec::integer;
use crate::error::StoreError;
use crate::keys::{KeyStore, SealedIdentity, SecretName};

impl KeyStore for Postgres {
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
        let sql = "SELECT sealed FROM secrets WHERE name = $1";
        self.one("read a secret", query(sql).bind(name.as_str()), |row| row.try_get(0)).await
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
        let sql = "SELECT address, sealed FROM identities JOIN pods ON pods.key = identities.pod \
                   WHERE removed_at IS NULL AND (name = $2 OR key = $1 AND name IS NULL)";
        let (key, name) = names(&pod);
        self.one("read a POD's key", query(sql).bind(key).bind(name), decode).await
    }

    async fn was_erased(&self, pod: PodId) -> Result<bool, StoreError> {
        Ok(self.one("look for an erased key", erased(&pod), |_| Ok(())).await?.is_some())
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

/// What finds a POD of this id whose key was erased, whoever has the id now.
fn erased(pod: &PodId) -> Statement<'static> {
    let sql = "SELECT 1 FROM pods \
               WHERE erased_at >= coalesce((SELECT made_at FROM secrets WHERE name = 'check'), 0) \
               AND (name = $2 OR key = $1 AND name IS NULL)";
    let (key, name) = names(pod);
    query(sql).bind(key).bind(name)
}

fn decode(row: &PgRow) -> sqlx::Result<SealedIdentity> {
    Ok(SealedIdentity { address: Address::from(row.try_get::<[u8; 20], _>(0)?), sealed: row.try_get(1)? })
}

/// Refuses who seals with another key than all others, by the text that its key is known by. Until
/// the transaction ends, nobody seals all keys anew ([`begin_alone`](super::lease::begin_alone)).
async fn must_be_sealed_by(tx: &mut Tx, operation: &'static str, check: Option<&[u8]>) -> Result<(), StoreError> {
    let Some(check) = check else { return Ok(()) };
    let kept = kept_check(tx).await.map_err(|error| StoreError::postgres(operation, error))?;
    if kept.as_deref() == Some(check) { Ok(()) } else { Err(StoreError::Resealed) }
}

async fn kept_check(tx: &mut Tx) -> sqlx::Result<Option<Vec<u8>>> {
    // First the lock: what is read after it stays so.
    query("LOCK TABLE secrets IN ROW EXCLUSIVE MODE").execute(tx.conn()).await?;
    let check = query("SELECT sealed FROM secrets WHERE name = $1").bind(SecretName::Check.as_str());
    check.fetch_optional(tx.conn()).await?.map(|row| row.try_get(0)).transpose()
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

    async fn apply(&self, tx: &mut Tx) -> Result<Vec<u8>, StoreError> {
        must_be_sealed_by(tx, Self::NAME, self.check.as_deref()).await?;
        self.write(tx).await.map_err(|error| StoreError::postgres(Self::NAME, error))
    }
}

impl KeepSecret {
    async fn write(&self, tx: &mut Tx) -> sqlx::Result<Vec<u8>> {
        secrets::insertion(self.name, &self.sealed, self.now).execute(tx.conn()).await?;
        // Whoever was faster has committed: the insertion waited for that.
        let kept = query("SELECT sealed FROM secrets WHERE name = $1").bind(self.name.as_str());
        kept.fetch_one(tx.conn()).await?.try_get(0)
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

    async fn apply(&self, tx: &mut Tx) -> Result<SealedIdentity, StoreError> {
        must_be_sealed_by(tx, Self::NAME, self.check.as_deref()).await?;
        let kept = self.write(tx).await.map_err(|error| StoreError::postgres(Self::NAME, error))?;
        kept.ok_or(StoreError::NoPod(self.pod))
    }
}

struct KeepOldIdentity(KeepIdentity);

impl Command for KeepOldIdentity {
    type Answer = Option<SealedIdentity>;
    const NAME: &'static str = "keep an old key of a POD";

    async fn apply(&self, tx: &mut Tx) -> Result<Option<SealedIdentity>, StoreError> {
        must_be_sealed_by(tx, Self::NAME, self.0.check.as_deref()).await?;
        let kept = self.write(tx).await.map_err(|error| StoreError::postgres(Self::NAME, error))?;
        kept.ok_or(StoreError::NoPod(self.0.pod))
    }
}

impl KeepOldIdentity {
    /// `None` if there is no such POD. Once it is held, none of that id is removed.
    async fn write(&self, tx: &mut Tx) -> sqlx::Result<Option<Option<SealedIdentity>>> {
        if hold(tx.conn(), &self.0.pod).await?.is_none() {
            return Ok(None);
        }
        if erased(&self.0.pod).fetch_optional(tx.conn()).await?.is_some() {
            return Ok(Some(None));
        }
        Ok(self.0.write(tx).await?.map(Some))
    }
}

impl KeepIdentity {
    /// `None` if there is no such POD. It is not removed until the transaction ends.
    async fn write(&self, tx: &mut Tx) -> sqlx::Result<Option<SealedIdentity>> {
        let Some(key) = hold(tx.conn(), &self.pod).await? else { return Ok(None) };
        let key = key.0.cast_signed();
        let insert = query(
            "INSERT INTO identities (pod, address, sealed, made_at) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
        );
        let insert = insert.bind(key).bind(self.identity.address.0.0).bind(&self.identity.sealed);
        insert.bind(integer(self.now.0)).execute(tx.conn()).await?;
        let kept = query("SELECT address, sealed FROM identities WHERE pod = $1").bind(key);
        decode(&kept.fetch_one(tx.conn()).await?).map(Some)
    }
}
