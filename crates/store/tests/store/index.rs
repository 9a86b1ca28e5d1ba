//! The vaults' ledger: posted, taken back, and never half written.

use domain::evm::BlockRef;
use domain::vault::{BatchRefusal, EventBatch, InvalidEvent, LoggedEvent, TaskId, TaskTerms, VaultEvent, VaultLedger};
use domain::{Address, B256, Usdc};
use palatine_store::{IndexId, Store};

use crate::help::{Place, open};

const FACTORY: Address = Address::repeat_byte(0xfa);
const VAULT: Address = Address::repeat_byte(0x0a);
const OTHER: Address = Address::repeat_byte(0x0b);
const CREATOR: Address = Address::repeat_byte(0x0c);

fn block(number: u64) -> BlockRef {
    fork(number, 0)
}

/// The block at this height of another branch.
fn fork(number: u64, branch: u8) -> BlockRef {
    let mut hash = B256::repeat_byte(branch);
    hash[..8].copy_from_slice(&number.to_be_bytes());
    BlockRef { number, hash, time: number * 5 }
}

fn terms(salt: u8) -> TaskTerms {
    TaskTerms {
        creator: CREATOR,
        evaluator: Address::ZERO,
        arbiter: Address::ZERO,
        fee_recipient: Address::ZERO,
        amount: Usdc(100),
        min_paid: Usdc(1),
        submit_by: 1000,
        review_period: 10,
        arbiter_period: 10,
        default_agent_bps: 5000,
        fee_bps: 0,
        metadata_hash: B256::ZERO,
        salt: B256::repeat_byte(salt),
    }
}

/// The life of a vault with two tasks, in blocks: one completed in part and drawn,
/// one refunded.
fn life() -> Vec<Vec<VaultEvent>> {
    let (one, two) = (TaskId(B256::repeat_byte(1)), TaskId(B256::repeat_byte(2)));
    let begun = |task, salt| {
        [
            VaultEvent::TaskCreated { task, amount: Usdc(100), creator: CREATOR },
            VaultEvent::TaskTerms { task, terms: terms(salt), metadata: "do it".to_owned() },
        ]
    };
    let credited = |task, amount| VaultEvent::Credited { account: CREATOR, amount: Usdc(amount), task };
    let handed = VaultEvent::TaskSubmitted { task: one, submitter: CREATOR, result_hash: B256::ZERO, review_by: 90 };
    vec![
        vec![VaultEvent::VaultCreated { owner: OTHER, agent_wallet: OTHER, pod_id: "pod".to_owned() }],
        begun(one, 1).to_vec(),
        [begun(two, 2).to_vec(), vec![handed]].concat(),
        vec![VaultEvent::TaskCompleted { task: one, amount: Usdc(60) }, credited(one, 40)],
        vec![VaultEvent::TaskRefunded { task: two, amount: Usdc(100) }, credited(two, 100)],
        vec![VaultEvent::EarningsWithdrawn { amount: Usdc(60), recipient: OTHER }],
        vec![VaultEvent::CreditWithdrawn { account: CREATOR, amount: Usdc(140), recipient: CREATOR }],
    ]
}

fn logged(at: BlockRef, vault: Address, events: &[VaultEvent]) -> Vec<LoggedEvent> {
    let log = |(index, event): (u64, &VaultEvent)| LoggedEvent {
        block: at,
        log_index: index,
        transaction: B256::ZERO,
        vault,
        event: event.clone(),
    };
    (0..).zip(events).map(log).collect()
}

/// Something in every table of the ledger.
pub(crate) async fn fill(store: &Store) {
    let index = store.chain_index(338, FACTORY).await.unwrap();
    let mut after = None;
    for (number, events) in (1..).zip(life().into_iter().take(5)) {
        let batch = batch(after, block(number), logged(block(number), VAULT, &events));
        store.post_batch(index, batch).await.unwrap().unwrap();
        after = Some(block(number));
    }
}

fn batch(after: Option<BlockRef>, cursor: BlockRef, events: Vec<LoggedEvent>) -> EventBatch {
    EventBatch { after, cursor, blocks: vec![cursor], forget_below: 0, events }
}

async fn post(store: &Store, index: IndexId, after: Option<BlockRef>, at: BlockRef, events: &[VaultEvent]) {
    store.post_batch(index, batch(after, at, logged(at, VAULT, events))).await.unwrap().unwrap();
}

/// What the ledger says equals the fold over the first `blocks` of the life.
async fn equal(store: &Store, index: IndexId, blocks: usize) {
    let all: Vec<VaultEvent> = life().into_iter().take(blocks).flatten().collect();
    let ledger = VaultLedger::of(&all).unwrap();
    let kept = store.vault(index, VAULT).await.unwrap();
    assert_eq!(kept.as_ref().map(|kept| &kept.vault), ledger.vault());
    let tasks: Vec<_> = store.tasks(index, VAULT).await.unwrap().into_iter().rev().collect();
    let expected: Vec<_> = ledger.tasks().iter().map(|(id, task)| (*id, task.clone())).collect();
    assert_eq!(tasks, expected);
    let credits = kept.map(|kept| kept.credits).unwrap_or_default();
    let owed = ledger.credits().iter().filter(|(_, amount)| **amount > Usdc::ZERO);
    assert_eq!(credits, owed.map(|(who, amount)| (*who, *amount)).collect());
    let events = store.vault_events(index, VAULT, None).await.unwrap();
    assert_eq!(events.into_iter().map(|logged| logged.event).collect::<Vec<_>>(), all);
}

pub(crate) async fn a_vaults_ledger_equals_the_fold_over_its_events_after_every_block_and_every_way_back(
    place: &Place,
) {
    let store = open(place).await;
    let index = store.chain_index(338, FACTORY).await.unwrap();
    for back in (0..life().len()).rev() {
        let mut cursor = store.index_cursor(index).await.unwrap();
        let known = cursor.map_or(0, |cursor| usize::try_from(cursor.number).unwrap() + 1);
        for (number, events) in (0..).zip(life()).skip(known) {
            post(&store, index, cursor, block(number), &events).await;
            cursor = Some(block(number));
            equal(&store, index, usize::try_from(number).unwrap() + 1).await;
        }
        let to = u64::try_from(back).unwrap().checked_sub(1).map(block);
        store.roll_back(index, to).await.unwrap().unwrap();
        assert_eq!(store.index_cursor(index).await.unwrap(), to);
        equal(&store, index, back).await;
    }
}

pub(crate) async fn a_batch_that_cannot_be_changes_nothing(place: &Place) {
    let store = open(place).await;
    let index = store.chain_index(338, FACTORY).await.unwrap();
    post(&store, index, None, block(0), &life()[0]).await;
    // The second event is of a task that was never created.
    let task = TaskId(B256::repeat_byte(9));
    let paused = VaultEvent::CreationPaused { paused: true };
    let made_up = VaultEvent::TaskCompleted { task, amount: Usdc(1) };
    let events = logged(block(1), VAULT, &[paused, made_up]);
    let refusal = store.post_batch(index, batch(Some(block(0)), block(1), events)).await.unwrap().unwrap_err();
    let why = InvalidEvent::NoTask("TaskCompleted");
    assert_eq!(refusal, BatchRefusal::Impossible { block: 1, log_index: 1, vault: VAULT, why });
    assert_eq!(store.index_cursor(index).await.unwrap(), Some(block(0)));
    equal(&store, index, 1).await;
}

pub(crate) async fn a_batch_that_was_posted_before_or_follows_another_block_is_refused(place: &Place) {
    let store = open(place).await;
    let index = store.chain_index(338, FACTORY).await.unwrap();
    let first = batch(None, block(0), logged(block(0), VAULT, &life()[0]));
    store.post_batch(index, first.clone()).await.unwrap().unwrap();
    assert_eq!(store.post_batch(index, first).await.unwrap(), Err(BatchRefusal::Moved));
    let second = batch(Some(fork(0, 7)), block(1), Vec::new());
    assert_eq!(store.post_batch(index, second).await.unwrap(), Err(BatchRefusal::Moved));
    assert_eq!(store.roll_back(index, Some(fork(0, 7))).await.unwrap(), Err(BatchRefusal::Moved));
}

pub(crate) async fn the_ledgers_of_two_factories_and_two_chains_are_apart(place: &Place) {
    let store = open(place).await;
    let index = store.chain_index(338, FACTORY).await.unwrap();
    post(&store, index, None, block(0), &life()[0]).await;
    for (chain, factory) in [(25, FACTORY), (338, OTHER)] {
        let other = store.chain_index(chain, factory).await.unwrap();
        assert_eq!(store.index_cursor(other).await.unwrap(), None);
        assert!(store.vault(other, VAULT).await.unwrap().is_none());
        assert!(store.vaults(other).await.unwrap().is_empty());
    }
    drop(store);
    let store = open(place).await;
    assert_eq!(store.chain_index(338, FACTORY).await.unwrap(), index);
    assert_eq!(store.vaults(index).await.unwrap(), [VAULT]);
}

pub(crate) async fn the_ledger_does_what_every_ledger_must(place: &Place) {
    let store = open(place).await;
    let index = store.chain_index(338, FACTORY).await.unwrap();
    chain::evm::suite::ledger(&store.ledger(index)).await;
}
