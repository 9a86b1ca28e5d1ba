//! Vaults that PODs are to have.

use domain::{Address, B256, PodId, UnixMillis};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::handle::Sqlite;
use super::row::key_of;
use super::writer::{Command, Tx};
use crate::codec::{integer, natural};
use crate::deploys::{DeployState, DeployStore, MAX_LISTED, VaultConsent, VaultDeploy};
use crate::error::StoreError;
use crate::pod::id_from;
use crate::record::PodRowId;

struct Put {
    deploy: VaultDeploy,
    now: UnixMillis,
}

impl Command for Put {
    type Answer = ();
    const NAME: &'static str = "note a POD's vault";

    fn apply(&self, tx: &Tx<'_>) -> Result<(), StoreError> {
        let written = self.write(tx.conn).map_err(|error| StoreError::sql(Self::NAME, error))?;
        if written { Ok(()) } else { Err(StoreError::NoPod(self.deploy.pod)) }
    }
}

impl Put {
    /// Whether there is such a POD.
    fn write(&self, conn: &Connection) -> rusqlite::Result<bool> {
        let deploy = &self.deploy;
        let Some(key) = key_of(conn, &deploy.pod)? else { return Ok(false) };
        // What is on the chain stays there, and what its owner signed for is on its way, whatever a
        // slower writer believes.
        let sql = "INSERT INTO deploys (pod, owner, agent_wallet, address, state, deadline, signature, tx, reason, \
                   changed_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT (pod) DO UPDATE SET \
                   owner = ?2, agent_wallet = ?3, address = ?4, state = ?5, deadline = ?6, signature = ?7, tx = ?8, \
                   reason = ?9, changed_at = ?10 WHERE state <> 'deployed' \
                   AND (state <> 'deploying' OR signature IS NULL OR excluded.signature IS NOT NULL)";
        let consent = deploy.consent.as_ref();
        conn.prepare_cached(sql)?.execute(params![
            key.0.cast_signed(),
            deploy.owner.0.0,
            deploy.agent_wallet.0.0,
            deploy.address.0.0,
            deploy.state.as_str(),
            consent.map(|consent| integer(consent.deadline)),
            consent.map(|consent| &consent.signature),
            deploy.tx.map(|tx| tx.0),
            deploy.reason,
            integer(self.now.0),
        ])?;
        Ok(true)
    }
}

struct Postpone {
    pod: PodId,
    now: UnixMillis,
}

impl Command for Postpone {
    type Answer = ();
    const NAME: &'static str = "postpone a POD's vault";

    fn apply(&self, tx: &Tx<'_>) -> Result<(), StoreError> {
        let sql = |error| StoreError::sql(Self::NAME, error);
        let Some(key) = key_of(tx.conn, &self.pod).map_err(sql)? else { return Ok(()) };
        let update = "UPDATE deploys SET changed_at = ?2 WHERE pod = ?1 AND state = 'deploying'";
        let mut update = tx.conn.prepare_cached(update).map_err(sql)?;
        update.execute((key.0.cast_signed(), integer(self.now.0))).map(drop).map_err(sql)
    }
}

impl DeployStore for Sqlite {
    async fn put_deploy(&self, deploy: VaultDeploy, now: UnixMillis) -> Result<(), StoreError> {
        self.write(Put { deploy, now }).await
    }

    async fn deploy_of(&self, pod: PodId) -> Result<Option<VaultDeploy>, StoreError> {
        const NAME: &str = "read a POD's vault";
        self.read(NAME, move |conn| find(conn, &pod).map_err(|error| StoreError::sql(NAME, error))).await
    }

    async fn is_deploying(&self, vault: Address) -> Result<bool, StoreError> {
        const NAME: &str = "look for a vault on its way";
        let sql = "SELECT 1 FROM deploys WHERE state = 'deploying' AND address = ?1 LIMIT 1";
        self.read(NAME, move |conn| {
            let found = conn.prepare_cached(sql).and_then(|mut find| find.exists((vault.0.0,)));
            found.map_err(|error| StoreError::sql(NAME, error))
        })
        .await
    }

    async fn postpone_deploy(&self, pod: PodId, now: UnixMillis) -> Result<(), StoreError> {
        self.write(Postpone { pod, now }).await
    }

    async fn deploying(&self) -> Result<Vec<VaultDeploy>, StoreError> {
        const NAME: &str = "list the vaults on their way";
        self.read(NAME, |conn| list(conn).map_err(|error| StoreError::sql(NAME, error))).await
    }
}

const SELECT: &str = "SELECT key, owner, agent_wallet, address, state, deadline, signature, tx, reason, name \
                      FROM deploys JOIN pods ON pods.key = deploys.pod";

fn find(conn: &Connection, pod: &PodId) -> rusqlite::Result<Option<VaultDeploy>> {
    let Some(key) = key_of(conn, pod)? else { return Ok(None) };
    conn.prepare_cached(&format!("{SELECT} WHERE key = ?1"))?.query_row((key.0.cast_signed(),), decode).optional()
}

fn list(conn: &Connection) -> rusqlite::Result<Vec<VaultDeploy>> {
    let sql = format!("{SELECT} WHERE state = 'deploying' ORDER BY changed_at LIMIT ?1");
    conn.prepare_cached(&sql)?.query_map((MAX_LISTED,), decode)?.collect()
}

fn decode(row: &Row<'_>) -> rusqlite::Result<VaultDeploy> {
    let address = |column| row.get::<_, [u8; 20]>(column).map(Address::from);
    let deadline: Option<i64> = row.get(5)?;
    let signature: Option<Vec<u8>> = row.get(6)?;
    Ok(VaultDeploy {
        pod: pod(row)?,
        owner: address(1)?,
        agent_wallet: address(2)?,
        address: address(3)?,
        state: state(row)?,
        consent: deadline.zip(signature).map(|(end, signature)| VaultConsent { deadline: natural(end), signature }),
        tx: row.get::<_, Option<[u8; 32]>>(7)?.map(B256::from),
        reason: row.get(8)?,
    })
}

fn pod(row: &Row<'_>) -> rusqlite::Result<PodId> {
    let key = PodRowId(row.get::<_, i64>(0)?.cast_unsigned());
    id_from(key, row.get(9)?).map_err(|error| rusqlite::Error::FromSqlConversionFailure(9, Type::Text, Box::new(error)))
}

fn state(row: &Row<'_>) -> rusqlite::Result<DeployState> {
    let text: String = row.get(4)?;
    let invalid = || rusqlite::Error::InvalidColumnName(format!("the state of a vault: {text:?}"));
    DeployState::parse(&text).ok_or_else(invalid)
}
