//! API keys.

use domain::{KeyId, UnixMillis, Wallet};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::handle::Sqlite;
use super::writer::{Command, Tx};
use crate::admission::KEY_LIFE_MS;
use crate::apikeys::{ApiKeyOutcome, ApiKeyRecord, ApiKeyStore, NewApiKey, form_of, scope_of};
use crate::codec::{integer, millis};
use crate::error::StoreError;

const COLUMNS: &str = "id, wallet, name, form, scope, digest, created_at, expires_at, used_at";

impl ApiKeyStore for Sqlite {
    async fn keep_api_key(&self, new: NewApiKey) -> Result<ApiKeyOutcome, StoreError> {
        self.write(new).await
    }

    async fn api_key(&self, id: KeyId) -> Result<Option<ApiKeyRecord>, StoreError> {
        const NAME: &str = "read an API key";
        self.read(NAME, move |conn| {
            let sql = format!("SELECT {COLUMNS} FROM api_keys WHERE id = ?1");
            let row = conn
                .prepare_cached(&sql)
                .and_then(|mut select| select.query_row((id.bits().cast_signed(),), |row| Ok(decode(row))).optional());
            row.map_err(|error| StoreError::sql(NAME, error))?.transpose()
        })
        .await
    }

    async fn api_keys_of(&self, wallet: Wallet) -> Result<Vec<ApiKeyRecord>, StoreError> {
        const NAME: &str = "list a wallet's API keys";
        self.read(NAME, move |conn| {
            let fail = |error| StoreError::sql(NAME, error);
            let sql = format!("SELECT {COLUMNS} FROM api_keys WHERE wallet = ?1 ORDER BY created_at DESC, id");
            let mut select = conn.prepare_cached(&sql).map_err(fail)?;
            let rows = select.query_map((wallet.0,), |row| Ok(decode(row))).map_err(fail)?;
            rows.map(|row| row.map_err(fail)?).collect()
        })
        .await
    }

    async fn revoke_api_key(&self, wallet: Wallet, id: KeyId) -> Result<bool, StoreError> {
        self.write(Revoke { wallet, id }).await
    }

    async fn note_api_keys_used(&self, uses: Vec<(KeyId, UnixMillis)>) -> Result<(), StoreError> {
        self.write(NoteUses(uses)).await
    }
}

fn decode(row: &Row<'_>) -> Result<ApiKeyRecord, StoreError> {
    let read = |row: &Row<'_>| -> rusqlite::Result<_> {
        let texts: (String, String) = (row.get(3)?, row.get(4)?);
        let times: (i64, i64, Option<i64>) = (row.get(6)?, row.get(7)?, row.get(8)?);
        Ok((row.get::<_, i64>(0)?, row.get(1)?, row.get(2)?, texts, row.get(5)?, times))
    };
    let (id, wallet, name, (form, scope), digest, (created_at, expires_at, used_at)) =
        read(row).map_err(|error| StoreError::sql("read an API key", error))?;
    Ok(ApiKeyRecord {
        id: KeyId::from_bits(id.cast_unsigned()),
        wallet: Wallet(wallet),
        name,
        form: form_of(&form)?,
        scope: scope_of(&scope)?,
        digest,
        created_at: millis(created_at),
        expires_at: millis(expires_at),
        used_at: used_at.map(millis),
    })
}

impl Command for NewApiKey {
    type Answer = ApiKeyOutcome;
    const NAME: &'static str = "keep an API key";

    fn apply(&self, tx: &Tx<'_>) -> Result<ApiKeyOutcome, StoreError> {
        self.keep(tx.conn).map_err(|error| StoreError::sql(Self::NAME, error))
    }
}

impl NewApiKey {
    fn keep(&self, conn: &Connection) -> rusqlite::Result<ApiKeyOutcome> {
        let (wallet, now) = (&self.key.wallet.0, integer(self.key.created_at.0));
        let former = match self.former(conn)? {
            Some((_, false)) => return Ok(ApiKeyOutcome::Mismatch),
            Some((id, true)) => Some(id),
            None => None,
        };
        let (all, good): (u32, u32) = conn
            .prepare_cached("SELECT count(*), count(*) FILTER (WHERE expires_at > ?2) FROM api_keys WHERE wallet = ?1 AND id IS NOT ?3")?
            .query_row((wallet, now, former), |row| Ok((row.get(0)?, row.get(1)?)))?;
        if good >= self.most {
            return Ok(ApiKeyOutcome::TooMany);
        }
        if all >= self.most {
            conn.prepare_cached("DELETE FROM api_keys WHERE wallet = ?1 AND expires_at <= ?2")?
                .execute((wallet, now))?;
        }
        if let Some(id) = former {
            conn.prepare_cached("DELETE FROM api_keys WHERE id = ?1")?.execute((id,))?;
        }
        self.insert(conn)?;
        Ok(former.map_or(ApiKeyOutcome::Kept, |id| ApiKeyOutcome::Replaced(KeyId::from_bits(id.cast_unsigned()))))
    }

    /// The key that the same request made, and whether it was the same.
    fn former(&self, conn: &Connection) -> rusqlite::Result<Option<(i64, bool)>> {
        let Some(idempotency) = &self.idempotency else { return Ok(None) };
        let since = integer(self.key.created_at.0.saturating_sub(KEY_LIFE_MS));
        conn.prepare_cached(
            "SELECT id, request = ?4 FROM api_keys WHERE wallet = ?1 AND idempotency = ?2 AND created_at > ?3",
        )?
        .query_row((&self.key.wallet.0, &idempotency.key, since, &idempotency.request), |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()
    }

    fn insert(&self, conn: &Connection) -> rusqlite::Result<()> {
        let Self { key, idempotency, .. } = self;
        if let Some(idempotency) = idempotency {
            // Its day is over: it stands for this request from here on.
            let forget =
                "UPDATE api_keys SET idempotency = NULL, request = NULL WHERE wallet = ?1 AND idempotency = ?2";
            conn.prepare_cached(forget)?.execute((&key.wallet.0, &idempotency.key))?;
        }
        conn.prepare_cached(
            "INSERT INTO api_keys (id, wallet, name, form, scope, digest, created_at, expires_at, idempotency, request) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?
        .execute(params![
            key.id.bits().cast_signed(),
            &key.wallet.0,
            key.name,
            key.form.as_str(),
            key.scope.as_str(),
            &key.digest,
            integer(key.created_at.0),
            integer(key.expires_at.0),
            idempotency.as_ref().map(|idempotency| &idempotency.key),
            idempotency.as_ref().map(|idempotency| &idempotency.request),
        ])
        .map(drop)
    }
}

struct Revoke {
    wallet: Wallet,
    id: KeyId,
}

impl Command for Revoke {
    type Answer = bool;
    const NAME: &'static str = "revoke an API key";

    fn is_essential(&self) -> bool {
        true
    }

    fn apply(&self, tx: &Tx<'_>) -> Result<bool, StoreError> {
        let gone = tx
            .conn
            .prepare_cached("DELETE FROM api_keys WHERE id = ?1 AND wallet = ?2")
            .and_then(|mut delete| delete.execute((self.id.bits().cast_signed(), &self.wallet.0)));
        gone.map(|rows| rows == 1).map_err(|error| StoreError::sql(Self::NAME, error))
    }
}

struct NoteUses(Vec<(KeyId, UnixMillis)>);

impl Command for NoteUses {
    type Answer = ();
    const NAME: &'static str = "note when API keys were used";

    fn apply(&self, tx: &Tx<'_>) -> Result<(), StoreError> {
        let note = || -> rusqlite::Result<()> {
            let sql = "UPDATE api_keys SET used_at = ?2 WHERE id = ?1 AND coalesce(used_at, 0) < ?2";
            let mut update = tx.conn.prepare_cached(sql)?;
            for (id, at) in &self.0 {
                update.execute((id.bits().cast_signed(), integer(at.0)))?;
            }
            Ok(())
        };
        note().map_err(|error| StoreError::sql(Self::NAME, error))
    }
}
