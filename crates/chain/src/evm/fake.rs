//! A ledger and an outbox in memory, for tests; they die with the process.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use domain::Address;
use domain::evm::{Account, Attempt, BlockRef, Entry, EntryState, IntentKey, Outcome};
use domain::vault::{Books, Logged};

use super::{Batch, Ledger, LedgerError, Outbox, OutboxError};

/// A ledger that keeps events, and folds them when asked.
#[derive(Debug, Default)]
pub struct MemoryLedger(Mutex<Pages>);

/// All that a ledger holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pages {
    /// Remembered blocks, oldest first.
    pub blocks: Vec<BlockRef>,
    /// All events, in their order.
    pub events: Vec<Logged>,
}

impl Pages {
    /// The last block that was applied.
    #[must_use]
    pub fn cursor(&self) -> Option<BlockRef> {
        self.blocks.last().copied()
    }

    /// The books of every vault.
    ///
    /// # Errors
    /// The first event that cannot follow those before it.
    pub fn books(&self) -> Result<BTreeMap<Address, Books>, LedgerError> {
        let mut books: BTreeMap<Address, Books> = BTreeMap::new();
        for logged in &self.events {
            let applied = books.entry(logged.vault).or_default().apply(&logged.event);
            applied.map_err(|why| LedgerError::Impossible {
                block: logged.block.number,
                log_index: logged.log_index,
                vault: logged.vault,
                why,
            })?;
        }
        Ok(books)
    }

    /// The pages after a batch.
    ///
    /// # Errors
    /// As [`Ledger::apply`].
    pub fn after(&self, batch: &Batch) -> Result<Self, LedgerError> {
        if self.cursor() != batch.after {
            return Err(LedgerError::Moved);
        }
        let kept = self.blocks.iter().filter(|block| block.number >= batch.forget_below);
        let blocks = kept.chain(&batch.blocks).copied().collect();
        let events = self.events.iter().chain(&batch.events).cloned().collect();
        let next = Self { blocks, events };
        next.books()?;
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
    pub fn pages(&self) -> Pages {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn turn(&self, pages: Pages) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = pages;
    }
}

#[async_trait]
impl Ledger for MemoryLedger {
    async fn cursor(&self) -> Result<Option<BlockRef>, LedgerError> {
        Ok(self.pages().cursor())
    }

    async fn remembered(&self) -> Result<Vec<BlockRef>, LedgerError> {
        Ok(self.pages().blocks.into_iter().rev().collect())
    }

    async fn vaults(&self) -> Result<Vec<Address>, LedgerError> {
        Ok(self.pages().books()?.into_keys().collect())
    }

    async fn apply(&self, batch: &Batch) -> Result<(), LedgerError> {
        self.turn(self.pages().after(batch)?);
        Ok(())
    }

    async fn roll_back(&self, to: Option<&BlockRef>) -> Result<(), LedgerError> {
        self.turn(self.pages().before(to));
        Ok(())
    }
}

/// An outbox that can be made to fail.
#[derive(Debug, Default)]
pub struct MemoryOutbox(Mutex<Drawer>);

#[derive(Debug, Default)]
struct Drawer {
    entries: HashMap<Account, BTreeMap<u64, Entry>>,
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
        account: &Account,
        work: impl FnOnce(&mut BTreeMap<u64, Entry>) -> Result<T, OutboxError>,
    ) -> Result<T, OutboxError> {
        let mut drawer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let done = work(drawer.entries.entry(*account).or_default())?;
        if drawer.failing { Err(OutboxError::Unavailable("the test said so".to_owned())) } else { Ok(done) }
    }

    fn with_pending(&self, account: &Account, nonce: u64, work: impl FnOnce(&mut Entry)) -> Result<(), OutboxError> {
        self.with(account, |entries| {
            let pending = entries.get_mut(&nonce).filter(|entry| entry.state == EntryState::Pending);
            pending.map(work).ok_or(OutboxError::Conflict)
        })
    }
}

#[async_trait]
impl Outbox for MemoryOutbox {
    async fn find(&self, account: &Account, key: &IntentKey) -> Result<Option<Entry>, OutboxError> {
        self.with(account, |entries| Ok(entries.values().find(|entry| entry.key == *key).cloned()))
    }

    async fn pending(&self, account: &Account) -> Result<Vec<Entry>, OutboxError> {
        let pending = |entry: &&Entry| entry.state == EntryState::Pending;
        self.with(account, |entries| Ok(entries.values().filter(pending).cloned().collect()))
    }

    async fn highest_nonce(&self, account: &Account) -> Result<Option<u64>, OutboxError> {
        self.with(account, |entries| Ok(entries.keys().next_back().copied()))
    }

    async fn write(&self, entry: &Entry) -> Result<(), OutboxError> {
        self.with(&entry.account, |entries| {
            let taken = entries.values().any(|other| other.key == entry.key || other.nonce == entry.nonce);
            if taken {
                return Err(OutboxError::Conflict);
            }
            entries.insert(entry.nonce, entry.clone());
            Ok(())
        })
    }

    async fn add(&self, account: &Account, nonce: u64, attempt: &Attempt) -> Result<(), OutboxError> {
        self.with_pending(account, nonce, |entry| entry.attempts.push(attempt.clone()))
    }

    async fn settle(&self, account: &Account, nonce: u64, outcome: &Outcome) -> Result<(), OutboxError> {
        self.with_pending(account, nonce, |entry| entry.state = EntryState::Settled(*outcome))
    }
}
