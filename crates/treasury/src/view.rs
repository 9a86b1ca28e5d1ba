//! From the ledger to what the wire says of them. Pure.

use domain::Address;
use domain::vault::{Task, TaskId, TaskState};
use store::{DeployState, IndexedVault, VaultDeploy};
use wire::v1::vault::{AgentVault, Task as Shown, VaultResponse, VaultState};

/// A vault's ledger, as the wire has it.
pub(crate) fn vault(address: Address, indexed: IndexedVault) -> VaultResponse {
    let IndexedVault { vault, credits, cursor } = indexed;
    VaultResponse {
        address,
        pod_id: vault.pod_id,
        owner: vault.owner,
        agent_wallet: vault.agent_wallet,
        available_balance: vault.available,
        total_earnings: vault.total_earnings,
        total_tasks: vault.total_tasks,
        locked: vault.locked,
        credits,
        arbiter: vault.settings.arbiter,
        fee_recipient: vault.settings.fee_recipient,
        fee_bps: vault.settings.fee_bps,
        paused: vault.paused,
        block: cursor.number,
    }
}

/// A task, as the wire has it. `None` for one whose terms are not read yet.
pub(crate) fn task(id: TaskId, task: Task) -> Option<Shown> {
    let terms = task.terms?;
    let (result_hash, deadline) = match task.state {
        TaskState::Funded => (None, Some(terms.submit_by)),
        TaskState::Submitted { result_hash, review_by, .. } => (Some(result_hash), Some(review_by)),
        TaskState::Disputed { result_hash, arbiter_by, .. } => (Some(result_hash), Some(arbiter_by)),
        TaskState::Announced
        | TaskState::Declined
        | TaskState::Claimed
        | TaskState::Completed { .. }
        | TaskState::Refunded
        | TaskState::Resolved { .. } => (None, None),
    };
    let state = task.state.name().as_str().to_owned();
    let metadata = task.metadata;
    Some(Shown { id: id.0, state, amount: task.amount, creator: task.creator, terms, metadata, result_hash, deadline })
}

const fn deploy_state(state: DeployState) -> VaultState {
    match state {
        DeployState::Unsigned => VaultState::Unsigned,
        DeployState::Deploying => VaultState::Deploying,
        DeployState::Deployed => VaultState::Deployed,
        DeployState::Failed => VaultState::Failed,
    }
}

/// An agent's vault to be, as the wire has it.
pub(crate) fn deploy(chain_id: u64, deploy: VaultDeploy) -> AgentVault {
    AgentVault {
        chain_id,
        address: deploy.address,
        owner: deploy.owner,
        agent_wallet: deploy.agent_wallet,
        state: deploy_state(deploy.state),
        tx: deploy.tx,
        reason: deploy.reason,
    }
}
