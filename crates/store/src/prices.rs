//! What requests to an agent cost, by the beginning of their path.

use std::collections::BTreeMap;

use domain::{AgentId, Usdc};
use rusqlite::Connection;

use crate::codec::{id_column, integer, natural};
use crate::error::StoreError;
use crate::handle::Store;
use crate::writer::{Command, Tx};

/// Prices by the beginning of a path.
pub type Prices = BTreeMap<String, Usdc>;

struct Set {
    agent: AgentId,
    prices: Prices,
}

impl Command for Set {
    type Answer = ();
    const NAME: &'static str = "set an agent's prices";

    fn apply(&self, tx: &Tx<'_>) -> Result<(), StoreError> {
        self.write(tx.conn).map_err(|error| StoreError::sql(Self::NAME, error))
    }
}

impl Set {
    fn write(&self, conn: &Connection) -> rusqlite::Result<()> {
        conn.prepare_cached("DELETE FROM prices WHERE agent = ?1")?.execute((id_column(self.agent),))?;
        let mut insert = conn.prepare_cached("INSERT INTO prices (agent, path, amount) VALUES (?1, ?2, ?3)")?;
        for (path, price) in &self.prices {
            insert.execute((id_column(self.agent), path, integer(price.0)))?;
        }
        Ok(())
    }
}

impl Store {
    /// Sets an agent's prices in place of the old ones.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn set_prices(&self, agent: AgentId, prices: Prices) -> Result<(), StoreError> {
        self.write(Set { agent, prices }).await
    }

    /// An agent's prices.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn prices_of(&self, agent: AgentId) -> Result<Prices, StoreError> {
        const NAME: &str = "read an agent's prices";
        self.read(NAME, move |conn| prices(conn, agent).map_err(|error| StoreError::sql(NAME, error))).await
    }
}

fn prices(conn: &Connection, agent: AgentId) -> rusqlite::Result<Prices> {
    let mut rows = conn.prepare_cached("SELECT path, amount FROM prices WHERE agent = ?1")?;
    let found = rows.query_map((id_column(agent),), |row| Ok((row.get(0)?, Usdc(natural(row.get(1)?)))))?;
    found.collect()
}
