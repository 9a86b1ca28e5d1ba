//! Links of holders and owners.

use domain::{Address, Wallet};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::handle::Sqlite;
use super::writer::{Command, Tx};
use crate::codec::{integer, millis};
use crate::error::StoreError;
use crate::links::{AccountLink, LinkStore};

struct Keep(AccountLink);

impl Command for Keep {
    type Answer = bool;
    const NAME: &'static str = "keep a link";

    fn apply(&self, tx: &Tx<'_>) -> Result<bool, StoreError> {
        let link = &self.0;
        let sql = "INSERT INTO links (holder, owner, text, holder_signature, owner_signature, signed_at) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (holder) DO UPDATE SET owner = ?2, text = ?3, \
                   holder_signature = ?4, owner_signature = ?5, signed_at = ?6 WHERE signed_at < ?6";
        let row = params![
            link.holder.0,
            link.owner.0.0,
            link.text,
            link.holder_signature,
            link.owner_signature,
            integer(link.signed_at.0)
        ];
        let kept = tx.conn.prepare_cached(sql).and_then(|mut insert| insert.execute(row));
        kept.map(|rows| rows == 1).map_err(|error| StoreError::sql(Self::NAME, error))
    }
}

impl LinkStore for Sqlite {
    async fn keep_link(&self, link: AccountLink) -> Result<bool, StoreError> {
        self.write(Keep(link)).await
    }

    async fn link_of(&self, holder: Wallet) -> Result<Option<AccountLink>, StoreError> {
        const NAME: &str = "read a link";
        self.read(NAME, move |conn| find(conn, holder).map_err(|error| StoreError::sql(NAME, error))).await
    }
}

fn find(conn: &Connection, holder: Wallet) -> rusqlite::Result<Option<AccountLink>> {
    let sql = "SELECT owner, text, holder_signature, owner_signature, signed_at FROM links WHERE holder = ?1";
    conn.prepare_cached(sql)?.query_row((holder.0,), |row| decode(holder, row)).optional()
}

fn decode(holder: Wallet, row: &Row<'_>) -> rusqlite::Result<AccountLink> {
    Ok(AccountLink {
        holder,
        owner: Address::from(row.get::<_, [u8; 20]>(0)?),
        text: row.get(1)?,
        holder_signature: row.get(2)?,
        owner_signature: row.get(3)?,
        signed_at: millis(row.get(4)?),
    })
}
