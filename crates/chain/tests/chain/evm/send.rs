//! Transactions of one account, through everything.

use std::sync::Arc;
use std::time::Duration;

use domain::evm::{Account, Call, EntryState, IntentKey, Outcome};
use domain::{Address, Usdc};
use palatine_chain::evm::fake::MemoryOutbox;
use palatine_chain::evm::{At, Chain, EvmConfig, EvmError, MAX_PENDING, Outbox, SendError, Sender, Weighed, calls};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use serde_json::json;
use tokio::time::timeout;

use super::books::Pod;
use super::node::{CHAIN_ID, PATIENCE, Person, World, config};

fn key(n: usize) -> IntentKey {
    format!("intent-{n}").parse().unwrap()
}

/// Moves one micro-USDC to somebody: an effect that can be counted.
fn pays(world: &World, to: Address) -> Call {
    use alloy::sol_types::SolCall;
    let data = palatine_chain::evm::abi::TestUSDC::transferCall { to, value: Usdc(1).to_u256() }.abi_encode();
    Call { to: world.deployed.usdc, data: data.into(), value: domain::U256::ZERO }
}

async fn paid(world: &World, to: Address) -> u64 {
    world.chain.usdc_of(to, At::Latest).await.unwrap().0
}

async fn ends(sender: &Sender, key: &IntentKey) -> Outcome {
    timeout(PATIENCE, sender.settled(key)).await.expect("it ends").unwrap()
}

fn is_good(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Mined(mined) if mined.success)
}

const PAYEE: Address = Address::repeat_byte(0x42);

#[tokio::test]
async fn one_key_is_one_transaction_however_often_it_is_asked_for() {
    let world = World::start().await;
    let sender = world.sender(&world.boss).await;
    let call = pays(&world, PAYEE);
    let intent = key(0);
    let asked = (0..20).map(|_| sender.execute(&intent, &call));
    let outcomes = futures_util::future::join_all(asked).await;
    assert!(outcomes.iter().all(|outcome| is_good(outcome.as_ref().unwrap())));
    assert_eq!(paid(&world, PAYEE).await, 1);
    let other = sender.send(&key(0), &pays(&world, Address::repeat_byte(1))).await;
    assert_eq!(other, Err(SendError::KeyReused(key(0))));
    assert_eq!(sender.settled(&key(9)).await, Err(SendError::NoSuchKey(key(9))));
}

#[tokio::test]
async fn what_is_weighed_is_not_sent_until_it_is_said_so() {
    let world = World::start().await;
    let sender = world.sender(&world.boss).await;
    let (intent, call) = (key(0), pays(&world, PAYEE));
    let weighed = sender.weigh(&intent, &call).await.unwrap();
    assert!(matches!(weighed, Weighed::Fresh(cost) if cost.gas_limit() > 21_000), "{weighed:?}");
    assert_eq!(sender.find(&intent).await.unwrap(), None);
    let entry = sender.send_weighed(&intent, &call, weighed).await.unwrap();
    assert!(is_good(&ends(&sender, &intent).await));
    let again = sender.weigh(&intent, &call).await.unwrap();
    assert!(matches!(&again, Weighed::Known(known) if known.nonce == entry.nonce), "{again:?}");
    sender.send_weighed(&intent, &call, again).await.unwrap();
    assert_eq!(paid(&world, PAYEE).await, 1);
}

#[tokio::test]
async fn what_would_be_refused_is_not_written_down() {
    let world = World::start().await;
    let poor = Person::new("poor");
    let sender = world.sender(&poor).await;
    let approve = calls::approve(world.deployed.usdc, PAYEE, Usdc(1));
    let refused = sender.send(&key(0), &approve).await;
    assert!(matches!(refused, Err(SendError::Evm(EvmError::Unfunded { has: 0, .. }))), "{refused:?}");
    assert_eq!(sender.find(&key(0)).await, Ok(None));
    let refused = sender.send(&key(1), &pays(&world, PAYEE)).await;
    assert!(matches!(refused, Err(SendError::Evm(EvmError::Reverted(_)))), "{refused:?}");

    let dear = EvmConfig { max_fee_gwei: 1, tip_gwei: 0, ..config(&world.deployed, vec![world.anvil.endpoint()]) };
    let chain = Arc::new(Chain::connect(&dear).await.unwrap());
    world.anvil.call("anvil_setNextBlockBaseFeePerGas", json!(["0x174876e800"])).await;
    world.anvil.mine(1).await;
    let sender = Sender::start(chain, Arc::new(MemoryOutbox::default()), world.boss.key()).await.unwrap();
    let refused = sender.send(&key(0), &pays(&world, PAYEE)).await;
    assert!(matches!(refused, Err(SendError::Evm(EvmError::GasTooDear { .. }))), "{refused:?}");
}

#[tokio::test]
async fn a_stuck_transaction_is_replaced_by_dearer_ones_with_its_nonce() {
    let world = World::start_with(|config| EvmConfig { stuck_ms: 200, ..config }).await;
    let outbox = Arc::new(MemoryOutbox::default());
    world.anvil.automine(false).await;
    let sender = Sender::start(Arc::clone(&world.chain), Arc::clone(&outbox) as _, world.boss.key()).await.unwrap();
    let first = sender.send(&key(0), &pays(&world, PAYEE)).await.unwrap();
    sender.send(&key(1), &pays(&world, PAYEE)).await.unwrap();
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
    world.anvil.automine(true).await;
    world.anvil.mine(1).await;
    assert!(is_good(&ends(&sender, &key(0)).await) && is_good(&ends(&sender, &key(1)).await));
    assert_eq!(paid(&world, PAYEE).await, 2);
}

#[tokio::test]
async fn a_replacement_never_pays_more_than_the_cap() {
    let world = World::start_with(|config| EvmConfig { stuck_ms: 100, max_fee_gwei: 4, ..config }).await;
    world.anvil.automine(false).await;
    let sender = world.sender(&world.boss).await;
    sender.send(&key(0), &pays(&world, PAYEE)).await.unwrap();
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
    world.anvil.automine(true).await;
    world.anvil.mine(1).await;
    assert!(is_good(&ends(&sender, &key(0)).await));
}

#[tokio::test]
async fn what_was_written_and_not_sent_is_sent_after_a_restart() {
    let world = World::start().await;
    let outbox = Arc::new(MemoryOutbox::default());
    world.anvil.automine(false).await;
    let sender = Sender::start(Arc::clone(&world.chain), Arc::clone(&outbox) as _, world.boss.key()).await.unwrap();
    let entry = sender.send(&key(0), &pays(&world, PAYEE)).await.unwrap();
    drop(sender);
    world.anvil.call("anvil_dropAllTransactions", json!([])).await;
    world.anvil.automine(true).await;
    world.anvil.mine(1).await;
    assert_eq!(paid(&world, PAYEE).await, 0);

    let sender = Sender::start(Arc::clone(&world.chain), outbox, world.boss.key()).await.unwrap();
    let Outcome::Mined(mined) = ends(&sender, &key(0)).await else { panic!("lost") };
    assert_eq!(mined.hash, entry.attempts[0].hash);
    assert_eq!(paid(&world, PAYEE).await, 1);
}

#[tokio::test]
async fn a_write_that_failed_and_happened_all_the_same_is_sent_once() {
    let world = World::start().await;
    let outbox = Arc::new(MemoryOutbox::default());
    let sender = Sender::start(Arc::clone(&world.chain), Arc::clone(&outbox) as _, world.boss.key()).await.unwrap();
    assert!(is_good(&sender.execute(&key(0), &pays(&world, PAYEE)).await.unwrap()));
    let call = pays(&world, PAYEE);
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
    assert_eq!(paid(&world, PAYEE).await, 6);
}

#[tokio::test]
async fn a_nonce_that_somebody_else_used_loses_the_entry_and_the_next_goes_on() {
    let world = World::start_with(|config| EvmConfig { stuck_ms: 200, ..config }).await;
    world.anvil.automine(false).await;
    let sender = world.sender(&world.boss).await;
    sender.send(&key(0), &pays(&world, PAYEE)).await.unwrap();
    world.anvil.call("anvil_dropAllTransactions", json!([])).await;
    // The same key, used from elsewhere.
    let boss = world.boss.address();
    world.anvil.call("anvil_impersonateAccount", json!([boss])).await;
    let elsewhere =
        json!([{"from": boss, "to": boss, "maxFeePerGas": "0x4a817c8000", "maxPriorityFeePerGas": "0x3b9aca00"}]);
    world.anvil.call("eth_sendTransaction", elsewhere).await;
    world.anvil.automine(true).await;
    world.anvil.mine(1).await;
    let outcome = ends(&sender, &key(0)).await;
    assert!(matches!(outcome, Outcome::Lost { .. }), "{outcome:?}");
    assert_eq!(paid(&world, PAYEE).await, 0);
    assert!(is_good(&sender.execute(&key(1), &pays(&world, PAYEE)).await.unwrap()));
    assert_eq!(paid(&world, PAYEE).await, 1);
}

#[tokio::test]
async fn a_transaction_that_a_reorg_undid_is_sent_again() {
    let world = World::start_with(|config| EvmConfig { confirmations: 3, stuck_ms: 200, ..config }).await;
    let sender = world.sender(&world.boss).await;
    sender.send(&key(0), &pays(&world, PAYEE)).await.unwrap();
    // It is sent, and mined a moment later.
    let mined = async {
        while paid(&world, PAYEE).await == 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, mined).await.expect("it is mined");
    world.anvil.automine(false).await;
    world.anvil.call("anvil_reorg", json!([1, []])).await;
    world.anvil.call("anvil_dropAllTransactions", json!([])).await;
    assert_eq!(paid(&world, PAYEE).await, 0);
    world.anvil.automine(true).await;
    let outcome = timeout(PATIENCE, async {
        let intent = key(0);
        let mut settled = std::pin::pin!(sender.settled(&intent));
        loop {
            world.anvil.mine(1).await;
            if let Ok(outcome) = timeout(Duration::from_millis(100), &mut settled).await {
                return outcome.unwrap();
            }
        }
    });
    assert!(is_good(&outcome.await.expect("it is sent again")));
    assert_eq!(paid(&world, PAYEE).await, 1);
}

#[tokio::test]
async fn no_more_wait_at_once_than_nodes_keep() {
    let world = World::start().await;
    world.anvil.automine(false).await;
    let sender = world.sender(&world.boss).await;
    for n in 0..MAX_PENDING {
        sender.send(&key(n), &pays(&world, PAYEE)).await.unwrap();
    }
    assert_eq!(sender.send(&key(99), &pays(&world, PAYEE)).await, Err(SendError::Busy));
    world.anvil.automine(true).await;
    world.anvil.mine(1).await;
    for n in 0..MAX_PENDING {
        assert!(is_good(&ends(&sender, &key(n)).await));
    }
    assert_eq!(paid(&world, PAYEE).await, MAX_PENDING as u64);
}

#[tokio::test]
async fn a_chain_that_forgot_what_was_settled_is_another_chain() {
    let world = World::start().await;
    let outbox = Arc::new(MemoryOutbox::default());
    let start = || Sender::start(Arc::clone(&world.chain), Arc::clone(&outbox) as _, world.boss.key());
    let snapshot = world.anvil.call("evm_snapshot", json!([])).await;
    assert!(is_good(&start().await.unwrap().execute(&key(0), &pays(&world, PAYEE)).await.unwrap()));
    world.anvil.call("evm_revert", json!([snapshot])).await;
    let refused = start().await.unwrap_err();
    assert!(matches!(refused, SendError::Forgotten { .. }), "{refused}");
}

#[tokio::test]
async fn a_call_that_reverts_in_its_block_is_told_as_it_is() {
    let world = World::start().await;
    let pod = Pod::new(&world, "pod").await;
    let terms = world.terms(&pod.creator, 1).await;
    world.does(&world.boss, &world.funded(pod.vault, &pod.creator, &terms).await).await;
    // Good when simulated, too late when mined.
    world.anvil.automine(false).await;
    let sender = world.sender(&pod.agent).await;
    sender.send(&key(0), &calls::submit(pod.vault, &terms, domain::B256::ZERO)).await.unwrap();
    world.anvil.pass(4000).await;
    assert!(matches!(ends(&sender, &key(0)).await, Outcome::Mined(mined) if !mined.success));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_off_at_20_random_instants_every_intent_has_one_effect() {
    let world = World::start().await;
    let outbox = Arc::new(MemoryOutbox::default());
    let mut random = TestRunner::deterministic();
    let mut asked = 0;
    for round in 0..20 {
        let instant = Duration::from_micros((500_u64..40_000).new_tree(&mut random).unwrap().current());
        let config = config(&world.deployed, vec![world.anvil.endpoint()]);
        let (boss, call, outbox) = (world.boss.key(), pays(&world, PAYEE), Arc::clone(&outbox));
        // A runtime that is dropped takes everything down between any two steps.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.spawn(async move {
            let chain = Arc::new(Chain::connect(&config).await.unwrap());
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
    let sender = Sender::start(Arc::clone(&world.chain), Arc::clone(&outbox) as _, world.boss.key()).await.unwrap();
    let mut written = 0;
    for n in 0..asked {
        if sender.find(&key(n)).await.unwrap().is_some() {
            assert!(is_good(&ends(&sender, &key(n)).await));
            written += 1;
        }
    }
    assert_eq!(paid(&world, PAYEE).await, written);
    let account = Account { chain_id: CHAIN_ID, address: world.boss.address() };
    assert!(outbox.pending(&account).await.unwrap().is_empty());
    let last = sender.find(&key(0)).await.unwrap();
    assert!(last.is_none_or(|entry| matches!(entry.state, EntryState::Settled(_))));
    eprintln!("{written} of {asked} intents were written before their cut");
}
