//! Transactions of our own accounts.

use domain::evm::{IntentKey, OutboxEntry, SenderAccount, TransactionAttempt, TransactionOutcome};
use sqlx::{PgConnection, Row, query};

use super::database::{Command, Postgres, Tx};
use super::json::{parse_json, to_json};
use crate::codec::{integer, natural};
use crate::error::StoreError;
use crate::outbox::{Change, OutboxOutcome, OutboxStore, is_pending};

const READ: &str = "read the outbox";
const WRITE: &str = "write to the outbox";

impl OutboxStore for Postgres {
    async fn outbox_find(&self, account: SenderAccount, key: IntentKey) -> Result<Option<OutboxEntry>, StoreError> {
        let sql = "SELECT body FROM outbox WHERE chain_id = $1 AND account = $2 AND key = $3";
        let (chain, address) = columns(&account);
        self.one(READ, query(sql).bind(chain).bind(address).bind(key.as_str().to_owned()), |row| parse_json(row, 0))
            .await
    }

    async fn outbox_pending(&self, account: SenderAccount) -> Result<Vec<OutboxEntry>, StoreError> {
        let sql = "SELECT body FROM outbox WHERE chain_id = $1 AND account = $2 AND pending ORDER BY nonce";
        let (chain, address) = columns(&account);
        self.many(READ, query(sql).bind(chain).bind(address), |row| parse_json(row, 0)).await
    }

    async fn outbox_highest(&self, account: SenderAccount) -> Result<Option<u64>, StoreError> {
        let sql = "SELECT max(nonce) FROM outbox WHERE chain_id = $1 AND account = $2";
        let (chain, address) = columns(&account);
        let highest: Option<Option<i64>> =
            self.one(READ, query(sql).bind(chain).bind(address), |row| row.try_get(0)).await?;
        Ok(highest.flatten().map(natural))
    }

    async fn outbox_write(&self, entry: OutboxEntry) -> Result<OutboxOutcome, StoreError> {
        let (chain, address) = columns(&entry.account);
        // Both the key and the nonce are unique.
        let insert = query(
            "INSERT INTO outbox (chain_id, account, nonce, key, pending, body) VALUES ($1, $2, $3, $4, $5, $6) \
             ON CONFLICT DO NOTHING",
        )
        .bind(chain)
        .bind(address)
        .bind(integer(entry.nonce))
        .bind(entry.key.as_str().to_owned())
        .bind(is_pending(&entry))
        .bind(to_json(&entry).map_err(|error| StoreError::postgres(WRITE, error))?);
        Ok(if self.execute(WRITE, insert).await? == 1 { OutboxOutcome::Done } else { OutboxOutcome::Conflict })
    }

    async fn outbox_add(
        &self,
        account: SenderAccount,
        nonce: u64,
        attempt: TransactionAttempt,
    ) -> Result<OutboxOutcome, StoreError> {
        self.write(Update { account, nonce, change: Change::Add(attempt) }).await
    }

    async fn outbox_settle(
        &self,
        account: SenderAccount,
        nonce: u64,
        outcome: TransactionOutcome,
    ) -> Result<OutboxOutcome, StoreError> {
        self.write(Update { account, nonce, change: Change::Settle(outcome) }).await
    }
}

struct Update {
    account: SenderAccount,
    nonce: u64,
    change: Change,
}

impl Command for Update {
    type Answer = OutboxOutcome;
    const NAME: &'static str = WRITE;

    async fn apply(&self, tx: &mut Tx) -> Result<OutboxOutcome, StoreError> {
        let fail = |error| StoreError::postgres(WRITE, error);
        let Some(mut entry) = self.pending(tx.conn()).await.map_err(fail)? else {
            return Ok(OutboxOutcome::Conflict);
        };
        self.change.make(&mut entry);
        self.update(tx.conn(), &entry).await.map_err(fail)?;
        Ok(OutboxOutcome::Done)
    }
}

impl Update {
    async fn pending(&self, conn: &mut PgConnection) -> sqlx::Result<Option<OutboxEntry>> {
        let sql = "SELECT body FROM outbox WHERE chain_id = $1 AND account = $2 AND nonce = $3 AND pending FOR UPDATE";
        let (chain, address) = columns(&self.account);
        let found = query(sql).bind(chain).bind(address).bind(integer(self.nonce)).fetch_optional(conn).await?;
        found.map(|row| parse_json(&row, 0)).transpose()
    }

    async fn update(&self, conn: &mut PgConnection, entry: &OutboxEntry) -> sqlx::Result<()> {
        let sql = "UPDATE outbox SET pending = $4, body = $5 WHERE chain_id = $1 AND account = $2 AND nonce = $3";
        let (chain, address) = columns(&self.account);
        let update = query(sql).bind(chain).bind(address).bind(integer(self.nonce));
        update.bind(is_pending(entry)).bind(to_json(entry)?).execute(conn).await.map(drop)
    }
}

fn columns(account: &SenderAccount) -> (i64, [u8; 20]) {
    (integer(account.chain_id), account.address.0.0)
}
