//! All sealed keys at once, in a database that no gateway uses.

use domain::{Address, UnixMillis};
use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{Connection, PgConnection, Row, query};

use super::database::bounded;
use super::row::names;
use super::{lease, schema};
use crate::aside::AsideIdentity;
use crate::codec::{integer, millis};
use crate::config::Config;
use crate::error::StoreError;
use crate::found::FoundDatabase;
use crate::keys::{KEY_FORGOTTEN, RestoredKey, SealedIdentity, SealedRow};
use crate::pod::id_from;
use crate::record::PodRowId;
use crate::table::CopyError;

const NAME: &str = "seal the keys anew";
const IDENTITIES: &str = "SELECT key, name, address, sealed, erased_at FROM identities JOIN pods \
                          ON pods.key = identities.pod ORDER BY key";
/// The same where erasures are not noted yet.
const IDENTITIES_BEFORE: &str = "SELECT key, name, address, sealed, NULL::bigint FROM identities JOIN pods \
                                 ON pods.key = identities.pod ORDER BY key";

/// One connection, one transaction.
pub(crate) struct PostgresKeys {
    conn: PgConnection,
    /// Whether its schema knows when keys were erased.
    notes_erasure: bool,
}

impl PostgresKeys {
    /// Opens it, unless `refuse` says no to what it is, and keeps gateways out until this is dropped.
    pub(crate) async fn open(
        options: PgConnectOptions,
        config: &Config,
        refuse: impl FnOnce(&FoundDatabase) -> Result<(), StoreError>,
    ) -> Result<Self, CopyError> {
        let place = config.name();
        let mut conn = PgConnection::connect_with(&bounded(options, config.timeout_ms)).await.map_err(sql)?;
        let found = schema::look(&mut conn, &place).await?;
        refuse(&found)?;
        if !lease::begin_alone(&mut conn).await.map_err(sql)? {
            return Err(CopyError::InUse(place));
        }
        Ok(Self { conn, notes_erasure: found.schema >= schema::NOTES_ERASURE })
    }

    pub(crate) async fn rows(&mut self) -> Result<Vec<SealedRow>, StoreError> {
        let secrets = query("SELECT name, sealed FROM secrets").fetch_all(&mut self.conn).await.map_err(sql)?;
        let secret = |row: PgRow| Ok(SealedRow::Secret { name: row.try_get(0)?, sealed: row.try_get(1)? });
        let mut all = secrets.into_iter().map(secret).collect::<sqlx::Result<Vec<_>>>().map_err(sql)?;
        let identities = if self.notes_erasure { IDENTITIES } else { IDENTITIES_BEFORE };
        for row in query(identities).fetch_all(&mut self.conn).await.map_err(sql)? {
            all.push(identity(&row)?);
        }
        Ok(all)
    }

    pub(crate) async fn put(&mut self, row: &SealedRow) -> Result<(), StoreError> {
        match row {
            SealedRow::Secret { name, sealed } => {
                query("UPDATE secrets SET sealed = $2 WHERE name = $1").bind(name).bind(sealed)
            }
            SealedRow::Identity { row, identity, .. } => query("UPDATE identities SET sealed = $2 WHERE pod = $1")
                .bind(row.0.cast_signed())
                .bind(&identity.sealed),
        }
        .execute(&mut self.conn)
        .await
        .map_err(sql)
        .and_then(|done| match done.rows_affected() {
            1 => Ok(()),
            _ => Err(StoreError::Value("a key whose row is not there")),
        })
    }

    pub(crate) async fn forget(&mut self, pod: PodRowId) -> Result<(), StoreError> {
        for delete in
            ["DELETE FROM identities WHERE pod = $1", "DELETE FROM deploys WHERE pod = $1 AND state = 'unsigned'"]
        {
            query(delete).bind(pod.0.cast_signed()).execute(&mut self.conn).await.map_err(sql)?;
        }
        let unsign = "UPDATE deploys SET state = 'unsigned', deadline = NULL, signature = NULL, reason = $2 \
                      WHERE pod = $1 AND state = 'deploying'";
        let unsign = query(unsign).bind(pod.0.cast_signed()).bind(KEY_FORGOTTEN);
        unsign.execute(&mut self.conn).await.map(drop).map_err(sql)
    }

    pub(crate) async fn restore(&mut self, aside: &AsideIdentity, now: UnixMillis) -> Result<RestoredKey, StoreError> {
        let AsideIdentity { pod, identity, erased_at } = aside;
        // One of this id that was removed since then took its key with it, whoever has the id now.
        let find = "SELECT key FROM pods WHERE removed_at IS NULL AND erased_at IS NOT DISTINCT FROM $3 \
                    AND (name = $2 OR key = $1 AND name IS NULL) FOR SHARE";
        let (key, name) = names(pod);
        let find = query(find).bind(key).bind(name).bind(erased_at.map(|at| integer(at.0)));
        let Some(found) = find.fetch_optional(&mut self.conn).await.map_err(sql)? else {
            return Ok(RestoredKey::Removed);
        };
        let insert = query(
            "INSERT INTO identities (pod, address, sealed, made_at) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
        );
        let insert = insert.bind(found.try_get::<i64, _>(0).map_err(sql)?).bind(identity.address.0.0);
        let insert = insert.bind(&identity.sealed).bind(integer(now.0));
        let inserted = insert.execute(&mut self.conn).await.map_err(sql)?.rows_affected();
        Ok(if inserted == 0 { RestoredKey::HasKey } else { RestoredKey::Restored })
    }

    pub(crate) async fn commit(mut self) -> Result<(), StoreError> {
        durable::failpoint("reseal", "committing");
        query("COMMIT").execute(&mut self.conn).await.map_err(sql)?;
        durable::failpoint("reseal", "committed");
        if let Err(error) = self.conn.close().await {
            tracing::warn!(%error, "it is done, and the connection to the database did not end well");
        }
        Ok(())
    }
}

fn identity(row: &PgRow) -> Result<SealedRow, StoreError> {
    let key = PodRowId(row.try_get::<i64, _>(0).map_err(sql)?.cast_unsigned());
    let pod = id_from(key, row.try_get(1).map_err(sql)?)?;
    let address = Address::from(row.try_get::<[u8; 20], _>(2).map_err(sql)?);
    let sealed = row.try_get(3).map_err(sql)?;
    let erased_at = row.try_get::<Option<i64>, _>(4).map_err(sql)?.map(millis);
    Ok(SealedRow::Identity { row: key, pod, identity: SealedIdentity { address, sealed }, erased_at })
}

fn sql(error: sqlx::Error) -> StoreError {
    StoreError::postgres(NAME, error)
}
