//! Vaults that PODs are to have.

use domain::{Address, B256, PodId, UnixMillis};
use sqlx::postgres::PgRow;
use sqlx::{Row, query};

use super::database::{Command, Postgres, Tx};
use super::row::{hold, names};
use crate::codec::{integer, natural};
use crate::deploys::{DeployState, DeployStore, MAX_LISTED, VaultConsent, VaultDeploy};
use crate::error::StoreError;
use crate::pod::id_from;
use crate::record::PodRowId;

/// `SELECT` of whole deployments, with what follows the tables.
macro_rules! select_deploys {
    ($tail:literal) => {
        concat!(
            "SELECT key, owner, agent_wallet, address, state, deadline, signature, tx, reason, name ",
            "FROM deploys JOIN pods ON pods.key = deploys.pod ",
            $tail
        )
    };
}

impl DeployStore for Postgres {
    async fn put_deploy(&self, deploy: VaultDeploy, now: UnixMillis) -> Result<(), StoreError> {
        self.write(Put { deploy, now }).await
    }

    async fn deploy_of(&self, pod: PodId) -> Result<Option<VaultDeploy>, StoreError> {
        let (key, name) = names(&pod);
        let found = query(select_deploys!("WHERE removed_at IS NULL AND (name = $2 OR key = $1 AND name IS NULL)"));
        self.one("read a POD's vault", found.bind(key).bind(name), decode).await
    }

    async fn is_deploying(&self, vault: Address) -> Result<bool, StoreError> {
        let find = query("SELECT 1 FROM deploys WHERE state = 'deploying' AND address = $1 LIMIT 1");
        Ok(self.one("look for a vault on its way", find.bind(vault.0.0), |_| Ok(())).await?.is_some())
    }

    async fn postpone_deploy(&self, pod: PodId, now: UnixMillis) -> Result<(), StoreError> {
        self.write(Postpone { pod, now }).await
    }

    async fn deploying(&self) -> Result<Vec<VaultDeploy>, StoreError> {
        let list = query(select_deploys!("WHERE state = 'deploying' ORDER BY changed_at LIMIT $1"));
        self.many("list the vaults on their way", list.bind(i64::from(MAX_LISTED)), decode).await
    }
}

struct Postpone {
    pod: PodId,
    now: UnixMillis,
}

impl Command for Postpone {
    type Answer = ();
    const NAME: &'static str = "postpone a POD's vault";

    async fn apply(&self, tx: &mut Tx) -> Result<(), StoreError> {
        let sql = |error| StoreError::postgres(Self::NAME, error);
        let Some(key) = hold(tx.conn(), &self.pod).await.map_err(sql)? else { return Ok(()) };
        let update = query("UPDATE deploys SET changed_at = $2 WHERE pod = $1 AND state = 'deploying'");
        let update = update.bind(key.0.cast_signed()).bind(integer(self.now.0));
        update.execute(tx.conn()).await.map(drop).map_err(sql)
    }
}

struct Put {
    deploy: VaultDeploy,
    now: UnixMillis,
}

impl Command for Put {
    type Answer = ();
    const NAME: &'static str = "note a POD's vault";

    async fn apply(&self, tx: &mut Tx) -> Result<(), StoreError> {
        let written = self.write(tx).await.map_err(|error| StoreError::postgres(Self::NAME, error))?;
        if written { Ok(()) } else { Err(StoreError::NoPod(self.deploy.pod)) }
    }
}

impl Put {
    /// Whether there is such a POD.
    async fn write(&self, tx: &mut Tx) -> sqlx::Result<bool> {
        let deploy = &self.deploy;
        let Some(key) = hold(tx.conn(), &deploy.pod).await? else { return Ok(false) };
        let consent = deploy.consent.as_ref();
        // What is on the chain stays there, and what its owner signed for is on its way, whatever a
        // slower writer believes.
        query(
            "INSERT INTO deploys (pod, owner, agent_wallet, address, state, deadline, signature, tx, reason, \
             changed_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (pod) DO UPDATE SET \
             owner = $2, agent_wallet = $3, address = $4, state = $5, deadline = $6, signature = $7, tx = $8, \
             reason = $9, changed_at = $10 WHERE deploys.state <> 'deployed' AND \
             (deploys.state <> 'deploying' OR deploys.signature IS NULL OR excluded.signature IS NOT NULL)",
        )
        .bind(key.0.cast_signed())
        .bind(deploy.owner.0.0)
        .bind(deploy.agent_wallet.0.0)
        .bind(deploy.address.0.0)
        .bind(deploy.state.as_str())
        .bind(consent.map(|consent| integer(consent.deadline)))
        .bind(consent.map(|consent| consent.signature.clone()))
        .bind(deploy.tx.map(|tx| tx.0))
        .bind(&deploy.reason)
        .bind(integer(self.now.0))
        .execute(tx.conn())
        .await?;
        Ok(true)
    }
}

fn decode(row: &PgRow) -> sqlx::Result<VaultDeploy> {
    let address = |column| row.try_get::<[u8; 20], usize>(column).map(Address::from);
    let deadline: Option<i64> = row.try_get(5)?;
    let signature: Option<Vec<u8>> = row.try_get(6)?;
    Ok(VaultDeploy {
        pod: pod(row)?,
        owner: address(1)?,
        agent_wallet: address(2)?,
        address: address(3)?,
        state: state(row)?,
        consent: deadline.zip(signature).map(|(end, signature)| VaultConsent { deadline: natural(end), signature }),
        tx: row.try_get::<Option<[u8; 32]>, _>(7)?.map(B256::from),
        reason: row.try_get(8)?,
    })
}

fn pod(row: &PgRow) -> sqlx::Result<PodId> {
    let key = PodRowId(row.try_get::<i64, _>(0)?.cast_unsigned());
    id_from(key, row.try_get(9)?).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

fn state(row: &PgRow) -> sqlx::Result<DeployState> {
    let text: String = row.try_get(4)?;
    DeployState::parse(&text).ok_or_else(|| sqlx::Error::Decode(format!("the state of a vault: {text:?}").into()))
}
