//! What each payer's authorization pays for.

use domain::U256;
use domain::payment::PaymentKey;
use rusqlite::{Connection, OptionalExtension};

use crate::codec::integer;
use crate::purposes::AuthorizationPurpose;

/// Whether the authorization pays for something else already.
pub(crate) fn is_other(conn: &Connection, key: &PaymentKey, purpose: AuthorizationPurpose) -> rusqlite::Result<bool> {
    let sql = "SELECT purpose FROM spent_payments WHERE chain_id = ?1 AND asset = ?2 AND payer = ?3 AND nonce = ?4";
    let row = (integer(key.chain_id), key.asset.0.0, key.payer.0.0, key.nonce.0);
    let found: Option<Vec<u8>> = conn.prepare_cached(sql)?.query_row(row, |row| row.get(0)).optional()?;
    Ok(found.is_some_and(|found| found != purpose.column()))
}

/// Notes what the authorization pays for, unless it is noted: ask [`is_other`] first.
/// No token takes it from the second `valid_before` on.
pub(crate) fn note(
    conn: &Connection,
    key: &PaymentKey,
    purpose: AuthorizationPurpose,
    valid_before: U256,
) -> rusqlite::Result<()> {
    let sql = "INSERT INTO spent_payments (chain_id, asset, payer, nonce, purpose, valid_before) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING";
    let name = (key.asset.0.0, key.payer.0.0, key.nonce.0);
    let row = (integer(key.chain_id), name.0, name.1, name.2, purpose.column(), integer(valid_before.saturating_to()));
    conn.prepare_cached(sql)?.execute(row).map(drop)
}
