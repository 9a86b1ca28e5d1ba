//! How a sealed secret is written, by whoever opens the database and by whoever works with it.

use domain::UnixMillis;
use sqlx::postgres::PgArguments;
use sqlx::query;
use sqlx::query::Query;

use crate::codec::integer;
use crate::keys::SecretName;

/// Keeps a secret, unless there is one of this name.
pub(super) fn insertion(name: SecretName, sealed: &[u8], now: UnixMillis) -> Query<'_, sqlx::Postgres, PgArguments> {
    // Whatever was removed before keys were sealed was so at an earlier instant, by any clock.
    let insert = query(
        "INSERT INTO secrets (name, sealed, made_at) VALUES ($1, $2, CASE $1 WHEN 'check' \
         THEN greatest($3, least(coalesce((SELECT max(erased_at) FROM pods), -1), 9223372036854775806) + 1) ELSE $3 \
         END) ON CONFLICT DO NOTHING",
    );
    insert.bind(name.as_str()).bind(sealed).bind(integer(now.0))
}
