//! The ledger of a real chain.

use std::sync::Arc;
use std::time::Instant;

use alloy::sol_types::SolCall;
use domain::vault::{BatchRefusal, Ledger, LedgerError, VaultEvent};
use domain::{Bytes, Usdc};
use palatine_chain::evm::abi::{PODVaultFactory, TestUSDC};
use palatine_chain::evm::fake::{MemoryLedger, MemoryOutbox};
use palatine_chain::evm::{EvmConfig, EvmError, IndexError, IndexProgress, Indexer, calls, suite};
use serde_json::json;

use super::ledger::{Pod, afresh, catch_up, equals_the_chain, reconcile, vault_ledger};
use super::node::{Fixture, Person, config};
use super::proxy::{Does, Liar, error};

#[tokio::test]
async fn the_ledger_and_the_outbox_in_memory_do_what_all_must() {
    suite::ledger(&MemoryLedger::default()).await;
    suite::outbox(&MemoryOutbox::default()).await;
}

#[tokio::test]
async fn the_ledger_equals_the_chain_to_the_micro_usdc() {
    let fixture = Fixture::start().await;
    let pod = Pod::new(&fixture, "pod").await;
    let ledger = Arc::new(MemoryLedger::default());
    for salt in 0..8 {
        pod.works(&fixture, salt).await;
        catch_up(&fixture.chain, &ledger).await.unwrap();
    }
    equals_the_chain(&fixture.chain, &ledger.ledger_state()).await;
    let booked = vault_ledger(&ledger.ledger_state(), pod.vault);
    assert_eq!(booked.tasks().len(), 8);
    assert_eq!(booked.vault().unwrap().locked, Usdc(10_000_000), "two tasks are disputed");
    assert_eq!(booked.credit(&pod.creator.address()), Usdc(2 * 5_000_000 + 2 * 2_999_997));
}

#[tokio::test]
async fn a_gift_is_no_break_and_a_missing_event_is_one() {
    let fixture = Fixture::start().await;
    let pod = Pod::new(&fixture, "pod").await;
    pod.works(&fixture, 1).await;
    let give = TestUSDC::transferCall { to: pod.vault, value: Usdc(7).to_u256() }.abi_encode();
    let call = domain::evm::Call { to: fixture.deployed.usdc, data: give.into(), value: domain::U256::ZERO };
    fixture.does(&pod.creator, &call).await;
    let mut ledger_state = afresh(&fixture.chain).await;
    let sum = reconcile(&fixture.chain, &ledger_state).await;
    assert_eq!((sum.mismatches, sum.gifts), (vec![], vec![(pod.vault, Usdc(7))]));

    ledger_state.events.retain(|logged| !matches!(logged.event, VaultEvent::EarningsWithdrawn { .. }));
    pod.works(&fixture, 3).await;
    let mut later = afresh(&fixture.chain).await;
    later.events.retain(|logged| !matches!(logged.event, VaultEvent::EarningsWithdrawn { .. }));
    let figures: Vec<_> =
        reconcile(&fixture.chain, &later).await.mismatches.iter().map(|found| (found.ledger, found.chain)).collect();
    assert!(figures.contains(&(7_000_003, 5_000_004)), "{figures:?}");
}

#[tokio::test]
async fn a_reorg_of_3_blocks_is_undone_and_the_ledger_is_the_new_chains() {
    let fixture = Fixture::start().await;
    let pod = Pod::new(&fixture, "pod").await;
    let ledger = Arc::new(MemoryLedger::default());
    pod.works(&fixture, 1).await;
    catch_up(&fixture.chain, &ledger).await.unwrap();
    let snapshot = fixture.anvil.call("evm_snapshot", json!([])).await;
    let kept = ledger.ledger_state();

    pod.works(&fixture, 5).await;
    catch_up(&fixture.chain, &ledger).await.unwrap();
    let gone = ledger.ledger_state();
    assert_eq!(gone.cursor().unwrap().number, kept.cursor().unwrap().number + 3);

    fixture.anvil.call("evm_revert", json!([snapshot])).await;
    fixture.anvil.advance_time(5).await;
    pod.works(&fixture, 7).await;
    let mut indexer = Indexer::new(Arc::clone(&fixture.chain), Arc::clone(&ledger) as Arc<dyn Ledger>);
    assert_eq!(indexer.index_range().await, Ok(IndexProgress::RolledBack { cursor: kept.cursor() }));
    catch_up(&fixture.chain, &ledger).await.unwrap();
    equals_the_chain(&fixture.chain, &ledger.ledger_state()).await;
    assert_ne!(ledger.ledger_state().events, gone.events);
}

#[tokio::test]
async fn a_reorg_by_the_node_itself_is_followed_too() {
    let fixture = Fixture::start().await;
    let pod = Pod::new(&fixture, "pod").await;
    let ledger = Arc::new(MemoryLedger::default());
    pod.works(&fixture, 3).await;
    catch_up(&fixture.chain, &ledger).await.unwrap();
    fixture.anvil.call("anvil_reorg", json!([3, []])).await;
    fixture.anvil.mine(1).await;
    catch_up(&fixture.chain, &ledger).await.unwrap();
    equals_the_chain(&fixture.chain, &ledger.ledger_state()).await;
}

#[tokio::test]
async fn a_shorter_fork_is_told_from_an_endpoint_that_is_behind() {
    let fixture = Fixture::start().await;
    let pod = Pod::new(&fixture, "pod").await;
    let ledger = Arc::new(MemoryLedger::default());
    let snapshot = fixture.anvil.call("evm_snapshot", json!([])).await;
    pod.works(&fixture, 1).await;
    catch_up(&fixture.chain, &ledger).await.unwrap();
    let before = ledger.ledger_state();
    fixture.anvil.call("evm_revert", json!([snapshot])).await;

    catch_up(&fixture.chain, &ledger).await.unwrap();
    assert_eq!(ledger.ledger_state(), before, "as long as all blocks that are there are known, it is only behind");
    fixture.anvil.advance_time(5).await;
    catch_up(&fixture.chain, &ledger).await.unwrap();
    equals_the_chain(&fixture.chain, &ledger.ledger_state()).await;
}

#[tokio::test]
async fn a_deeper_reorg_than_allowed_stops_the_indexer_and_changes_nothing() {
    let fixture = Fixture::start_with(|config| EvmConfig { reorg_depth: 3, ..config }).await;
    let pod = Pod::new(&fixture, "pod").await;
    let ledger = Arc::new(MemoryLedger::default());
    let snapshot = fixture.anvil.call("evm_snapshot", json!([])).await;
    pod.works(&fixture, 1).await;
    pod.works(&fixture, 2).await;
    catch_up(&fixture.chain, &ledger).await.unwrap();
    let before = ledger.ledger_state();
    fixture.anvil.call("evm_revert", json!([snapshot])).await;
    fixture.anvil.advance_time(5).await;
    fixture.anvil.mine(20).await;
    let refused = catch_up(&fixture.chain, &ledger).await.unwrap_err();
    assert!(matches!(refused, IndexError::TooDeep { depth: 3, .. }), "{refused}");
    assert_eq!(ledger.ledger_state(), before);
}

#[tokio::test]
async fn text_that_is_no_utf8_stops_no_indexer() {
    let fixture = Fixture::start().await;
    let pod = Pod::new(&fixture, "pod").await;
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
    let call = domain::evm::Call { to: fixture.deployed.factory, data: data.into(), value: domain::U256::ZERO };
    fixture.does(&pod.owner, &call).await;
    let ledger_state = afresh(&fixture.chain).await;
    let names: Vec<String> =
        ledger_state.vault_ledgers().unwrap().values().map(|ledger| ledger.vault().unwrap().pod_id.clone()).collect();
    assert!(names.contains(&"pod-\u{fffd}".to_owned()), "{names:?}");
    assert!(reconcile(&fixture.chain, &ledger_state).await.mismatches.is_empty());
}

#[tokio::test]
async fn ranges_shrink_until_an_endpoint_takes_them() {
    let fixture = Fixture::start().await;
    let pod = Pod::new(&fixture, "pod").await;
    pod.works(&fixture, 1).await;
    fixture.anvil.mine(200).await;
    let stingy = Liar::before(&fixture.anvil.url, |method, params, honest| {
        let at = |key: &str| super::node::number(&params[0][key]);
        let wide =
            method == "eth_getLogs" && params[0].get("toBlock").is_some() && at("toBlock") - at("fromBlock") >= 10;
        Does::Says(if wide { error(-32005, "query returned more than 10000 results") } else { honest })
    })
    .await;
    let chain = fixture.through(vec![stingy.endpoint()]).await;
    let ledger = Arc::new(MemoryLedger::default());
    let mut indexer = Indexer::new(Arc::clone(&chain), Arc::clone(&ledger) as Arc<dyn Ledger>);
    assert!(matches!(indexer.index_range().await, Ok(IndexProgress::Narrowed { .. })));
    catch_up(&chain, &ledger).await.unwrap();
    equals_the_chain(&fixture.chain, &ledger.ledger_state()).await;
}

#[tokio::test]
async fn two_indexers_of_one_ledger_do_not_double_it() {
    let fixture = Fixture::start().await;
    let pod = Pod::new(&fixture, "pod").await;
    let ledger = Arc::new(MemoryLedger::default());
    pod.works(&fixture, 1).await;
    let (one, other) = tokio::join!(catch_up(&fixture.chain, &ledger), catch_up(&fixture.chain, &ledger));
    for done in [one, other] {
        assert!(
            matches!(done, Ok(()) | Err(IndexError::Ledger(LedgerError::Refused(BatchRefusal::Moved)))),
            "{done:?}"
        );
    }
    catch_up(&fixture.chain, &ledger).await.unwrap();
    equals_the_chain(&fixture.chain, &ledger.ledger_state()).await;
}

#[tokio::test]
async fn many_vaults_are_read_by_topic_and_strangers_events_are_not_ours() {
    let fixture = Fixture::start().await;
    let pod = Pod::new(&fixture, "pod").await;
    fixture.anvil.call("anvil_impersonateAccount", json!([pod.owner.address()])).await;
    for n in 0..210 {
        let call = calls::create_vault(
            fixture.deployed.factory,
            &format!("pod-{n}"),
            pod.owner.address(),
            pod.agent.address(),
            None,
        );
        fixture
            .anvil
            .call("eth_sendTransaction", json!([{"from": pod.owner.address(), "to": call.to, "data": call.data}]))
            .await;
    }
    // The code behind the vaults emits a vault's events, and is none.
    let stranger = calls::withdraw_credit(fixture.deployed.implementation, pod.owner.address(), Usdc(0));
    assert!(fixture.tries(&pod.owner, &stranger).await.is_err());
    let fake = impostor(&fixture).await;
    pod.works(&fixture, 1).await;

    let begun = Instant::now();
    let ledger_state = afresh(&fixture.chain).await;
    let rate = f64::from(u32::try_from(ledger_state.events.len()).unwrap()) / begun.elapsed().as_secs_f64();
    eprintln!("{} events, {rate:.0} a second", ledger_state.events.len());
    assert_eq!(ledger_state.vault_ledgers().unwrap().len(), 211);
    assert!(!ledger_state.vault_ledgers().unwrap().contains_key(&fake));
    assert_eq!(vault_ledger(&ledger_state, pod.vault).vault().unwrap().total_tasks, 1);

    // The same again, with all of them known beforehand.
    pod.works(&fixture, 3).await;
    let ledger = Arc::new(MemoryLedger::default());
    catch_up(&fixture.chain, &ledger).await.unwrap();
    pod.works(&fixture, 5).await;
    catch_up(&fixture.chain, &ledger).await.unwrap();
    equals_the_chain(&fixture.chain, &ledger.ledger_state()).await;
}

/// A contract that says what vaults say: the code behind the vaults, whose factory
/// is somebody else.
async fn impostor(fixture: &Fixture) -> domain::Address {
    let other = Person::new("impostor");
    fixture.anvil.give_coins(other.address()).await;
    // A log of `CreationPaused(true)` with a vault's topic, by seven instructions.
    let topic = alloy::primitives::keccak256("CreationPaused(bool)");
    let code = [&[0x60, 0x01, 0x60, 0x00, 0x52, 0x7f][..], topic.as_slice(), &[0x60, 0x20, 0x60, 0x00, 0xa1]].concat();
    let fake = domain::Address::repeat_byte(0x77);
    fixture.anvil.call("anvil_setCode", json!([fake, Bytes::from(code)])).await;
    fixture.does(&other, &domain::evm::Call { to: fake, data: Bytes::new(), value: domain::U256::ZERO }).await;
    fake
}

#[tokio::test]
async fn an_event_that_cannot_follow_stops_the_ledger_before_it_lies() {
    let fixture = Fixture::start().await;
    let pod = Pod::new(&fixture, "pod").await;
    pod.works(&fixture, 1).await;
    let created = alloy::primitives::keccak256("TaskCreated(bytes32,uint256,address)");
    let forgetful = Liar::before(&fixture.anvil.url, move |method, _, mut honest| {
        if method == "eth_getLogs" {
            let logs = honest["result"].as_array_mut().unwrap();
            logs.retain(|log| log["topics"][0] != json!(created));
        }
        Does::Says(honest)
    })
    .await;
    let chain = fixture.through(vec![forgetful.endpoint()]).await;
    let ledger = Arc::new(MemoryLedger::default());
    let refused = catch_up(&chain, &ledger).await.unwrap_err();
    assert!(
        matches!(
            refused,
            IndexError::Ledger(LedgerError::Refused(BatchRefusal::Impossible { vault, .. })) if vault == pod.vault
        ),
        "{refused}"
    );
    assert_eq!(ledger.ledger_state().cursor(), None);
    forgetful.lie(false);
    catch_up(&chain, &ledger).await.unwrap();
    equals_the_chain(&fixture.chain, &ledger.ledger_state()).await;
}

#[tokio::test]
async fn reconciling_at_a_block_that_is_gone_is_refused() {
    let fixture = Fixture::start().await;
    let pod = Pod::new(&fixture, "pod").await;
    pod.works(&fixture, 1).await;
    let ledger_state = afresh(&fixture.chain).await;
    fixture.anvil.call("anvil_reorg", json!([2, []])).await;
    let refused = fixture.chain.reconcile(&ledger_state.cursor().unwrap(), &[]).await.unwrap_err();
    assert!(matches!(refused, EvmError::Inconsistent { .. }), "{refused}");
    let config = config(&fixture.deployed, vec![fixture.anvil.endpoint()]);
    assert_eq!(config.quorum(), 1);
}
