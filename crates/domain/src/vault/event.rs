//! All that a vault and its factory can say.

use std::fmt;
use std::str::FromStr;

use alloy_primitives::{Address, B256};
use serde::{Deserialize, Serialize};

use crate::Usdc;
use crate::evm::BlockRef;

/// A task's name: the EIP-712 digest of its terms in its vault's domain, which
/// therefore covers the chain, the vault, the creator and every condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskId(pub B256);

/// The text is no task's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a task's id is 0x and 64 hexadecimal digits")]
pub struct TaskIdError;

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for TaskId {
    type Err = TaskIdError;

    fn from_str(text: &str) -> Result<Self, TaskIdError> {
        let digits = text.strip_prefix("0x").ok_or(TaskIdError)?;
        digits.parse().map(Self).map_err(|_| TaskIdError)
    }
}

/// Everything the parties of a task agree to, as `IPODVault.Terms` has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TaskTerms {
    /// Who pays, may dispute, and gets back what the pod does not get.
    pub creator: Address,
    /// Who may complete the task beside the creator; zero for nobody.
    pub evaluator: Address,
    /// Who may resolve a dispute; zero for nobody.
    pub arbiter: Address,
    /// Who is credited with the fee; zero if there is none.
    pub fee_recipient: Address,
    /// What is locked.
    pub amount: Usdc,
    /// The least that a completion may pay.
    pub min_paid: Usdc,
    /// The Unix second from which a result is refused.
    pub submit_by: u64,
    /// Seconds after the result in which the creator may dispute.
    pub review_period: u32,
    /// Seconds after a dispute in which the arbiter may resolve.
    pub arbiter_period: u32,
    /// The pod's share of a dispute that nobody resolved, in basis points.
    pub default_agent_bps: u16,
    /// The fee, in basis points of what the pod is paid.
    pub fee_bps: u16,
    /// Keccak-256 of the metadata.
    pub metadata_hash: B256,
    /// Tells apart tasks of otherwise equal terms.
    pub salt: B256,
}

/// What an owner sets for tasks to come, as `IPODVault.Settings` has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VaultSettings {
    /// Who resolves disputes; zero for nobody.
    pub arbiter: Address,
    /// Who gets the fee; zero if there is none.
    pub fee_recipient: Address,
    /// The fee, in basis points of what the pod is paid.
    pub fee_bps: u16,
}

/// One event of a vault, or of the factory about it. Amounts are in micro-USDC,
/// times in Unix seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case", deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields are named as in contracts/src/interfaces, and said there")]
pub enum VaultEvent {
    /// The factory made the vault. Every vault's first event.
    VaultCreated { owner: Address, agent_wallet: Address, pod_id: String },
    /// `amount` is locked. The terms follow in the same transaction.
    TaskCreated { task: TaskId, amount: Usdc, creator: Address },
    /// The terms of the task just created. Bytes of the metadata that are no
    /// UTF-8 are shown as U+FFFD: the hash in the terms is of the bytes.
    TaskTerms { task: TaskId, terms: TaskTerms, metadata: String },
    /// A result was handed in.
    TaskSubmitted { task: TaskId, submitter: Address, result_hash: B256, review_by: u64 },
    /// The agent turned the task down; the refund follows.
    TaskDeclined { task: TaskId, agent: Address },
    /// The task ended without a result.
    TaskRefunded { task: TaskId, amount: Usdc },
    /// The creator disputed the result.
    TaskDisputed { task: TaskId, reason_hash: B256, arbiter_by: u64 },
    /// Nobody answered the result, and somebody claimed the task for the pod;
    /// the completion follows.
    TaskClaimed { task: TaskId, caller: Address },
    /// The pod earned `amount`; the rest of what was locked is credited.
    TaskCompleted { task: TaskId, amount: Usdc },
    /// The dispute is settled: the pod earned `amount`, the rest is credited.
    TaskResolved { task: TaskId, amount: Usdc, by_default: bool },
    /// The account may withdraw `amount` more.
    Credited { account: Address, amount: Usdc, task: TaskId },
    /// The account withdrew.
    CreditWithdrawn { account: Address, amount: Usdc, recipient: Address },
    /// The owner withdrew.
    EarningsWithdrawn { amount: Usdc, recipient: Address },
    /// An operator was authorized, or no longer is.
    OperatorSet { operator: Address, authorized: bool },
    /// Settings for tasks to come.
    SettingsChanged { settings: VaultSettings },
    /// Creation was stopped or allowed again.
    CreationPaused { paused: bool },
    /// The vault was offered; zero takes the offer back.
    OwnershipTransferStarted { owner: Address, pending_owner: Address },
    /// The vault has a new owner.
    OwnershipTransferred { previous_owner: Address, owner: Address },
    /// The agent's role was offered; zero takes the offer back.
    AgentWalletProposed { agent_wallet: Address, pending_agent_wallet: Address },
    /// The pod has a new agent wallet.
    AgentWalletChanged { previous_agent_wallet: Address, agent_wallet: Address },
}

/// An event, and where on the chain it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedEvent {
    /// The block.
    pub block: BlockRef,
    /// Its place among all logs of the block: with the block's number its key, and
    /// the order in which events are posted.
    pub log_index: u64,
    /// The transaction.
    pub transaction: B256,
    /// The vault it is about, which for `VaultCreated` is the one that was made.
    pub vault: Address,
    /// What happened.
    pub event: VaultEvent,
}

impl VaultEvent {
    /// The task it is about.
    #[must_use]
    pub const fn task(&self) -> Option<TaskId> {
        match self {
            Self::TaskCreated { task, .. }
            | Self::TaskTerms { task, .. }
            | Self::TaskSubmitted { task, .. }
            | Self::TaskDeclined { task, .. }
            | Self::TaskRefunded { task, .. }
            | Self::TaskDisputed { task, .. }
            | Self::TaskClaimed { task, .. }
            | Self::TaskCompleted { task, .. }
            | Self::TaskResolved { task, .. }
            | Self::Credited { task, .. } => Some(*task),
            Self::VaultCreated { .. }
            | Self::CreditWithdrawn { .. }
            | Self::EarningsWithdrawn { .. }
            | Self::OperatorSet { .. }
            | Self::SettingsChanged { .. }
            | Self::CreationPaused { .. }
            | Self::OwnershipTransferStarted { .. }
            | Self::OwnershipTransferred { .. }
            | Self::AgentWalletProposed { .. }
            | Self::AgentWalletChanged { .. } => None,
        }
    }

    /// The account whose credit it changes.
    #[must_use]
    pub const fn account(&self) -> Option<Address> {
        match self {
            Self::Credited { account, .. } | Self::CreditWithdrawn { account, .. } => Some(*account),
            _ => None,
        }
    }

    /// Its name, as the contracts write it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::VaultCreated { .. } => "VaultCreated",
            Self::TaskCreated { .. } => "TaskCreated",
            Self::TaskTerms { .. } => "TaskTerms",
            Self::TaskSubmitted { .. } => "TaskSubmitted",
            Self::TaskDeclined { .. } => "TaskDeclined",
            Self::TaskRefunded { .. } => "TaskRefunded",
            Self::TaskDisputed { .. } => "TaskDisputed",
            Self::TaskClaimed { .. } => "TaskClaimed",
            Self::TaskCompleted { .. } => "TaskCompleted",
            Self::TaskResolved { .. } => "TaskResolved",
            Self::Credited { .. } => "Credited",
            Self::CreditWithdrawn { .. } => "CreditWithdrawn",
            Self::EarningsWithdrawn { .. } => "EarningsWithdrawn",
            Self::OperatorSet { .. } => "OperatorSet",
            Self::SettingsChanged { .. } => "SettingsChanged",
            Self::CreationPaused { .. } => "CreationPaused",
            Self::OwnershipTransferStarted { .. } => "OwnershipTransferStarted",
            Self::OwnershipTransferred { .. } => "OwnershipTransferred",
            Self::AgentWalletProposed { .. } => "AgentWalletProposed",
            Self::AgentWalletChanged { .. } => "AgentWalletChanged",
        }
    }
}
