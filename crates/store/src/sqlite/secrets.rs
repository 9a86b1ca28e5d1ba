//! How a sealed secret is written, by whoever opens the database and by whoever works with it.

use domain::UnixMillis;
use rusqlite::Connection;

use crate::codec::integer;
use crate::keys::SecretName;

/// Keeps a secret, unless there is one of this name.
pub(super) fn insert(conn: &Connection, name: SecretName, sealed: &[u8], now: UnixMillis) -> rusqlite::Result<()> {
    // Whatever was removed before keys were sealed was so at an earlier instant, by any clock.
    let sql = "INSERT INTO secrets (name, sealed, made_at) VALUES (?1, ?2, CASE ?1 WHEN 'check' \
               THEN max(?3, min(coalesce((SELECT max(erased_at) FROM pods), -1), 9223372036854775806) + 1) ELSE ?3 \
               END) ON CONFLICT DO NOTHING";
    conn.prepare_cached(sql)?.execute((name.as_str(), sealed, integer(now.0))).map(drop)
}
