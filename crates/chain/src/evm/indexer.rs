//! From the chain's logs to the ledger, block by block, whatever happens between.
//!
//! A pass reads one bounded range after the ledger's cursor and hands it over as
//! one transaction. Before it, the cursor's block is compared with the chain's: if
//! it is gone, the ledger is rolled back to the last block that both have. Within
//! the depth of a re-organisation every block is remembered, must name the one
//! before it as its parent, and is asked again where its bloom filter speaks of
//! logs that were not in the answer. So the ledger is always that of one chain.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::{BloomInput, keccak256};
use domain::evm::BlockRef;
use domain::vault::{EventBatch, Ledger, LedgerError, LoggedEvent, VaultEvent};
use domain::{Address, B256, Backoff};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::abi::PODVault::PODVaultEvents;
use super::answer::{Block, Log};
use super::node::LogFilter;
use super::{CheckedChain, EvmError, terms};

/// Blocks that are asked for at once.
const BLOCKS_AT_ONCE: usize = 8;
/// Vaults whose logs are asked for by address. With more of them, all logs of our
/// events are asked for, and those of strangers dropped.
const FEW_VAULTS: usize = 200;
/// The longest pause after failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Why the ledger does not go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// The chain cannot be read, or endpoints contradict each other.
    #[error(transparent)]
    Evm(#[from] EvmError),
    /// The ledger does not take it.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The chain has none of the blocks that are remembered.
    #[error(
        "the chain has none of the last {depth} blocks before {cursor}: it is another chain, or was re-organised more \
         deeply than [evm] reorg_depth allows"
    )]
    TooDeep {
        /// The ledger's cursor.
        cursor: u64,
        /// `[evm] reorg_depth`.
        depth: u64,
    },
}

/// What a pass did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IndexProgress {
    /// There is nothing new.
    Idle,
    /// A range was applied; there may be more.
    Applied {
        /// The cursor now.
        cursor: BlockRef,
        /// Events in the range.
        events: usize,
        /// Whether the cursor is the newest block that enough endpoints have.
        at_head: bool,
    },
    /// The chain was re-organised.
    RolledBack {
        /// The cursor now; `None` at the very start.
        cursor: Option<BlockRef>,
    },
    /// The range was too large for an endpoint; the next one is smaller.
    Narrowed {
        /// Blocks in the next range.
        range: u64,
    },
}

/// Reads one chain into one ledger.
pub struct Indexer {
    chain: Arc<CheckedChain>,
    ledger: Arc<dyn Ledger>,
    range: u64,
    /// All vaults at the cursor, with the hashes of their addresses; `None` when
    /// that must be read from the ledger.
    vaults: Option<HashMap<Address, B256>>,
}

impl std::fmt::Debug for Indexer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Indexer").field("range", &self.range).finish_non_exhaustive()
    }
}

/// What has become of the cursor's block.
enum CursorBlock {
    Canonical,
    Unknown,
    Orphaned,
}

/// A range that is being read.
#[derive(Debug, Default)]
struct RangeScan {
    blocks: BTreeMap<u64, Block>,
    logs: Vec<Log>,
    created: BTreeSet<Address>,
}

impl Indexer {
    /// An indexer that goes on where the ledger is.
    #[must_use]
    pub fn new(chain: Arc<CheckedChain>, ledger: Arc<dyn Ledger>) -> Self {
        let range = chain.evm.config().log_range;
        Self { chain, ledger, range, vaults: None }
    }

    /// Passes for ever: at once while there is more, else after `[evm] poll_ms`;
    /// after failures more slowly each time. Ends when it is dropped, at any
    /// instant.
    pub async fn run(mut self) {
        let poll = Duration::from_millis(self.chain.evm.config().poll_ms);
        let backoff = Backoff { first: poll.saturating_mul(2), longest: LONGEST_PAUSE };
        let mut failures = 0_u32;
        loop {
            let pause = match self.index_range().await {
                Ok(IndexProgress::Applied { at_head: true, .. } | IndexProgress::Idle) => {
                    failures = 0;
                    poll
                }
                Ok(_) => Duration::ZERO,
                Err(error) => {
                    failures = failures.saturating_add(1);
                    tracing::warn!(%error, failures, "the vaults' events cannot be read; trying again");
                    backoff.after(failures)
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// One step: a range is applied, a re-organisation undone, or nothing.
    ///
    /// # Errors
    /// [`IndexError`]; then the ledger has not changed, or a ledger's failure says
    /// so.
    pub async fn index_range(&mut self) -> Result<IndexProgress, IndexError> {
        let done = self.step().await;
        match &done {
            Ok(IndexProgress::Applied { cursor, events, .. }) => {
                metrics::gauge!("palatine_evm_index_block").set(gauge(cursor.number));
                metrics::counter!("palatine_evm_index_events_total").increment(*events as u64);
            }
            Ok(IndexProgress::RolledBack { .. }) => {
                metrics::counter!("palatine_evm_reorgs_total").increment(1);
                self.vaults = None;
            }
            Ok(IndexProgress::Idle | IndexProgress::Narrowed { .. }) => {}
            Err(_) => self.vaults = None,
        }
        done
    }

    async fn step(&mut self) -> Result<IndexProgress, IndexError> {
        let agreed_head = self.chain.evm.agreed_head().await?;
        let cursor = self.ledger.cursor().await?;
        if let Some(cursor) = cursor {
            match self.still(&cursor, agreed_head).await? {
                CursorBlock::Canonical => {}
                CursorBlock::Unknown => return Ok(IndexProgress::Idle),
                CursorBlock::Orphaned => return self.roll_back(&cursor, agreed_head).await,
            }
        }
        let from = cursor.map_or(self.chain.evm.config().start_block, |cursor| cursor.number + 1);
        if from > agreed_head {
            return Ok(IndexProgress::Idle);
        }
        let to = agreed_head.min(from.saturating_add(self.range - 1));
        match self.read(cursor, from, to, agreed_head).await {
            Ok(batch) => self.apply(batch, agreed_head).await,
            Err(IndexError::Evm(error)) if to > from && is_too_much(&error) => Ok(self.narrow(to - from + 1)),
            Err(error) => Err(error),
        }
    }

    fn narrow(&mut self, read: u64) -> IndexProgress {
        self.range = (read / 2).max(1);
        tracing::info!(range = self.range, "an endpoint gives the logs of fewer blocks at once");
        IndexProgress::Narrowed { range: self.range }
    }

    async fn apply(&mut self, batch: EventBatch, agreed_head: u64) -> Result<IndexProgress, IndexError> {
        self.ledger.apply(&batch).await?;
        let created = batch.events.iter().filter(|logged| matches!(logged.event, VaultEvent::VaultCreated { .. }));
        if let Some(vaults) = &mut self.vaults {
            vaults.extend(created.map(|logged| (logged.vault, keccak256(logged.vault))));
        }
        self.range = self.range.saturating_mul(2).min(self.chain.evm.config().log_range);
        let (cursor, events) = (batch.cursor, batch.events.len());
        Ok(IndexProgress::Applied { cursor, events, at_head: cursor.number == agreed_head })
    }

    async fn still(&self, cursor: &BlockRef, agreed_head: u64) -> Result<CursorBlock, IndexError> {
        if cursor.number > agreed_head {
            return self.still_below(agreed_head).await;
        }
        Ok(match self.chain.evm.block(cursor.number).await? {
            Some(block) if block.hash == cursor.hash => CursorBlock::Canonical,
            Some(_) => CursorBlock::Orphaned,
            None => CursorBlock::Unknown,
        })
    }

    /// The chain is shorter than the ledger: the endpoints are behind, unless what
    /// they have is of another fork.
    async fn still_below(&self, agreed_head: u64) -> Result<CursorBlock, IndexError> {
        let remembered = self.ledger.remembered().await?;
        let Some(highest) = remembered.iter().find(|block| block.number <= agreed_head) else {
            return Ok(CursorBlock::Orphaned);
        };
        let block = self.chain.evm.block(highest.number).await?;
        Ok(if block.is_none_or(|block| block.hash == highest.hash) {
            CursorBlock::Unknown
        } else {
            CursorBlock::Orphaned
        })
    }

    /// To the newest block that both the ledger and the chain have.
    async fn roll_back(&self, cursor: &BlockRef, agreed_head: u64) -> Result<IndexProgress, IndexError> {
        let config = self.chain.evm.config();
        let deepest = cursor.number.saturating_sub(config.reorg_depth);
        for known in self.ledger.remembered().await? {
            if known.number > agreed_head || known.number < deepest {
                continue;
            }
            if self.chain.evm.block(known.number).await?.is_some_and(|block| block.hash == known.hash) {
                return self.roll_back_to(cursor, Some(known)).await;
            }
        }
        if deepest <= config.start_block {
            return self.roll_back_to(cursor, None).await;
        }
        Err(IndexError::TooDeep { cursor: cursor.number, depth: config.reorg_depth })
    }

    async fn roll_back_to(&self, from: &BlockRef, to: Option<BlockRef>) -> Result<IndexProgress, IndexError> {
        tracing::warn!(%from, to = ?to.map(|block| block.number), "the chain was re-organised");
        self.ledger.roll_back(to.as_ref()).await?;
        Ok(IndexProgress::RolledBack { cursor: to })
    }

    async fn read(
        &mut self,
        after: Option<BlockRef>,
        from: u64,
        to: u64,
        agreed_head: u64,
    ) -> Result<EventBatch, IndexError> {
        let depth = self.chain.evm.config().reorg_depth;
        let zone = from.max((agreed_head + 1).saturating_sub(depth)).min(to);
        let vaults = self.vaults().await?;
        let mut reading = RangeScan { blocks: self.blocks(zone..=to).await?, ..RangeScan::default() };
        linked(after, &reading.blocks)?;
        self.read_logs(&vaults, from, to, &mut reading).await?;
        self.look_twice(&vaults, &reading).await?;
        let remembered: Vec<BlockRef> = reading.blocks.values().map(Block::reference).collect();
        let events = self.events(&mut reading).await?;
        let cursor = self.unmoved(to, &reading).await?;
        self.vaults = Some(vaults);
        Ok(EventBatch { after, cursor, blocks: remembered, forget_below: to.saturating_sub(depth), events })
    }

    async fn vaults(&mut self) -> Result<HashMap<Address, B256>, IndexError> {
        if let Some(vaults) = self.vaults.take() {
            return Ok(vaults);
        }
        let vaults = self.ledger.vaults().await?;
        Ok(vaults.into_iter().map(|vault| (vault, keccak256(vault))).collect())
    }

    async fn blocks(&self, numbers: impl Iterator<Item = u64>) -> Result<BTreeMap<u64, Block>, IndexError> {
        let method = "eth_getBlockByNumber";
        let missing = || EvmError::Unknown { method, why: "too few endpoints have the block".to_owned() };
        let read = async |number| self.chain.evm.block(number).await?.ok_or_else(missing).map(|block| (number, block));
        Ok(stream::iter(numbers).map(read).buffered(BLOCKS_AT_ONCE).try_collect().await?)
    }

    /// The factory's logs first: a vault that is made in the range speaks in it.
    async fn read_logs(
        &self,
        vaults: &HashMap<Address, B256>,
        from: u64,
        to: u64,
        reading: &mut RangeScan,
    ) -> Result<(), IndexError> {
        let factory = [self.chain.factory()];
        reading.logs = self.chain.evm.logs(&LogFilter::Contracts(&factory), from, to).await?;
        for log in &reading.logs {
            reading.created.extend(terms::creation(log)?.map(|(vault, _)| vault));
        }
        let ours: Vec<Address> = vaults.keys().chain(&reading.created).copied().collect();
        if ours.is_empty() {
            return Ok(());
        }
        let topics: Vec<B256> = PODVaultEvents::SELECTORS.iter().map(B256::from).collect();
        let few = ours.len() <= FEW_VAULTS;
        let source = if few { LogFilter::Contracts(&ours) } else { LogFilter::Topics(&topics) };
        let mut logs = self.chain.evm.logs(&source, from, to).await?;
        logs.retain(|log| few || vaults.contains_key(&log.address) || reading.created.contains(&log.address));
        reading.logs.extend(logs);
        reading.logs.sort_by_key(|log| (log.block_number, log.log_index));
        Ok(())
    }

    /// A block whose bloom filter has one of our addresses, and none of whose logs
    /// was in the answer, is asked for by its hash: the answer may have been made
    /// before the block was, or of another fork. Filters err, so no log is no fault.
    async fn look_twice(&self, vaults: &HashMap<Address, B256>, reading: &RangeScan) -> Result<(), IndexError> {
        for block in reading.blocks.values() {
            let heard = |address: &Address| {
                reading.logs.iter().any(|log| log.block_number == block.number && log.address == *address)
            };
            let speaks = |hash: B256| block.logs_bloom.contains_input(BloomInput::Hash(hash));
            let factory = self.chain.factory();
            let known = vaults.iter().map(|(vault, hash)| (*vault, *hash));
            let created = reading.created.iter().map(|vault| (*vault, keccak256(vault)));
            let all = known.chain(created).chain([(factory, keccak256(factory))]);
            let unheard: Vec<Address> =
                all.filter(|(address, hash)| speaks(*hash) && !heard(address)).map(|(address, _)| address).collect();
            for some in unheard.chunks(FEW_VAULTS) {
                if !self.chain.evm.logs_in(&LogFilter::Contracts(some), block.reference()).await?.is_empty() {
                    return Err(misfit("an answer without logs that one of its blocks holds").into());
                }
            }
        }
        Ok(())
    }

    /// The logs as events, each in the block that is the chain's at its height.
    async fn events(&self, reading: &mut RangeScan) -> Result<Vec<LoggedEvent>, IndexError> {
        let numbers: BTreeSet<u64> = reading.logs.iter().map(|log| log.block_number).collect();
        let unknown: Vec<u64> = numbers.into_iter().filter(|number| !reading.blocks.contains_key(number)).collect();
        let more = self.blocks(unknown.into_iter()).await?;
        reading.blocks.extend(more);
        let mut events = Vec::new();
        for log in &reading.logs {
            let block = reading.blocks.get(&log.block_number).filter(|block| block.hash == log.block_hash);
            let block = block.ok_or_else(|| misfit("a log of a block that is not the chain's"))?.reference();
            let said = if log.address == self.chain.factory() {
                terms::creation(log)?
            } else {
                terms::event(log)?.map(|event| (log.address, event))
            };
            let place = |(vault, event)| LoggedEvent {
                block,
                log_index: log.log_index,
                transaction: log.transaction_hash,
                vault,
                event,
            };
            events.extend(said.map(place));
        }
        Ok(events)
    }

    /// The range's last block, which is still the one it was when reading began.
    async fn unmoved(&self, to: u64, reading: &RangeScan) -> Result<BlockRef, IndexError> {
        let before = reading.blocks.get(&to).ok_or_else(|| misfit("no last block"))?;
        let now = self.chain.evm.block(to).await?;
        if now.is_some_and(|now| now.hash == before.hash) {
            return Ok(before.reference());
        }
        Err(misfit("the chain was re-organised while it was read").into())
    }
}

fn misfit(what: &'static str) -> EvmError {
    EvmError::Inconsistent { method: "eth_getLogs", what }
}

/// Whether fewer blocks at once may help.
const fn is_too_much(error: &EvmError) -> bool {
    matches!(error, EvmError::TooMany { .. } | EvmError::Unknown { .. })
}

/// Each block names the one before it.
fn linked(after: Option<BlockRef>, blocks: &BTreeMap<u64, Block>) -> Result<(), EvmError> {
    let mut before = after.map(|block| (block.number, block.hash));
    for (number, block) in blocks {
        let follows = before.is_none_or(|(height, hash)| height + 1 != *number || hash == block.parent_hash);
        if !follows {
            return Err(misfit("a block that does not follow the one before it"));
        }
        before = Some((*number, block.hash));
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a gauge; block numbers are far below 2⁵²")]
const fn gauge(number: u64) -> f64 {
    number as f64
}
