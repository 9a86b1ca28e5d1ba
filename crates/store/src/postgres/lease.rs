//! Which gateways use this database. Each has a row that it renews; whoever has not
//! renewed it for a while is taken for gone, by the server's clock.

use std::time::Duration;

use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{PgConnection, PgPool, query};
use tokio::task::JoinHandle;

use crate::error::StoreError;
use crate::record::GatewayEpoch;

/// Between two renewals.
const RENEW: Duration = Duration::from_secs(3);
/// Seconds for which a renewal holds: several may fail.
const HOLDS_S: f64 = 20.0;

pub(crate) const WRITE: &str = "say that this gateway is there";

/// Takes the lease, and keeps it until the task is ended.
pub(crate) async fn keep(pool: PgPool, epoch: GatewayEpoch) -> Result<JoinHandle<()>, StoreError> {
    renew(&pool, epoch).await.map_err(|error| StoreError::postgres(WRITE, error))?;
    Ok(tokio::spawn(async move {
        loop {
            tokio::time::sleep(RENEW).await;
            if let Err(error) = renew(&pool, epoch).await {
                tracing::warn!(%error, "this gateway's lease in the database cannot be renewed; trying again");
            }
        }
    }))
}

async fn renew(pool: &PgPool, epoch: GatewayEpoch) -> sqlx::Result<()> {
    statement(epoch).execute(pool).await.map(drop)
}

/// Begins a transaction during which no gateway uses the database; `false` if one does.
pub(crate) async fn begin_alone(conn: &mut PgConnection) -> sqlx::Result<bool> {
    query("BEGIN ISOLATION LEVEL REPEATABLE READ").execute(&mut *conn).await?;
    // No gateway begins, and one that was only held up keeps no key. Locks take no snapshot: what
    // others commit before they are granted is seen.
    query("LOCK TABLE gateways, secrets, identities IN SHARE ROW EXCLUSIVE MODE").execute(&mut *conn).await?;
    let used = query("SELECT 1 FROM gateways WHERE holds_until > now()").fetch_optional(conn).await?;
    Ok(used.is_none())
}

/// Takes the lease, or renews it.
pub(crate) fn statement(epoch: GatewayEpoch) -> Query<'static, sqlx::Postgres, PgArguments> {
    // Rows of those that are long gone go too.
    let sql = "WITH gone AS (DELETE FROM gateways WHERE holds_until < now() - interval '1 day' AND epoch <> $1) \
               INSERT INTO gateways (epoch, holds_until) VALUES ($1, now() + make_interval(secs => $2)) \
               ON CONFLICT (epoch) DO UPDATE SET holds_until = excluded.holds_until";
    query(sql).bind(epoch.0.cast_signed()).bind(HOLDS_S)
}
