//! Terms and events, between the ABI and the domain. Pure.

use alloy::primitives::{Uint, aliases::U40};
use alloy::sol_types::SolEventInterface;
use domain::vault::{TaskId, TaskTerms, VaultEvent, VaultSettings};
use domain::{Address, U256, Usdc};

use super::EvmError;
use super::abi::IPODVault as Abi;
use super::abi::PODVault::PODVaultEvents;
use super::abi::PODVaultFactory::PODVaultFactoryEvents;
use super::answer::Log;

/// Terms as the contract has them.
pub(super) fn to_abi(terms: &TaskTerms) -> Abi::Terms {
    Abi::Terms {
        creator: terms.creator,
        evaluator: terms.evaluator,
        arbiter: terms.arbiter,
        feeRecipient: terms.fee_recipient,
        amount: Uint::from(terms.amount.0),
        minPaid: Uint::from(terms.min_paid.0),
        submitBy: U40::saturating_from(terms.submit_by),
        reviewPeriod: terms.review_period,
        arbiterPeriod: terms.arbiter_period,
        defaultAgentBps: terms.default_agent_bps,
        feeBps: terms.fee_bps,
        metadataHash: terms.metadata_hash,
        salt: terms.salt,
    }
}

fn from_abi(terms: &Abi::Terms) -> Result<TaskTerms, EvmError> {
    Ok(TaskTerms {
        creator: terms.creator,
        evaluator: terms.evaluator,
        arbiter: terms.arbiter,
        fee_recipient: terms.feeRecipient,
        amount: usdc(terms.amount.to())?,
        min_paid: usdc(terms.minPaid.to())?,
        submit_by: terms.submitBy.to(),
        review_period: terms.reviewPeriod,
        arbiter_period: terms.arbiterPeriod,
        default_agent_bps: terms.defaultAgentBps,
        fee_bps: terms.feeBps,
        metadata_hash: terms.metadataHash,
        salt: terms.salt,
    })
}

/// Settings as the contract has them.
pub(super) const fn settings_to_abi(settings: &VaultSettings) -> Abi::Settings {
    Abi::Settings { arbiter: settings.arbiter, feeRecipient: settings.fee_recipient, feeBps: settings.fee_bps }
}

/// Settings from the contract.
pub(super) const fn settings(from: &Abi::Settings) -> VaultSettings {
    VaultSettings { arbiter: from.arbiter, fee_recipient: from.feeRecipient, fee_bps: from.feeBps }
}

/// An amount; there are not 2⁶⁴ micro-USDC in the world.
pub(super) fn usdc(amount: U256) -> Result<Usdc, EvmError> {
    Usdc::try_from(amount).map_err(|_| unreadable("an amount larger than any of USDC"))
}

fn unreadable(what: &'static str) -> EvmError {
    EvmError::Inconsistent { method: "eth_getLogs", what }
}

/// A log of the factory: the vault that was made, and its first event.
pub(super) fn creation(log: &Log) -> Result<Option<(Address, VaultEvent)>, EvmError> {
    let event = PODVaultFactoryEvents::decode_raw_log(&log.topics, &log.data)
        .map_err(|_| unreadable("a log of the factory that is not in its ABI"))?;
    Ok(match event {
        PODVaultFactoryEvents::VaultCreated(e) => {
            let created = VaultEvent::VaultCreated { owner: e.owner, agent_wallet: e.agentWallet, pod_id: e.podId };
            Some((e.vault, created))
        }
        PODVaultFactoryEvents::EIP712DomainChanged(_) => None,
    })
}

/// A log of a vault.
pub(super) fn event(log: &Log) -> Result<Option<VaultEvent>, EvmError> {
    let event = PODVaultEvents::decode_raw_log(&log.topics, &log.data)
        .map_err(|_| unreadable("a log of a vault that is not in its ABI"))?;
    match event {
        PODVaultEvents::EIP712DomainChanged(_) => Ok(None),
        PODVaultEvents::OperatorSet(_)
        | PODVaultEvents::SettingsChanged(_)
        | PODVaultEvents::CreationPaused(_)
        | PODVaultEvents::OwnershipTransferStarted(_)
        | PODVaultEvents::OwnershipTransferred(_)
        | PODVaultEvents::AgentWalletProposed(_)
        | PODVaultEvents::AgentWalletChanged(_) => Ok(of_places(event)),
        PODVaultEvents::TaskCreated(_)
        | PODVaultEvents::TaskTerms(_)
        | PODVaultEvents::TaskSubmitted(_)
        | PODVaultEvents::TaskDeclined(_)
        | PODVaultEvents::TaskRefunded(_)
        | PODVaultEvents::TaskDisputed(_)
        | PODVaultEvents::TaskClaimed(_)
        | PODVaultEvents::TaskCompleted(_)
        | PODVaultEvents::TaskResolved(_)
        | PODVaultEvents::Credited(_)
        | PODVaultEvents::CreditWithdrawn(_)
        | PODVaultEvents::EarningsWithdrawn(_) => of_money(event),
    }
}

fn of_places(event: PODVaultEvents) -> Option<VaultEvent> {
    use PODVaultEvents as E;
    Some(match event {
        E::OperatorSet(e) => VaultEvent::OperatorSet { operator: e.operator, authorized: e.authorized },
        E::SettingsChanged(e) => VaultEvent::SettingsChanged { settings: settings(&e.settings) },
        E::CreationPaused(e) => VaultEvent::CreationPaused { paused: e.paused },
        E::OwnershipTransferStarted(e) => {
            VaultEvent::OwnershipTransferStarted { owner: e.owner, pending_owner: e.pendingOwner }
        }
        E::OwnershipTransferred(e) => {
            VaultEvent::OwnershipTransferred { previous_owner: e.previousOwner, owner: e.owner }
        }
        E::AgentWalletProposed(e) => {
            VaultEvent::AgentWalletProposed { agent_wallet: e.agentWallet, pending_agent_wallet: e.pendingAgentWallet }
        }
        E::AgentWalletChanged(e) => {
            VaultEvent::AgentWalletChanged { previous_agent_wallet: e.previousAgentWallet, agent_wallet: e.agentWallet }
        }
        _ => return None,
    })
}

fn of_money(event: PODVaultEvents) -> Result<Option<VaultEvent>, EvmError> {
    use PODVaultEvents as E;
    Ok(Some(match event {
        E::TaskCreated(e) => {
            VaultEvent::TaskCreated { task: TaskId(e.taskId), amount: usdc(e.amount)?, creator: e.creator }
        }
        E::TaskTerms(e) => {
            VaultEvent::TaskTerms { task: TaskId(e.taskId), terms: from_abi(&e.terms)?, metadata: e.metadata }
        }
        E::TaskSubmitted(e) => VaultEvent::TaskSubmitted {
            task: TaskId(e.taskId),
            submitter: e.submitter,
            result_hash: e.resultHash,
            review_by: e.reviewBy.saturating_to(),
        },
        E::TaskDeclined(e) => VaultEvent::TaskDeclined { task: TaskId(e.taskId), agent: e.agent },
        E::TaskRefunded(e) => VaultEvent::TaskRefunded { task: TaskId(e.taskId), amount: usdc(e.amount)? },
        E::TaskDisputed(e) => VaultEvent::TaskDisputed {
            task: TaskId(e.taskId),
            reason_hash: e.reasonHash,
            arbiter_by: e.arbiterBy.saturating_to(),
        },
        E::TaskClaimed(e) => VaultEvent::TaskClaimed { task: TaskId(e.taskId), caller: e.caller },
        E::TaskCompleted(e) => VaultEvent::TaskCompleted { task: TaskId(e.taskId), amount: usdc(e.amount)? },
        E::TaskResolved(e) => {
            VaultEvent::TaskResolved { task: TaskId(e.taskId), amount: usdc(e.amount)?, by_default: e.byDefault }
        }
        E::Credited(e) => VaultEvent::Credited { account: e.account, amount: usdc(e.amount)?, task: TaskId(e.taskId) },
        E::CreditWithdrawn(e) => {
            VaultEvent::CreditWithdrawn { account: e.account, amount: usdc(e.amount)?, recipient: e.recipient }
        }
        E::EarningsWithdrawn(e) => VaultEvent::EarningsWithdrawn { amount: usdc(e.amount)?, recipient: e.recipient },
        _ => return Ok(None),
    }))
}
