//! One event at a time, and the fold over all of them.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::Address;
use serde::{Deserialize, Serialize};

use super::{InvalidEvent, Task, TaskId, VaultEvent, VaultSettings};
use crate::Usdc;

/// A vault without its tasks and accounts: who has which place, and the sums.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vault {
    /// The pod's name. Bytes that are no UTF-8 are shown as U+FFFD.
    pub pod_id: String,
    /// Who withdraws the earnings and sets the rest.
    pub owner: Address,
    /// Who has been offered the vault.
    pub pending_owner: Option<Address>,
    /// Who delivers for the pod.
    pub agent_wallet: Address,
    /// Who has been offered the agent's role.
    pub pending_agent_wallet: Option<Address>,
    /// For tasks to come.
    pub settings: VaultSettings,
    /// Whether creation is stopped.
    pub paused: bool,
    /// What the owner may withdraw.
    pub available: Usdc,
    /// All that the pod ever earned.
    pub total_earnings: Usdc,
    /// Tasks that were completed; resolved ones are not counted.
    pub total_tasks: u64,
    /// What is locked for open tasks.
    pub locked: Usdc,
    /// The sum of all accounts' credits.
    pub credited: Usdc,
}

impl Vault {
    const fn created(pod_id: String, owner: Address, agent_wallet: Address) -> Self {
        Self {
            pod_id,
            owner,
            pending_owner: None,
            agent_wallet,
            pending_agent_wallet: None,
            settings: VaultSettings { arbiter: Address::ZERO, fee_recipient: Address::ZERO, fee_bps: 0 },
            paused: false,
            available: Usdc::ZERO,
            total_earnings: Usdc::ZERO,
            total_tasks: 0,
            locked: Usdc::ZERO,
            credited: Usdc::ZERO,
        }
    }

    /// What the vault must hold of the token, at least: gifts come on top.
    #[must_use]
    pub fn owes(&self) -> Option<Usdc> {
        self.available.checked_add(self.locked)?.checked_add(self.credited)
    }
}

/// What a ledger looks up before it posts an event: the vault itself, the task of
/// [`VaultEvent::task`], and the credit of [`VaultEvent::account`] (zero if there
/// is none).
#[derive(Clone, Copy, Debug)]
pub struct LedgerRows<'a> {
    /// The vault, unless this is its creation.
    pub vault: Option<&'a Vault>,
    /// The event's task, if it was created before.
    pub task: Option<&'a Task>,
    /// What the event's account may withdraw.
    pub credit: Usdc,
}

/// What a ledger writes back; what is `None` has not changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerUpdate {
    /// The vault after the event.
    pub vault: Vault,
    /// The event's task after it.
    pub task: Option<Task>,
    /// What the event's account may withdraw after it.
    pub credit: Option<Usdc>,
    /// An operator who was authorized, or no longer is.
    pub operator: Option<(Address, bool)>,
}

/// One event, posted.
///
/// # Errors
/// [`InvalidEvent`] when the event cannot follow.
pub fn post(found: LedgerRows<'_>, event: &VaultEvent) -> Result<LedgerUpdate, InvalidEvent> {
    if let VaultEvent::VaultCreated { owner, agent_wallet, pod_id } = event {
        let vault = Vault::created(pod_id.clone(), *owner, *agent_wallet);
        return if found.vault.is_some() { Err(InvalidEvent::VaultTwice) } else { Ok(only(vault)) };
    }
    let vault = found.vault.ok_or(InvalidEvent::NoVault(event.name()))?.clone();
    match event.task() {
        Some(_) => post_task(vault, found, event),
        None => post_vault(vault, found.credit, event),
    }
}

const fn only(vault: Vault) -> LedgerUpdate {
    LedgerUpdate { vault, task: None, credit: None, operator: None }
}

fn post_task(mut vault: Vault, found: LedgerRows<'_>, event: &VaultEvent) -> Result<LedgerUpdate, InvalidEvent> {
    let before = found.task.map_or(Usdc::ZERO, Task::locked);
    let task = match (found.task, event) {
        (None, VaultEvent::TaskCreated { amount, creator, .. }) => Task::announced(*amount, *creator),
        (Some(_), VaultEvent::TaskCreated { .. }) => return Err(InvalidEvent::TaskTwice),
        (Some(task), _) => task.step(event)?,
        (None, _) => return Err(InvalidEvent::NoTask(event.name())),
    };
    vault.locked = add(take(vault.locked, before)?, task.locked())?;
    let credit = match event {
        VaultEvent::TaskCompleted { amount, .. } => {
            vault.total_tasks = vault.total_tasks.checked_add(1).ok_or(InvalidEvent::TooLarge)?;
            earn(&mut vault, *amount)?
        }
        VaultEvent::TaskResolved { amount, .. } => earn(&mut vault, *amount)?,
        VaultEvent::Credited { amount, .. } => {
            vault.credited = add(vault.credited, *amount)?;
            Some(add(found.credit, *amount)?)
        }
        _ => None,
    };
    Ok(LedgerUpdate { vault, task: Some(task), credit, operator: None })
}

fn earn(vault: &mut Vault, amount: Usdc) -> Result<Option<Usdc>, InvalidEvent> {
    vault.available = add(vault.available, amount)?;
    vault.total_earnings = add(vault.total_earnings, amount)?;
    Ok(None)
}

fn post_vault(mut vault: Vault, credit: Usdc, event: &VaultEvent) -> Result<LedgerUpdate, InvalidEvent> {
    match event {
        VaultEvent::CreditWithdrawn { amount, .. } => {
            vault.credited = take(vault.credited, *amount)?;
            return Ok(LedgerUpdate { credit: Some(take(credit, *amount)?), ..only(vault) });
        }
        VaultEvent::EarningsWithdrawn { amount, .. } => vault.available = take(vault.available, *amount)?,
        VaultEvent::OperatorSet { operator, authorized } => {
            return Ok(LedgerUpdate { operator: Some((*operator, *authorized)), ..only(vault) });
        }
        VaultEvent::SettingsChanged { settings } => vault.settings = *settings,
        VaultEvent::CreationPaused { paused } => vault.paused = *paused,
        _ => rotate(&mut vault, event)?,
    }
    Ok(only(vault))
}

/// A place is offered by whoever has it, and taken by whom it was offered to.
fn rotate(vault: &mut Vault, event: &VaultEvent) -> Result<(), InvalidEvent> {
    let holds = |is: bool| if is { Ok(()) } else { Err(InvalidEvent::Somebody(event.name())) };
    match event {
        VaultEvent::OwnershipTransferStarted { owner, pending_owner } => {
            holds(vault.owner == *owner)?;
            vault.pending_owner = offered(*pending_owner);
        }
        VaultEvent::OwnershipTransferred { previous_owner, owner } => {
            holds(vault.owner == *previous_owner && vault.pending_owner == Some(*owner))?;
            (vault.owner, vault.pending_owner) = (*owner, None);
        }
        VaultEvent::AgentWalletProposed { agent_wallet, pending_agent_wallet } => {
            holds(vault.agent_wallet == *agent_wallet)?;
            vault.pending_agent_wallet = offered(*pending_agent_wallet);
        }
        VaultEvent::AgentWalletChanged { previous_agent_wallet, agent_wallet } => {
            let is = vault.agent_wallet == *previous_agent_wallet;
            holds(is && vault.pending_agent_wallet == Some(*agent_wallet))?;
            (vault.agent_wallet, vault.pending_agent_wallet) = (*agent_wallet, None);
        }
        _ => return Err(InvalidEvent::NoTask(event.name())),
    }
    Ok(())
}

fn offered(to: Address) -> Option<Address> {
    (to != Address::ZERO).then_some(to)
}

fn add(sum: Usdc, more: Usdc) -> Result<Usdc, InvalidEvent> {
    sum.checked_add(more).ok_or(InvalidEvent::TooLarge)
}

fn take(sum: Usdc, part: Usdc) -> Result<Usdc, InvalidEvent> {
    sum.checked_sub(part).ok_or(InvalidEvent::Amount { said: part, is: sum })
}

/// The ledger of one vault, in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VaultLedger {
    vault: Option<Vault>,
    tasks: BTreeMap<TaskId, Task>,
    credits: BTreeMap<Address, Usdc>,
    operators: BTreeSet<Address>,
}

impl VaultLedger {
    /// The ledger after all these events, checked.
    ///
    /// # Errors
    /// The first event that cannot follow, or what is missing at the end.
    pub fn of<'a>(events: impl IntoIterator<Item = &'a VaultEvent>) -> Result<Self, InvalidEvent> {
        let mut ledger = Self::default();
        events.into_iter().try_for_each(|event| ledger.apply(event))?;
        ledger.check()?;
        Ok(ledger)
    }

    /// One more event. Nothing changes when it is refused.
    ///
    /// # Errors
    /// [`InvalidEvent`] when the event cannot follow.
    pub fn apply(&mut self, event: &VaultEvent) -> Result<(), InvalidEvent> {
        let task = event.task();
        let account = event.account();
        let credit = account.map_or(Usdc::ZERO, |account| self.credit(&account));
        let found =
            LedgerRows { vault: self.vault.as_ref(), task: task.as_ref().and_then(|id| self.tasks.get(id)), credit };
        let posting = post(found, event)?;
        self.vault = Some(posting.vault);
        self.tasks.extend(task.zip(posting.task));
        self.credits.extend(account.zip(posting.credit));
        match posting.operator {
            Some((operator, true)) => drop(self.operators.insert(operator)),
            Some((operator, false)) => drop(self.operators.remove(&operator)),
            None => {}
        }
        Ok(())
    }

    /// Whether the sums are those of the parts, and nothing is half done. Holds
    /// after the last event of every transaction.
    ///
    /// # Errors
    /// [`InvalidEvent::Unfinished`] or [`InvalidEvent::Sums`].
    pub fn check(&self) -> Result<(), InvalidEvent> {
        if !self.tasks.values().all(Task::is_settled) {
            return Err(InvalidEvent::Unfinished);
        }
        let locked = self.tasks.values().map(Task::locked).try_fold(Usdc::ZERO, Usdc::checked_add);
        let credited = self.credits.values().copied().try_fold(Usdc::ZERO, Usdc::checked_add);
        let sums = self.vault.as_ref().map_or((Usdc::ZERO, Usdc::ZERO), |vault| (vault.locked, vault.credited));
        if (locked, credited) == (Some(sums.0), Some(sums.1)) { Ok(()) } else { Err(InvalidEvent::Sums) }
    }

    /// The vault, once it was created.
    #[must_use]
    pub const fn vault(&self) -> Option<&Vault> {
        self.vault.as_ref()
    }

    /// All tasks.
    #[must_use]
    pub const fn tasks(&self) -> &BTreeMap<TaskId, Task> {
        &self.tasks
    }

    /// What an account may withdraw.
    #[must_use]
    pub fn credit(&self, account: &Address) -> Usdc {
        self.credits.get(account).copied().unwrap_or(Usdc::ZERO)
    }

    /// All accounts that were ever credited.
    #[must_use]
    pub const fn credits(&self) -> &BTreeMap<Address, Usdc> {
        &self.credits
    }

    /// Who may hand in results beside the agent wallet.
    #[must_use]
    pub const fn operators(&self) -> &BTreeSet<Address> {
        &self.operators
    }
}
