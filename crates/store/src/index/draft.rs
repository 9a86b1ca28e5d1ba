//! A batch, posted in memory: what it must look up first, and what is written then.

use std::collections::{BTreeMap, BTreeSet};

use domain::vault::{BatchRefusal, EventBatch, InvalidEvent, LedgerRows, LoggedEvent, Task, TaskId, Vault, post};
use domain::{Address, Usdc};
use serde::{Deserialize, Serialize};

/// Bits of a task's order that are its place in the block: more than a block has room
/// for logs.
const LOG_BITS: u32 = 20;

/// What an event changed, as it was before.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Undo {
    pub(crate) vault: Option<Vault>,
    pub(crate) task: Option<Task>,
    pub(crate) credit: Option<Usdc>,
}

/// The rows that a batch's events name.
#[derive(Default)]
pub(crate) struct Needs {
    pub(crate) vaults: BTreeSet<Address>,
    pub(crate) tasks: BTreeSet<(Address, TaskId)>,
    pub(crate) credits: BTreeSet<(Address, Address)>,
}

impl Needs {
    pub(crate) fn of(batch: &EventBatch) -> Self {
        let mut needs = Self::default();
        for LoggedEvent { vault, event, .. } in &batch.events {
            needs.vaults.insert(*vault);
            needs.tasks.extend(event.task().map(|task| (*vault, task)));
            needs.credits.extend(event.account().map(|account| (*vault, account)));
        }
        needs
    }
}

/// Those rows, as far as there are any.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) vaults: BTreeMap<Address, Vault>,
    pub(crate) tasks: BTreeMap<(Address, TaskId), Task>,
    pub(crate) credits: BTreeMap<(Address, Address), Usdc>,
}

/// A batch as it will be written.
pub(crate) struct BatchDraft<'a> {
    /// The rows after it.
    pub(crate) rows: Found,
    /// Tasks that begin in it, each with its vault and its place in the order of
    /// creation.
    pub(crate) new_tasks: Vec<(Address, TaskId, u64)>,
    /// Its events, each with the way back.
    pub(crate) events: Vec<(&'a LoggedEvent, Undo)>,
}

impl<'a> BatchDraft<'a> {
    /// Posts all events of the batch, in their order, upon what was found.
    pub(crate) fn of(batch: &'a EventBatch, found: Found) -> Result<Self, BatchRefusal> {
        let mut draft = Self { rows: found, new_tasks: Vec::new(), events: Vec::new() };
        for logged in &batch.events {
            draft.post(logged).map_err(|why| {
                let LoggedEvent { block, log_index, vault, .. } = logged;
                BatchRefusal::Impossible { block: block.number, log_index: *log_index, vault: *vault, why }
            })?;
        }
        Ok(draft)
    }

    fn post(&mut self, logged: &'a LoggedEvent) -> Result<(), InvalidEvent> {
        let event = &logged.event;
        let task_key = event.task().map(|task| (logged.vault, task));
        let credit_key = event.account().map(|account| (logged.vault, account));
        let vault = self.rows.vaults.get(&logged.vault).cloned();
        let task = task_key.and_then(|key| self.rows.tasks.get(&key).cloned());
        let credit = credit_key.map(|key| self.rows.credits.get(&key).copied().unwrap_or_default());
        let before = LedgerRows { vault: vault.as_ref(), task: task.as_ref(), credit: credit.unwrap_or_default() };
        let posting = post(before, event)?;
        if let (None, Some((_, id))) = (&task, task_key) {
            self.new_tasks.push((logged.vault, id, order(logged)));
        }
        self.rows.vaults.insert(logged.vault, posting.vault);
        self.rows.tasks.extend(task_key.zip(posting.task));
        self.rows.credits.extend(credit_key.zip(posting.credit));
        self.events.push((logged, Undo { vault, task, credit }));
        Ok(())
    }
}

/// A task's place in the order of creation: its block, and its place in it.
const fn order(logged: &LoggedEvent) -> u64 {
    logged.block.number << LOG_BITS | logged.log_index
}
