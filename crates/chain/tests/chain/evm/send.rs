//! Transactions of one account, through everything.

use std::sync::Arc;
use std::time::Duration;

use domain::evm::{Call, IntentKey, MAX_PENDING, Outbox, OutboxEntryState, SenderAccount, TransactionOutcome};
use domain::{Address, Usdc};
use palatine_chain::evm::fake::MemoryOutbox;
use palatine_chain::evm::{BlockTag, CheckedChain, Estimate, EvmConfig, EvmError, SendError, Sender, calls};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use serde_json::json;
use tokio::time::timeout;

use super::ledger::Pod;
use super::node::{CHAIN_ID, Fixture, PATIENCE, Person, config};

fn key(n: usize) -> IntentKey {
    format!("intent-{n}").parse().unwrap()
}

/// Moves one micro-USDC to somebody: an effect that can be counted.
fn pays(fixture: &Fixture, to: Address) -> Call {
    use alloy::sol_types::SolCall;
    let data = palatine_chain::evm::abi::TestUSDC::transferCall { to, value: Usdc(1).to_u256() }.abi_encode();
    Call { to: fixture.deployed.usdc, data: data.into(), value: domain::U256::ZERO }
}

async fn paid(fixture: &Fixture, to: Address) -> u64 {
    fixture.chain.usdc_of(to, BlockTag::Latest).await.unwrap().0
}

async fn ends(sender: &Sender, key: &IntentKey) -> TransactionOutcome {
    timeout(PATIENCE, sender.settled(key)).await.expect("it ends").unwrap()
}

fn is_good(outcome: &TransactionOutcome) -> bool {
    matches!(outcome, TransactionOutcome::Mined(mined) if mined.success)
}

const PAYEE: Address = Address::repeat_byte(0x42);

#[tokio::test]
async fn one_key_is_one_transaction_however_often_it_is_asked_for() {
    let fixture = Fixture::start().await;
    let sender = fixture.sender(&fixture.boss).await;
    let call = pays(&fixture, PAYEE);
    let intent = key(0);
    let asked = (0..20).map(|_| sender.execute(&intent, &call));
    let outcomes = futures_util::future::join_all(asked).await;
    assert!(outcomes.iter().all(|outcome| is_good(outcome.as_ref().unwrap())));
    assert_eq!(paid(&fixture, PAYEE).await, 1);
    let other = sender.send(&key(0), &pays(&fixture, Address::repeat_byte(1))).await;
    assert_eq!(other, Err(SendError::KeyReused(key(0))));
    assert_eq!(sender.settled(&key(9)).await, Err(SendError::NoSuchKey(key(9))));
}

#[tokio::test]
async fn what_is_weighed_is_not_sent_until_it_is_said_so() {
    let fixture = Fixture::start().await;
    let sender = fixture.sender(&fixture.boss).await;
    let (intent, call) = (key(0), pays(&fixture, PAYEE));
    let estimate = sender.estimate(&intent, &call).await.unwrap();
    assert!(matches!(estimate, Estimate::New(cost) if cost.gas_limit() > 21_000), "{estimate:?}");
    assert_eq!(sender.find(&intent).await.unwrap(), None);
    let entry = sender.send_estimated(&intent, &call, estimate).await.unwrap();
    assert!(is_good(&ends(&sender, &intent).await));
    let again = sender.estimate(&intent, &call).await.unwrap();
    assert!(matches!(&again, Estimate::AlreadySent(known) if known.nonce == entry.nonce), "{again:?}");
    sender.send_estimated(&intent, &call, again).await.unwrap();
    assert_eq!(paid(&fixture, PAYEE).await, 1);
}

#[tokio::test]
async fn what_would_be_refused_is_not_written_down() {
    let fixture = Fixture::start().await;
    let poor = Person::new("poor");
    let sender = fixture.sender(&poor).await;
    let approve = calls::approve(fixture.deployed.usdc, PAYEE, Usdc(1));
    let refused = sender.send(&key(0), &approve).await;
    assert!(matches!(refused, Err(SendError::Evm(EvmError::Unfunded { has: 0, .. }))), "{refused:?}");
    assert_eq!(sender.find(&key(0)).await, Ok(None));
    let refused = sender.send(&key(1), &pays(&fixture, PAYEE)).await;
    assert!(matches!(refused, Err(SendError::Evm(EvmError::Reverted(_)))), "{refused:?}");

    let dear = EvmConfig { max_fee_gwei: 1, tip_gwei: 0, ..config(&fixture.deployed, vec![fixture.anvil.endpoint()]) };
    let chain = Arc::new(CheckedChain::connect(&dear).await.unwrap());
    fixture.anvil.call("anvil_setNextBlockBaseFeePerGas", json!(["0x174876e800"])).await;
    fixture.anvil.mine(1).await;
    let sender = Sender::start(chain, Arc::new(MemoryOutbox::default()), fixture.boss.key()).await.unwrap();
    let refused = sender.send(&key(0), &pays(&fixture, PAYEE)).await;
    assert!(matches!(refused, Err(SendError::Evm(EvmError::GasTooDear { .. }))), "{refused:?}");
}

#[tokio::test]
async fn a_stuck_transaction_is_replaced_by_dearer_ones_with_its_nonce() {
    let fixture = Fixture::start_with(|config| EvmConfig { stuck_ms: 200, ..config }).await;
    let outbox = Arc::new(MemoryOutbox::default());
    fixture.anvil.automine(false).await;
    let sender = Sender::start(Arc::clone(&fixture.chain), Arc::clone(&outbox) as _, fixture.boss.key()).await.unwrap();
    let first = sender.send(&key(0), &pays(&fixture, PAYEE)).await.unwrap();
    sender.send(&key(1), &pays(&fixture, PAYEE)).await.unwrap();
    let entry = timeout(PATIENCE, async {
        loop {
            let entry = sender.find(&key(0)).await.unwrap().unwrap();
            if entry.attempts.len() >= 3 {
                return entry;
            }
        }
    })
    .await
    .expect("it is replaced twice");
    assert_eq!(entry.nonce, first.nonce);
    assert!(entry.attempts.windows(2).all(|two| two[1].max_fee * 8 >= two[0].max_fee * 9));
    fixture.anvil.automine(true).await;
    fixture.anvil.mine(1).await;
    assert!(is_good(&ends(&sender, &key(0)).await) && is_good(&ends(&sender, &key(1)).await));
    assert_eq!(paid(&fixture, PAYEE).await, 2);
}

#[tokio::test]
async fn a_replacement_never_pays_more_than_the_cap() {
    let fixture = Fixture::start_with(|config| EvmConfig { stuck_ms: 100, max_fee_gwei: 4, ..config }).await;
    fixture.anvil.automine(false).await;
    let sender = fixture.sender(&fixture.boss).await;
    sender.send(&key(0), &pays(&fixture, PAYEE)).await.unwrap();
    let cap = 4_000_000_000;
    let capped = timeout(PATIENCE, async {
        loop {
            let entry = sender.find(&key(0)).await.unwrap().unwrap();
            if entry.attempts.last().unwrap().max_fee * 9 > cap * 8 {
                return entry;
            }
        }
    });
    let entry = capped.await.expect("the price rises to the cap");
    assert!(entry.attempts.iter().all(|attempt| attempt.max_fee <= cap && attempt.tip <= attempt.max_fee));
    fixture.anvil.automine(true).await;
    fixture.anvil.mine(1).await;
    assert!(is_good(&ends(&sender, &key(0)).await));
}

#[tokio::test]
async fn what_was_written_and_not_sent_is_sent_after_a_restart() {
    let fixture = Fixture::start().await;
    let outbox = Arc::new(MemoryOutbox::default());
    fixture.anvil.automine(false).await;
    let sender = Sender::start(Arc::clone(&fixture.chain), Arc::clone(&outbox) as _, fixture.boss.key()).await.unwrap();
    let entry = sender.send(&key(0), &pays(&fixture, PAYEE)).await.unwrap();
    drop(sender);
    fixture.anvil.call("anvil_dropAllTransactions", json!([])).await;
    fixture.anvil.automine(true).await;
    fixture.anvil.mine(1).await;
    assert_eq!(paid(&fixture, PAYEE).await, 0);

    let sender = Sender::start(Arc::clone(&fixture.chain), outbox, fixture.boss.key()).await.unwrap();
    let TransactionOutcome::Mined(mined) = ends(&sender, &key(0)).await else { panic!("lost") };
    assert_eq!(mined.hash, entry.attempts[0].hash);
    assert_eq!(paid(&fixture, PAYEE).await, 1);
}

#[tokio::test]
async fn a_write_that_failed_and_happened_all_the_same_is_sent_once() {
    let fixture = Fixture::start().await;
    let outbox = Arc::new(MemoryOutbox::default());
    let sender = Sender::start(Arc::clone(&fixture.chain), Arc::clone(&outbox) as _, fixture.boss.key()).await.unwrap();
    assert!(is_good(&sender.execute(&key(0), &pays(&fixture, PAYEE)).await.unwrap()));
    let call = pays(&fixture, PAYEE);
    for n in 1..6 {
        let failing = Arc::clone(&outbox);
        let sending = tokio::spawn({
            let (sender, call) = (sender.clone(), call.clone());
            async move { sender.send(&key(n), &call).await }
        });
        failing.fail(true);
        tokio::task::yield_now().await;
        let _ = sending.await.unwrap();
        failing.fail(false);
        sender.send(&key(n), &call).await.unwrap();
        assert!(is_good(&ends(&sender, &key(n)).await));
    }
    assert_eq!(paid(&fixture, PAYEE).await, 6);
}

#[tokio::test]
async fn a_nonce_that_somebody_else_used_loses_the_entry_and_the_next_goes_on() {
    let fixture = Fixture::start_with(|config| EvmConfig { stuck_ms: 200, ..config }).await;
    fixture.anvil.automine(false).await;
    let sender = fixture.sender(&fixture.boss).await;
    sender.send(&key(0), &pays(&fixture, PAYEE)).await.unwrap();
    fixture.anvil.call("anvil_dropAllTransactions", json!([])).await;
    // The same key, used from elsewhere.
    let boss = fixture.boss.address();
    fixture.anvil.call("anvil_impersonateAccount", json!([boss])).await;
    let elsewhere =
        json!([{"from": boss, "to": boss, "maxFeePerGas": "0x4a817c8000", "maxPriorityFeePerGas": "0x3b9aca00"}]);
    fixture.anvil.call("eth_sendTransaction", elsewhere).await;
    fixture.anvil.automine(true).await;
    fixture.anvil.mine(1).await;
    let outcome = ends(&sender, &key(0)).await;
    assert!(matches!(outcome, TransactionOutcome::Lost { .. }), "{outcome:?}");
    assert_eq!(paid(&fixture, PAYEE).await, 0);
    assert!(is_good(&sender.execute(&key(1), &pays(&fixture, PAYEE)).await.unwrap()));
    assert_eq!(paid(&fixture, PAYEE).await, 1);
}

#[tokio::test]
async fn a_transaction_that_a_reorg_undid_is_sent_again() {
    let fixture = Fixture::start_with(|config| EvmConfig { confirmations: 3, stuck_ms: 200, ..config }).await;
    let sender = fixture.sender(&fixture.boss).await;
    sender.send(&key(0), &pays(&fixture, PAYEE)).await.unwrap();
    // It is sent, and mined a moment later.
    let mined = async {
        while paid(&fixture, PAYEE).await == 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, mined).await.expect("it is mined");
    fixture.anvil.automine(false).await;
    fixture.anvil.call("anvil_reorg", json!([1, []])).await;
    fixture.anvil.call("anvil_dropAllTransactions", json!([])).await;
    assert_eq!(paid(&fixture, PAYEE).await, 0);
    fixture.anvil.automine(true).await;
    let outcome = timeout(PATIENCE, async {
        let intent = key(0);
        let mut settled = std::pin::pin!(sender.settled(&intent));
        loop {
            fixture.anvil.mine(1).await;
            if let Ok(outcome) = timeout(Duration::from_millis(100), &mut settled).await {
                return outcome.unwrap();
            }
        }
    });
    assert!(is_good(&outcome.await.expect("it is sent again")));
    assert_eq!(paid(&fixture, PAYEE).await, 1);
}

#[tokio::test]
async fn no_more_wait_at_once_than_nodes_keep() {
    let fixture = Fixture::start().await;
    fixture.anvil.automine(false).await;
    let sender = fixture.sender(&fixture.boss).await;
    for n in 0..MAX_PENDING {
        sender.send(&key(n), &pays(&fixture, PAYEE)).await.unwrap();
    }
    assert_eq!(sender.send(&key(99), &pays(&fixture, PAYEE)).await, Err(SendError::Busy));
    fixture.anvil.automine(true).await;
    fixture.anvil.mine(1).await;
    for n in 0..MAX_PENDING {
        assert!(is_good(&ends(&sender, &key(n)).await));
    }
    assert_eq!(paid(&fixture, PAYEE).await, MAX_PENDING as u64);
}

#[tokio::test]
async fn a_chain_that_forgot_what_was_settled_is_another_chain() {
    let fixture = Fixture::start().await;
    let outbox = Arc::new(MemoryOutbox::default());
    let start = || Sender::start(Arc::clone(&fixture.chain), Arc::clone(&outbox) as _, fixture.boss.key());
    let snapshot = fixture.anvil.call("evm_snapshot", json!([])).await;
    assert!(is_good(&start().await.unwrap().execute(&key(0), &pays(&fixture, PAYEE)).await.unwrap()));
    fixture.anvil.call("evm_revert", json!([snapshot])).await;
    let refused = start().await.unwrap_err();
    assert!(matches!(refused, SendError::Forgotten { .. }), "{refused}");
}

#[tokio::test]
async fn a_call_that_reverts_in_its_block_is_told_as_it_is() {
    let fixture = Fixture::start().await;
    let pod = Pod::new(&fixture, "pod").await;
    let terms = fixture.terms(&pod.creator, 1).await;
    fixture.does(&fixture.boss, &fixture.funded(pod.vault, &pod.creator, &terms).await).await;
    // Good when simulated, too late when mined.
    fixture.anvil.automine(false).await;
    let sender = fixture.sender(&pod.agent).await;
    sender.send(&key(0), &calls::submit(pod.vault, &terms, domain::B256::ZERO)).await.unwrap();
    fixture.anvil.advance_time(4000).await;
    assert!(matches!(ends(&sender, &key(0)).await, TransactionOutcome::Mined(mined) if !mined.success));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_off_at_20_random_instants_every_intent_has_one_effect() {
    let fixture = Fixture::start().await;
    let outbox = Arc::new(MemoryOutbox::default());
    let mut random = TestRunner::deterministic();
    let mut asked = 0;
    for round in 0..20 {
        let instant = Duration::from_micros((500_u64..40_000).new_tree(&mut random).unwrap().current());
        let config = config(&fixture.deployed, vec![fixture.anvil.endpoint()]);
        let (boss, call, outbox) = (fixture.boss.key(), pays(&fixture, PAYEE), Arc::clone(&outbox));
        // A runtime that is dropped takes everything down between any two steps.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.spawn(async move {
            let chain = Arc::new(CheckedChain::connect(&config).await.unwrap());
            let sender = Sender::start(chain, outbox, boss).await.unwrap();
            for n in round * 3..round * 3 + 3 {
                let _ = sender.send(&key(n), &call).await;
            }
            std::future::pending::<()>().await;
        });
        tokio::time::sleep(Duration::from_millis(60) + instant).await;
        runtime.shutdown_background();
        asked = round * 3 + 3;
    }
    let sender = Sender::start(Arc::clone(&fixture.chain), Arc::clone(&outbox) as _, fixture.boss.key()).await.unwrap();
    let mut written = 0;
    for n in 0..asked {
        if sender.find(&key(n)).await.unwrap().is_some() {
            assert!(is_good(&ends(&sender, &key(n)).await));
            written += 1;
        }
    }
    assert_eq!(paid(&fixture, PAYEE).await, written);
    let account = SenderAccount { chain_id: CHAIN_ID, address: fixture.boss.address() };
    assert!(outbox.pending(&account).await.unwrap().is_empty());
    let last = sender.find(&key(0)).await.unwrap();
    assert!(last.is_none_or(|entry| matches!(entry.state, OutboxEntryState::Settled(_))));
    eprintln!("{written} of {asked} intents were written before their cut");
}
