//! What each payer's authorization pays for.

use domain::U256;
use domain::payment::PaymentKey;
use sqlx::{PgConnection, Row, query};

use crate::codec::integer;
use crate::purposes::AuthorizationPurpose;

/// Notes what the authorization pays for; `false` if it pays for something else already.
/// Of two that note at once, one waits for the other. No token takes it from the second
/// `valid_before` on.
pub(crate) async fn note(
    conn: &mut PgConnection,
    key: &PaymentKey,
    purpose: AuthorizationPurpose,
    valid_before: U256,
) -> sqlx::Result<bool> {
    let insert = query(
        "INSERT INTO spent_payments (chain_id, asset, payer, nonce, purpose, valid_before) \
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
    )
    .bind(integer(key.chain_id))
    .bind(key.asset.0.0)
    .bind(key.payer.0.0)
    .bind(key.nonce.0)
    .bind(purpose.column().to_vec())
    .bind(integer(valid_before.saturating_to()));
    if insert.execute(&mut *conn).await?.rows_affected() == 1 {
        return Ok(true);
    }
    let found =
        query("SELECT purpose FROM spent_payments WHERE chain_id = $1 AND asset = $2 AND payer = $3 AND nonce = $4")
            .bind(integer(key.chain_id))
            .bind(key.asset.0.0)
            .bind(key.payer.0.0)
            .bind(key.nonce.0);
    let found = found.fetch_one(conn).await?;
    Ok(found.try_get::<&[u8], _>(0)? == purpose.column())
}
