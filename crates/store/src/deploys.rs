//! Vaults that agents are to have: what their owners signed, and how far each is.

use domain::{Address, AgentId, B256, UnixMillis};
use rusqlite::{Connection, OptionalExtension, Row, params};
use wire::vault::VaultState;

use crate::codec::{id_column, id_of, integer, natural};
use crate::error::StoreError;
use crate::handle::Store;
use crate::writer::{Command, Tx};

/// Deployments in one list at most.
const MAX_LISTED: u32 = 256;

/// An agent's vault on its way onto the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deploy {
    /// Whose vault.
    pub agent: AgentId,
    /// Who owns it.
    pub owner: Address,
    /// The agent's own address.
    pub agent_wallet: Address,
    /// Where it is, or will be.
    pub address: Address,
    /// How far it is.
    pub state: VaultState,
    /// The owner's signature, and the Unix second at which it ends.
    pub consent: Option<Consent>,
    /// The transaction.
    pub tx: Option<B256>,
    /// Why it failed.
    pub reason: Option<String>,
}

/// An owner's signature for a vault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consent {
    /// Unix seconds until which it is good.
    pub deadline: u64,
    /// The signature's bytes.
    pub signature: Vec<u8>,
}

struct Put {
    deploy: Deploy,
    now: UnixMillis,
}

impl Command for Put {
    type Answer = ();
    const NAME: &'static str = "note an agent's vault";

    fn apply(&self, tx: &Tx<'_>) -> Result<(), StoreError> {
        self.write(tx.conn).map_err(|error| StoreError::sql(Self::NAME, error))
    }
}

impl Put {
    fn write(&self, conn: &Connection) -> rusqlite::Result<()> {
        let deploy = &self.deploy;
        // What is on the chain stays there, whatever a slower writer believes.
        let sql = "INSERT INTO deploys (agent, owner, agent_wallet, address, state, deadline, signature, tx, reason, \
                   changed_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT (agent) DO UPDATE SET \
                   owner = ?2, agent_wallet = ?3, address = ?4, state = ?5, deadline = ?6, signature = ?7, tx = ?8, \
                   reason = ?9, changed_at = ?10 WHERE state <> 'deployed'";
        let consent = deploy.consent.as_ref();
        conn.prepare_cached(sql)?.execute(params![
            id_column(deploy.agent),
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
        Ok(())
    }
}

impl Store {
    /// Notes how far an agent's vault is. One that is deployed stays so.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn put_deploy(&self, deploy: Deploy, now: UnixMillis) -> Result<(), StoreError> {
        self.write(Put { deploy, now }).await
    }

    /// An agent's vault.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn deploy_of(&self, agent: AgentId) -> Result<Option<Deploy>, StoreError> {
        const NAME: &str = "read an agent's vault";
        self.read(NAME, move |conn| find(conn, agent).map_err(|error| StoreError::sql(NAME, error))).await
    }

    /// The vaults that are on their way, the longest untouched first.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn deploying(&self) -> Result<Vec<Deploy>, StoreError> {
        const NAME: &str = "list the vaults on their way";
        self.read(NAME, |conn| list(conn).map_err(|error| StoreError::sql(NAME, error))).await
    }
}

const COLUMNS: &str = "agent, owner, agent_wallet, address, state, deadline, signature, tx, reason";

fn find(conn: &Connection, agent: AgentId) -> rusqlite::Result<Option<Deploy>> {
    let sql = format!("SELECT {COLUMNS} FROM deploys WHERE agent = ?1");
    conn.prepare_cached(&sql)?.query_row((id_column(agent),), decode).optional()
}

fn list(conn: &Connection) -> rusqlite::Result<Vec<Deploy>> {
    let sql = format!("SELECT {COLUMNS} FROM deploys WHERE state = 'deploying' ORDER BY changed_at LIMIT ?1");
    conn.prepare_cached(&sql)?.query_map((MAX_LISTED,), decode)?.collect()
}

fn decode(row: &Row<'_>) -> rusqlite::Result<Deploy> {
    let address = |column| row.get::<_, [u8; 20]>(column).map(Address::from);
    let deadline: Option<i64> = row.get(5)?;
    let signature: Option<Vec<u8>> = row.get(6)?;
    Ok(Deploy {
        agent: id_of(row.get(0)?),
        owner: address(1)?,
        agent_wallet: address(2)?,
        address: address(3)?,
        state: state(&row.get::<_, String>(4)?)?,
        consent: deadline.zip(signature).map(|(end, signature)| Consent { deadline: natural(end), signature }),
        tx: row.get::<_, Option<[u8; 32]>>(7)?.map(B256::from),
        reason: row.get(8)?,
    })
}

fn state(text: &str) -> rusqlite::Result<VaultState> {
    let all = [VaultState::Unsigned, VaultState::Deploying, VaultState::Deployed, VaultState::Failed];
    let found = all.into_iter().find(|state| state.as_str() == text);
    found.ok_or_else(|| rusqlite::Error::InvalidColumnName(format!("the state of a vault: {text:?}")))
}
