//! A ledger and an outbox in memory, for tests; they die with the process.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use domain::Address;
use domain::evm::{
    BlockRef, IntentKey, Outbox, OutboxEntry, OutboxEntryState, OutboxError, SenderAccount, TransactionAttempt,
    TransactionOutcome,
};
use domain::vault::{BatchRefusal, EventBatch, Ledger, LedgerError, LoggedEvent, VaultLedger};

/// A ledger that keeps events, and folds them when asked.
#[derive(Debug, Default)]
pub struct MemoryLedger(Mutex<LedgerState>);

/// All that a ledger holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LedgerState {
    /// Remembered blocks, oldest first.
    pub blocks: Vec<BlockRef>,
    /// All events, in their order.
    pub events: Vec<LoggedEvent>,
}

impl LedgerState {
    /// The last block that was applied.
    #[must_use]
    pub fn cursor(&self) -> Option<BlockRef> {
        self.blocks.last().copied()
    }

    /// The ledger of every vault.
    ///
    /// # Errors
    /// The first event that cannot follow those before it.
    pub fn vault_ledgers(&self) -> Result<BTreeMap<Address, VaultLedger>, LedgerError> {
        let mut vault_ledgers: BTreeMap<Address, VaultLedger> = BTreeMap::new();
        for logged in &self.events {
            let applied = vault_ledgers.entry(logged.vault).or_default().apply(&logged.event);
            applied.map_err(|why| BatchRefusal::Impossible {
                block: logged.block.number,
                log_index: logged.log_index,
                vault: logged.vault,
                why,
            })?;
        }
        Ok(vault_ledgers)
    }

    /// The pages after a batch.
    ///
    /// # Errors
    /// As [`Ledger::apply`].
    pub fn after(&self, batch: &EventBatch) -> Result<Self, LedgerError> {
        if self.cursor() != batch.after {
            return Err(BatchRefusal::Moved.into());
        }
        let kept = self.blocks.iter().filter(|block| block.number >= batch.forget_below);
        let blocks = kept.chain(&batch.blocks).copied().collect();
        let events = self.events.iter().chain(&batch.events).cloned().collect();
        let next = Self { blocks, events };
        next.vault_ledgers()?;
        Ok(next)
    }

    /// The pages without what is above a block.
    #[must_use]
    pub fn before(&self, to: Option<&BlockRef>) -> Self {
        let stays = |number: u64| to.is_some_and(|to| number <= to.number);
        Self {
            blocks: self.blocks.iter().filter(|block| stays(block.number)).copied().collect(),
            events: self.events.iter().filter(|logged| stays(logged.block.number)).cloned().collect(),
        }
    }
}

impl MemoryLedger {
    /// All that it holds.
    #[must_use]
    pub fn ledger_state(&self) -> LedgerState {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn turn(&self, ledger_state: LedgerState) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = ledger_state;
    }
}

#[async_trait]
impl Ledger for MemoryLedger {
    async fn cursor(&self) -> Result<Option<BlockRef>, LedgerError> {
        Ok(self.ledger_state().cursor())
    }

    async fn remembered(&self) -> Result<Vec<BlockRef>, LedgerError> {
        Ok(self.ledger_state().blocks.into_iter().rev().collect())
    }

    async fn vaults(&self) -> Result<Vec<Address>, LedgerError> {
        Ok(self.ledger_state().vault_ledgers()?.into_keys().collect())
    }

    async fn apply(&self, batch: &EventBatch) -> Result<(), LedgerError> {
        self.turn(self.ledger_state().after(batch)?);
        Ok(())
    }

    async fn roll_back(&self, to: Option<&BlockRef>) -> Result<(), LedgerError> {
        self.turn(self.ledger_state().before(to));
        Ok(())
    }
}

/// An outbox that can be made to fail.
#[derive(Debug, Default)]
pub struct MemoryOutbox(Mutex<OutboxState>);

#[derive(Debug, Default)]
struct OutboxState {
    entries: HashMap<SenderAccount, BTreeMap<u64, OutboxEntry>>,
    failing: bool,
}

impl MemoryOutbox {
    /// Makes every call fail, or not. A write that fails has happened all the same,
    /// which is the worst that a storage can do.
    pub fn fail(&self, failing: bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).failing = failing;
    }

    fn with<T>(
        &self,
        account: &SenderAccount,
        work: impl FnOnce(&mut BTreeMap<u64, OutboxEntry>) -> Result<T, OutboxError>,
    ) -> Result<T, OutboxError> {
        let mut outbox = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let done = work(outbox.entries.entry(*account).or_default())?;
        if outbox.failing { Err(OutboxError::Unavailable("the test said so".to_owned())) } else { Ok(done) }
    }

    fn with_pending(
        &self,
        account: &SenderAccount,
        nonce: u64,
        work: impl FnOnce(&mut OutboxEntry),
    ) -> Result<(), OutboxError> {
        self.with(account, |entries| {
            let pending = entries.get_mut(&nonce).filter(|entry| entry.state == OutboxEntryState::Pending);
            pending.map(work).ok_or(OutboxError::Conflict)
        })
    }
}

#[async_trait]
impl Outbox for MemoryOutbox {
    async fn find(&self, account: &SenderAccount, key: &IntentKey) -> Result<Option<OutboxEntry>, OutboxError> {
        self.with(account, |entries| Ok(entries.values().find(|entry| entry.key == *key).cloned()))
    }

    async fn pending(&self, account: &SenderAccount) -> Result<Vec<OutboxEntry>, OutboxError> {
        let pending = |entry: &&OutboxEntry| entry.state == OutboxEntryState::Pending;
        self.with(account, |entries| Ok(entries.values().filter(pending).cloned().collect()))
    }

    async fn highest_nonce(&self, account: &SenderAccount) -> Result<Option<u64>, OutboxError> {
        self.with(account, |entries| Ok(entries.keys().next_back().copied()))
    }

    async fn write(&self, entry: &OutboxEntry) -> Result<(), OutboxError> {
        self.with(&entry.account, |entries| {
            let taken = entries.values().any(|other| other.key == entry.key || other.nonce == entry.nonce);
            if taken {
                return Err(OutboxError::Conflict);
            }
            entries.insert(entry.nonce, entry.clone());
            Ok(())
        })
    }

    async fn add(&self, account: &SenderAccount, nonce: u64, attempt: &TransactionAttempt) -> Result<(), OutboxError> {
        self.with_pending(account, nonce, |entry| entry.attempts.push(attempt.clone()))
    }

    async fn settle(
        &self,
        account: &SenderAccount,
        nonce: u64,
        outcome: &TransactionOutcome,
    ) -> Result<(), OutboxError> {
        self.with_pending(account, nonce, |entry| entry.state = OutboxEntryState::Settled(*outcome))
    }
}
