//! API keys.

use domain::{KeyId, UnixMillis, Wallet};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row, query};

use super::database::{Command, Postgres, Tx, wallet_lock};
use crate::admission::KEY_LIFE_MS;
use crate::apikeys::{ApiKeyOutcome, ApiKeyRecord, ApiKeyStore, NewApiKey, form_of, scope_of};
use crate::codec::{integer, millis};
use crate::error::StoreError;

impl ApiKeyStore for Postgres {
    async fn keep_api_key(&self, new: NewApiKey) -> Result<ApiKeyOutcome, StoreError> {
        self.write(Keep(new)).await
    }

    async fn api_key(&self, id: KeyId) -> Result<Option<ApiKeyRecord>, StoreError> {
        let sql = "SELECT id, wallet, name, form, scope, digest, created_at, expires_at, used_at FROM api_keys \
                   WHERE id = $1";
        self.one("read an API key", query(sql).bind(id.bits().cast_signed()), decode).await
    }

    async fn api_keys_of(&self, wallet: Wallet) -> Result<Vec<ApiKeyRecord>, StoreError> {
        let sql = "SELECT id, wallet, name, form, scope, digest, created_at, expires_at, used_at FROM api_keys \
                   WHERE wallet = $1 ORDER BY created_at DESC, id";
        self.many("list a wallet's API keys", query(sql).bind(wallet.0), decode).await
    }

    async fn revoke_api_key(&self, wallet: Wallet, id: KeyId) -> Result<bool, StoreError> {
        let delete = query("DELETE FROM api_keys WHERE id = $1 AND wallet = $2");
        let delete = delete.bind(id.bits().cast_signed()).bind(wallet.0);
        Ok(self.execute("revoke an API key", delete).await? == 1)
    }

    async fn note_api_keys_used(&self, uses: Vec<(KeyId, UnixMillis)>) -> Result<(), StoreError> {
        let (ids, times): (Vec<_>, Vec<_>) =
            uses.into_iter().map(|(id, at)| (id.bits().cast_signed(), integer(at.0))).unzip();
        let update = query(
            "UPDATE api_keys SET used_at = uses.at FROM unnest($1::bigint[], $2::bigint[]) AS uses (id, at) \
             WHERE api_keys.id = uses.id AND coalesce(api_keys.used_at, 0) < uses.at",
        );
        self.execute("note when API keys were used", update.bind(ids).bind(times)).await.map(drop)
    }
}

fn decode(row: &PgRow) -> sqlx::Result<ApiKeyRecord> {
    let wrong = |error: StoreError| sqlx::Error::Decode(Box::new(error));
    let used_at: Option<i64> = row.try_get(8)?;
    Ok(ApiKeyRecord {
        id: KeyId::from_bits(row.try_get::<i64, _>(0)?.cast_unsigned()),
        wallet: Wallet(row.try_get(1)?),
        name: row.try_get(2)?,
        form: form_of(row.try_get(3)?).map_err(wrong)?,
        scope: scope_of(row.try_get(4)?).map_err(wrong)?,
        digest: row.try_get(5)?,
        created_at: millis(row.try_get(6)?),
        expires_at: millis(row.try_get(7)?),
        used_at: used_at.map(millis),
    })
}

struct Keep(NewApiKey);

impl Command for Keep {
    type Answer = ApiKeyOutcome;
    const NAME: &'static str = "keep an API key";

    async fn apply(&self, tx: &mut Tx) -> Result<ApiKeyOutcome, StoreError> {
        self.keep(tx.conn()).await.map_err(|error| StoreError::postgres(Self::NAME, error))
    }
}

impl Keep {
    async fn keep(&self, conn: &mut PgConnection) -> sqlx::Result<ApiKeyOutcome> {
        let NewApiKey { key, most, .. } = &self.0;
        let (wallet, now) = (key.wallet.0, integer(key.created_at.0));
        // One of this wallet's at a time: each sees what the one before wrote.
        let lock = query("SELECT pg_advisory_xact_lock($1)").bind(wallet_lock(&key.wallet));
        lock.execute(&mut *conn).await?;
        let former = match self.former(conn).await? {
            Some((_, false)) => return Ok(ApiKeyOutcome::Mismatch),
            Some((id, true)) => Some(id),
            None => None,
        };
        let count = "SELECT count(*), count(*) FILTER (WHERE expires_at > $2) FROM api_keys \
                     WHERE wallet = $1 AND id IS DISTINCT FROM $3";
        let counted = query(count).bind(wallet).bind(now).bind(former).fetch_one(&mut *conn).await?;
        let (all, good): (i64, i64) = (counted.try_get(0)?, counted.try_get(1)?);
        if good >= i64::from(*most) {
            return Ok(ApiKeyOutcome::TooMany);
        }
        if all >= i64::from(*most) {
            let over = query("DELETE FROM api_keys WHERE wallet = $1 AND expires_at <= $2");
            over.bind(wallet).bind(now).execute(&mut *conn).await?;
        }
        if let Some(id) = former {
            query("DELETE FROM api_keys WHERE id = $1").bind(id).execute(&mut *conn).await?;
        }
        self.insert(conn).await?;
        Ok(former.map_or(ApiKeyOutcome::Kept, |id| ApiKeyOutcome::Replaced(KeyId::from_bits(id.cast_unsigned()))))
    }

    /// The key that the same request made, and whether it was the same.
    async fn former(&self, conn: &mut PgConnection) -> sqlx::Result<Option<(i64, bool)>> {
        let NewApiKey { key, idempotency, .. } = &self.0;
        let Some(idempotency) = idempotency else { return Ok(None) };
        let since = integer(key.created_at.0.saturating_sub(KEY_LIFE_MS));
        let sql = "SELECT id, request = $4 FROM api_keys WHERE wallet = $1 AND idempotency = $2 AND created_at > $3";
        let found = query(sql).bind(key.wallet.0).bind(&idempotency.key).bind(since).bind(idempotency.request);
        let found = found.fetch_optional(conn).await?;
        found.map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).transpose()
    }

    async fn insert(&self, conn: &mut PgConnection) -> sqlx::Result<()> {
        let NewApiKey { key, idempotency, .. } = &self.0;
        if let Some(idempotency) = idempotency {
            // Its day is over: it stands for this request from here on.
            let forget =
                "UPDATE api_keys SET idempotency = NULL, request = NULL WHERE wallet = $1 AND idempotency = $2";
            query(forget).bind(key.wallet.0).bind(&idempotency.key).execute(&mut *conn).await?;
        }
        query(
            "INSERT INTO api_keys (id, wallet, name, form, scope, digest, created_at, expires_at, idempotency, request) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(key.id.bits().cast_signed())
        .bind(key.wallet.0)
        .bind(&key.name)
        .bind(key.form.as_str())
        .bind(key.scope.as_str())
        .bind(key.digest)
        .bind(integer(key.created_at.0))
        .bind(integer(key.expires_at.0))
        .bind(idempotency.as_ref().map(|idempotency| &idempotency.key))
        .bind(idempotency.as_ref().map(|idempotency| idempotency.request))
        .execute(conn)
        .await
        .map(drop)
    }
}
