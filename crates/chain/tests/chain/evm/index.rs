//! The ledger of a real chain.

use std::sync::Arc;
use std::time::Instant;

use alloy::sol_types::SolCall;
use domain::vault::VaultEvent;
use domain::{Bytes, Usdc};
use palatine_chain::evm::abi::{PODVaultFactory, TestUSDC};
use palatine_chain::evm::fake::{MemoryLedger, MemoryOutbox};
use palatine_chain::evm::{EvmConfig, EvmError, IndexError, Indexer, Ledger, LedgerError, Progress, calls, suite};
use serde_json::json;

use super::books::{Pod, afresh, books, catch_up, equals_the_chain, reconcile};
use super::node::{Person, World, config};
use super::proxy::{Does, Liar, error};

#[tokio::test]
async fn the_ledger_and_the_outbox_in_memory_do_what_all_must() {
    suite::ledger(&MemoryLedger::default()).await;
    suite::outbox(&MemoryOutbox::default()).await;
}

#[tokio::test]
async fn the_ledger_equals_the_chain_to_the_micro_usdc() {
    let world = World::start().await;
    let pod = Pod::new(&world, "pod").await;
    let ledger = Arc::new(MemoryLedger::default());
    for salt in 0..8 {
        pod.works(&world, salt).await;
        catch_up(&world.chain, &ledger).await.unwrap();
    }
    equals_the_chain(&world.chain, &ledger.pages()).await;
    let books = books(&ledger.pages(), pod.vault);
    assert_eq!(books.tasks().len(), 8);
    assert_eq!(books.vault().unwrap().locked, Usdc(10_000_000), "two tasks are disputed");
    assert_eq!(books.credit(&pod.creator.address()), Usdc(2 * 5_000_000 + 2 * 2_999_997));
}

#[tokio::test]
async fn a_gift_is_no_break_and_a_missing_event_is_one() {
    let world = World::start().await;
    let pod = Pod::new(&world, "pod").await;
    pod.works(&world, 1).await;
    let give = TestUSDC::transferCall { to: pod.vault, value: Usdc(7).to_u256() }.abi_encode();
    let call = domain::evm::Call { to: world.deployed.usdc, data: give.into(), value: domain::U256::ZERO };
    world.does(&pod.creator, &call).await;
    let mut pages = afresh(&world.chain).await;
    let sum = reconcile(&world.chain, &pages).await;
    assert_eq!((sum.breaks, sum.gifts), (vec![], vec![(pod.vault, Usdc(7))]));

    pages.events.retain(|logged| !matches!(logged.event, VaultEvent::EarningsWithdrawn { .. }));
    pod.works(&world, 3).await;
    let mut later = afresh(&world.chain).await;
    later.events.retain(|logged| !matches!(logged.event, VaultEvent::EarningsWithdrawn { .. }));
    let figures: Vec<_> =
        reconcile(&world.chain, &later).await.breaks.iter().map(|found| (found.ledger, found.chain)).collect();
    assert!(figures.contains(&(7_000_003, 5_000_004)), "{figures:?}");
}

#[tokio::test]
async fn a_reorg_of_3_blocks_is_undone_and_the_ledger_is_the_new_chains() {
    let world = World::start().await;
    let pod = Pod::new(&world, "pod").await;
    let ledger = Arc::new(MemoryLedger::default());
    pod.works(&world, 1).await;
    catch_up(&world.chain, &ledger).await.unwrap();
    let snapshot = world.anvil.call("evm_snapshot", json!([])).await;
    let kept = ledger.pages();

    pod.works(&world, 5).await;
    catch_up(&world.chain, &ledger).await.unwrap();
    let gone = ledger.pages();
    assert_eq!(gone.cursor().unwrap().number, kept.cursor().unwrap().number + 3);

    world.anvil.call("evm_revert", json!([snapshot])).await;
    world.anvil.pass(5).await;
    pod.works(&world, 7).await;
    let mut indexer = Indexer::new(Arc::clone(&world.chain), Arc::clone(&ledger) as Arc<dyn Ledger>);
    assert_eq!(indexer.pass().await, Ok(Progress::RolledBack { cursor: kept.cursor() }));
    catch_up(&world.chain, &ledger).await.unwrap();
    equals_the_chain(&world.chain, &ledger.pages()).await;
    assert_ne!(ledger.pages().events, gone.events);
}

#[tokio::test]
async fn a_reorg_by_the_node_itself_is_followed_too() {
    let world = World::start().await;
    let pod = Pod::new(&world, "pod").await;
    let ledger = Arc::new(MemoryLedger::default());
    pod.works(&world, 3).await;
    catch_up(&world.chain, &ledger).await.unwrap();
    world.anvil.call("anvil_reorg", json!([3, []])).await;
    world.anvil.mine(1).await;
    catch_up(&world.chain, &ledger).await.unwrap();
    equals_the_chain(&world.chain, &ledger.pages()).await;
}

#[tokio::test]
async fn a_shorter_fork_is_told_from_an_endpoint_that_is_behind() {
    let world = World::start().await;
    let pod = Pod::new(&world, "pod").await;
    let ledger = Arc::new(MemoryLedger::default());
    let snapshot = world.anvil.call("evm_snapshot", json!([])).await;
    pod.works(&world, 1).await;
    catch_up(&world.chain, &ledger).await.unwrap();
    let before = ledger.pages();
    world.anvil.call("evm_revert", json!([snapshot])).await;

    catch_up(&world.chain, &ledger).await.unwrap();
    assert_eq!(ledger.pages(), before, "as long as all blocks that are there are known, it is only behind");
    world.anvil.pass(5).await;
    catch_up(&world.chain, &ledger).await.unwrap();
    equals_the_chain(&world.chain, &ledger.pages()).await;
}

#[tokio::test]
async fn a_deeper_reorg_than_allowed_stops_the_indexer_and_changes_nothing() {
    let world = World::start_with(|config| EvmConfig { reorg_depth: 3, ..config }).await;
    let pod = Pod::new(&world, "pod").await;
    let ledger = Arc::new(MemoryLedger::default());
    let snapshot = world.anvil.call("evm_snapshot", json!([])).await;
    pod.works(&world, 1).await;
    pod.works(&world, 2).await;
    catch_up(&world.chain, &ledger).await.unwrap();
    let before = ledger.pages();
    world.anvil.call("evm_revert", json!([snapshot])).await;
    world.anvil.pass(5).await;
    world.anvil.mine(20).await;
    let refused = catch_up(&world.chain, &ledger).await.unwrap_err();
    assert!(matches!(refused, IndexError::TooDeep { depth: 3, .. }), "{refused}");
    assert_eq!(ledger.pages(), before);
}

#[tokio::test]
async fn text_that_is_no_utf8_stops_no_indexer() {
    let world = World::start().await;
    let pod = Pod::new(&world, "pod").await;
    let bad = PODVaultFactory::createPODVaultCall {
        podId: "pod-X".into(),
        owner: pod.owner.address(),
        agentWallet: pod.agent.address(),
        deadline: domain::U256::ZERO,
        signature: Bytes::new(),
    };
    let mut data = bad.abi_encode();
    let at = data.windows(5).position(|five| five == b"pod-X").unwrap();
    data[at + 4] = 0xff;
    let call = domain::evm::Call { to: world.deployed.factory, data: data.into(), value: domain::U256::ZERO };
    world.does(&pod.owner, &call).await;
    let pages = afresh(&world.chain).await;
    let names: Vec<String> =
        pages.books().unwrap().values().map(|books| books.vault().unwrap().pod_id.clone()).collect();
    assert!(names.contains(&"pod-\u{fffd}".to_owned()), "{names:?}");
    assert!(reconcile(&world.chain, &pages).await.breaks.is_empty());
}

#[tokio::test]
async fn ranges_shrink_until_an_endpoint_takes_them() {
    let world = World::start().await;
    let pod = Pod::new(&world, "pod").await;
    pod.works(&world, 1).await;
    world.anvil.mine(200).await;
    let stingy = Liar::before(&world.anvil.url, |method, params, honest| {
        let at = |key: &str| super::node::number(&params[0][key]);
        let wide =
            method == "eth_getLogs" && params[0].get("toBlock").is_some() && at("toBlock") - at("fromBlock") >= 10;
        Does::Says(if wide { error(-32005, "query returned more than 10000 results") } else { honest })
    })
    .await;
    let chain = world.through(vec![stingy.endpoint()]).await;
    let ledger = Arc::new(MemoryLedger::default());
    let mut indexer = Indexer::new(Arc::clone(&chain), Arc::clone(&ledger) as Arc<dyn Ledger>);
    assert!(matches!(indexer.pass().await, Ok(Progress::Narrowed { .. })));
    catch_up(&chain, &ledger).await.unwrap();
    equals_the_chain(&world.chain, &ledger.pages()).await;
}

#[tokio::test]
async fn two_indexers_of_one_ledger_do_not_double_it() {
    let world = World::start().await;
    let pod = Pod::new(&world, "pod").await;
    let ledger = Arc::new(MemoryLedger::default());
    pod.works(&world, 1).await;
    let (one, other) = tokio::join!(catch_up(&world.chain, &ledger), catch_up(&world.chain, &ledger));
    for done in [one, other] {
        assert!(matches!(done, Ok(()) | Err(IndexError::Ledger(LedgerError::Moved))), "{done:?}");
    }
    catch_up(&world.chain, &ledger).await.unwrap();
    equals_the_chain(&world.chain, &ledger.pages()).await;
}

#[tokio::test]
async fn many_vaults_are_read_by_topic_and_strangers_events_are_not_ours() {
    let world = World::start().await;
    let pod = Pod::new(&world, "pod").await;
    world.anvil.call("anvil_impersonateAccount", json!([pod.owner.address()])).await;
    for n in 0..210 {
        let call = calls::create_vault(
            world.deployed.factory,
            &format!("pod-{n}"),
            pod.owner.address(),
            pod.agent.address(),
            None,
        );
        world
            .anvil
            .call("eth_sendTransaction", json!([{"from": pod.owner.address(), "to": call.to, "data": call.data}]))
            .await;
    }
    // The code behind the vaults emits a vault's events, and is none.
    let stranger = calls::withdraw_credit(world.deployed.implementation, pod.owner.address(), Usdc(0));
    assert!(world.tries(&pod.owner, &stranger).await.is_err());
    let fake = impostor(&world).await;
    pod.works(&world, 1).await;

    let begun = Instant::now();
    let pages = afresh(&world.chain).await;
    let rate = f64::from(u32::try_from(pages.events.len()).unwrap()) / begun.elapsed().as_secs_f64();
    eprintln!("{} events, {rate:.0} a second", pages.events.len());
    assert_eq!(pages.books().unwrap().len(), 211);
    assert!(!pages.books().unwrap().contains_key(&fake));
    assert_eq!(books(&pages, pod.vault).vault().unwrap().total_tasks, 1);

    // The same again, with all of them known beforehand.
    pod.works(&world, 3).await;
    let ledger = Arc::new(MemoryLedger::default());
    catch_up(&world.chain, &ledger).await.unwrap();
    pod.works(&world, 5).await;
    catch_up(&world.chain, &ledger).await.unwrap();
    equals_the_chain(&world.chain, &ledger.pages()).await;
}

/// A contract that says what vaults say: the code behind the vaults, whose factory
/// is somebody else.
async fn impostor(world: &World) -> domain::Address {
    let other = Person::new("impostor");
    world.anvil.give_coins(other.address()).await;
    // A log of `CreationPaused(true)` with a vault's topic, by seven instructions.
    let topic = alloy::primitives::keccak256("CreationPaused(bool)");
    let code = [&[0x60, 0x01, 0x60, 0x00, 0x52, 0x7f][..], topic.as_slice(), &[0x60, 0x20, 0x60, 0x00, 0xa1]].concat();
    let fake = domain::Address::repeat_byte(0x77);
    world.anvil.call("anvil_setCode", json!([fake, Bytes::from(code)])).await;
    world.does(&other, &domain::evm::Call { to: fake, data: Bytes::new(), value: domain::U256::ZERO }).await;
    fake
}

#[tokio::test]
async fn an_event_that_cannot_follow_stops_the_ledger_before_it_lies() {
    let world = World::start().await;
    let pod = Pod::new(&world, "pod").await;
    pod.works(&world, 1).await;
    let created = alloy::primitives::keccak256("TaskCreated(bytes32,uint256,address)");
    let forgetful = Liar::before(&world.anvil.url, move |method, _, mut honest| {
        if method == "eth_getLogs" {
            let logs = honest["result"].as_array_mut().unwrap();
            logs.retain(|log| log["topics"][0] != json!(created));
        }
        Does::Says(honest)
    })
    .await;
    let chain = world.through(vec![forgetful.endpoint()]).await;
    let ledger = Arc::new(MemoryLedger::default());
    let refused = catch_up(&chain, &ledger).await.unwrap_err();
    assert!(
        matches!(refused, IndexError::Ledger(LedgerError::Impossible { vault, .. }) if vault == pod.vault),
        "{refused}"
    );
    assert_eq!(ledger.pages().cursor(), None);
    forgetful.lie(false);
    catch_up(&chain, &ledger).await.unwrap();
    equals_the_chain(&world.chain, &ledger.pages()).await;
}

#[tokio::test]
async fn reconciling_at_a_block_that_is_gone_is_refused() {
    let world = World::start().await;
    let pod = Pod::new(&world, "pod").await;
    pod.works(&world, 1).await;
    let pages = afresh(&world.chain).await;
    world.anvil.call("anvil_reorg", json!([2, []])).await;
    let refused = world.chain.reconcile(&pages.cursor().unwrap(), &[]).await.unwrap_err();
    assert!(matches!(refused, EvmError::Inconsistent { .. }), "{refused}");
    let config = config(&world.deployed, vec![world.anvil.endpoint()]);
    assert_eq!(config.quorum(), 1);
}
