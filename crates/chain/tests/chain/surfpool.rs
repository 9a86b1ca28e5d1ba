//! A real Solana RPC with the real token programs.

use std::time::{Duration, Instant};

use domain::{TokenAmount, Wallet};
use fixtures::SolanaChain;
use palatine_chain::{Balances, SolanaBalances, SolanaConfig, SolanaStartError, TokenProgram};
use serde_json::json;

use crate::endpoint::tls;

const HOLDER: Wallet = Wallet([3; 32]);
const OTHER: Wallet = Wallet([4; 32]);
const WALLET_SET: Wallet = Wallet([5; 32]);
const UNIT: u128 = 1_000_000;

async fn connect(config: &SolanaConfig) -> SolanaBalances {
    tls();
    SolanaBalances::connect(config).await.unwrap()
}

#[tokio::test]
async fn minted_frozen_and_several_accounts_of_spl_token_add_up() {
    let mut chain = SolanaChain::start();
    let balances = connect(&chain.config()).await;
    assert_eq!((balances.program(), balances.decimals()), (Some(TokenProgram::SplToken), 6));
    let held = async || balances.balance(&HOLDER).await.unwrap().0;
    let holder = HOLDER.to_string();

    assert_eq!(held().await, 0);
    chain.tell(&json!({"do": "fund", "wallet": holder, "amount": 1_000_000}));
    assert_eq!(held().await, 1_000_000 * UNIT);
    chain.tell(&json!({"do": "fund", "wallet": holder, "amount": "0.000001", "fresh": true}));
    assert_eq!(held().await, 1_000_000 * UNIT + 1);
    chain.tell(&json!({"do": "fund", "wallet": OTHER.to_string(), "amount": 7}));
    assert_eq!(held().await, 1_000_000 * UNIT + 1);
    chain.tell(&json!({"do": "freeze", "wallet": holder}));
    assert_eq!(held().await, 1);
    chain.tell(&json!({"do": "thaw", "wallet": holder}));
    chain.tell(&json!({"do": "set", "wallet": holder, "amount": 10}));
    assert_eq!(held().await, 10 * UNIT + 1);
}

#[tokio::test]
async fn token_2022_is_read_the_same_way() {
    let mut chain = SolanaChain::start();
    let minted = chain.tell(&json!({"do": "mint", "program": "token-2022", "decimals": 9}));
    let mint = minted["mint"].as_str().unwrap().to_owned();
    let balances = connect(&SolanaConfig { mint: mint.clone(), ..chain.config() }).await;
    assert_eq!((balances.program(), balances.decimals()), (Some(TokenProgram::Token2022), 9));
    let holder = HOLDER.to_string();
    chain.tell(&json!({"do": "fund", "wallet": holder, "amount": 2, "mint": mint}));
    chain.tell(&json!({"do": "fund", "wallet": holder, "amount": 3, "mint": mint, "fresh": true}));
    // Tokens of the other mint are not these.
    chain.tell(&json!({"do": "fund", "wallet": holder, "amount": 1000}));
    assert_eq!(balances.balance(&HOLDER).await, Ok(TokenAmount(5_000_000_000)));
    chain.tell(&json!({"do": "freeze", "wallet": holder, "mint": mint}));
    assert_eq!(balances.balance(&HOLDER).await, Ok(TokenAmount(3_000_000_000)));
}

#[tokio::test]
async fn a_holder_can_pass_tokens_on() {
    let mut chain = SolanaChain::start();
    let balances = connect(&chain.config()).await;
    let secret = [7_u8; 32];
    // The wallet of that secret.
    let wallet: Wallet = "GmaDrppBC7P5ARKV8g3djiwP89vz1jLK23V2GBjuAEGB".parse().unwrap();
    chain.tell(&json!({"do": "fund", "wallet": wallet.to_string(), "amount": 100}));
    chain.tell(&json!({"do": "transfer", "secret": secret, "to": OTHER.to_string(), "amount": 40}));
    assert_eq!(balances.balance(&wallet).await, Ok(TokenAmount(60 * UNIT)));
    assert_eq!(balances.balance(&OTHER).await, Ok(TokenAmount(40 * UNIT)));
}

#[tokio::test]
async fn the_development_chain_keeps_its_mint_takes_its_port_and_ends_with_its_starter() {
    let first = SolanaChain::start();
    let (mint, rpc) = (first.mint.clone(), first.rpc.clone());
    let begun = Instant::now();
    first.end();
    assert!(begun.elapsed() < Duration::from_secs(5));
    let port = rpc.rsplit(':').next().unwrap();
    let second = SolanaChain::start_with(&["--port", port]);
    assert_eq!((&second.mint, &second.rpc), (&mint, &rpc));
    let balances = connect(&second.config()).await;
    assert_eq!(balances.balance(&HOLDER).await, Ok(TokenAmount(0)));
}

#[tokio::test]
async fn a_mint_that_is_none_is_refused_at_start() {
    tls();
    let chain = SolanaChain::start();
    // No account at all, and an account of another program.
    for mint in [OTHER.to_string(), "11111111111111111111111111111111".to_owned()] {
        let error = SolanaBalances::connect(&SolanaConfig { mint, ..chain.config() }).await.unwrap_err();
        assert!(matches!(error, SolanaStartError::Mint { .. }), "{error:?}");
    }
}

/// surfpool's channel of events, which stops it for good when it is full.
const EVENTS: u64 = 1024;
/// Milliseconds of a slot, so that a test sees many.
const FAST: &str = "4";

#[tokio::test]
async fn fault_1_0_the_local_chain_lives_past_its_channel_of_events_idle_and_busy() {
    let mut chain = SolanaChain::start_with(&["--slot-ms", FAST]);
    let holder = HOLDER.to_string();
    chain.tell(&json!({"do": "fund", "wallet": holder, "amount": 1}));
    let balances = connect(&SolanaConfig { timeout_ms: 2000, deadline_ms: 4000, attempts: 1, ..chain.config() }).await;
    let limit = Instant::now() + Duration::from_secs(120);
    // Idle: nobody asks anything but which slot it is.
    while slot(&chain).await < EVENTS + 100 {
        assert!(Instant::now() < limit, "the slots stand still");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(balances.balance(&HOLDER).await, Ok(TokenAmount(UNIT)));
    // Busy: transactions all the while, as many events again.
    let mut tokens = 1;
    while slot(&chain).await < 2 * EVENTS + 200 {
        assert!(Instant::now() < limit, "the slots stand still");
        chain.tell(&json!({"do": "fund", "wallet": holder, "amount": 1}));
        tokens += 1;
    }
    assert_eq!(balances.balance(&HOLDER).await, Ok(TokenAmount(tokens * UNIT)));
}

#[tokio::test]
async fn fault_1_0_a_hung_chain_is_started_again_with_its_mints_accounts_and_balances() {
    let dir = tempfile::tempdir().unwrap();
    let journal = dir.path().join("journal").display().to_string();
    let port = fixtures::free_port().to_string();
    let arguments = ["--journal", &journal, "--port", &port];
    let mut chain = SolanaChain::start_with(&arguments);
    let (holder, other) = (HOLDER.to_string(), OTHER.to_string());
    let minted = chain.tell(&json!({"do": "mint", "program": "token-2022", "decimals": 9}));
    let second = minted["mint"].as_str().unwrap().to_owned();
    let accounts = [
        chain.tell(&json!({"do": "fund", "wallet": holder, "amount": 7})),
        chain.tell(&json!({"do": "fund", "wallet": holder, "amount": "0.5", "fresh": true})),
        chain.tell(&json!({"do": "fund", "wallet": holder, "amount": 3, "mint": second})),
    ];
    chain.tell(&json!({"do": "fund", "wallet": other, "amount": 9}));
    chain.tell(&json!({"do": "freeze", "wallet": other}));
    chain.tell(&json!({"do": "fund", "wallet": WALLET_SET.to_string(), "amount": 1}));
    chain.tell(&json!({"do": "set", "wallet": WALLET_SET.to_string(), "amount": 10}));
    let (rpc, mint) = (chain.rpc.clone(), chain.mint.clone());
    // It hangs: it answers neither a request nor an export. Then it is killed, in the middle of a line.
    rustix::process::kill_process(chain.pid(), rustix::process::Signal::STOP).unwrap();
    chain.kill();
    let torn = std::fs::read_to_string(&journal).unwrap() + r#"{"do": "fund", "wall"#;
    std::fs::write(&journal, torn).unwrap();

    let mut chain = SolanaChain::start_with(&arguments);
    assert_eq!((&chain.rpc, &chain.mint), (&rpc, &mint));
    let balances = connect(&chain.config()).await;
    assert_eq!(balances.balance(&HOLDER).await, Ok(TokenAmount(7_500_000)));
    assert_eq!(balances.balance(&OTHER).await, Ok(TokenAmount(0)), "it is still frozen");
    assert_eq!(balances.balance(&WALLET_SET).await, Ok(TokenAmount(10 * UNIT)));
    let of_second = connect(&SolanaConfig { mint: second, ..chain.config() }).await;
    assert_eq!(of_second.balance(&HOLDER).await, Ok(TokenAmount(3_000_000_000)));
    for account in accounts {
        let found = chain.call("getAccountInfo", json!([account["account"], {"encoding": "jsonParsed"}])).await;
        assert_eq!(found["value"]["data"]["parsed"]["info"]["owner"], holder, "{account}");
    }
    // And it goes on: what is done now is in the journal as well.
    chain.tell(&json!({"do": "thaw", "wallet": other}));
    chain.kill();
    let chain = SolanaChain::start_with(&arguments);
    assert_eq!(connect(&chain.config()).await.balance(&OTHER).await, Ok(TokenAmount(9 * UNIT)));
}

async fn slot(chain: &SolanaChain) -> u64 {
    chain.call("getSlot", json!([])).await.as_u64().unwrap()
}
