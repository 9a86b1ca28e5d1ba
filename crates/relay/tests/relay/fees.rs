//! Fees: asked for, verified, taken once, and told of.

use alloy_primitives::{Address, B256, U256};
use domain::Usdc;
use domain::payment::Authorization;
use palatine_relay::fake::{EPOCH_S, TargetBehavior, TestWallet};
use palatine_relay::{Config, FeePolicy};
use wire::v1::relay::{CallStatus, PaymentRequirements, SignedRequest};

use crate::fixture::{Fixture, VAULT, code, refusal};

const RICH: u64 = 100_000_000;

struct Sale {
    fixture: Fixture,
    payer: TestWallet,
    signed: SignedRequest,
    terms: PaymentRequirements,
}

async fn sale() -> Sale {
    let fixture = Fixture::charging();
    let payer = TestWallet::new(1);
    fixture.chain.give(payer.address(), RICH);
    let signed = fixture.signed(&payer, 0);
    let terms = fixture.terms(&signed).await.x402.accepts.remove(0);
    Sale { fixture, payer, signed, terms }
}

impl Sale {
    fn fee(&self) -> u64 {
        self.terms.max_amount_required.parse().unwrap()
    }

    fn authorization(&self) -> Authorization {
        Authorization {
            chain_id: self.fixture.facts().chain_id,
            asset: self.fixture.facts().token,
            from: self.payer.address(),
            to: self.terms.pay_to.parse().unwrap(),
            value: Usdc(self.fee()),
            valid_after: U256::from(EPOCH_S - 60),
            valid_before: U256::from(EPOCH_S + 600),
            nonce: B256::repeat_byte(1),
        }
    }

    async fn refused(&self, change: impl FnOnce(&mut Authorization)) -> (u16, String) {
        let mut authorization = self.authorization();
        change(&mut authorization);
        let header = self.payer.pay_by(self.fixture.facts(), &self.terms.network, &authorization);
        let (status, said) = refusal(self.fixture.relay_paid(&self.signed, Some(&header)).await);
        assert_eq!(self.fixture.chain.transactions(), 0, "{said}");
        assert!(status == 400 || said["x402"]["accepts"][0]["maxAmountRequired"].is_string(), "{said}");
        (status, said["error"].as_str().unwrap().to_owned())
    }
}

fn invalid() -> (u16, String) {
    (402, "PAYMENT_INVALID".to_owned())
}

#[tokio::test]
async fn without_a_payment_the_terms_are_told_and_nothing_is_sent() {
    let sale = sale().await;
    assert_eq!(sale.terms.scheme, "exact");
    assert_eq!(sale.terms.network, "eip155:338");
    assert_eq!(sale.terms.asset.parse::<Address>().unwrap(), sale.fixture.facts().token);
    // (150,000 + 8,000 + 120,000) gas at 5,000 gwei, a CRO at ten cents, and a fifth.
    assert_eq!(sale.fee(), 166_800);
    assert_eq!(sale.fixture.chain.transactions(), 0);
}

#[tokio::test]
async fn a_payment_is_taken_before_the_call_and_told_of() {
    let sale = sale().await;
    let header = sale.payer.pay(sale.fixture.facts(), &sale.terms, 1);
    let answer = sale.fixture.relay_paid(&sale.signed, Some(&header)).await.unwrap().body;
    assert!(answer.success && answer.payment_tx_hash.is_some() && answer.payment_tx_hash != answer.tx_hash);
    assert_eq!(answer.fee_taken, Some(sale.fee().to_string()));
    assert_eq!(sale.fixture.chain.usdc(sale.payer.address()), RICH - sale.fee());
    assert_eq!(sale.fixture.chain.usdc(sale.fixture.facts().relayer), sale.fee());
    assert_eq!(sale.fixture.relay(&sale.signed).await.unwrap().body, answer);
    assert_eq!(sale.fixture.chain.usdc(sale.payer.address()), RICH - sale.fee());
}

#[tokio::test]
async fn fees_go_to_the_receiving_wallet() {
    let wallet = Address::repeat_byte(0xcc);
    let fixture = Fixture::new(Config {
        fee: FeePolicy::Charged,
        receiving_wallet: Some(wallet),
        wait_ms: 2000,
        ..Config::default()
    });
    let terms = fixture.terms(&fixture.signed(&TestWallet::new(1), 0)).await.x402.accepts.remove(0);
    assert_eq!(terms.pay_to.parse::<Address>().unwrap(), wallet);
}

#[tokio::test]
async fn a_payment_that_is_not_what_was_asked_is_refused_with_the_terms() {
    let sale = sale().await;
    assert_eq!(sale.refused(|it| it.to = Address::repeat_byte(0xdd)).await, invalid());
    assert_eq!(sale.refused(|it| it.value = Usdc(it.value.0 - 1)).await, invalid());
    assert_eq!(sale.refused(|it| it.valid_after = U256::from(EPOCH_S)).await, invalid());
    assert_eq!(sale.refused(|it| it.valid_before = U256::from(EPOCH_S + 30)).await, invalid());
    assert_eq!(sale.refused(|it| it.from = TestWallet::new(2).address()).await, invalid());
    assert_eq!(sale.refused(|it| it.value = Usdc(RICH + 1)).await, invalid());
}

#[tokio::test]
async fn a_payment_in_another_tokens_domain_or_for_another_chain_is_refused() {
    let sale = sale().await;
    let mut facts = sale.fixture.facts().clone();
    facts.token_name = "Test USDC".to_owned();
    let header = sale.payer.pay_by(&facts, &sale.terms.network, &sale.authorization());
    let (status, said) = refusal(sale.fixture.relay_paid(&sale.signed, Some(&header)).await);
    assert_eq!((status, said["error"].as_str()), (402, Some("PAYMENT_INVALID")));
    assert!(said["message"].as_str().unwrap().contains("Bridged USDC (Stargate)"), "{said}");
    let header = sale.payer.pay_by(sale.fixture.facts(), "eip155:25", &sale.authorization());
    assert_eq!(code(sale.fixture.relay_paid(&sale.signed, Some(&header)).await), "PAYMENT_INVALID");
}

#[tokio::test]
async fn what_is_no_payment_is_a_400() {
    let sale = sale().await;
    for header in ["", "0x", "bm8=", "e30=", &"A".repeat(5000)] {
        let (status, said) = refusal(sale.fixture.relay_paid(&sale.signed, Some(header)).await);
        assert_eq!((status, said["error"].as_str()), (400, Some("INVALID_PAYMENT")), "{header}");
    }
}

#[tokio::test]
async fn one_payment_does_not_buy_two_relays() {
    let sale = sale().await;
    let other = sale.fixture.signed(&TestWallet::new(2), 0);
    sale.fixture.terms(&other).await;
    let header = sale.payer.pay(sale.fixture.facts(), &sale.terms, 1);
    let (first, second) = tokio::join!(
        sale.fixture.relay_paid(&sale.signed, Some(&header)),
        sale.fixture.relay_paid(&other, Some(&header))
    );
    assert_eq!(u32::from(first.is_ok()) + u32::from(second.is_ok()), 1, "{first:?} {second:?}");
    assert_eq!(sale.fixture.chain.effects().len(), 1);
    let third = sale.fixture.signed(&TestWallet::new(3), 0);
    assert_eq!(code(sale.fixture.relay_paid(&third, Some(&header)).await), "PAYMENT_INVALID");
}

#[tokio::test]
async fn a_payment_that_fails_on_the_chain_buys_nothing_and_another_one_may_follow() {
    let sale = sale().await;
    sale.fixture.chain.break_token(true);
    let header = sale.payer.pay(sale.fixture.facts(), &sale.terms, 1);
    let (status, said) = refusal(sale.fixture.relay_paid(&sale.signed, Some(&header)).await);
    assert_eq!((status, said["error"].as_str()), (402, Some("PAYMENT_FAILED")));
    assert!(sale.fixture.chain.effects().is_empty());
    sale.fixture.chain.break_token(false);
    let header = sale.payer.pay(sale.fixture.facts(), &sale.terms, 2);
    assert!(sale.fixture.relay_paid(&sale.signed, Some(&header)).await.unwrap().body.success);
    assert_eq!(sale.fixture.chain.usdc(sale.payer.address()), RICH - sale.fee());
}

#[tokio::test]
async fn a_payment_that_a_front_runner_executed_counts_all_the_same() {
    let sale = sale().await;
    sale.fixture.chain.hold(true);
    let header = sale.payer.pay_by(sale.fixture.facts(), &sale.terms.network, &sale.authorization());
    let (relayer, body) = (sale.fixture.relayer.clone(), crate::fixture::body(&sale.signed));
    let asked = tokio::spawn(async move { relayer.relay(&body, Some(&header), crate::fixture::HERE).await });
    while sale.fixture.journal.state().open(1).is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    sale.fixture.chain.front_run(&sale.authorization());
    sale.fixture.chain.hold(false);
    let answer = asked.await.unwrap().unwrap().body;
    assert!(answer.success && answer.payment_tx_hash == Some(B256::repeat_byte(0xff).to_string()), "{answer:?}");
    assert_eq!(sale.fixture.chain.usdc(sale.payer.address()), RICH - sale.fee());
}

#[tokio::test]
async fn a_call_that_fails_after_its_fee_was_taken_says_both() {
    let sale = sale().await;
    sale.fixture.chain.set_behavior(VAULT, TargetBehavior::RevertsWhenMined);
    let header = sale.payer.pay(sale.fixture.facts(), &sale.terms, 1);
    let answer = sale.fixture.relay_paid(&sale.signed, Some(&header)).await.unwrap().body;
    assert_eq!((answer.success, answer.status), (false, CallStatus::Reverted));
    assert_eq!(answer.fee_taken, Some(sale.fee().to_string()));
    assert!(answer.payment_tx_hash.is_some() && answer.reason.is_some());
}

#[tokio::test]
async fn a_call_that_would_revert_is_refused_before_any_fee() {
    let sale = sale().await;
    sale.fixture.chain.set_behavior(VAULT, TargetBehavior::Reverts(chain::evm::Revert::Silent));
    let header = sale.payer.pay(sale.fixture.facts(), &sale.terms, 1);
    assert_eq!(code(sale.fixture.relay_paid(&sale.signed, Some(&header)).await), "TX_SIMULATION_FAILED");
    assert_eq!(sale.fixture.chain.usdc(sale.payer.address()), RICH);
}

#[tokio::test]
async fn a_batch_is_paid_once() {
    let fixture = Fixture::charging();
    let payer = TestWallet::new(1);
    fixture.chain.give(payer.address(), RICH);
    let requests = [fixture.signed(&payer, 0), fixture.signed(&payer, 1), fixture.signed(&TestWallet::new(2), 0)];
    let (status, said) = refusal(fixture.batch(&requests).await);
    assert_eq!((status, said["quote"]["transactionCount"].as_u64()), (402, Some(3)));
    assert!(said["quote"]["discountPercent"].as_u64().unwrap() > 0);
    let terms: PaymentRequirements = serde_json::from_value(said["x402"]["accepts"][0].clone()).unwrap();
    let header = payer.pay(fixture.facts(), &terms, 1);
    let answer = fixture.batch_paid(&requests, Some(&header)).await.unwrap().body;
    assert!(answer.success && answer.payment_tx_hash.is_some(), "{answer:?}");
    assert_eq!(answer.fee_taken, Some(terms.max_amount_required.clone()));
    let fee: u64 = terms.max_amount_required.parse().unwrap();
    assert_eq!(fixture.chain.usdc(payer.address()), RICH - fee);
    assert_eq!(fixture.batch_paid(&requests, Some(&header)).await.unwrap().body, answer);
    assert_eq!(fixture.chain.usdc(payer.address()), RICH - fee);
}
