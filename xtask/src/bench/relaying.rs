//! How long a relayed call takes, from a signed request to the relayer's answer;
//! and a bare `eth_sendRawTransaction` of the same call to its receipt, on the same
//! chain, in turns with it.
//!
//! The chain is a process of its own on processor 0. The relayer is the product's
//! but for HTTP: rules, simulation, journal and outbox in the real database, the
//! sender and its looks at the chain. It believes what the product believes on a
//! local chain: one confirmation.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy::consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy::eips::eip2718::Encodable2718;
use alloy::signers::SignerSync;
use anyhow::{Result, ensure};
use chain::evm::{CheckedChain, EvmConfig, Sender, SigningKey, calls};
use domain::evm::Call;
use domain::{Address, Bytes, Clock, SystemClock, U256, Usdc};
use fixtures::CHAIN_ID;
use relay::fake::{TestRequest, TestWallet};
use relay::{ChainParameters, EvmChain, Relayer};
use serde_json::json;
use store::Store;
use tokio::time::sleep;

use super::figures::{Figure, percentile};
use super::local::LocalChain;

/// Who owns the vault, and signs all calls.
const OWNER: u64 = 2;
/// Who pays for the relayed ones.
const RELAYER: u64 = 3;
/// How often a receipt is asked for.
const LOOK: Duration = Duration::from_millis(1);
/// Gas that one call may use.
const GAS: u64 = 200_000;
/// Wei for a unit of gas; far above the local chain's.
const MAX_FEE: u128 = 10_000_000_000;
/// More than are asked for here.
const MANY: u64 = 100_000;
/// A day's gas of which one caller's share is more than is used here.
const MUCH_GAS: u64 = 10_000_000_000;
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// What a bare call took, and a relayed one.
type Pairs = Vec<(Duration, Duration)>;

/// How the chain makes blocks, and how often the relayer looks at it.
struct Setting {
    name: &'static str,
    block_every: Option<Duration>,
    look_ms: u64,
    calls: u32,
}

const SETTINGS: [Setting; 3] = [
    Setting { name: "blocks at once, look each 10 ms", block_every: None, look_ms: 10, calls: 40 },
    Setting { name: "blocks at once, look each 200 ms", block_every: None, look_ms: 200, calls: 30 },
    Setting {
        name: "block each 500 ms, look each 200 ms",
        block_every: Some(Duration::from_millis(500)),
        look_ms: 200,
        calls: 14,
    },
];

/// Measures, and returns the figures.
pub(super) fn run() -> Result<Vec<Figure>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut bench = RelayBench::start().await?;
        let mut figures = Vec::new();
        for setting in &SETTINGS {
            figures.extend(bench.measure(setting).await?);
        }
        Ok(figures)
    })
}

/// A chain with a vault, and its owner's next nonces: the account's and the
/// forwarder's.
struct RelayBench {
    local: LocalChain,
    evm: EvmConfig,
    facts: ChainParameters,
    owner: TestWallet,
    vault: Address,
    nonce: u64,
    forwarded: u64,
}

impl RelayBench {
    async fn start() -> Result<Self> {
        let (owner, relayer) = (TestWallet::new(OWNER), TestWallet::new(RELAYER).address());
        let local = LocalChain::start().await?;
        local.give_coins(relayer).await;
        let evm = local.deploy(owner.address(), Usdc(0)).await?;
        let chain = CheckedChain::connect(&evm).await?;
        let vault = local.vault(&chain, owner.address()).await?;
        let nonce = chain.evm.nonce(owner.address()).await?;
        let facts = relay::facts(&chain, relayer);
        Ok(Self { local, evm, facts, owner, vault, nonce, forwarded: 0 })
    }

    async fn measure(&mut self, setting: &Setting) -> Result<[Figure; 3]> {
        let dir = tempfile::TempDir::with_prefix_in("palatine-bench-", super::scratch())?;
        let relayer = relayer(&EvmConfig { poll_ms: setting.look_ms, ..self.evm.clone() }, dir.path()).await?;
        let pairs = match setting.block_every {
            None => self.one_by_one(&relayer, setting).await?,
            Some(every) => {
                self.local.automine(false).await?;
                let pairs = self.side_by_side(&relayer, setting, every).await?;
                self.local.automine(true).await?;
                pairs
            }
        };
        let (bare, relayed): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let (bare, relayed) = (percentile(&bare, 0.5).as_secs_f64(), percentile(&relayed, 0.5).as_secs_f64());
        Ok([
            Figure::new(format!("relayed call, {}, p50", setting.name), relayed * 1000.0, "ms"),
            Figure::new("… bare eth_sendRawTransaction to its receipt, p50", bare * 1000.0, "ms"),
            Figure::new("… ratio", relayed / bare, "×"),
        ])
    }

    async fn one_by_one(&mut self, relayer: &Relayer, setting: &Setting) -> Result<Pairs> {
        let mut pairs = Vec::new();
        for round in 0..setting.calls {
            let (raw, request) = (self.transaction(round)?, self.request(round)?);
            let bare = self.bare(&raw).await?;
            sleep(off(round, Duration::from_millis(setting.look_ms))).await;
            pairs.push((bare, relayed(relayer, &request).await?));
        }
        Ok(pairs)
    }

    /// Both calls of a pair begin at once, so that both wait for the same block.
    async fn side_by_side(&mut self, relayer: &Relayer, setting: &Setting, every: Duration) -> Result<Pairs> {
        let work = (0..setting.calls).map(|round| Ok((self.transaction(round)?, self.request(round)?)));
        let work = work.collect::<Result<Vec<_>>>()?;
        let measuring = async {
            let mut pairs = Vec::new();
            for (round, (raw, request)) in (0..).zip(&work) {
                sleep(off(round, every)).await;
                pairs.push(tokio::try_join!(self.bare(raw), relayed(relayer, request))?);
            }
            anyhow::Ok(pairs)
        };
        tokio::select! {
            pairs = measuring => pairs,
            failed = self.mine_for_ever(every) => Err(failed),
        }
    }

    async fn mine_for_ever(&self, every: Duration) -> anyhow::Error {
        let mut blocks = tokio::time::interval(every);
        loop {
            blocks.tick().await;
            if let Err(error) = self.local.mine().await {
                return error;
            }
        }
    }

    /// From the signed bytes to a receipt.
    async fn bare(&self, raw: &Bytes) -> Result<Duration> {
        let since = Instant::now();
        let hash = self.local.ask("eth_sendRawTransaction", json!([raw])).await?;
        loop {
            let receipt = self.local.ask("eth_getTransactionReceipt", json!([hash])).await?;
            if !receipt.is_null() {
                let took = since.elapsed();
                ensure!(receipt["status"] == "0x1", "a bare call was reverted: {receipt}");
                return Ok(took);
            }
            sleep(LOOK).await;
        }
    }

    /// The round's call, on an operator of its own.
    fn call(&self, operator: u8, round: u32) -> Call {
        calls::set_operator(self.vault, Address::repeat_byte(operator), round.is_multiple_of(2))
    }

    fn transaction(&mut self, round: u32) -> Result<Bytes> {
        let call = self.call(1, round);
        let transaction = TxEip1559 {
            chain_id: CHAIN_ID,
            nonce: self.nonce,
            gas_limit: GAS,
            max_fee_per_gas: MAX_FEE,
            max_priority_fee_per_gas: 1,
            to: call.to.into(),
            input: call.data,
            ..TxEip1559::default()
        };
        self.nonce += 1;
        let signature = self.owner.signer().sign_hash_sync(&transaction.signature_hash())?;
        Ok(TxEnvelope::from(transaction.into_signed(signature)).encoded_2718().into())
    }

    fn request(&mut self, round: u32) -> Result<Vec<u8>> {
        let call = self.call(2, round);
        let deadline = SystemClock.now().0 / 1000 + 3600;
        let ask =
            TestRequest { to: call.to, data: call.data, nonce: self.forwarded, gas: GAS, value: U256::ZERO, deadline };
        self.forwarded += 1;
        Ok(serde_json::to_vec(&self.owner.ask(&self.facts, &ask))?)
    }
}

/// Callers come at any instant between two looks or two blocks, and not right after
/// one, as those do who ask when the last answer came: the rounds begin at each
/// tenth of it in turn.
fn off(round: u32, every: Duration) -> Duration {
    every * (round * 7 % 10) / 10
}

/// The product's relayer, over a new database.
async fn relayer(evm: &EvmConfig, dir: &Path) -> Result<Relayer> {
    let store = Store::open(&store::Config { directory: dir.join("store"), ..store::Config::default() }).await?;
    let chain = Arc::new(CheckedChain::connect(evm).await?);
    let key = SigningKey::new(TestWallet::new(RELAYER).signer().clone());
    let sender = Sender::start(Arc::clone(&chain), Arc::new(store.outbox()), key).await?;
    let budgets = relay::Budgets { manage: MUCH_GAS, ..relay::Budgets::default() };
    let config = relay::Config { per_client_minute: MANY, budgets, ..relay::Config::default() };
    let chain = Arc::new(EvmChain::new(chain, sender));
    Ok(Relayer::new(config, chain, Arc::new(store.relay_journal(evm.chain_id)), Arc::new(SystemClock))?)
}

/// From the signed request to the relayer's answer.
async fn relayed(relayer: &Relayer, request: &[u8]) -> Result<Duration> {
    let since = Instant::now();
    let answer = relayer.relay(request, None, HERE).await?;
    let took = since.elapsed();
    ensure!(answer.body.success, "a relayed call failed: {:?}", answer.body);
    Ok(took)
}
