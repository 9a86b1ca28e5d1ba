//! What each payer's authorization pays for: a request to an agent, or a fee of the
//! relayer's. Whoever takes payments asks here, in the transaction that takes one.

use domain::payment::PaymentKey;
use domain::{B256, U256};
use rusqlite::{Connection, OptionalExtension};

use crate::codec::integer;

/// What an authorization pays for, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A request; which one, the payment's own row says.
    Request,
    /// The fee for this group of calls.
    Fee(B256),
}

impl Purpose {
    fn column(&self) -> &[u8] {
        match self {
            Self::Request => &[],
            Self::Fee(group) => group.as_slice(),
        }
    }
}

/// Whether the authorization pays for something else already.
pub(crate) fn is_other(conn: &Connection, key: &PaymentKey, purpose: Purpose) -> rusqlite::Result<bool> {
    let sql = "SELECT purpose FROM spent_payments WHERE chain_id = ?1 AND asset = ?2 AND payer = ?3 AND nonce = ?4";
    let row = (integer(key.chain_id), key.asset.0.0, key.payer.0.0, key.nonce.0);
    let found: Option<Vec<u8>> = conn.prepare_cached(sql)?.query_row(row, |row| row.get(0)).optional()?;
    Ok(found.is_some_and(|found| found != purpose.column()))
}

/// Notes what the authorization pays for, unless it is noted: ask [`is_other`] first.
/// No token takes it from the second `valid_before` on.
pub(crate) fn note(conn: &Connection, key: &PaymentKey, purpose: Purpose, valid_before: U256) -> rusqlite::Result<()> {
    let sql = "INSERT INTO spent_payments (chain_id, asset, payer, nonce, purpose, valid_before) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING";
    let name = (key.asset.0.0, key.payer.0.0, key.nonce.0);
    let row = (integer(key.chain_id), name.0, name.1, name.2, purpose.column(), integer(valid_before.saturating_to()));
    conn.prepare_cached(sql)?.execute(row).map(drop)
}
