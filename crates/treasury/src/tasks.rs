//! What an agent does with a task: hand in a result, or turn it down. Its key signs
//! here, and our account carries it onto the chain.

use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::Log;
use alloy_sol_types::SolEvent;
use chain::evm::abi::ERC2771Forwarder::ExecutedForwardRequest;
use chain::evm::typed::digest;
use chain::evm::{Estimate, EvmError, SendError, TransactionStatus, calls};
use domain::evm::{Call, IntentKey, TransactionOutcome};
use domain::vault::{TaskId, TaskTerms, Vault};
use domain::{Address, B256, Bytes, PodId, UnixMillis};
use identity::SignerSync;
use relay::{CallPurpose, GasSpend};
use store::DeployState;
use wire::v1::vault::TxResponse;

use crate::error::TreasuryError;
use crate::handle::Inner;
use crate::identities::IfMissing;
use crate::services::ChainServices;

/// Gas for the vault's own work in a forwarded call.
const INNER_GAS: u64 = 250_000;
/// Seconds for which an agent's request is good.
const WINDOW_S: u64 = 60 * 60;
/// How long an answer waits for the chain before it says that it is on its way.
const WAIT: Duration = Duration::from_secs(45);

impl Inner {
    /// Hands in a result.
    pub(crate) async fn submit(
        &self,
        agent: PodId,
        task: TaskId,
        result_hash: B256,
        now: UnixMillis,
    ) -> Result<TxResponse, TreasuryError> {
        let (indexed, terms) = self.task_of(agent, task).await?;
        let call = calls::submit(indexed.0, &terms, result_hash);
        self.as_agent(agent, &indexed.1, &format!("submit:{task}"), &call, now).await
    }

    /// Turns a task down.
    pub(crate) async fn decline(
        &self,
        agent: PodId,
        task: TaskId,
        now: UnixMillis,
    ) -> Result<TxResponse, TreasuryError> {
        let (indexed, terms) = self.task_of(agent, task).await?;
        let call = calls::decline(indexed.0, &terms);
        self.as_agent(agent, &indexed.1, &format!("decline:{task}"), &call, now).await
    }

    /// An agent's vault and one of its tasks, as the ledger has them.
    async fn task_of(&self, agent: PodId, task: TaskId) -> Result<((Address, Vault), TaskTerms), TreasuryError> {
        let deploy = self.store.deploy_of(agent).await?;
        let deploy =
            deploy.filter(|deploy| deploy.state == DeployState::Deployed).ok_or(TreasuryError::UnknownVault)?;
        let indexed = self.store.vault(self.index, deploy.address).await?.ok_or(TreasuryError::UnknownVault)?;
        let task = self.store.task(self.index, deploy.address, task).await?.ok_or(TreasuryError::UnknownTask)?;
        Ok(((deploy.address, indexed.vault), task.terms.ok_or(TreasuryError::UnknownTask)?))
    }

    /// Sends a call as the agent, through the forwarder.
    async fn as_agent(
        &self,
        agent: PodId,
        vault: &Vault,
        name: &str,
        call: &Call,
        now: UnixMillis,
    ) -> Result<TxResponse, TreasuryError> {
        let services = self.services()?;
        let sender = services.sender.as_ref().ok_or(TreasuryError::NoRelayer)?;
        let identity = self.identities.of(agent, IfMissing::Refuse, now).await?;
        identity.verify_ownership(vault.agent_wallet).map_err(|error| TreasuryError::Reverts(error.to_string()))?;
        // Two calls at once would take the same nonce of the forwarder.
        let turn = self.agent_locks.get_with(agent, async { Arc::default() }).await;
        let _turn = turn.lock().await;
        // Simulated as the agent: the forwarder hides why an inner call fails.
        services.chain.evm.call(call, Some(identity.address()), chain::evm::BlockTag::Latest).await.map_err(refused)?;
        let nonce = services.chain.forwarder_nonce(identity.address()).await.map_err(refused)?;
        let request = calls::request(identity.address(), call, INNER_GAS, nonce, now.0 / 1000 + WINDOW_S);
        let signature = identity.sign_hash_sync(&digest(&request, &services.chain.forwarder_domain));
        let signature = signature.map_err(|error| TreasuryError::Unavailable(error.to_string()))?;
        let forwarded = calls::forward(self.evm.forwarder, &request, Bytes::from(signature.as_bytes()));
        let key = format!("{name}:{nonce}").parse::<IntentKey>();
        let key = key.map_err(|error| TreasuryError::Unavailable(error.to_string()))?;
        let relayer = services.relayer.as_ref().ok_or(TreasuryError::NoRelayer)?;
        let estimate = sender.estimate(&key, &forwarded).await.map_err(unsent)?;
        if let Estimate::New(cost) = &estimate {
            let spend = GasSpend {
                class: CallPurpose::Task,
                wallet: identity.address(),
                beneficiary: None,
                gas: cost.gas_limit(),
            };
            relayer.spend(key.as_str(), spend, None).await?;
        }
        let entry = sender.send_estimated(&key, &forwarded, estimate).await.map_err(unsent)?;
        let newest = entry.attempts.last().map(|attempt| attempt.hash).unwrap_or_default();
        match tokio::time::timeout(WAIT, sender.settled(&key)).await {
            Ok(outcome) => ended(&services, outcome.map_err(unsent)?).await,
            Err(_) => Ok(TxResponse { success: false, tx: newest }),
        }
    }
}

/// Whether the inner call took effect: the outer one ends well either way.
async fn ended(services: &ChainServices, outcome: TransactionOutcome) -> Result<TxResponse, TreasuryError> {
    let TransactionOutcome::Mined(mined) = outcome else {
        return Err(TreasuryError::Unavailable("the relayer's account sent something else".to_owned()));
    };
    let status = services.chain.evm.transaction_status(mined.hash).await.map_err(refused)?;
    match status {
        TransactionStatus::Confirmed(confirmed) if mined.success && executed(&confirmed.logs) => {
            Ok(TxResponse { success: true, tx: mined.hash })
        }
        TransactionStatus::Confirmed(_) => {
            Err(TreasuryError::Reverts(format!("the vault refused it in {}", mined.hash)))
        }
        TransactionStatus::NotFound | TransactionStatus::Unconfirmed { .. } => {
            Ok(TxResponse { success: false, tx: mined.hash })
        }
    }
}

/// What the forwarder says of the one call in the transaction.
fn executed(logs: &[Log]) -> bool {
    let mut told = logs.iter().filter_map(|log| ExecutedForwardRequest::decode_log(log).ok());
    told.next().is_some_and(|event| event.success)
}

fn refused(error: EvmError) -> TreasuryError {
    match error {
        EvmError::Reverted(revert) => TreasuryError::Reverts(revert.to_string()),
        error => TreasuryError::Unavailable(error.to_string()),
    }
}

fn unsent(error: SendError) -> TreasuryError {
    match error {
        SendError::Evm(error) => refused(error),
        error => TreasuryError::Unavailable(error.to_string()),
    }
}
