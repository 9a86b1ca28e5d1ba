//! A real Solana RPC with the real token programs.

use std::time::{Duration, Instant};

use domain::{TokenAmount, Wallet};
use palatine_chain::{Balances, ChainError, Config, Program, SolanaBalances};
use serde_json::json;

use crate::dev::Dev;
use crate::endpoint::tls;

const HOLDER: Wallet = Wallet([3; 32]);
const OTHER: Wallet = Wallet([4; 32]);
const UNIT: u128 = 1_000_000;

async fn connect(config: &Config) -> SolanaBalances {
    tls();
    SolanaBalances::connect(config).await.unwrap()
}

#[tokio::test]
async fn minted_frozen_and_several_accounts_of_spl_token_add_up() {
    let mut dev = Dev::start().await;
    let balances = connect(&dev.config()).await;
    assert_eq!((balances.program(), balances.decimals()), (Some(Program::SplToken), 6));
    let held = async || balances.balance(&HOLDER).await.unwrap().0;
    let holder = HOLDER.to_string();

    assert_eq!(held().await, 0);
    dev.tell(json!({"do": "fund", "wallet": holder, "amount": 1_000_000})).await;
    assert_eq!(held().await, 1_000_000 * UNIT);
    dev.tell(json!({"do": "fund", "wallet": holder, "amount": "0.000001", "fresh": true})).await;
    assert_eq!(held().await, 1_000_000 * UNIT + 1);
    dev.tell(json!({"do": "fund", "wallet": OTHER.to_string(), "amount": 7})).await;
    assert_eq!(held().await, 1_000_000 * UNIT + 1);
    dev.tell(json!({"do": "freeze", "wallet": holder})).await;
    assert_eq!(held().await, 1);
    dev.tell(json!({"do": "thaw", "wallet": holder})).await;
    dev.tell(json!({"do": "set", "wallet": holder, "amount": 10})).await;
    assert_eq!(held().await, 10 * UNIT + 1);
}

#[tokio::test]
async fn token_2022_is_read_the_same_way() {
    let mut dev = Dev::start().await;
    let minted = dev.tell(json!({"do": "mint", "program": "token-2022", "decimals": 9})).await;
    let mint = minted["mint"].as_str().unwrap().to_owned();
    let balances = connect(&Config { mint: mint.clone(), ..dev.config() }).await;
    assert_eq!((balances.program(), balances.decimals()), (Some(Program::Token2022), 9));
    let holder = HOLDER.to_string();
    dev.tell(json!({"do": "fund", "wallet": holder, "amount": 2, "mint": mint})).await;
    dev.tell(json!({"do": "fund", "wallet": holder, "amount": 3, "mint": mint, "fresh": true})).await;
    // Tokens of the other mint are not these.
    dev.tell(json!({"do": "fund", "wallet": holder, "amount": 1000})).await;
    assert_eq!(balances.balance(&HOLDER).await, Ok(TokenAmount(5_000_000_000)));
    dev.tell(json!({"do": "freeze", "wallet": holder, "mint": mint})).await;
    assert_eq!(balances.balance(&HOLDER).await, Ok(TokenAmount(3_000_000_000)));
}

#[tokio::test]
async fn a_holder_can_pass_tokens_on() {
    let mut dev = Dev::start().await;
    let balances = connect(&dev.config()).await;
    let secret = [7_u8; 32];
    // The wallet of that secret.
    let wallet: Wallet = "GmaDrppBC7P5ARKV8g3djiwP89vz1jLK23V2GBjuAEGB".parse().unwrap();
    dev.tell(json!({"do": "fund", "wallet": wallet.to_string(), "amount": 100})).await;
    dev.tell(json!({"do": "transfer", "secret": secret, "to": OTHER.to_string(), "amount": 40})).await;
    assert_eq!(balances.balance(&wallet).await, Ok(TokenAmount(60 * UNIT)));
    assert_eq!(balances.balance(&OTHER).await, Ok(TokenAmount(40 * UNIT)));
}

#[tokio::test]
async fn the_development_chain_keeps_its_mint_takes_its_port_and_ends_with_its_starter() {
    let first = Dev::start().await;
    let (mint, rpc) = (first.mint.clone(), first.rpc.clone());
    let begun = Instant::now();
    first.end().await;
    assert!(begun.elapsed() < Duration::from_secs(5));
    let port = rpc.rsplit(':').next().unwrap();
    let second = Dev::start_with(&["--port", port]).await;
    assert_eq!((&second.mint, &second.rpc), (&mint, &rpc));
    let balances = connect(&second.config()).await;
    assert_eq!(balances.balance(&HOLDER).await, Ok(TokenAmount(0)));
}

#[tokio::test]
async fn a_mint_that_is_none_is_refused_at_start() {
    tls();
    let dev = Dev::start().await;
    // No account at all, and an account of another program.
    for mint in [OTHER.to_string(), "11111111111111111111111111111111".to_owned()] {
        let error = SolanaBalances::connect(&Config { mint, ..dev.config() }).await.unwrap_err();
        assert!(matches!(error, ChainError::Mint { .. }), "{error:?}");
    }
}
