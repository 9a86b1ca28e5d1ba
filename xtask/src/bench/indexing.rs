//! How many events the indexer brings from a real chain into the real database,
//! from nothing; and how many a bare `eth_getLogs` of the same ranges gives in the
//! same time, taken in turns with it.
//!
//! The chain is a process of its own on processor 0; indexer and database share
//! processor 1. The events are those of whole deals: created, submitted, completed.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use chain::evm::{CheckedChain, IndexProgress, Indexer, calls};
use domain::evm::Call;
use domain::vault::TaskTerms;
use domain::{Address, B256, U256, Usdc};
use relay::fake::TestWallet;
use serde_json::json;
use store::Store;

use super::figures::Figure;
use super::local::LocalChain;

/// How long each shape is measured, beside its bare counterpart.
const SPAN: Duration = Duration::from_secs(3);
/// Who owns the vault, creates the tasks and does them.
const OWNER: u64 = 2;
/// What one task is worth.
const PRICE: Usdc = Usdc(1_000_000);
const METADATA: &str = "translate this";

/// How the events lie in the chain.
struct Shape {
    name: &'static str,
    deals: u32,
    /// Transactions in a block.
    per_block: usize,
}

const SHAPES: [Shape; 2] = [
    Shape { name: "100 transactions a block", deals: 500, per_block: 100 },
    Shape { name: "one transaction a block", deals: 150, per_block: 1 },
];

/// A chain that is full of events.
struct EventChain {
    local: LocalChain,
    chain: Arc<CheckedChain>,
    vault: Address,
}

/// What one run brought.
struct Indexed {
    events: usize,
    ranges: Vec<(u64, u64)>,
    took: Duration,
}

/// Measures, and returns the figures.
pub(super) fn run() -> Result<Vec<Figure>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut figures = Vec::new();
        for shape in &SHAPES {
            figures.extend(measure(shape).await?);
        }
        Ok(figures)
    })
}

async fn measure(shape: &Shape) -> Result<[Figure; 3]> {
    let source = EventChain::with_deals(shape).await?;
    let (mut ours, mut bare, mut events) = (Duration::ZERO, Duration::ZERO, 0);
    while ours < SPAN {
        let dir = tempfile::TempDir::with_prefix_in("palatine-bench-", super::scratch())?;
        let indexed = source.index(dir.path()).await?;
        let since = Instant::now();
        let logs = source.bare_logs(&indexed.ranges).await?;
        bare += since.elapsed();
        ours += indexed.took;
        ensure!(indexed.events == logs, "{} events of {logs} logs", indexed.events);
        events += indexed.events;
    }
    let per_second = |took: Duration| f64::from(u32::try_from(events).unwrap_or(u32::MAX)) / took.as_secs_f64();
    Ok([
        Figure::new(format!("indexer events per second, {}", shape.name), per_second(ours), "1/s"),
        Figure::new("… a bare eth_getLogs of the same ranges", per_second(bare), "1/s"),
        Figure::new("… ratio", per_second(ours) / per_second(bare), "×"),
    ])
}

impl EventChain {
    async fn with_deals(shape: &Shape) -> Result<Self> {
        let owner = TestWallet::new(OWNER).address();
        let local = LocalChain::start().await?;
        let funds = Usdc(PRICE.0 * u64::from(shape.deals));
        let chain = Arc::new(CheckedChain::connect(&local.deploy(owner, funds).await?).await?);
        let vault = local.vault(&chain, owner).await?;
        local.send(owner, &calls::approve(chain.evm.config().usdc, vault, funds)).await?;
        let submit_by = local.now().await? + 86_400;
        let terms: Vec<TaskTerms> = (0..shape.deals).map(|salt| terms(owner, submit_by, salt)).collect();
        let source = Self { local, chain, vault };
        let creates = terms.iter().map(|terms| calls::create_task(vault, terms, METADATA));
        source.act(owner, creates, shape.per_block).await?;
        let submits = terms.iter().map(|terms| calls::submit(vault, terms, B256::repeat_byte(7)));
        source.act(owner, submits, shape.per_block).await?;
        let completes = terms.iter().map(|terms| calls::complete(vault, terms, PRICE));
        source.act(owner, completes, shape.per_block).await?;
        let earned = source.chain.vault(vault, chain::evm::BlockTag::Latest).await?.available;
        ensure!(earned == funds, "the deals earned {earned} of {funds}");
        Ok(source)
    }

    /// Sends calls in somebody's name, so many to a block.
    async fn act(&self, who: Address, calls: impl Iterator<Item = Call>, per_block: usize) -> Result<()> {
        let calls: Vec<Call> = calls.collect();
        self.local.automine(false).await?;
        for block in calls.chunks(per_block) {
            for call in block {
                self.local.send(who, call).await?;
            }
            self.local.mine().await?;
        }
        self.local.automine(true).await
    }

    /// Everything, into a new database.
    async fn index(&self, dir: &Path) -> Result<Indexed> {
        let config = self.chain.evm.config();
        let store = Store::open(&store::Config { directory: dir.join("store"), ..store::Config::default() }).await?;
        let ledger = Arc::new(store.ledger(store.chain_index(config.chain_id, config.factory).await?));
        let mut indexer = Indexer::new(Arc::clone(&self.chain), ledger);
        let (mut events, mut ranges, mut from) = (0, Vec::new(), config.start_block);
        let since = Instant::now();
        loop {
            let progress = indexer.index_range().await?;
            let IndexProgress::Applied { cursor, events: more, at_head } = progress else {
                anyhow::bail!("a pass ended with {progress:?}");
            };
            ranges.push((from, cursor.number));
            (events, from) = (events + more, cursor.number + 1);
            if at_head {
                return Ok(Indexed { events, ranges, took: since.elapsed() });
            }
        }
    }

    /// The same questions with nothing around them: the factory's logs, the vault's.
    async fn bare_logs(&self, ranges: &[(u64, u64)]) -> Result<usize> {
        let mut logs = 0;
        for (from, to) in ranges {
            for address in [self.chain.evm.config().factory, self.vault] {
                let (from, to) = (format!("{from:#x}"), format!("{to:#x}"));
                let filter = json!([{"address": address, "fromBlock": from, "toBlock": to}]);
                logs += self.local.ask("eth_getLogs", filter).await?.as_array().map_or(0, Vec::len);
            }
        }
        Ok(logs)
    }
}

fn terms(creator: Address, submit_by: u64, salt: u32) -> TaskTerms {
    TaskTerms {
        creator,
        evaluator: Address::ZERO,
        arbiter: Address::ZERO,
        fee_recipient: Address::ZERO,
        amount: PRICE,
        min_paid: Usdc(0),
        submit_by,
        review_period: 3600,
        arbiter_period: 3600,
        default_agent_bps: 5000,
        fee_bps: 0,
        metadata_hash: alloy::primitives::keccak256(METADATA),
        salt: B256::from(U256::from(salt)),
    }
}
