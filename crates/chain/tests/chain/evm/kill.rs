//! `kill -9` of a process that indexes, at random instants.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::Address;
use domain::evm::BlockRef;
use domain::vault::{EventBatch, Ledger, LedgerError, LoggedEvent};
use palatine_chain::Endpoint;
use palatine_chain::evm::fake::LedgerState;
use palatine_chain::evm::{CheckedChain, Indexer, LocalContracts};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::ledger::{Pod, equals_the_chain};
use super::node::{Fixture, PATIENCE, config};

/// Names the child's chain and ledger.
const ORDER: &str = "PALATINE_TEST_INDEX";
const KILLS: u64 = 20;

/// A ledger in a file, replaced as a whole by each call.
struct FileLedger(PathBuf);

impl FileLedger {
    fn read(&self) -> LedgerState {
        let Ok(text) = fs::read(&self.0) else { return LedgerState::default() };
        let (blocks, events): (Vec<BlockRef>, Vec<LoggedEvent>) =
            serde_json::from_slice(&text).expect("whole or not at all");
        LedgerState { blocks, events }
    }

    fn replace(&self, ledger_state: &LedgerState) {
        let next = self.0.with_extension("next");
        fs::write(&next, serde_json::to_vec(&(&ledger_state.blocks, &ledger_state.events)).unwrap()).unwrap();
        fs::rename(next, &self.0).unwrap();
    }
}

#[async_trait]
impl Ledger for FileLedger {
    async fn cursor(&self) -> Result<Option<BlockRef>, LedgerError> {
        Ok(self.read().cursor())
    }

    async fn remembered(&self) -> Result<Vec<BlockRef>, LedgerError> {
        Ok(self.read().blocks.into_iter().rev().collect())
    }

    async fn vaults(&self) -> Result<Vec<Address>, LedgerError> {
        Ok(self.read().vault_ledgers()?.into_keys().collect())
    }

    async fn apply(&self, batch: &EventBatch) -> Result<(), LedgerError> {
        self.replace(&self.read().after(batch)?);
        Ok(())
    }

    async fn roll_back(&self, to: Option<&BlockRef>) -> Result<(), LedgerError> {
        self.replace(&self.read().before(to));
        Ok(())
    }
}

/// Not a test of its own: what the killed process runs.
#[tokio::test]
#[ignore = "a child process of other tests"]
async fn the_process_that_indexes() {
    let Ok(order) = std::env::var(ORDER) else { return };
    crate::endpoint::tls();
    let order: Value = serde_json::from_str(&order).unwrap();
    let address = |key: &str| serde_json::from_value::<Address>(order[key].clone()).unwrap();
    let deployed = LocalContracts {
        usdc: address("usdc"),
        forwarder: address("forwarder"),
        factory: address("factory"),
        implementation: address("implementation"),
    };
    let endpoint = Endpoint(order["url"].as_str().unwrap().to_owned());
    let chain = Arc::new(CheckedChain::connect(&config(&deployed, vec![endpoint])).await.unwrap());
    let ledger = Arc::new(FileLedger(order["file"].as_str().unwrap().into()));
    Indexer::new(chain, ledger).run().await;
}

/// A process that ends with its test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(fixture: &Fixture, file: &Path) -> Process {
    let order = json!({
        "url": fixture.anvil.url, "file": file, "usdc": fixture.deployed.usdc, "forwarder": fixture.deployed.forwarder,
        "factory": fixture.deployed.factory, "implementation": fixture.deployed.implementation,
    });
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "evm::kill::the_process_that_indexes"])
        .env(ORDER, order.to_string())
        .stdout(Stdio::null())
        .spawn();
    Process(child.unwrap())
}

#[tokio::test]
async fn killed_at_20_random_instants_while_the_chain_goes_on_and_back_the_ledger_equals_it() {
    let fixture = Fixture::start().await;
    let pod = Pod::new(&fixture, "pod").await;
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("ledger.json");
    let mut random = TestRunner::deterministic();
    for kill in 0..KILLS {
        let child = start(&fixture, &file);
        let instant = (0_u64..250).new_tree(&mut random).unwrap().current();
        let work = async {
            pod.works(&fixture, u8::try_from(kill).unwrap()).await;
            if kill % 5 == 4 {
                fixture.anvil.call("anvil_reorg", json!([3, []])).await;
            }
        };
        tokio::join!(work, tokio::time::sleep(Duration::from_millis(instant)));
        drop(child);
    }
    fixture.anvil.mine(1).await;
    let child = start(&fixture, &file);
    let head = fixture.anvil.height().await;
    let ledger = FileLedger(file.clone());
    let there = async {
        while ledger.read().cursor().is_none_or(|cursor| cursor.number < head) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, there).await.expect("the ledger arrives at the head");
    drop(child);
    equals_the_chain(&fixture.chain, &ledger.read()).await;
    assert!(!ledger.read().events.is_empty());
}
