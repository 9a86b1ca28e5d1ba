//! `kill -9` at random instants of relaying: every request that was taken on has one
//! effect on the chain, one fee, and one answer.
//!
//! The killed process is this test binary again, told by its environment to relay.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{Address, B256, U256};
use chain::evm::{EvmConfig, calls};
use domain::Usdc;
use domain::payment::Authorization;
use palatine_relay::fake::{MemoryJournal, TestRequest, TestWallet};
use palatine_relay::{Budgets, Config, FeePolicy, RelayError, Relayer};
use rand::RngExt;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use wire::v1::relay::{BatchAnswer, CallStatus, SignedRequest};

use crate::anvil::{Anvil, deploy, now_s, relayer, vault_call};
use crate::files::{FileJournal, FileOutbox};
use crate::fixture::HERE;

/// Tells the process to relay, and where its files are.
const FOLDER: &str = "PALATINE_TEST_RELAY_FOLDER";
const KILLS: usize = 20;
const OWNERS: u64 = 4;
const REQUESTS: u64 = 8;
const PAYEE: Address = Address::repeat_byte(0xfe);
const FUNDS: Usdc = Usdc(1_000_000_000);
const PAID: Usdc = Usdc(20_000_000);

/// What the process is to do, in a file.
#[derive(Serialize, Deserialize)]
struct Orders {
    evm: EvmConfig,
    batches: Vec<Batch>,
}

/// Requests of one owner, with what pays for them.
#[derive(Clone, Serialize, Deserialize)]
struct Batch {
    requests: Vec<SignedRequest>,
    payment: String,
}

fn config() -> Config {
    Config {
        fee: FeePolicy::Charged,
        receiving_wallet: Some(PAYEE),
        queue: 64,
        wait_ms: 120_000,
        per_client_minute: 100_000,
        // All owners ask from one address.
        budgets: Budgets { client_percent: 100, ..Budgets::default() },
        ..Config::default()
    }
}

/// The killed process: takes up what is left, asks for every batch, and says what
/// came of it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a child process of other tests"]
async fn the_process_that_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let _ = rustls::crypto::ring::default_provider().install_default();
    let orders: Orders = serde_json::from_slice(&std::fs::read(folder.join("orders.json")).unwrap()).unwrap();
    let (outbox, journal) = (Arc::new(FileOutbox::open(&folder)), Arc::new(FileJournal::open(&folder)));
    let (relayer, _) = relayer(&orders.evm, config(), outbox, journal).await;
    println!("@ready");
    relayer.resume().await.unwrap();
    let asked = orders.batches.into_iter().map(|batch| tokio::spawn(ask(relayer.clone(), batch)));
    for answer in asked.collect::<Vec<_>>() {
        println!("@{}", serde_json::to_string(&answer.await.unwrap()).unwrap());
    }
    println!("@done");
}

/// Asks until the answer is final, as a client would.
async fn ask(relayer: Relayer, batch: Batch) -> BatchAnswer {
    let body = json!({ "requests": batch.requests }).to_string();
    loop {
        match relayer.batch(body.as_bytes(), Some(&batch.payment), HERE).await {
            Ok(answer) if answer.status == 200 => return answer.body,
            Ok(_) | Err(RelayError::Busy | RelayError::Chain(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => panic!("{error}"),
        }
    }
}

struct Life {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Life {
    async fn begin(folder: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::the_process_that_is_killed", "--ignored", "--nocapture", "--test-threads", "1"])
            .env(FOLDER, folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut life = Self { child, lines };
        assert_eq!(life.said().await.as_deref(), Some("ready"));
        life
    }

    /// The next line that is meant for us.
    async fn said(&mut self) -> Option<String> {
        loop {
            let line = self.lines.next_line().await.unwrap()?;
            // The harness does not end its own line first.
            if let Some((_, said)) = line.split_once('@') {
                return Some(said.to_owned());
            }
        }
    }

    async fn kill(mut self) -> Vec<BatchAnswer> {
        self.child.start_kill().unwrap();
        let mut answers = Vec::new();
        while let Some(line) = self.said().await {
            answers.extend(serde_json::from_str(&line).ok());
        }
        self.child.wait().await.unwrap();
        answers
    }

    async fn finish(mut self) -> Vec<BatchAnswer> {
        let mut answers = Vec::new();
        while let Some(line) = self.said().await.filter(|line| line != "done") {
            answers.push(serde_json::from_str(&line).unwrap());
        }
        answers
    }
}

/// A vault for each owner, by their signatures alone.
async fn vaults(evm: &EvmConfig, owners: &[TestWallet]) -> Vec<Address> {
    let free = Config { per_client_minute: 1000, ..Config::default() };
    let outbox = Arc::new(chain::evm::fake::MemoryOutbox::default());
    let (relayer, _) = relayer(evm, free, outbox, Arc::new(MemoryJournal::default())).await;
    let chain = chain::evm::CheckedChain::connect(evm).await.unwrap();
    let mut vaults = Vec::new();
    for owner in owners {
        let call = vault_call(evm, "pod", owner, owner.address());
        let body = json!({"to": call.to, "data": call.data}).to_string();
        assert!(relayer.call(body.as_bytes(), None, HERE).await.unwrap().body.success);
        vaults.push(chain.vault_of("pod", owner.address()).await.unwrap());
    }
    vaults
}

async fn orders(evm: &EvmConfig, owners: &[TestWallet], vaults: &[Address]) -> Orders {
    let chain = chain::evm::CheckedChain::connect(evm).await.unwrap();
    let facts = palatine_relay::facts(&chain, crate::anvil::relayer_key().address());
    let deadline = now_s() + 3600;
    let batch = |(owner, vault): (&TestWallet, &Address)| {
        let request = |nonce| {
            let data = calls::set_operator(*vault, operator(nonce), true).data;
            owner.ask(&facts, &TestRequest { to: *vault, data, nonce, gas: 120_000, value: U256::ZERO, deadline })
        };
        let authorization = Authorization {
            chain_id: facts.chain_id,
            asset: facts.token,
            from: owner.address(),
            to: PAYEE,
            value: PAID,
            valid_after: U256::ZERO,
            valid_before: U256::from(deadline),
            nonce: B256::repeat_byte(9),
        };
        Batch {
            requests: (0..REQUESTS).map(request).collect(),
            payment: owner.pay_by(&facts, "eip155:338", &authorization),
        }
    };
    Orders { evm: evm.clone(), batches: owners.iter().zip(vaults).map(batch).collect() }
}

fn operator(number: u64) -> Address {
    Address::from_word(B256::from(U256::from(number + 1)))
}

/// How often each log of a contract is on the chain, by its topics.
async fn logged(anvil: &Anvil, of: Address) -> HashMap<String, usize> {
    let logs = anvil.call("eth_getLogs", json!([{"address": of, "fromBlock": "0x0", "toBlock": "latest"}])).await;
    let mut counts = HashMap::new();
    for log in logs.as_array().unwrap() {
        *counts.entry(log["topics"].to_string()).or_default() += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn after_twenty_kills_every_request_has_one_effect_one_fee_and_one_answer() {
    let owners: Vec<TestWallet> = (1..=OWNERS).map(TestWallet::new).collect();
    let anvil = Anvil::start(&[]);
    let holders: Vec<Address> = owners.iter().map(TestWallet::address).collect();
    let evm = EvmConfig { poll_ms: 100, ..deploy(&anvil, &holders, FUNDS).await };
    let vaults = vaults(&evm, &owners).await;
    anvil.call("evm_setIntervalMining", json!([1])).await;
    let folder = tempfile::tempdir().unwrap();
    let orders = orders(&evm, &owners, &vaults).await;
    std::fs::write(folder.path().join("orders.json"), serde_json::to_vec(&orders).unwrap()).unwrap();

    let mut early = Vec::new();
    for _ in 0..KILLS {
        let life = Life::begin(folder.path()).await;
        let pause = rand::rng().random_range(1..700);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        early.extend(life.kill().await);
    }
    let last = Life::begin(folder.path()).await.finish().await;

    assert_eq!(last.len(), owners.len());
    for answer in &last {
        assert!(answer.success && answer.results.iter().all(|it| it.status == CallStatus::Executed), "{answer:?}");
        assert_eq!(answer.fee_taken, Some(PAID.0.to_string()));
    }
    assert!(early.iter().all(|answer| last.contains(answer)), "an answer changed");
    let chain = chain::evm::CheckedChain::connect(&evm).await.unwrap();
    for (owner, vault) in owners.iter().zip(&vaults) {
        let effects = logged(&anvil, *vault).await;
        assert!(effects.values().all(|count| *count == 1), "an effect came twice: {effects:?}");
        for number in 0..REQUESTS {
            assert!(chain.is_operator(*vault, operator(number), chain::evm::BlockTag::Latest).await.unwrap());
        }
        assert_eq!(chain.forwarder_nonce(owner.address()).await.unwrap(), U256::from(REQUESTS));
        assert_eq!(chain.usdc_of(owner.address(), chain::evm::BlockTag::Latest).await.unwrap(), Usdc(FUNDS.0 - PAID.0));
    }
    assert_eq!(chain.usdc_of(PAYEE, chain::evm::BlockTag::Latest).await.unwrap(), Usdc(PAID.0 * OWNERS));
    let sent = anvil.call("eth_getTransactionCount", json!([crate::anvil::relayer_key().address(), "latest"])).await;
    let wanted = OWNERS + OWNERS * (REQUESTS + 1);
    assert_eq!(sent, json!(format!("{wanted:#x}")), "vaults, fees and calls, each sent once");
}
