//! Endpoints that lie, fail and hang.

use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::{TokenAmount, Wallet};
use palatine_chain::{BalanceError, Balances, Endpoint, SolanaBalances, SolanaConfig, SolanaStartError, TokenProgram};
use serde_json::{Value, json};

use crate::endpoint::{Does, Fake, MINT, SLOT, account, at_slot, config, tls};

const WALLET: Wallet = Wallet([9; 32]);

async fn connect(config: &SolanaConfig) -> SolanaBalances {
    tls();
    SolanaBalances::connect(config).await.unwrap()
}

fn holding(amount: &str) -> Does {
    Does::Holds(vec![account(&WALLET, amount, "a")])
}

fn lie(pointer: &str, to: Value) -> Does {
    let mut answer = at_slot(SLOT, &[account(&WALLET, "5", "a")]);
    *answer.pointer_mut(pointer).unwrap() = to;
    Does::Says(answer)
}

/// All that an endpoint may do and that says nothing of a balance.
fn lies() -> Vec<Does> {
    let info = "/result/value/0/account/data/parsed/info";
    let amount = format!("{info}/tokenAmount/amount");
    let twice = vec![account(&WALLET, "5", "a"), account(&WALLET, "5", "a")];
    vec![
        Does::Status(403),
        Does::Status(429),
        Does::Status(500),
        Does::Status(302),
        Does::Hangs,
        Does::Drips,
        Does::Floods,
        Does::Breaks,
        Does::Bytes(""),
        Does::Bytes("{\"jsonrpc\":\"2.0\",\"result\":{\"context\":{\"slot\":1},\"value\":["),
        Does::Bytes("<html>503</html>"),
        Does::Says(json!({"jsonrpc": "2.0", "id": 1, "error": {"code": -32005, "message": "Node is behind"}})),
        Does::Says(json!({"jsonrpc": "2.0", "id": 1, "result": null})),
        Does::Says(json!({"jsonrpc": "2.0", "id": 1})),
        Does::Says(json!([])),
        lie("/result/value", json!(null)),
        lie("/result/context", json!(null)),
        lie("/result/context/slot", json!(-1)),
        lie(&amount, json!(5_000_000_000_000.0)),
        lie(&amount, json!(5)),
        lie(&amount, json!(null)),
        lie(&amount, json!("5.0")),
        lie(&amount, json!("-5")),
        lie(&amount, json!("99999999999999999999")),
        lie(&format!("{info}/mint"), json!("So11111111111111111111111111111111111111112")),
        lie(&format!("{info}/owner"), json!(Wallet([1; 32]).to_string())),
        lie(&format!("{info}/tokenAmount/decimals"), json!(0)),
        lie(&format!("{info}/state"), json!("liquid")),
        lie("/result/value/0/account/data", json!(["AAAA", "base64"])),
        Does::Holds(twice),
    ]
}

#[tokio::test]
async fn after_every_lie_the_next_endpoint_is_asked() {
    for does in lies() {
        let liar = Fake::that(does.clone()).await;
        let honest = Fake::that(holding("5000000")).await;
        let balances = connect(&config(&[&liar, &honest])).await;
        assert_eq!(balances.balance(&WALLET).await, Ok(TokenAmount(5_000_000)), "{does:?}");
        assert_eq!((liar.calls(), honest.calls()), (1, 1), "{does:?}");
    }
}

#[tokio::test]
async fn a_lie_without_another_endpoint_is_unknown_and_never_zero() {
    for does in lies() {
        let liar = Fake::that(does.clone()).await;
        let balances = connect(&SolanaConfig { attempts: 1, ..config(&[&liar]) }).await;
        let BalanceError::Unknown { why, retry_after_s } = balances.balance(&WALLET).await.unwrap_err();
        assert_eq!(retry_after_s, 5, "{does:?}");
        assert!(!why.contains("secret-key"), "{why}");
    }
}

#[tokio::test]
async fn an_endpoint_that_is_down_is_tried_again_with_patience() {
    let shaky = Fake::acting(|before| if before == 0 { Does::Status(503) } else { holding("7") }).await;
    let balances = connect(&config(&[&shaky])).await;
    assert_eq!(balances.balance(&WALLET).await, Ok(TokenAmount(7)));
    assert_eq!(shaky.calls(), 2);
}

#[tokio::test]
async fn nobody_listening_is_unknown_and_hides_the_endpoints_key() {
    tls();
    let fake = Fake::that(holding("1")).await;
    let mut config = config(&[&fake]);
    config.endpoints = vec![Endpoint("http://127.0.0.1:1/secret-key".to_owned())];
    let error = SolanaBalances::connect(&config).await.unwrap_err();
    assert!(matches!(&error, SolanaStartError::Mint { .. }), "{error:?}");
    assert!(!format!("{error:?} {error}").contains("secret-key"));
}

#[tokio::test]
async fn without_an_endpoint_at_start_nobody_reaches_a_tier_until_one_answers() {
    tls();
    let fake = Fake::acting(|before| if before == 0 { Does::Hangs } else { holding("5000000") }).await;
    let mut down = config(&[&fake]);
    down.endpoints = vec![Endpoint("http://127.0.0.1:1/".to_owned())];
    let balances = SolanaBalances::new(&down).unwrap();
    assert!(balances.balance(&WALLET).await.is_err());
    assert_eq!(balances.program(), None);
    assert!(TokenAmount::from_whole(1, balances.decimals()) > TokenAmount(u128::from(u64::MAX)));

    let balances = SolanaBalances::new(&config(&[&fake])).unwrap();
    assert_eq!(balances.balance(&WALLET).await, Ok(TokenAmount(5_000_000)));
    assert_eq!((balances.program(), balances.decimals()), (Some(TokenProgram::SplToken), 6));
}

#[tokio::test]
async fn a_pinned_mint_needs_no_endpoint_at_start() {
    tls();
    let fake = Fake::that(holding("1")).await;
    let mut config = SolanaConfig { program: Some(TokenProgram::SplToken), decimals: Some(6), ..config(&[&fake]) };
    config.endpoints = vec![Endpoint("http://127.0.0.1:1/".to_owned())];
    let balances = SolanaBalances::connect(&config).await.unwrap();
    assert_eq!((balances.decimals(), balances.mint()), (6, MINT));
    assert!(balances.balance(&WALLET).await.is_err());
}

#[tokio::test]
async fn a_wrongly_pinned_mint_makes_balances_unknown() {
    let fake = Fake::that(holding("5")).await;
    let pinned =
        SolanaConfig { program: Some(TokenProgram::SplToken), decimals: Some(9), attempts: 1, ..config(&[&fake]) };
    assert!(connect(&pinned).await.balance(&WALLET).await.is_err());
}

#[tokio::test]
async fn an_endpoint_says_how_long_to_wait_within_reason() {
    for (said, told) in [(17, 17), (86_400, 60), (0, 1)] {
        let busy = Fake::that(Does::Later(said)).await;
        let balances = connect(&SolanaConfig { attempts: 1, ..config(&[&busy]) }).await;
        let BalanceError::Unknown { retry_after_s, .. } = balances.balance(&WALLET).await.unwrap_err();
        assert_eq!(retry_after_s, told);
    }
}

#[tokio::test]
async fn an_endpoint_that_failed_is_asked_last_for_a_while() {
    let hung = Fake::that(Does::Hangs).await;
    let honest = Fake::that(holding("5")).await;
    let balances = connect(&SolanaConfig { cache_ms: 0, ..config(&[&hung, &honest]) }).await;
    for _ in 0..4 {
        assert_eq!(balances.balance(&WALLET).await, Ok(TokenAmount(5)));
    }
    assert_eq!((hung.calls(), honest.calls()), (1, 4));
}

#[tokio::test]
async fn an_endpoint_that_fell_behind_is_not_believed() {
    let fresh = Fake::acting(|before| if before == 0 { holding("5") } else { Does::Status(500) }).await;
    let stale = Fake::that(Does::Says(at_slot(SLOT - 500, &[account(&WALLET, "9", "a")]))).await;
    let balances = connect(&SolanaConfig { cache_ms: 0, attempts: 1, ..config(&[&fresh, &stale]) }).await;
    assert_eq!(balances.balance(&WALLET).await, Ok(TokenAmount(5)));
    let BalanceError::Unknown { why, .. } = balances.balance(&WALLET).await.unwrap_err();
    assert_eq!(why, "500 slots behind");
}

#[tokio::test]
async fn a_hundred_askers_at_once_are_one_call() {
    let slow = Fake::that(Does::Slow(Duration::from_millis(100), vec![account(&WALLET, "5", "a")])).await;
    let balances = Arc::new(connect(&config(&[&slow])).await);
    let asked: Vec<_> = (0..100)
        .map(|_| {
            let balances = Arc::clone(&balances);
            tokio::spawn(async move { balances.balance(&WALLET).await })
        })
        .collect();
    for answer in asked {
        assert_eq!(answer.await.unwrap(), Ok(TokenAmount(5)));
    }
    assert_eq!(slow.calls(), 1);
}

#[tokio::test]
async fn an_asker_that_goes_away_takes_nobodys_answer_along() {
    let slow = Fake::that(Does::Slow(Duration::from_millis(100), vec![account(&WALLET, "5", "a")])).await;
    let balances = Arc::new(connect(&config(&[&slow])).await);
    let first = tokio::spawn({
        let balances = Arc::clone(&balances);
        async move { balances.balance(&WALLET).await }
    });
    while slow.calls() == 0 {
        tokio::task::yield_now().await;
    }
    let second = tokio::spawn({
        let balances = Arc::clone(&balances);
        async move { balances.balance(&WALLET).await }
    });
    tokio::task::yield_now().await;
    first.abort();
    assert_eq!(second.await.unwrap(), Ok(TokenAmount(5)));
}

#[tokio::test]
async fn a_balance_is_remembered_and_trouble_is_not() {
    let shaky = Fake::acting(|before| if before == 0 { Does::Status(500) } else { holding("5") }).await;
    let balances = connect(&SolanaConfig { attempts: 1, ..config(&[&shaky]) }).await;
    assert!(balances.balance(&WALLET).await.is_err());
    for _ in 0..5 {
        assert_eq!(balances.balance(&WALLET).await, Ok(TokenAmount(5)));
    }
    assert_eq!(shaky.calls(), 2);
}

#[tokio::test]
async fn a_remembered_balance_is_read_anew_when_its_time_is_over() {
    let growing = Fake::acting(|before| holding(&(before + 1).to_string())).await;
    let balances = connect(&SolanaConfig { cache_ms: 30, ..config(&[&growing]) }).await;
    let end = Instant::now() + Duration::from_secs(5);
    while balances.balance(&WALLET).await != Ok(TokenAmount(2)) {
        assert!(Instant::now() < end, "the first balance was kept for ever");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn no_more_calls_are_under_way_than_there_are_places() {
    let slow = Fake::that(Does::Slow(Duration::from_millis(30), Vec::new())).await;
    let balances = Arc::new(connect(&SolanaConfig { concurrency: 3, ..config(&[&slow]) }).await);
    let asked: Vec<_> = (0..20_u8)
        .map(|at| {
            let balances = Arc::clone(&balances);
            tokio::spawn(async move { balances.balance(&Wallet([at; 32])).await })
        })
        .collect();
    for answer in asked {
        assert_eq!(answer.await.unwrap(), Ok(TokenAmount(0)));
    }
    assert_eq!((slow.calls(), slow.most_at_once()), (20, 3));
}

#[tokio::test]
async fn waiting_for_a_place_ends_at_the_deadline() {
    let hung = Fake::that(Does::Hangs).await;
    let balances =
        Arc::new(connect(&SolanaConfig { concurrency: 1, attempts: 10, deadline_ms: 700, ..config(&[&hung]) }).await);
    let begun = Instant::now();
    let asked: Vec<_> = (0..5_u8)
        .map(|at| {
            let balances = Arc::clone(&balances);
            tokio::spawn(async move { balances.balance(&Wallet([at; 32])).await })
        })
        .collect();
    for answer in asked {
        assert!(answer.await.unwrap().is_err());
    }
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn huge_holdings_are_summed_exactly() {
    let accounts = (0..1000).map(|at| account(&WALLET, &u64::MAX.to_string(), &at.to_string())).collect();
    let whale = Fake::that(Does::Holds(accounts)).await;
    let balances = connect(&SolanaConfig { timeout_ms: 3000, ..config(&[&whale]) }).await;
    assert_eq!(balances.balance(&WALLET).await, Ok(TokenAmount(1000 * u128::from(u64::MAX))));
}
