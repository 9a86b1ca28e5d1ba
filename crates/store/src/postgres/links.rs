//! Links of holders and owners.

use domain::{Address, Wallet};
use sqlx::postgres::PgRow;
use sqlx::{Row, query};

use super::database::Postgres;
use crate::codec::{integer, millis};
use crate::error::StoreError;
use crate::links::{AccountLink, LinkStore};

impl LinkStore for Postgres {
    async fn keep_link(&self, link: AccountLink) -> Result<bool, StoreError> {
        let insert = query(
            "INSERT INTO links (holder, owner, text, holder_signature, owner_signature, signed_at) \
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (holder) DO UPDATE SET owner = $2, text = $3, \
             holder_signature = $4, owner_signature = $5, signed_at = $6 WHERE links.signed_at < $6",
        )
        .bind(link.holder.0)
        .bind(link.owner.0.0)
        .bind(link.text)
        .bind(link.holder_signature)
        .bind(link.owner_signature)
        .bind(integer(link.signed_at.0));
        Ok(self.execute("keep a link", insert).await? == 1)
    }

    async fn link_of(&self, holder: Wallet) -> Result<Option<AccountLink>, StoreError> {
        let sql = "SELECT owner, text, holder_signature, owner_signature, signed_at FROM links WHERE holder = $1";
        self.one("read a link", query(sql).bind(holder.0), |row| decode(holder, row)).await
    }
}

fn decode(holder: Wallet, row: &PgRow) -> sqlx::Result<AccountLink> {
    Ok(AccountLink {
        holder,
        owner: Address::from(row.try_get::<[u8; 20], _>(0)?),
        text: row.try_get(1)?,
        holder_signature: row.try_get(2)?,
        owner_signature: row.try_get(3)?,
        signed_at: millis(row.try_get(4)?),
    })
}
