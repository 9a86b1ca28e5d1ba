//! What requests to a POD cost.

use domain::{PodId, Usdc};
use sqlx::{Row, query};

use super::database::{Command, Postgres, Tx};
use super::row::{hold, names};
use crate::codec::{integer, natural};
use crate::error::StoreError;
use crate::prices::{PriceStore, Prices};

impl PriceStore for Postgres {
    async fn set_prices(&self, pod: PodId, prices: Prices) -> Result<(), StoreError> {
        self.write(Set { pod, prices }).await
    }

    async fn prices_of(&self, pod: PodId) -> Result<Prices, StoreError> {
        let sql = "SELECT path, amount FROM prices JOIN pods ON pods.key = prices.pod WHERE removed_at IS NULL \
                   AND (name = $2 OR key = $1 AND name IS NULL)";
        let (key, name) = names(&pod);
        let rows = query(sql).bind(key).bind(name);
        let found = self.many("read a POD's prices", rows, |row| Ok((row.try_get(0)?, Usdc(natural(row.try_get(1)?)))));
        Ok(found.await?.into_iter().collect())
    }
}

struct Set {
    pod: PodId,
    prices: Prices,
}

impl Command for Set {
    type Answer = ();
    const NAME: &'static str = "set a POD's prices";

    async fn apply(&self, tx: &mut Tx) -> Result<(), StoreError> {
        let written = self.write(tx).await.map_err(|error| StoreError::postgres(Self::NAME, error))?;
        if written { Ok(()) } else { Err(StoreError::NoPod(self.pod)) }
    }
}

impl Set {
    /// Whether there is such a POD.
    async fn write(&self, tx: &mut Tx) -> sqlx::Result<bool> {
        let Some(key) = hold(tx.conn(), &self.pod).await? else { return Ok(false) };
        let key = key.0.cast_signed();
        // Of two that set them at once, the later one's stand whole.
        query("SELECT pg_advisory_xact_lock(hashtextextended('prices', $1))").bind(key).execute(tx.conn()).await?;
        query("DELETE FROM prices WHERE pod = $1").bind(key).execute(tx.conn()).await?;
        for (path, price) in &self.prices {
            let insert = query("INSERT INTO prices (pod, path, amount) VALUES ($1, $2, $3)");
            insert.bind(key).bind(path).bind(integer(price.0)).execute(tx.conn()).await?;
        }
        Ok(true)
    }
}
