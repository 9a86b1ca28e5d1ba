//! What must not get through.

use std::sync::Arc;

use alloy_primitives::{Address, B256, Bytes, Signature, U256};
use chain::evm::{Revert, calls};
use domain::payment::{Authorization, SignedAuthorization};
use domain::relay::RelayJournal;
use palatine_relay::chain::{Chain, ChainParameters};
use palatine_relay::fake::{EPOCH_S, ExecutedCall, MemoryJournal, TargetBehavior, TestRequest, TestWallet, selector};
use palatine_relay::text::MAX_WORDS;
use palatine_relay::{
    Beneficiary, BudgetUnit, Budgets, CallPurpose, Config, GasSpend, RelayError, Relayer, SponsorAllAsHolder,
};
use serde_json::json;
use wire::v1::relay::{CallStatus, SignedRequest};

use crate::fixture::{CALL, Fixture, HERE, VAULT, ask, body, code, refusal};

#[tokio::test]
async fn a_request_signed_by_another_key_is_refused() {
    let fixture = Fixture::default();
    let forged = TestWallet::new(1).ask_as(TestWallet::new(2).address(), fixture.facts(), &ask(0));
    let (status, said) = refusal(fixture.relay(&forged).await);
    assert_eq!((status, said["error"].as_str()), (400, Some("INVALID_SIGNATURE")));
    assert_eq!(fixture.chain.transactions(), 0);
}

#[tokio::test]
async fn a_sender_appended_to_the_data_is_not_the_sender() {
    let fixture = Fixture::default();
    let (attacker, victim) = (TestWallet::new(1), TestWallet::new(2).address());
    let data: Bytes = [CALL.as_slice(), victim.as_slice()].concat().into();
    let signed = attacker.ask(fixture.facts(), &TestRequest { data: data.clone(), ..ask(0) });
    assert!(fixture.relay(&signed).await.unwrap().body.success);
    assert_eq!(fixture.chain.effects(), [ExecutedCall { from: attacker.address(), to: VAULT, data }]);
}

#[tokio::test]
async fn an_appended_sender_gets_no_sponsored_call_through_that_asks_who_sends() {
    let fixture = Fixture::default();
    let data: Bytes = [CALL.as_slice(), TestWallet::new(2).address().as_slice()].concat().into();
    let call = json!({"to": VAULT, "data": data}).to_string();
    assert_eq!(code(fixture.relayer.call(call.as_bytes(), None, HERE).await), "CALL_NOT_ALLOWED");
}

async fn signed_for(change: impl FnOnce(&mut ChainParameters)) -> &'static str {
    let fixture = Fixture::default();
    let mut facts = fixture.facts().clone();
    change(&mut facts);
    code(fixture.relay(&TestWallet::new(1).ask(&facts, &ask(0))).await)
}

#[tokio::test]
async fn a_signature_for_another_chain_forwarder_or_name_is_refused() {
    assert_eq!(signed_for(|facts| facts.chain_id = 25).await, "INVALID_SIGNATURE");
    assert_eq!(signed_for(|facts| facts.forwarder = Address::repeat_byte(0xf1)).await, "INVALID_SIGNATURE");
    assert_eq!(signed_for(|facts| facts.forwarder_name = "MinimalForwarder".into()).await, "INVALID_SIGNATURE");
}

#[tokio::test]
async fn every_field_is_bound_by_the_signature() {
    let fixture = Fixture::default();
    let signed = fixture.signed(&TestWallet::new(1), 0);
    type Change = fn(&mut SignedRequest);
    let changes: [Change; 6] = [
        |it| it.request.to = alloy_primitives::Address::with_last_byte(1).to_string(),
        |it| it.request.gas = "200001".into(),
        |it| it.request.nonce = "1".into(),
        |it| it.request.deadline = (EPOCH_S + 3601).to_string(),
        |it| it.request.data.push_str("00"),
        |it| it.signature.replace_range(2..4, "00"),
    ];
    for change in changes {
        let mut changed = signed.clone();
        change(&mut changed);
        assert_eq!(code(fixture.relay(&changed).await), "INVALID_SIGNATURE", "{changed:?}");
    }
}

#[tokio::test]
async fn the_other_s_of_a_signature_and_what_is_no_signature_are_refused() {
    let fixture = Fixture::default();
    let signed = fixture.signed(&TestWallet::new(1), 0);
    let bytes: Bytes = signed.signature.parse().unwrap();
    let order = U256::from_str_radix("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141", 16).unwrap();
    let high = order - U256::from_be_slice(&bytes[32..64]);
    let malleable = [&bytes[..32], &high.to_be_bytes::<32>(), &[55 - bytes[64]]].concat();
    let other_v = [&bytes[..64], &[bytes[64] - 25]].concat();
    for other in [malleable, other_v, bytes[..64].to_vec(), [&bytes[..], &[0]].concat(), vec![]] {
        let other = SignedRequest { signature: Bytes::from(other).to_string(), ..signed.clone() };
        assert_eq!(code(fixture.relay(&other).await), "INVALID_SIGNATURE", "{}", other.signature);
    }
}

#[tokio::test]
async fn case_v_0_1_a_signature_that_ends_in_0_or_1_is_taken_and_sent_as_contracts_take_it() {
    let fixture = Fixture::default();
    for nonce in 0..4 {
        let signed = fixture.signed(&TestWallet::new(1), nonce);
        let bytes: Bytes = signed.signature.parse().unwrap();
        let short = Bytes::from([&bytes[..64], &[bytes[64] - 27]].concat());
        let signed = SignedRequest { signature: short.to_string(), ..signed };
        assert!(fixture.relay(&signed).await.unwrap().body.success, "nonce {nonce}");
    }
}

#[tokio::test]
async fn a_replay_answers_the_same_and_sends_nothing() {
    let fixture = Fixture::default();
    let signed = fixture.signed(&TestWallet::new(1), 0);
    let first = fixture.relay(&signed).await.unwrap();
    assert_eq!(fixture.relay(&signed).await.unwrap(), first);
    assert_eq!((fixture.chain.transactions(), fixture.chain.effects().len()), (1, 1));
}

#[tokio::test]
async fn fifty_copies_at_once_are_sent_once() {
    let fixture = Fixture::new(Config { per_client_minute: 100, wait_ms: 5000, ..Config::default() });
    let signed = fixture.signed(&TestWallet::new(1), 0);
    let copies = (0..50).map(|_| {
        let (relayer, body) = (fixture.relayer.clone(), body(&signed));
        tokio::spawn(async move { relayer.relay(&body, None, HERE).await })
    });
    let mut answers = Vec::new();
    for copy in copies.collect::<Vec<_>>() {
        answers.push(copy.await.unwrap().unwrap());
    }
    assert!(answers.iter().all(|answer| answer == &answers[0] && answer.body.success));
    assert_eq!((fixture.chain.transactions(), fixture.chain.effects().len()), (1, 1));
}

#[tokio::test]
async fn a_gap_in_the_nonces_is_refused_with_the_expected_one() {
    let fixture = Fixture::default();
    let (status, said) = refusal(fixture.relay(&fixture.signed(&TestWallet::new(1), 1)).await);
    assert_eq!((status, said["error"].as_str()), (409, Some("NONCE_MISMATCH")));
    assert!(said["message"].as_str().unwrap().contains("is 0, not 1"), "{said}");
}

#[tokio::test]
async fn two_requests_with_one_nonce_are_not_both_taken_on() {
    let fixture = Fixture::new(Config { wait_ms: 0, ..Config::default() });
    let wallet = TestWallet::new(1);
    fixture.chain.hold(true);
    assert_eq!(fixture.relay(&fixture.signed(&wallet, 0)).await.unwrap().status, 202);
    let other = wallet.ask(fixture.facts(), &TestRequest { gas: 200_001, ..ask(0) });
    assert_eq!(code(fixture.relay(&other).await), "NONCE_IN_USE");
}

#[tokio::test]
async fn other_functions_are_refused() {
    let fixture = Fixture::default();
    for data in ["", "0x", "0x79ba50", "0xa9059cbb", "0x485cc955"] {
        let data: Bytes = data.parse().unwrap_or_default();
        let signed = TestWallet::new(1).ask(fixture.facts(), &TestRequest { data: data.clone(), ..ask(0) });
        assert_eq!(code(fixture.relay(&signed).await), "CALL_NOT_ALLOWED", "{data}");
    }
}

#[tokio::test]
async fn other_targets_are_refused_the_forwarder_the_token_and_the_relayer_too() {
    let fixture = Fixture::default();
    let facts = fixture.facts().clone();
    for to in [Address::repeat_byte(1), facts.forwarder, facts.token, facts.factory, facts.relayer, Address::ZERO] {
        let signed = TestWallet::new(1).ask(&facts, &TestRequest { to, ..ask(0) });
        assert_eq!(code(fixture.relay(&signed).await), "CALL_NOT_ALLOWED", "{to}");
        let call = json!({"to": to, "data": "0x39509351"}).to_string();
        assert_eq!(code(fixture.relayer.call(call.as_bytes(), None, HERE).await), "CALL_NOT_ALLOWED", "{to}");
    }
}

#[tokio::test]
async fn a_target_that_does_not_trust_the_forwarder_is_refused_unsent() {
    let fixture = Fixture::default();
    fixture.chain.set_behavior(VAULT, TargetBehavior::Distrusts);
    let (status, said) = refusal(fixture.relay(&fixture.signed(&TestWallet::new(1), 0)).await);
    assert_eq!((status, said["error"].as_str()), (400, Some("TX_SIMULATION_FAILED")));
    assert!(said["message"].as_str().unwrap().contains("does not trust the forwarder"), "{said}");
    assert_eq!(fixture.chain.transactions(), 0);
}

#[tokio::test]
async fn a_gas_bomb_is_refused() {
    let fixture = Fixture::default();
    let signed = |gas| TestWallet::new(1).ask(fixture.facts(), &TestRequest { gas, ..ask(0) });
    assert_eq!(code(fixture.relay(&signed(1_000_001)).await), "GAS_TOO_HIGH");
    assert_eq!(code(fixture.relay(&signed(u64::MAX)).await), "GAS_TOO_HIGH");
    let mut more = signed(1);
    more.request.gas = U256::MAX.to_string();
    assert_eq!(code(fixture.relay(&more).await), "INVALID_REQUEST");
}

#[tokio::test]
async fn a_return_bomb_is_refused_in_few_words() {
    let fixture = Fixture::default();
    fixture.chain.set_behavior(VAULT, TargetBehavior::Reverts(Revert::Words("A".repeat(5_000_000))));
    let (status, said) = refusal(fixture.relay(&fixture.signed(&TestWallet::new(1), 0)).await);
    assert_eq!(status, 400);
    assert!(said.to_string().len() < MAX_WORDS + 200, "{said}");
}

#[tokio::test]
async fn value_of_the_relayers_own_is_not_given_away() {
    let fixture = Fixture::default();
    let signed = TestWallet::new(1).ask(fixture.facts(), &TestRequest { value: U256::from(1), ..ask(0) });
    assert_eq!(code(fixture.relay(&signed).await), "INVALID_REQUEST");
}

#[tokio::test]
async fn a_deadline_in_the_past_about_to_pass_or_years_ahead_is_refused() {
    let fixture = Fixture::default();
    for deadline in [0, EPOCH_S - 1, EPOCH_S, EPOCH_S + 29, EPOCH_S + 86_401, (1 << 48) - 1, 1 << 48] {
        let signed = TestWallet::new(1).ask(fixture.facts(), &TestRequest { deadline, ..ask(0) });
        assert_eq!(code(fixture.relay(&signed).await), "INVALID_DEADLINE", "{deadline}");
    }
}

#[tokio::test]
async fn numbers_that_are_not_digits_are_refused() {
    let fixture = Fixture::default();
    for text in ["0x0", "-0", "1e3", " 0", "", "0.0"] {
        let mut signed = fixture.signed(&TestWallet::new(1), 0);
        signed.request.value = text.to_owned();
        assert_eq!(code(fixture.relay(&signed).await), "INVALID_REQUEST", "{text:?}");
    }
    let unquoted =
        r#"{"request":{"from":"0x","to":"0x","value":0,"gas":1,"nonce":0,"deadline":1,"data":"0x"},"signature":"0x"}"#;
    assert_eq!(code(fixture.relayer.relay(unquoted.as_bytes(), None, HERE).await), "INVALID_REQUEST");
}

#[tokio::test]
async fn a_batch_of_eleven_of_none_and_of_too_many_bytes_is_refused() {
    let fixture = Fixture::default();
    let many: Vec<SignedRequest> = (0..11).map(|nonce| fixture.signed(&TestWallet::new(1), nonce)).collect();
    assert_eq!(code(fixture.batch(&many).await), "INVALID_REQUEST");
    assert_eq!(code(fixture.batch(&[]).await), "INVALID_REQUEST");
    let huge = vec![b' '; fixture.relayer.max_body() + 1];
    assert_eq!(refusal(fixture.relayer.batch(&huge, None, HERE).await).0, 413);
}

#[tokio::test]
async fn one_bad_request_refuses_its_batch_before_anything_is_sent() {
    let fixture = Fixture::default();
    let (one, two) = (TestWallet::new(1), TestWallet::new(2));
    let forged = one.ask_as(two.address(), fixture.facts(), &ask(0));
    let (status, said) = refusal(fixture.batch(&[fixture.signed(&one, 0), forged]).await);
    assert_eq!((status, said["error"].as_str(), said["index"].as_u64()), (400, Some("INVALID_SIGNATURE"), Some(1)));
    assert_eq!(fixture.chain.transactions(), 0);
    for nonces in [[0, 2], [0, 0], [1, 3]] {
        let requests = nonces.map(|nonce| fixture.signed(&one, nonce));
        assert_eq!(code(fixture.batch(&requests).await), "INVALID_REQUEST", "{nonces:?}");
    }
}

#[tokio::test]
async fn a_sender_and_a_client_have_so_many_requests_a_day() {
    let fixture = Fixture::new(Config { per_sender_day: 2, per_client_day: 3, ..Config::default() });
    let (one, two, three) = (TestWallet::new(1), TestWallet::new(2), TestWallet::new(3));
    for nonce in 0..2 {
        fixture.relay(&fixture.signed(&one, nonce)).await.unwrap();
    }
    assert_eq!(refusal(fixture.relay(&fixture.signed(&one, 2)).await).0, 429);
    fixture.relay(&fixture.signed(&two, 0)).await.unwrap();
    assert_eq!(code(fixture.relay(&fixture.signed(&three, 0)).await), "QUOTA_EXCEEDED");
    fixture.relay(&fixture.signed(&one, 0)).await.expect("a known request counts for nothing");
    fixture.clock.advance(3000);
    assert_eq!(code(fixture.relay(&fixture.signed(&three, 0)).await), "QUOTA_EXCEEDED");
    fixture.clock.advance(86_400);
    let tomorrow = three.ask(fixture.facts(), &TestRequest { deadline: EPOCH_S + 90_000, ..ask(0) });
    fixture.relay(&tomorrow).await.unwrap();
}

#[tokio::test]
async fn fault_2_6_one_class_of_calls_cannot_end_the_day_for_the_others() {
    let budgets = Budgets { manage: 1_000_000, client_percent: 100, ..Budgets::default() };
    let fixture = Fixture::new(Config { budgets, ..Config::default() });
    let mut taken = 0;
    for number in 1..=10 {
        taken += u32::from(fixture.relay(&fixture.signed(&TestWallet::new(number), 0)).await.is_ok());
    }
    assert_eq!(taken, 6);
    let (status, said) = refusal(fixture.relay(&fixture.signed(&TestWallet::new(11), 0)).await);
    assert_eq!((status, said["error"].as_str()), (429, Some("QUOTA_EXCEEDED")));
    assert!(said["message"].as_str().unwrap().contains("manage:budget"), "{said}");
    assert!(said["retryAfter"].as_u64().is_some_and(|seconds| (1..=86_400).contains(&seconds)), "{said}");
    // Whoever wants his money gets it all the same.
    let withdraw = TestRequest { data: selector("withdraw(address,uint256)"), ..ask(0) };
    fixture.relay(&TestWallet::new(12).ask(fixture.facts(), &withdraw)).await.unwrap();
    // The count outlives the process.
    let journal = Arc::new(MemoryJournal::with(fixture.journal.state()));
    let again = Fixture::over(fixture.relayer.config().clone(), fixture.chain.clone(), journal);
    assert_eq!(code(again.relay(&again.signed(&TestWallet::new(13), 0)).await), "QUOTA_EXCEEDED");
    again.clock.advance(86_400);
    let tomorrow = TestWallet::new(13).ask(again.facts(), &TestRequest { deadline: EPOCH_S + 90_000, ..ask(0) });
    again.relay(&tomorrow).await.unwrap();
}

#[tokio::test]
async fn fault_2_6_budgets_are_counted_in_what_gas_costs_if_the_operator_says_so() {
    // A call of 158,000 gas at 5,000 gwei each is 790,000,000 gwei.
    let budgets = Budgets { unit: BudgetUnit::Gwei, manage: 1_600_000_000, client_percent: 100, ..Budgets::default() };
    let fixture = Fixture::new(Config { budgets, ..Config::default() });
    for number in 1..=2 {
        fixture.relay(&fixture.signed(&TestWallet::new(number), 0)).await.unwrap();
    }
    assert_eq!(code(fixture.relay(&fixture.signed(&TestWallet::new(3), 0)).await), "QUOTA_EXCEEDED");
}

/// `createPODVault` for this owner.
fn deployment(fixture: &Fixture, owner: Address, pod: &str) -> String {
    let deadline = EPOCH_S + 600;
    let consent = calls::DeadlineSignature { deadline, signature: Bytes::from([7; 65]) };
    let call = calls::create_vault(fixture.facts().factory, pod, owner, Address::repeat_byte(0xa9), Some(&consent));
    json!({"to": call.to, "data": call.data}).to_string()
}

#[tokio::test]
async fn fault_2_6_nobody_deploys_vaults_for_throwaway_keys_at_the_operators_cost() {
    let fixture = Fixture::default();
    let parts: (Arc<dyn Chain>, Arc<dyn RelayJournal>) = (fixture.chain.clone(), fixture.journal.clone());
    let strict = Relayer::new(Config::default(), parts.0, parts.1, fixture.clock.clone()).unwrap();
    for number in 1..=4 {
        let asked = deployment(&fixture, TestWallet::new(number).address(), &format!("pod-{number}"));
        let (status, said) = refusal(strict.call(asked.as_bytes(), None, HERE).await);
        assert_eq!((status, said["error"].as_str()), (403, Some("DEPLOYMENT_NOT_SPONSORED")), "{said}");
        let data = selector("createPODVault(string,address,address,uint256,bytes)");
        let forwarded = TestRequest { to: fixture.facts().factory, data, ..ask(0) };
        let forwarded = body(&TestWallet::new(number).ask(fixture.facts(), &forwarded));
        assert_eq!(code(strict.relay(&forwarded, None, HERE).await), "DEPLOYMENT_NOT_SPONSORED");
    }
    assert_eq!(fixture.chain.transactions(), 0);
}

#[tokio::test]
async fn fault_2_6_an_owner_has_so_many_vaults_a_day_and_other_classes_are_not_counted_for_it() {
    let fixture = Fixture::new(Config { deploys_per_owner_day: 2, per_client_day: 5, ..Config::default() });
    let (one, two) = (TestWallet::new(1), TestWallet::new(2));
    let deploy = async |owner: &TestWallet, pod: &str| {
        let asked = deployment(&fixture, owner.address(), pod);
        fixture.relayer.call(asked.as_bytes(), None, HERE).await
    };
    deploy(&one, "a").await.unwrap();
    deploy(&one, "b").await.unwrap();
    assert_eq!(code(deploy(&one, "c").await), "QUOTA_EXCEEDED");
    deploy(&two, "d").await.unwrap();
    deploy(&two, "e").await.unwrap();
    deploy(&TestWallet::new(3), "f").await.unwrap();
    assert_eq!(code(deploy(&TestWallet::new(4), "g").await), "QUOTA_EXCEEDED", "this address has had its share");
    fixture.relay(&fixture.signed(&one, 0)).await.expect("another class");
}

#[tokio::test]
async fn a_client_that_asks_too_often_is_told_when_to_come_back() {
    let fixture = Fixture::new(Config { per_client_minute: 2, ..Config::default() });
    let signed = fixture.signed(&TestWallet::new(1), 0);
    fixture.relay(&signed).await.unwrap();
    fixture.relay(&signed).await.unwrap();
    let (status, said) = refusal(fixture.relay(&signed).await);
    assert_eq!((status, said["error"].as_str()), (429, Some("RATE_LIMITED")));
    assert!(said["retryAfter"].as_u64().is_some_and(|seconds| seconds > 0));
    let neighbour = "2001:db8::1".parse().unwrap();
    let same_network = "2001:db8::2".parse().unwrap();
    for client in [neighbour, same_network] {
        fixture.relayer.relay(&body(&signed), None, client).await.unwrap();
    }
    assert_eq!(code(fixture.relayer.relay(&body(&signed), None, neighbour).await), "RATE_LIMITED");
}

#[tokio::test]
async fn no_more_is_under_way_than_the_queue_holds() {
    let fixture = Fixture::new(Config { queue: 2, wait_ms: 0, ..Config::default() });
    fixture.chain.hold(true);
    for number in 1..=2 {
        assert_eq!(fixture.relay(&fixture.signed(&TestWallet::new(number), 0)).await.unwrap().status, 202);
    }
    assert_eq!(refusal(fixture.relay(&fixture.signed(&TestWallet::new(3), 0)).await).0, 503);
}

#[tokio::test]
async fn a_front_runner_is_not_taken_for_us() {
    let fixture = Fixture::new(Config { wait_ms: 0, ..Config::default() });
    let (wallet, signed) = (TestWallet::new(1), fixture.signed(&TestWallet::new(1), 0));
    fixture.chain.hold(true);
    assert_eq!(fixture.relay(&signed).await.unwrap().body.status, CallStatus::Pending);
    fixture.chain.use_nonce(wallet.address());
    fixture.chain.hold(false);
    let answer = crate::cases::settled(&fixture, &signed).await;
    assert_eq!((answer.success, answer.status), (false, CallStatus::Superseded));
    assert!(fixture.chain.effects().is_empty());
}

#[tokio::test]
async fn what_endpoints_say_in_their_own_words_reaches_no_client() {
    let fixture = Fixture::default();
    fixture.chain.go_down(true);
    let (status, said) = refusal(fixture.relay(&fixture.signed(&TestWallet::new(1), 0)).await);
    assert_eq!((status, said["error"].as_str()), (503, Some("CHAIN_UNAVAILABLE")));
    let (code, health) = fixture.relayer.health().await;
    let health = serde_json::to_string(&health).unwrap();
    assert!(code == 503 && !format!("{said}{health}").contains("key@host"), "{said} {health}");
}

/// Who is counted in a refusal.
fn over<T: std::fmt::Debug>(answer: Result<T, RelayError>) -> String {
    match answer.unwrap_err() {
        RelayError::OverQuota { subject, .. } => subject,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn fault_2_6_neither_a_wallet_nor_a_client_uses_a_class_up_for_the_others() {
    // A tenth is room for six calls of 158,000 gas.
    let manage = 10_000_000;
    for (wallet_percent, client_percent, who) in [(10, 100, "manage:sender:"), (100, 10, "manage:client:127.0.0.1")] {
        let budgets = Budgets { manage, wallet_percent, client_percent, ..Budgets::default() };
        let fixture = Fixture::new(Config { budgets, ..Config::default() });
        let greedy = TestWallet::new(1);
        for nonce in 0..6 {
            fixture.relay(&fixture.signed(&greedy, nonce)).await.unwrap();
        }
        let refused = over(fixture.relay(&fixture.signed(&greedy, 6)).await);
        assert!(refused.starts_with(who) && refused.ends_with(":share"), "{refused}");
        let elsewhere = [10, 0, 0, 1].into();
        fixture.relayer.relay(&body(&fixture.signed(&TestWallet::new(2), 0)), None, elsewhere).await.unwrap();
    }
}

#[tokio::test]
async fn fault_2_6_a_holder_has_so_many_vaults_a_day_whoever_owns_them() {
    let fixture = Fixture::default();
    let parts: (Arc<dyn Chain>, Arc<dyn RelayJournal>) = (fixture.chain.clone(), fixture.journal.clone());
    let config = Config { deploys_per_owner_day: 2, ..Config::default() };
    let sponsor = Arc::new(SponsorAllAsHolder(domain::Wallet([3; 32])));
    let relayer = Relayer::sponsoring(config, parts.0, parts.1, fixture.clock.clone(), sponsor).unwrap();
    let deploy = async |number: u64| {
        let asked = deployment(&fixture, TestWallet::new(number).address(), &format!("pod-{number}"));
        relayer.call(asked.as_bytes(), None, HERE).await
    };
    deploy(1).await.unwrap();
    deploy(2).await.unwrap();
    assert_eq!(over(deploy(3).await), format!("deploy:holder:{}", domain::Wallet([3; 32])));
}

#[tokio::test]
async fn fault_2_6_settlements_have_shares_by_payer_payee_and_client_and_count_once() {
    let budgets = Budgets { settle: 1_000_000, ..Budgets::default() };
    let fixture = Fixture::new(Config { budgets, ..Config::default() });
    let pay = async |once: u8, from: u8, to: u8, client: u8| {
        let (wallet, beneficiary) = (Address::repeat_byte(from), Some(Beneficiary::Payee(Address::repeat_byte(to))));
        let spend = GasSpend { class: CallPurpose::Settle, wallet, beneficiary, gas: 50_000 };
        let client = domain::ClientAddr::of([10, 0, 0, client].into());
        fixture.relayer.spend(&format!("x402:{once}"), spend, Some(client)).await
    };
    for _ in 0..100 {
        pay(1, 1, 101, 201).await.expect("the same settlement counts once");
    }
    pay(2, 1, 101, 201).await.unwrap();
    for (once, from, to, client, who) in
        [(3, 1, 102, 202, "settle:sender:"), (3, 2, 101, 202, "settle:payee:"), (3, 2, 102, 201, "settle:client:")]
    {
        let refused = over(pay(once, from, to, client).await);
        assert!(refused.starts_with(who), "{refused}");
    }
    pay(3, 2, 102, 202).await.expect("others go on");
    fixture.clock.advance(86_400);
    pay(4, 1, 101, 201).await.unwrap();
}

#[tokio::test]
async fn fault_2_6_nobody_is_relayed_a_transfer_to_himself() {
    let sponsored_calls = ["transferWithAuthorization".to_owned()].into();
    let fixture = Fixture::new(Config { sponsored_calls, ..Config::default() });
    let from = TestWallet::new(1).address();
    let authorization = Authorization {
        chain_id: fixture.facts().chain_id,
        asset: fixture.facts().token,
        from,
        to: from,
        value: domain::Usdc(1),
        valid_after: U256::ZERO,
        valid_before: U256::from(EPOCH_S + 600),
        nonce: B256::ZERO,
    };
    let signature = Signature::new(U256::ONE, U256::ONE, false);
    let call = calls::transfer_with_authorization(&SignedAuthorization { authorization, signature });
    let asked = json!({"to": call.to, "data": call.data}).to_string();
    let (status, said) = refusal(fixture.relayer.call(asked.as_bytes(), None, HERE).await);
    assert_eq!((status, said["error"].as_str()), (400, Some("SELF_PAYMENT")), "{said}");
    assert_eq!(fixture.chain.transactions(), 0);
}
