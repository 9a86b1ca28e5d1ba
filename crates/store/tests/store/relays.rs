//! What the relayer took on, in tables, and what the last version left in them.

use domain::relay::{FinalStatus, RelayJournal, RelayState};
use domain::{B256, U256, Usdc};
use relay::conformance;
use rusqlite::{Connection, params};

use crate::help::{Place, config, folder, open, reopen};

/// The chain of [`conformance::fee_payment`].
const CHAIN_ID: u64 = 338;

pub(crate) async fn the_journal_does_what_every_journal_must(place: &Place) {
    conformance::run(&open(place).await.relay_journal(CHAIN_ID)).await.unwrap();
}

/// An entry that waits for its fee, as the last version wrote it: without the chain.
const PAYING: &str = r#"{"id":"0x0101010101010101010101010101010101010101010101010101010101010101","lane":{"forwarder":"0xf0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0","from":"0x0101010101010101010101010101010101010101","nonce":"0x7"},"work":{"to":"0xf0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0","value":"0x7","data":"0x0102","gas":18446744073709551615},"payment":{"group":"0x0202020202020202020202020202020202020202020202020202020202020202","payment":{"token":"0x0505050505050505050505050505050505050505","authorization":{"from":"0x0101010101010101010101010101010101010101","to":"0xeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee","value":"5","valid_after":"0x0","valid_before":"0xffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff","nonce":"0x0101010101010101010101010101010101010101010101010101010101010101"},"signature":"0x010101010101010101010101010101010101010101010101010101010101010102020202020202020202020202020202020202020202020202020202020202021b"},"gas":90000},"state":"paying","after":null,"attempt":0,"at":1}"#;

#[tokio::test]
async fn an_entry_of_the_last_version_is_read_on_this_chain_and_carried_on() {
    let folder = folder();
    drop(reopen(&folder).await);
    let conn = Connection::open(config(&folder).directory.join("palatine.db")).unwrap();
    let sql = "INSERT INTO relays (id, attempt, at, lane, holds, gives_way, progress, body) \
               VALUES (?1, 0, 1, NULL, 1, 0, 'open', ?2)";
    conn.execute(sql, params![[1_u8; 32], PAYING]).unwrap();
    drop(conn);
    let journal = reopen(&folder).await.relay_journal(CHAIN_ID);
    let left = journal.open(9).await.unwrap();
    let [entry] = left.as_slice() else { panic!("{left:?}") };
    let authorization = entry.payment.as_ref().unwrap().signed.authorization;
    assert_eq!((authorization.chain_id, authorization.value), (CHAIN_ID, Usdc(5)));
    assert_eq!(authorization.valid_before, U256::MAX);
    let unpaid = RelayState::Unpaid { why: "no".to_owned() };
    assert_eq!(journal.step(entry.id, &unpaid).await.unwrap().state, unpaid);
    assert_eq!(journal.open(9).await.unwrap(), []);
}

pub(crate) async fn a_step_that_is_not_allowed_changes_no_column(place: &Place) {
    let journal = open(place).await.relay_journal(CHAIN_ID);
    let entry = conformance::entry(1);
    journal.admit(std::slice::from_ref(&entry), &[]).await.unwrap();
    let unpaid = RelayState::Unpaid { why: "no".to_owned() };
    assert_eq!(journal.step(entry.id, &unpaid).await.unwrap(), entry);
    assert_eq!(journal.find(entry.id).await.unwrap(), Some(entry));
    assert!(journal.find(B256::ZERO).await.unwrap().is_none());
    assert!(FinalStatus::Superseded.is_final());
}
