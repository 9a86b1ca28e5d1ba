//! What requests to a POD cost.

use domain::{PodId, Usdc};
use rusqlite::Connection;

use super::handle::Sqlite;
use super::row::key_of;
use super::writer::{Command, Tx};
use crate::codec::{integer, natural};
use crate::error::StoreError;
use crate::prices::{PriceStore, Prices};

struct Set {
    pod: PodId,
    prices: Prices,
}

impl Command for Set {
    type Answer = ();
    const NAME: &'static str = "set a POD's prices";

    fn apply(&self, tx: &Tx<'_>) -> Result<(), StoreError> {
        let written = self.write(tx.conn).map_err(|error| StoreError::sql(Self::NAME, error))?;
        if written { Ok(()) } else { Err(StoreError::NoPod(self.pod)) }
    }
}

impl Set {
    /// Whether there is such a POD.
    fn write(&self, conn: &Connection) -> rusqlite::Result<bool> {
        let Some(key) = key_of(conn, &self.pod)? else { return Ok(false) };
        let key = key.0.cast_signed();
        conn.prepare_cached("DELETE FROM prices WHERE pod = ?1")?.execute((key,))?;
        let mut insert = conn.prepare_cached("INSERT INTO prices (pod, path, amount) VALUES (?1, ?2, ?3)")?;
        for (path, price) in &self.prices {
            insert.execute((key, path, integer(price.0)))?;
        }
        Ok(true)
    }
}

impl PriceStore for Sqlite {
    async fn set_prices(&self, pod: PodId, prices: Prices) -> Result<(), StoreError> {
        self.write(Set { pod, prices }).await
    }

    async fn prices_of(&self, pod: PodId) -> Result<Prices, StoreError> {
        const NAME: &str = "read a POD's prices";
        self.read(NAME, move |conn| prices(conn, &pod).map_err(|error| StoreError::sql(NAME, error))).await
    }
}

fn prices(conn: &Connection, pod: &PodId) -> rusqlite::Result<Prices> {
    let Some(key) = key_of(conn, pod)? else { return Ok(Prices::new()) };
    let mut rows = conn.prepare_cached("SELECT path, amount FROM prices WHERE pod = ?1")?;
    let found = rows.query_map((key.0.cast_signed(),), |row| Ok((row.get(0)?, Usdc(natural(row.get(1)?)))))?;
    found.collect()
}
