//! With the real contracts: what is gasless, and who cannot be forged.

use std::sync::Arc;

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use chain::evm::fake::MemoryOutbox;
use chain::evm::{BlockTag, calls, typed};
use domain::Usdc;
use domain::vault::TaskTerms;
use palatine_relay::fake::{MemoryJournal, TestRequest, TestWallet};
use palatine_relay::{Config, FeePolicy};
use serde_json::json;
use wire::v1::relay::{CallStatus, RelayAnswer};

use crate::anvil::{RelayStack, now_s, word};
use crate::fixture::{HERE, body, code, refusal};

const PRICE: Usdc = Usdc(5_000_000);

fn config() -> Config {
    Config { per_client_minute: 10_000, ..Config::default() }
}

fn terms(creator: Address, salt: u8) -> TaskTerms {
    TaskTerms {
        creator,
        evaluator: Address::ZERO,
        arbiter: Address::ZERO,
        fee_recipient: Address::ZERO,
        amount: PRICE,
        min_paid: Usdc(0),
        submit_by: now_s() + 3600,
        review_period: 3600,
        arbiter_period: 3600,
        default_agent_bps: 5000,
        fee_bps: 0,
        metadata_hash: keccak256("a task"),
        salt: word(salt),
    }
}

/// A vault, its people, and a task in it; nobody among them has any CRO.
struct Deal {
    stack: RelayStack,
    owner: TestWallet,
    agent: TestWallet,
    creator: TestWallet,
    vault: Address,
    terms: TaskTerms,
}

async fn deal() -> Deal {
    let (owner, agent, creator) = (TestWallet::new(1), TestWallet::new(2), TestWallet::new(3));
    let stack = RelayStack::start(config(), &[creator.address()]).await;
    let vault = stack.vault("pod", &owner, agent.address()).await;
    let terms = terms(creator.address(), 1);
    let deal = Deal { stack, owner, agent, creator, vault, terms };
    assert!(deal.create(&deal.terms).await.success);
    deal
}

impl Deal {
    async fn create(&self, terms: &TaskTerms) -> RelayAnswer {
        let window = typed::ValidityWindow { after: 0, before: now_s() + 3600 };
        let payment = typed::task_payment(&self.stack.evm, self.vault, terms, window);
        let signature = self.creator.sign(typed::digest(&payment, &self.stack.chain.usdc_domain)).parse().unwrap();
        let call = calls::create_task_with_authorization(self.vault, terms, "a task", window, signature);
        self.stack.call(&call).await.unwrap().body
    }

    async fn earned(&self) -> u64 {
        self.stack.chain.vault(self.vault, BlockTag::Latest).await.unwrap().available.0
    }
}

#[tokio::test]
async fn a_whole_deal_is_gasless_and_its_sums_are_exact() {
    let deal = deal().await;
    let Deal { stack, owner, agent, creator, vault, terms } = &deal;
    assert_eq!(stack.usdc(*vault).await, PRICE.0);
    let calls = [
        (agent, calls::submit(*vault, terms, word(7))),
        (creator, calls::complete(*vault, terms, PRICE)),
        (owner, calls::withdraw(*vault, owner.address(), PRICE)),
    ];
    for (wallet, call) in calls {
        let answer = stack.relay(wallet, &call).await.unwrap().body;
        assert!(answer.success && answer.status == CallStatus::Executed, "{answer:?}");
    }
    assert_eq!(stack.usdc(owner.address()).await, PRICE.0);
    assert_eq!(stack.usdc(creator.address()).await, 1_000_000_000 - PRICE.0);
    assert_eq!(stack.usdc(*vault).await, 0);
    for wallet in [owner, agent, creator] {
        assert_eq!(stack.balance_wei(wallet.address()).await, U256::ZERO);
    }
}

#[tokio::test]
async fn nobody_is_forged_through_the_forwarder() {
    let deal = deal().await;
    let Deal { stack, agent, creator, vault, terms, .. } = &deal;
    let mallory = TestWallet::new(66);
    let submit = calls::submit(*vault, terms, word(6));
    let refused = stack.relay(&mallory, &submit).await;
    assert!(refused.as_ref().unwrap_err().to_string().contains("only the agent wallet"), "{refused:?}");

    // The agent's address behind the data, where the forwarder puts the sender's.
    let appended =
        domain::evm::Call { data: [&submit.data[..], agent.address().as_slice()].concat().into(), ..submit.clone() };
    let (status, said) = refusal(stack.relay(&mallory, &appended).await);
    assert!(status == 400 && said.to_string().contains(&mallory.address().to_string()), "{said}");

    // Straight to the vault, as the relayer, with the agent's address appended.
    assert_eq!(code(stack.call(&appended).await), "CALL_NOT_ALLOWED");
    let sponsored = calls::refund(*vault, terms);
    let sponsored =
        domain::evm::Call { data: [&sponsored.data[..], creator.address().as_slice()].concat().into(), ..sponsored };
    assert_eq!(code(stack.call(&sponsored).await), "TX_SIMULATION_FAILED");

    // In the agent's name, signed by Mallory; and signed by the agent for elsewhere.
    let ask = stack.ask(agent.address(), &submit).await;
    let forged = mallory.ask_as(agent.address(), &stack.facts, &ask);
    assert_eq!(code(stack.relayer.relay(&body(&forged), None, HERE).await), "INVALID_SIGNATURE");
    let forwarder = Address::repeat_byte(1);
    for (chain_id, forwarder) in [(25, stack.facts.forwarder), (338, forwarder)] {
        let elsewhere = palatine_relay::ChainParameters { chain_id, forwarder, ..stack.facts.clone() };
        let signed = agent.ask(&elsewhere, &ask);
        assert_eq!(code(stack.relayer.relay(&body(&signed), None, HERE).await), "INVALID_SIGNATURE");
    }
    assert!(stack.relay(agent, &submit).await.unwrap().body.success, "the agent itself can");
}

#[tokio::test]
async fn a_call_to_a_contract_that_only_looks_like_a_vault_is_refused() {
    let deal = deal().await;
    let other = domain::evm::Call { to: deal.stack.evm.usdc, ..calls::accept_ownership(deal.vault) };
    assert_eq!(code(deal.stack.relay(&deal.owner, &other).await), "CALL_NOT_ALLOWED");
    let nothing = domain::evm::Call { to: Address::repeat_byte(9), ..other };
    assert_eq!(code(deal.stack.relay(&deal.owner, &nothing).await), "CALL_NOT_ALLOWED");
    let code_itself = deal.stack.chain.implementation;
    let call = domain::evm::Call { to: code_itself, ..nothing };
    assert_eq!(code(deal.stack.relay(&deal.owner, &call).await), "CALL_NOT_ALLOWED");
}

#[tokio::test]
async fn a_request_that_was_executed_is_refused_by_the_chain_and_answered_from_the_journal() {
    let deal = deal().await;
    let Deal { stack, agent, vault, terms, .. } = &deal;
    let submit = calls::submit(*vault, terms, word(7));
    let signed = agent.ask(&stack.facts, &stack.ask(agent.address(), &submit).await);
    let first = stack.relayer.relay(&body(&signed), None, HERE).await.unwrap();
    let sent = stack.anvil.call("eth_getTransactionCount", json!([stack.facts.relayer, "latest"])).await;
    assert_eq!(stack.relayer.relay(&body(&signed), None, HERE).await.unwrap(), first);
    let later = stack.anvil.call("eth_getTransactionCount", json!([stack.facts.relayer, "latest"])).await;
    assert!(first.body.success && sent == later);
    // A relayer that has lost its journal is stopped by the forwarder's nonce.
    let (outbox, journal): (Arc<MemoryOutbox>, Arc<MemoryJournal>) = Default::default();
    let other = crate::anvil::relayer(&stack.evm, config(), outbox, journal);
    let (other, _) = other.await;
    assert_eq!(code(other.relay(&body(&signed), None, HERE).await), "NONCE_MISMATCH");
}

#[tokio::test]
async fn a_call_that_another_one_overtakes_is_told_as_reverted_and_its_nonce_is_spent() {
    let deal = deal().await;
    let Deal { stack, agent, vault, terms, .. } = &deal;
    let submit = calls::submit(*vault, terms, word(7));
    let signed = agent.ask(&stack.facts, &stack.ask(agent.address(), &submit).await);
    // The agent has CRO for once, and declines in the same block, first.
    stack.anvil.call("anvil_setBalance", json!([agent.address(), "0x56bc75e2d63100000"])).await;
    stack.anvil.call("evm_setAutomine", json!([false])).await;
    let (relayer, request) = (stack.relayer.clone(), body(&signed));
    let asked = tokio::spawn(async move { relayer.relay(&request, None, HERE).await });
    let pool = async {
        while stack.anvil.call("txpool_status", json!([])).await["pending"] != "0x1" {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(crate::anvil::PATIENCE, pool).await.expect("it is in the pool");
    let decline = calls::decline(*vault, terms);
    stack.anvil.call("anvil_impersonateAccount", json!([agent.address()])).await;
    let price = "0x174876e8000";
    let overtaking = json!([{"from": agent.address(), "to": decline.to, "data": decline.data, "gas": "0x7a120",
        "maxFeePerGas": price, "maxPriorityFeePerGas": price}]);
    stack.anvil.call("eth_sendTransaction", overtaking).await;
    stack.anvil.call("evm_mine", json!([])).await;
    stack.anvil.call("evm_setAutomine", json!([true])).await;
    let answer = asked.await.unwrap().unwrap();
    assert_eq!(
        (answer.status, answer.body.success, answer.body.status),
        (200, false, CallStatus::Reverted),
        "{answer:?}"
    );
    assert!(
        answer.body.tx_hash.is_some() && answer.body.reason.as_ref().unwrap().contains("is refunded"),
        "{answer:?}"
    );
    assert_eq!(stack.chain.forwarder_nonce(agent.address()).await.unwrap(), U256::from(1));
    assert_eq!(deal.earned().await, 0);
}

#[tokio::test]
async fn a_request_with_too_little_gas_for_its_call_is_refused() {
    let deal = deal().await;
    let submit = calls::submit(deal.vault, &deal.terms, word(7));
    let ask = TestRequest { gas: 5000, ..deal.stack.ask(deal.agent.address(), &submit).await };
    let signed = deal.agent.ask(&deal.stack.facts, &ask);
    let (status, said) = refusal(deal.stack.relayer.relay(&body(&signed), None, HERE).await);
    assert!(status == 400 && said.to_string().contains("gas does not suffice"), "{said}");
}

#[tokio::test]
async fn a_batch_with_a_step_that_builds_on_the_one_before_works() {
    let deal = deal().await;
    let Deal { stack, owner, vault, .. } = &deal;
    let operators: Vec<Address> = (1..=3).map(Address::with_last_byte).collect();
    let first = stack.ask(owner.address(), &calls::set_operator(*vault, operators[0], true)).await;
    let mut requests = Vec::new();
    for (step, operator) in (0..).zip(&operators) {
        let call = calls::set_operator(*vault, *operator, true);
        requests.push(
            owner.ask(&stack.facts, &TestRequest { nonce: first.nonce + step, data: call.data, ..first.clone() }),
        );
    }
    // The new owner must accept; that works only when the old one has offered.
    let heir = TestWallet::new(4);
    let offer = calls::transfer_ownership(*vault, heir.address());
    requests.push(owner.ask(&stack.facts, &TestRequest { nonce: first.nonce + 3, data: offer.data, ..first.clone() }));
    let body = json!({ "requests": requests }).to_string();
    let answer = stack.relayer.batch(body.as_bytes(), None, HERE).await.unwrap().body;
    assert!(answer.success && answer.success_count == 4, "{answer:?}");
    for operator in operators {
        assert!(stack.chain.is_operator(*vault, operator, BlockTag::Latest).await.unwrap());
    }
    assert!(stack.relay(&heir, &calls::accept_ownership(*vault)).await.unwrap().body.success);
}

#[tokio::test]
async fn a_fee_is_collected_in_real_usdc_once_and_a_forged_one_is_not() {
    let (owner, agent, payer) = (TestWallet::new(1), TestWallet::new(2), TestWallet::new(3));
    let payee = Address::repeat_byte(0xfe);
    let charged = Config { fee: FeePolicy::Charged, receiving_wallet: Some(payee), ..config() };
    let stack = RelayStack::start(charged, &[payer.address()]).await;
    let create = crate::anvil::vault_call(&stack.evm, "pod", &owner, agent.address());
    let request = json!({"to": create.to, "data": create.data}).to_string();
    let (status, said) = refusal(stack.relayer.call(request.as_bytes(), None, HERE).await);
    assert_eq!(status, 402);
    let fee: u64 = said["x402"]["accepts"][0]["maxAmountRequired"].as_str().unwrap().parse().unwrap();
    let authorization = domain::payment::Authorization {
        chain_id: stack.facts.chain_id,
        asset: stack.facts.token,
        from: payer.address(),
        to: payee,
        value: Usdc(fee),
        valid_after: U256::ZERO,
        valid_before: U256::from(now_s() + 600),
        nonce: B256::repeat_byte(3),
    };
    let forged = TestWallet::new(66).pay_by(&stack.facts, "eip155:338", &authorization);
    assert_eq!(code(stack.relayer.call(request.as_bytes(), Some(&forged), HERE).await), "PAYMENT_INVALID");
    let payment = payer.pay_by(&stack.facts, "eip155:338", &authorization);
    let answer = stack.relayer.call(request.as_bytes(), Some(&payment), HERE).await.unwrap().body;
    assert!(answer.success && answer.fee_taken == Some(fee.to_string()), "{answer:?}");
    assert_eq!((stack.usdc(payee).await, stack.usdc(payer.address()).await), (fee, 1_000_000_000 - fee));
    assert_eq!(stack.relayer.call(request.as_bytes(), Some(&payment), HERE).await.unwrap().body, answer);
    let again = crate::anvil::vault_call(&stack.evm, "pod2", &owner, agent.address());
    let request = json!({"to": again.to, "data": again.data}).to_string();
    assert_eq!(code(stack.relayer.call(request.as_bytes(), Some(&payment), HERE).await), "PAYMENT_INVALID");
    assert_eq!(stack.usdc(payee).await, fee);
}

#[tokio::test]
async fn a_whole_transaction_is_passed_on_and_told_truthfully() {
    use alloy::consensus::{SignableTransaction, TxEip1559, TxEnvelope};
    use alloy::eips::eip2718::Encodable2718;
    use alloy::signers::SignerSync;

    let deal = deal().await;
    let Deal { stack, agent, vault, terms, .. } = &deal;
    stack.anvil.call("anvil_setBalance", json!([agent.address(), "0x56bc75e2d63100000"])).await;
    let raw = |chain_id, nonce, to: Address, input: Bytes| {
        let gas = 1_000_000_000_000;
        let tx = TxEip1559 {
            chain_id,
            nonce,
            gas_limit: 300_000,
            max_fee_per_gas: gas,
            max_priority_fee_per_gas: 1,
            to: to.into(),
            input,
            ..TxEip1559::default()
        };
        let signature = agent.signer().sign_hash_sync(&tx.signature_hash()).unwrap();
        let tx = TxEnvelope::from(tx.into_signed(signature));
        json!({ "signedTx": Bytes::from(tx.encoded_2718()) }).to_string()
    };
    let pass_on = |body: String| async move { stack.relayer.raw(body.as_bytes(), HERE).await };
    let submit = calls::submit(*vault, terms, word(7)).data;
    assert_eq!(code(pass_on(raw(25, 0, *vault, submit.clone())).await), "TX_WRONG_CHAIN");
    assert_eq!(code(pass_on(raw(338, 0, Address::repeat_byte(3), submit.clone())).await), "CALL_NOT_ALLOWED");
    assert_eq!(code(pass_on(raw(338, 0, *vault, "0xa9059cbb".parse().unwrap())).await), "CALL_NOT_ALLOWED");
    assert_eq!(code(pass_on(json!({"signedTx": "0x02c0"}).to_string()).await), "TX_INVALID_SIGNATURE");
    let complete = calls::complete(*vault, terms, PRICE).data;
    assert_eq!(code(pass_on(raw(338, 0, *vault, complete)).await), "TX_SIMULATION_FAILED");
    let answer = pass_on(raw(338, 0, *vault, submit.clone())).await.unwrap();
    assert!(answer.status == 200 && answer.body.success && answer.body.gas_used.is_some(), "{answer:?}");
    assert_eq!(pass_on(raw(338, 0, *vault, submit)).await.unwrap(), answer);
}
