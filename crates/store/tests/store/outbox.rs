//! Transactions of our own accounts.

use domain::evm::{
    BlockRef, Call, MinedTransaction, OutboxEntry, OutboxEntryState, SenderAccount, TransactionAttempt,
    TransactionOutcome,
};
use domain::{Address, B256, U256};
use palatine_store::OutboxOutcome;

use crate::help::{Place, open};

fn account(n: u8) -> SenderAccount {
    SenderAccount { chain_id: 338, address: Address::repeat_byte(n) }
}

fn attempt(n: u8) -> TransactionAttempt {
    TransactionAttempt { hash: B256::repeat_byte(n), raw: vec![n].into(), max_fee: u128::MAX, tip: 1 }
}

pub(crate) fn entry(key: &str, nonce: u64) -> OutboxEntry {
    OutboxEntry {
        key: key.parse().unwrap(),
        account: account(1),
        nonce,
        call: Call { to: Address::ZERO, data: vec![1].into(), value: U256::MAX },
        gas_limit: 21_000,
        attempts: vec![attempt(1)],
        state: OutboxEntryState::Pending,
    }
}

const AT: BlockRef = BlockRef { number: 9, hash: B256::ZERO, time: 9 };
const LOST: TransactionOutcome = TransactionOutcome::Lost { at: AT };
const MINED: TransactionOutcome = TransactionOutcome::Mined(MinedTransaction {
    hash: B256::ZERO,
    block: AT,
    success: true,
    gas_used: u64::MAX,
    gas_price: u128::MAX,
});

pub(crate) async fn a_key_and_a_nonce_are_taken_once_by_each_account(place: &Place) {
    let store = open(place).await;
    assert_eq!(store.outbox_write(entry("a", 0)).await.unwrap(), OutboxOutcome::Done);
    assert_eq!(store.outbox_write(entry("a", 1)).await.unwrap(), OutboxOutcome::Conflict);
    assert_eq!(store.outbox_write(entry("b", 0)).await.unwrap(), OutboxOutcome::Conflict);
    let elsewhere = OutboxEntry { account: account(2), ..entry("a", 0) };
    assert_eq!(store.outbox_write(elsewhere).await.unwrap(), OutboxOutcome::Done);
    assert_eq!(store.outbox_pending(account(1)).await.unwrap(), [entry("a", 0)]);
}

pub(crate) async fn an_entry_takes_attempts_until_it_is_settled_and_is_found_after_a_restart(place: &Place) {
    let store = open(place).await;
    store.outbox_write(entry("a", 7)).await.unwrap();
    store.outbox_write(entry("b", 3)).await.unwrap();
    store.outbox_write(entry("c", 4)).await.unwrap();
    assert_eq!(store.outbox_settle(account(1), 4, MINED).await.unwrap(), OutboxOutcome::Done);
    assert_eq!(store.outbox_add(account(1), 7, attempt(2)).await.unwrap(), OutboxOutcome::Done);
    assert_eq!(store.outbox_add(account(1), 8, attempt(2)).await.unwrap(), OutboxOutcome::Conflict);
    assert_eq!(store.outbox_settle(account(1), 7, LOST).await.unwrap(), OutboxOutcome::Done);
    assert_eq!(store.outbox_settle(account(1), 7, LOST).await.unwrap(), OutboxOutcome::Conflict);
    assert_eq!(store.outbox_add(account(1), 7, attempt(3)).await.unwrap(), OutboxOutcome::Conflict);
    drop(store);
    let store = open(place).await;
    let settled =
        OutboxEntry { attempts: vec![attempt(1), attempt(2)], state: OutboxEntryState::Settled(LOST), ..entry("a", 7) };
    assert_eq!(store.outbox_find(account(1), "a".parse().unwrap()).await.unwrap(), Some(settled));
    let mined = store.outbox_find(account(1), "c".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(mined.state, OutboxEntryState::Settled(MINED));
    assert_eq!(store.outbox_pending(account(1)).await.unwrap(), [entry("b", 3)]);
    assert_eq!(store.outbox_highest(account(1)).await.unwrap(), Some(7));
    assert_eq!(store.outbox_highest(account(2)).await.unwrap(), None);
}

pub(crate) async fn the_outbox_does_what_every_outbox_must(place: &Place) {
    chain::evm::suite::outbox(&open(place).await.outbox()).await;
}
