//! How long a relayed call takes, over a bare `eth_sendRawTransaction` of the same
//! call and a look for its receipt.

use std::time::{Duration, Instant};

use alloy::consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy::eips::eip2718::Encodable2718;
use alloy::signers::SignerSync;
use alloy_primitives::{Address, Bytes};
use chain::evm::calls;
use palatine_relay::Config;
use palatine_relay::fake::Wallet;
use serde_json::json;

use crate::anvil::{CHAIN_ID, Town};

const ROUNDS: u64 = 40;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, not a check"]
async fn a_relayed_call_over_a_bare_one() {
    let (owner, config) = (Wallet::new(1), Config { per_client_minute: 10_000, ..Config::default() });
    let town = Town::start(config, &[owner.address()]).await;
    let vault = town.vault("pod", &owner, owner.address()).await;
    town.anvil.ask("anvil_setBalance", json!([owner.address(), "0x56bc75e2d63100000"])).await;
    let (mut bare, mut relayed) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let call = |salt| calls::set_operator(vault, Address::repeat_byte(salt), round % 2 == 0);
        bare.push(send(&town, &owner, round, call(1)).await);
        let begun = Instant::now();
        assert!(town.relay(&owner, &call(2)).await.unwrap().body.success);
        relayed.push(begun.elapsed());
    }
    let (bare, relayed) = (median(bare), median(relayed));
    println!("bare {bare:?}, relayed {relayed:?}, ratio {:.2}", relayed.as_secs_f64() / bare.as_secs_f64());
}

async fn send(town: &Town, owner: &Wallet, nonce: u64, call: domain::evm::Call) -> Duration {
    let begun = Instant::now();
    let tx = TxEip1559 {
        chain_id: CHAIN_ID,
        nonce,
        gas_limit: 200_000,
        max_fee_per_gas: 10_000_000_000,
        max_priority_fee_per_gas: 1,
        to: call.to.into(),
        input: call.data,
        ..TxEip1559::default()
    };
    let signature = owner.signer().sign_hash_sync(&tx.signature_hash()).unwrap();
    let tx = TxEnvelope::from(tx.into_signed(signature));
    let hash = town.anvil.ask("eth_sendRawTransaction", json!([Bytes::from(tx.encoded_2718())])).await;
    while town.anvil.ask("eth_getTransactionReceipt", json!([hash])).await.is_null() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    begun.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
