//! What every ledger and every outbox must do. An implementation's tests call
//! these with a fresh one; they panic where it does otherwise.

use domain::evm::{
    BlockRef, Call, IntentKey, Outbox, OutboxEntry, OutboxEntryState, OutboxError, SenderAccount, TransactionAttempt,
    TransactionOutcome,
};
use domain::vault::{BatchRefusal, EventBatch, InvalidEvent, Ledger, LoggedEvent, TaskId, VaultEvent};
use domain::{Address, B256, Bytes, U256, Usdc};

const VAULT: Address = Address::with_last_byte(7);
const OWNER: Address = Address::with_last_byte(1);

fn block(number: u64, fork: u8) -> BlockRef {
    let mut hash = B256::with_last_byte(fork);
    hash.0[0..8].copy_from_slice(&number.to_be_bytes());
    BlockRef { number, hash, time: 1_700_000_000 + number }
}

fn logged(block: BlockRef, log_index: u64, event: VaultEvent) -> LoggedEvent {
    LoggedEvent { block, log_index, transaction: B256::with_last_byte(9), vault: VAULT, event }
}

fn created(at: BlockRef) -> LoggedEvent {
    logged(at, 0, VaultEvent::VaultCreated { owner: OWNER, agent_wallet: OWNER, pod_id: "pod".to_owned() })
}

fn paused(at: BlockRef, log_index: u64) -> LoggedEvent {
    logged(at, log_index, VaultEvent::CreationPaused { paused: true })
}

fn batch(after: Option<BlockRef>, blocks: &[BlockRef], forget_below: u64, events: Vec<LoggedEvent>) -> EventBatch {
    let cursor = *blocks.last().expect("a batch has a block");
    EventBatch { after, cursor, blocks: blocks.to_vec(), forget_below, events }
}

/// A ledger applies whole batches in a row, refuses others without a trace, and
/// goes back.
///
/// # Panics
/// Where it does not.
pub async fn ledger(ledger: &dyn Ledger) {
    let (one, two, three) = (block(10, 0), block(11, 0), block(12, 0));
    assert_eq!(ledger.cursor().await, Ok(None), "a fresh ledger has no cursor");
    assert_eq!(ledger.apply(&batch(Some(one), &[two], 0, vec![])).await, Err(BatchRefusal::Moved.into()));

    ledger.apply(&batch(None, &[one], 0, vec![created(one)])).await.expect("the first batch");
    ledger.apply(&batch(Some(one), &[two], 0, vec![paused(two, 3), paused(two, 4)])).await.expect("the second");
    assert_eq!(
        ledger.apply(&batch(Some(one), &[two], 0, vec![])).await,
        Err(BatchRefusal::Moved.into()),
        "a batch twice"
    );
    assert_eq!(ledger.vaults().await, Ok(vec![VAULT]));
    refuses_the_impossible(ledger, two, three).await;

    assert_eq!(ledger.cursor().await, Ok(Some(two)), "a refused batch moves nothing");
    assert_eq!(ledger.remembered().await, Ok(vec![two, one]));
    goes_back(ledger, one, two).await;
    forgets(ledger, one).await;
    ledger.roll_back(None).await.expect("back to the start");
    assert_eq!(ledger.cursor().await, Ok(None));
    assert_eq!((ledger.vaults().await, ledger.remembered().await), (Ok(vec![]), Ok(vec![])));
}

async fn refuses_the_impossible(ledger: &dyn Ledger, after: BlockRef, at: BlockRef) {
    let event = VaultEvent::TaskCompleted { task: TaskId(B256::ZERO), amount: Usdc(1) };
    let why = InvalidEvent::NoTask(event.name());
    let refused = ledger.apply(&batch(Some(after), &[at], 0, vec![paused(at, 0), logged(at, 1, event)])).await;
    let impossible = BatchRefusal::Impossible { block: at.number, log_index: 1, vault: VAULT, why };
    assert_eq!(refused, Err(impossible.into()));
}

async fn goes_back(ledger: &dyn Ledger, to: BlockRef, from: BlockRef) {
    ledger.roll_back(Some(&to)).await.expect("a remembered block");
    assert_eq!((ledger.cursor().await, ledger.vaults().await), (Ok(Some(to)), Ok(vec![VAULT])));
    let other = block(from.number, 1);
    ledger.apply(&batch(Some(to), &[other], 0, vec![paused(other, 3)])).await.expect("another fork");
    ledger.roll_back(Some(&to)).await.expect("and back again");
}

async fn forgets(ledger: &dyn Ledger, after: BlockRef) {
    let blocks = [block(20, 0), block(21, 0)];
    ledger.apply(&batch(Some(after), &blocks, 20, vec![])).await.expect("a batch that skips blocks");
    assert_eq!(ledger.remembered().await, Ok(vec![blocks[1], blocks[0]]));
}

fn account(n: u8) -> SenderAccount {
    SenderAccount { chain_id: 338, address: Address::with_last_byte(n) }
}

fn attempt(n: u8) -> TransactionAttempt {
    TransactionAttempt { hash: B256::with_last_byte(n), raw: Bytes::from(vec![n; 3]), max_fee: 1 << 70, tip: 5 }
}

fn entry(account: SenderAccount, key: &str, nonce: u64) -> OutboxEntry {
    OutboxEntry {
        key: key.parse().expect("a key"),
        account,
        nonce,
        call: Call { to: VAULT, data: Bytes::from(vec![1, 2]), value: U256::MAX },
        gas_limit: 21_000,
        attempts: vec![attempt(1)],
        state: OutboxEntryState::Pending,
    }
}

/// An outbox keeps what it is given, key by key and nonce by nonce.
///
/// # Panics
/// Where it does not.
pub async fn outbox(outbox: &dyn Outbox) {
    let (ours, others) = (account(1), account(2));
    let key: IntentKey = "a".parse().expect("a key");
    assert_eq!((outbox.find(&ours, &key).await, outbox.highest_nonce(&ours).await), (Ok(None), Ok(None)));

    let first = entry(ours, "a", 4);
    outbox.write(&first).await.expect("the first entry");
    assert_eq!(outbox.write(&entry(ours, "b", 4)).await, Err(OutboxError::Conflict), "a nonce twice");
    assert_eq!(outbox.write(&entry(ours, "a", 5)).await, Err(OutboxError::Conflict), "a key twice");
    outbox.write(&entry(others, "a", 4)).await.expect("the same of another account");
    outbox.write(&entry(ours, "b", 3)).await.expect("a lower nonce");
    assert_eq!(outbox.find(&ours, &key).await, Ok(Some(first.clone())));
    assert_eq!(outbox.highest_nonce(&ours).await, Ok(Some(4)));
    assert_eq!(outbox.pending(&ours).await, Ok(vec![entry(ours, "b", 3), first.clone()]), "by nonce");

    outbox.add(&ours, 4, &attempt(2)).await.expect("another attempt");
    assert_eq!(outbox.add(&ours, 9, &attempt(2)).await, Err(OutboxError::Conflict));
    let pending = outbox.find(&ours, &key).await.expect("an answer").expect("the entry");
    assert_eq!(pending, OutboxEntry { attempts: vec![attempt(1), attempt(2)], ..first });
    settles(outbox, ours, &key).await;
}

async fn settles(outbox: &dyn Outbox, ours: SenderAccount, key: &IntentKey) {
    let outcome = TransactionOutcome::Lost { at: block(9, 0) };
    outbox.settle(&ours, 4, &outcome).await.expect("its end");
    assert_eq!(outbox.settle(&ours, 4, &outcome).await, Err(OutboxError::Conflict), "an end twice");
    assert_eq!(outbox.add(&ours, 4, &attempt(3)).await, Err(OutboxError::Conflict), "an attempt after the end");
    let ended = outbox.find(&ours, key).await.expect("an answer").expect("the entry");
    assert_eq!(ended.state, OutboxEntryState::Settled(outcome));
    let nonces: Vec<u64> = outbox.pending(&ours).await.expect("an answer").iter().map(|entry| entry.nonce).collect();
    assert_eq!((nonces, outbox.highest_nonce(&ours).await), (vec![3], Ok(Some(4))));
}
