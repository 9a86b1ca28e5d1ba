//! What a call is for, and who has it made: each kind has quotas and a budget of its
//! own, so that none ends the day for another. Pure.

use alloy_primitives::Address;
use alloy_sol_types::{SolCall, SolInterface};
use serde::{Deserialize, Serialize};

use crate::abi::{PODVault, PODVaultFactory, TestUSDC};

/// What a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallPurpose {
    /// A vault is deployed.
    Deploy,
    /// A task is paid for, worked on, decided.
    Task,
    /// Money leaves a vault.
    Withdraw,
    /// A vault is set up.
    Manage,
    /// A contract of the operator's choice is called.
    Forward,
    /// A payment for a request, or between others, is made.
    Settle,
}

impl CallPurpose {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Deploy, Self::Task, Self::Withdraw, Self::Manage, Self::Forward, Self::Settle];

    /// Its name in the configuration and the journal.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deploy => "deploy",
            Self::Task => "task",
            Self::Withdraw => "withdraw",
            Self::Manage => "manage",
            Self::Forward => "forward",
            Self::Settle => "settle",
        }
    }

    /// What a function of a vault is for; `None` if it is none.
    pub(crate) fn of_vault(data: &[u8]) -> Option<Self> {
        use PODVault as Vault;
        let selector: [u8; 4] = data.first_chunk().copied()?;
        if !Vault::PODVaultCalls::valid_selector(selector) {
            return None;
        }
        Some(match selector {
            Vault::withdrawCall::SELECTOR | Vault::withdrawCreditCall::SELECTOR => Self::Withdraw,
            Vault::setOperatorCall::SELECTOR
            | Vault::setSettingsCall::SELECTOR
            | Vault::setPausedCall::SELECTOR
            | Vault::transferOwnershipCall::SELECTOR
            | Vault::acceptOwnershipCall::SELECTOR
            | Vault::proposeAgentWalletCall::SELECTOR
            | Vault::acceptAgentWalletCall::SELECTOR => Self::Manage,
            _ => Self::Task,
        })
    }
}

/// A vault that somebody wants deployed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultDeployment {
    /// Whose it is to be: the agent's id.
    pub pod_id: String,
    /// Who will own it.
    pub owner: Address,
    /// The agent's own address.
    pub agent_wallet: Address,
}

impl VaultDeployment {
    /// Reads a call of the factory.
    pub(crate) fn read(data: &[u8]) -> Option<Self> {
        let call = PODVaultFactory::createPODVaultCall::abi_decode(data).ok()?;
        Some(Self { pod_id: call.podId, owner: call.owner, agent_wallet: call.agentWallet })
    }
}

/// Who has a sponsored call made: whose money it moves, else the contract itself.
pub(crate) fn caller(contract: Address, data: &[u8]) -> Address {
    use PODVault as Vault;
    if let Ok(call) = TestUSDC::transferWithAuthorizationCall::abi_decode(data) {
        return call.from;
    }
    if let Ok(call) = Vault::createTaskWithAuthorizationCall::abi_decode(data) {
        return call.terms.creator;
    }
    Vault::createTaskWithPermitCall::abi_decode(data).map_or(contract, |call| call.terms.creator)
}

/// Whom a transfer pays, if it is one.
pub(crate) fn payee(data: &[u8]) -> Option<Address> {
    TestUSDC::transferWithAuthorizationCall::abi_decode(data).ok().map(|call| call.to)
}
