//! All sealed keys at once, in a database that no gateway uses.

use domain::{Address, UnixMillis};
use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{Connection, PgConnection, Row, query};

use super::{lease, schema};
use crate::codec::integer;
use crate::error::StoreError;
use crate::keys::{SealedIdentity, SealedRow, SecretName};
use crate::pod::id_from;
use crate::record::PodRowId;
use crate::table::CopyError;

const NAME: &str = "seal the keys anew";

/// One connection, one transaction.
pub(crate) struct PostgresKeys(PgConnection);

impl PostgresKeys {
    /// Opens it, and keeps gateways out until this is dropped.
    pub(crate) async fn open(options: &PgConnectOptions, place: &str) -> Result<Self, CopyError> {
        let mut conn = PgConnection::connect_with(options).await.map_err(sql)?;
        schema::look(&mut conn, place).await?.must_be_current()?;
        if !lease::begin_alone(&mut conn).await.map_err(sql)? {
            return Err(CopyError::InUse(place.to_owned()));
        }
        Ok(Self(conn))
    }

    pub(crate) async fn rows(&mut self) -> Result<Vec<SealedRow>, StoreError> {
        let secrets = query("SELECT name, sealed FROM secrets").fetch_all(&mut self.0).await.map_err(sql)?;
        let secret = |row: PgRow| Ok(SealedRow::Secret { name: row.try_get(0)?, sealed: row.try_get(1)? });
        let mut all = secrets.into_iter().map(secret).collect::<sqlx::Result<Vec<_>>>().map_err(sql)?;
        let identities = "SELECT key, name, address, sealed FROM identities JOIN pods ON pods.key = identities.pod \
                          ORDER BY key";
        for row in query(identities).fetch_all(&mut self.0).await.map_err(sql)? {
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
        .execute(&mut self.0)
        .await
        .map(drop)
        .map_err(sql)
    }

    pub(crate) async fn delete(&mut self, row: &SealedRow) -> Result<(), StoreError> {
        match row {
            SealedRow::Secret { name, .. } => query("DELETE FROM secrets WHERE name = $1").bind(name),
            SealedRow::Identity { row, .. } => query("DELETE FROM identities WHERE pod = $1").bind(row.0.cast_signed()),
        }
        .execute(&mut self.0)
        .await
        .map(drop)
        .map_err(sql)
    }

    pub(crate) async fn insert_secret(
        &mut self,
        name: SecretName,
        sealed: &[u8],
        now: UnixMillis,
    ) -> Result<(), StoreError> {
        let insert = query("INSERT INTO secrets (name, sealed, made_at) VALUES ($1, $2, $3)");
        let insert = insert.bind(name.as_str()).bind(sealed).bind(integer(now.0));
        insert.execute(&mut self.0).await.map(drop).map_err(sql)
    }

    pub(crate) async fn commit(mut self) -> Result<(), StoreError> {
        durable::failpoint("reseal", "committing");
        query("COMMIT").execute(&mut self.0).await.map_err(sql)?;
        durable::failpoint("reseal", "committed");
        self.0.close().await.map_err(sql)
    }
}

fn identity(row: &PgRow) -> Result<SealedRow, StoreError> {
    let key = PodRowId(row.try_get::<i64, _>(0).map_err(sql)?.cast_unsigned());
    let pod = id_from(key, row.try_get(1).map_err(sql)?)?;
    let address = Address::from(row.try_get::<[u8; 20], _>(2).map_err(sql)?);
    let sealed = row.try_get(3).map_err(sql)?;
    Ok(SealedRow::Identity { row: key, pod, identity: SealedIdentity { address, sealed } })
}

fn sql(error: sqlx::Error) -> StoreError {
    StoreError::postgres(NAME, error)
}
