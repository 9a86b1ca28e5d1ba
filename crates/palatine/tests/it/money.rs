//! Signed calls and payments through the gateway, on a real chain.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use chain::evm::calls::{self, DeadlineSignature};
use chain::evm::typed::{ValidityWindow, digest, task_id, task_payment, token_domain};
use chain::evm::{BlockTag, CheckedChain};
use domain::evm::Call;
use domain::vault::TaskTerms;
use domain::{Address, B256, U256, Usdc};
use fixtures::{
    EvmChain, FUNDS, Holder, PAYEE, PLAIN, PaymentSigner, SMALL, SpawnedAgent, Stack, TOKEN_VERSION, assets, now_s,
    program, sign, stderr_of, stdout_of, until,
};
use futures_util::future::join_all;
use identity::Identity;
use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};

/// `n` whole USDC.
pub(crate) const fn whole(n: u64) -> Usdc {
    Usdc(n * 1_000_000)
}

/// One task that was signed for, and its call.
pub(crate) struct Signed {
    id: B256,
    amount: Usdc,
    pub(crate) call: Call,
}

pub(crate) fn signed_task(evm: &EvmChain, vault: Address, payer: &Identity, amount: Usdc, salt: u64) -> Signed {
    let config = evm.config();
    let now = now_s();
    let terms = TaskTerms {
        creator: payer.address(),
        evaluator: Address::ZERO,
        arbiter: Address::ZERO,
        fee_recipient: Address::ZERO,
        amount,
        min_paid: amount,
        submit_by: now + 3600,
        review_period: 3600,
        arbiter_period: 3600,
        default_agent_bps: 5000,
        fee_bps: 0,
        metadata_hash: alloy_primitives::keccak256("work"),
        salt: B256::from(U256::from(salt)),
    };
    let window = ValidityWindow { after: now - 600, before: now + 3600 };
    let payment = task_payment(&config, vault, &terms, window);
    let signature = sign(payer, digest(&payment, &token_domain(&config, TOKEN_VERSION)));
    let call = calls::create_task_with_authorization(vault, &terms, "work", window, signature);
    Signed { id: task_id(&config, vault, &terms).0, amount, call }
}

/// Has a call carried; the answer, if the gateway lived to give one.
pub(crate) async fn carry(stack: &Stack, call: &Call) -> Option<Value> {
    let body = json!({"to": call.to, "data": call.data});
    let answer = stack.post("/meta/call", &body).await.ok()?;
    answer.json().await.ok()
}

async fn deployed_vault(evm: &EvmChain, stack: &Stack, chain: &CheckedChain, owner: &Identity) -> Address {
    let (name, agent) = ("a-pod", Address::repeat_byte(0xa9));
    let consent = evm.vault_consent(name, owner.address(), agent, owner);
    let call = calls::create_vault(evm.config().factory, name, owner.address(), agent, Some(&consent));
    // The operator pays for nobody's vault but those of agents here.
    let refused = stack.post("/meta/call", &json!({"to": call.to, "data": call.data})).await.unwrap();
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    let said: Value = refused.json().await.unwrap();
    assert_eq!(said["error"], "DEPLOYMENT_NOT_SPONSORED");
    evm.send(&call).await;
    chain.vault_of(name, owner.address()).await.unwrap()
}

#[tokio::test]
async fn whatever_kills_the_gateway_each_signed_task_is_created_once_and_the_ledger_equals_the_chain() {
    let evm = EvmChain::start().await;
    let chain = evm.connect().await;
    let mut stack = Stack::start_on(&evm, PLAIN).await;
    let payer = evm.payer().await;
    let vault = deployed_vault(&evm, &stack, &chain, &payer).await;
    let mut all = Vec::new();
    for round in 0..u64::from(crate::crash::rounds()) {
        let tasks: Vec<Signed> =
            (0..4).map(|n| signed_task(&evm, vault, &payer, Usdc(1 + round * 10 + n), round * 10 + n)).collect();
        send_into_a_kill(&mut stack, &tasks).await;
        for task in &tasks {
            assert_eq!(created(&stack, task).await["status"], "executed");
        }
        all.extend(tasks);
    }
    let locked: u64 = all.iter().map(|task| task.amount.0).sum();
    assert_eq!(chain.usdc_of(vault, BlockTag::Latest).await.unwrap(), Usdc(locked));
    assert_eq!(chain.usdc_of(payer.address(), BlockTag::Latest).await.unwrap(), Usdc(FUNDS.0 - locked));
    let ledger = until("the ledger is read to the end", async || {
        let ledger = stack.get(&format!("/vaults/{vault}")).await;
        (ledger.status == 200 && ledger.body["locked"].as_str() == Some(&format!("{locked}"))).then_some(ledger.body)
    })
    .await;
    assert_eq!(ledger["available_balance"], "0");
    let tasks = stack.get(&format!("/vaults/{vault}/tasks")).await.expect(200);
    let listed = tasks["tasks"].as_array().unwrap().iter().map(|task| task["id"].clone());
    assert_eq!(sorted(listed), sorted(all.iter().map(|task| json!(task.id))));
    stack.end();
}

/// Sends all of these at once, and kills the gateway at some instant of that.
async fn send_into_a_kill(stack: &mut Stack, tasks: &[Signed]) {
    let sending = join_all(tasks.iter().map(|task| carry(stack, &task.call)));
    let instant = crate::crash::random_below(Duration::from_millis(150));
    tokio::time::timeout(instant, sending).await.ok();
    stack.kill_gateway();
    stack.start_gateway().await;
}

/// The answer that says that a task was created, however often it is asked for.
async fn created(stack: &Stack, task: &Signed) -> Value {
    until("the task is created", async || carry(stack, &task.call).await.filter(|answer| answer["success"] == true))
        .await
}

fn sorted(values: impl Iterator<Item = Value>) -> Vec<String> {
    let mut texts: Vec<_> = values.map(|value| value.to_string()).collect();
    texts.sort();
    texts
}

/// An agent whose answers cost one USDC, and somebody who asks it without its token.
struct PricedAgent {
    stack: Stack,
    evm: EvmChain,
    chain: CheckedChain,
    agent: SpawnedAgent,
    stranger: SpawnedAgent,
}

/// The path that costs.
const PRICED: &str = "/v1/chat/completions";

impl PricedAgent {
    async fn open() -> Self {
        let evm = EvmChain::start().await;
        let chain = evm.connect().await;
        let mut stack = Stack::start_on(&evm, PLAIN).await;
        let holder = stack.holder(SMALL);
        let agent = stack.agent(&holder).await;
        stack.price(&holder, &agent, "/v1", whole(1).0).await;
        let stranger = agent.without_token();
        Self { stack, evm, chain, agent, stranger }
    }

    fn ask(&self, who: &SpawnedAgent, path: &str) -> RequestBuilder {
        self.stack.chat_at(who, path, "for money")
    }

    /// What is asked of the stranger, and a header that pays it.
    async fn payment(&self) -> (HeaderName, HeaderValue) {
        let terms = self.ask(&self.stranger, PRICED).send().await.unwrap();
        assert_eq!(terms.status(), StatusCode::PAYMENT_REQUIRED);
        let (headers, body) = (terms.headers().clone(), terms.bytes().await.unwrap());
        let signer = PaymentSigner(self.evm.payer().await);
        let buyer = x402::Buyer::new(signer, Arc::new(self.evm.tokens()), 300);
        let paying = buyer.pay(&headers, &body, whole(1), now_s(), B256::repeat_byte(9)).unwrap();
        assert_eq!((paying.amount, paying.payee), (whole(1), PAYEE));
        paying.header
    }

    async fn earned(&self) -> Usdc {
        self.chain.usdc_of(PAYEE, BlockTag::Latest).await.unwrap()
    }
}

/// Whether the answer was sold; any other one says what to do.
async fn is_sold(answer: Response) -> bool {
    match answer.status().as_u16() {
        200 => {
            assert!(answer.headers().contains_key("payment-response"));
            assert!(answer.text().await.unwrap().contains("for money"));
            true
        }
        402 => false,
        409 | 503 => {
            let said: Value = answer.json().await.unwrap();
            assert!(said["code"].is_string() && said["retry_after"].is_u64(), "503-code: {said}");
            false
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_hundred_copies_of_one_payment_buy_one_answer_and_one_for_another_path_buys_none() {
    let mut sale = PricedAgent::open().await;
    // No other writing of the path is free.
    for path in ["//v1/chat/completions", "/v1/../v1/chat/completions", "/%761/chat/completions"] {
        let answer = sale.ask(&sale.stranger, path).send().await.unwrap();
        assert!((400..=402).contains(&answer.status().as_u16()), "{path}: {}", answer.status());
    }
    let (name, value) = sale.payment().await;
    let unread = sale.ask(&sale.stranger, PRICED).header(&name, "!").send().await.unwrap();
    assert_eq!(unread.status(), StatusCode::BAD_REQUEST, "x402-bad-header");
    let said: Value = unread.json().await.unwrap();
    assert_eq!((&said["code"], &said["field"]), (&json!("malformed_payment"), &json!(name.as_str())));

    let copies = (0..100).map(|_| sale.ask(&sale.stranger, PRICED).header(&name, &value).send());
    let answers = join_all(copies).await.into_iter().map(|answer| is_sold(answer.unwrap()));
    let sold = join_all(answers).await.into_iter().filter(|sold| *sold).count();
    assert_eq!(sold, 1, "one payment buys one answer");
    assert_eq!(sale.earned().await, whole(1));
    // The same payment for another request, and again after a restart: nothing.
    sale.stack.kill_gateway();
    sale.stack.start_gateway().await;
    sale.stack.until_chain_answers().await;
    for path in [PRICED, "/v1/models"] {
        let answer = sale.ask(&sale.stranger, path).header(&name, &value).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::PAYMENT_REQUIRED, "{path}");
    }
    assert_eq!(sale.earned().await, whole(1));
    // Who holds the agent's token goes free.
    let free = sale.ask(&sale.agent, PRICED).send().await.unwrap();
    assert_eq!(free.status(), StatusCode::OK);
    sale.stack.end();
}

#[tokio::test]
async fn an_unmodified_client_from_npm_pays_one_of_our_agents() {
    let evm = EvmChain::start().await;
    let chain = evm.connect().await;
    let mut stack = Stack::start_on(&evm, PLAIN).await;
    let secret = [0x51; 32];
    let payer = evm.payer_of(&secret).await;
    let holder = stack.holder(SMALL);
    let agent = stack.agent(&holder).await;
    stack.price(&holder, &agent, "/echo", whole(2).0).await;

    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = here.join("../x402/tests/npm/fetch-v2.mjs");
    let url = format!("{}/echo", agent.text("url"));
    let output = tokio::process::Command::new("node")
        .current_dir(assets().join("x402"))
        .arg("--import")
        .arg(here.join("tests/npm/localhost.mjs"))
        .args(["--input-type=module", "-", &url, &format!("0x{}", hex::encode(secret))])
        .arg(evm.deployed.usdc.to_string())
        .stdin(std::fs::File::open(script).unwrap())
        .output()
        .await
        .unwrap();
    let said: Value = serde_json::from_str(&stdout_of(&output)).unwrap();
    assert_eq!(said["status"], 200, "{said}");
    assert!(said["body"].as_str().unwrap().contains("hello"), "{said}");
    assert_eq!(said["receipt"]["success"], true, "{said}");
    assert_eq!(said["receipt"]["payer"].as_str().unwrap().parse(), Ok(payer.address()));
    assert_eq!(chain.usdc_of(PAYEE, BlockTag::Latest).await.unwrap(), whole(2));
    assert_eq!(chain.usdc_of(payer.address(), BlockTag::Latest).await.unwrap(), Usdc(FUNDS.0 - whole(2).0));
    stack.end();
}

#[tokio::test]
async fn a_link_needs_both_and_a_vault_that_somebody_else_deployed_is_found() {
    let evm = EvmChain::start().await;
    let mut stack = Stack::start_on(&evm, PLAIN).await;
    let holder = stack.holder(SMALL);
    let (owner, stranger) = (evm.payer().await, evm.payer().await);
    let agent = stack.agent(&holder).await.id;
    let path = format!("/agents/{agent}/vault");
    assert_eq!(stack.ask(&holder, Method::GET, &path, Value::Null).await.expect(403)["code"], "not_linked");

    let link = |signer: &Identity| stack.link_request(&holder, owner.address(), signer);
    let links = async |body| stack.ask(&holder, Method::POST, "/links", body).await;
    assert_eq!(links(link(&stranger)).await.expect(403)["code"], "invalid_evm_signature");
    let signed = link(&owner);
    assert_eq!(links(signed.clone()).await.expect(200)["owner"], json!(owner.address()));
    assert_eq!(links(signed).await.expect(401)["code"], "replayed_signature");

    let vault = stack.read(&holder, &path).await;
    assert_eq!((&vault["state"], &vault["owner"]), (&json!("unsigned"), &json!(owner.address())));
    let wallet = vault["agent_wallet"].as_str().unwrap().parse().unwrap();
    let consent = |signer: &Identity| evm.vault_consent(&agent, owner.address(), wallet, signer);
    // Only the owner's own signature deploys it.
    let DeadlineSignature { deadline, signature } = consent(&stranger);
    let request = json!({"deadline": deadline, "signature": signature});
    let refused = stack.ask(&holder, Method::POST, &path, request).await.expect(409);
    assert!(refused["code"] == "would_revert" && refused["error"].as_str().unwrap().contains("owner"), "{refused}");
    let call = calls::create_vault(evm.deployed.factory, &agent, owner.address(), wallet, Some(&consent(&owner)));
    assert_eq!(carry(&stack, &call).await.unwrap()["success"], true);
    let found = stack.read(&holder, &path).await;
    assert_eq!((&found["state"], &found["address"]), (&json!("deployed"), &vault["address"]));
    assert_eq!(stack.status(&holder, &agent).await.expect(200)["vault"]["state"], "deployed");
    stack.end();
}

/// A vault with money in it, and the prices of its agent, as the gateway says them.
pub(crate) async fn holdings(stack: &Stack, holder: &Holder, agent: &SpawnedAgent) -> [Value; 4] {
    let vault = stack.vault(holder, agent).await;
    let address = vault["address"].as_str().unwrap();
    let ledger = stack.get(&format!("/vaults/{address}")).await.expect(200);
    let prices = stack.read(holder, &format!("/agents/{}/prices", agent.id)).await["prices"].clone();
    [vault["address"].clone(), vault["agent_wallet"].clone(), ledger["locked"].clone(), prices]
}

/// Gives an agent a price, and a vault in which a payer has locked so much.
pub(crate) async fn endow(evm: &EvmChain, stack: &Stack, holder: &Holder, agent: &SpawnedAgent, locked: Usdc) {
    let owner = evm.payer().await;
    stack.link(holder, &owner).await;
    stack.price(holder, agent, "/v1", whole(1).0).await;
    let vault = stack.deploy_vault(evm, holder, &owner, agent).await;
    let task = signed_task(evm, vault, &evm.payer().await, locked, 1);
    assert_eq!(carry(stack, &task.call).await.unwrap()["success"], true);
    until("the ledger has the task", async || {
        let ledger = stack.get(&format!("/vaults/{vault}")).await;
        (ledger.body["locked"].as_str() == Some(&locked.0.to_string())).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_agent_that_is_stopped_and_started_has_its_vault_key_balance_and_prices() {
    let evm = EvmChain::start().await;
    let mut stack = Stack::start_on(&evm, PLAIN).await;
    let holder = stack.holder(SMALL);
    let first = stack.agent(&holder).await;
    endow(&evm, &stack, &holder, &first, whole(3)).await;
    let before = holdings(&stack, &holder, &first).await;
    assert_eq!(before[2], json!(whole(3).0.to_string()));
    stack.stop(&holder, &first.id).await.expect(200);
    let second =
        SpawnedAgent::of(&stack.ask(&holder, Method::POST, "/spawn", json!({"pod": first.id})).await.expect(200));
    assert_eq!(holdings(&stack, &holder, &second).await, before);
    // Who was asked for money before is asked for as much now.
    let asked = stack.chat(&second.without_token(), "for money").send().await.unwrap();
    assert_eq!(asked.status(), StatusCode::PAYMENT_REQUIRED);
    stack.end();
}

/// What the operator does with an agent's key while the gateway does not run.
fn pod_identity(stack: &Stack, words: &[&str]) {
    let mut command = Command::new(program("palatine"));
    command.args(["pod", "identity", "--config"]).arg(stack.path("palatine.toml")).args(words);
    let output = command.env("POD_PASSWORD", "of a test").output().unwrap();
    assert!(output.status.success(), "{}", stderr_of(&output));
}

#[tokio::test]
async fn an_agent_that_is_removed_and_spawned_again_has_its_vault_once_its_exported_key_is_given() {
    let evm = EvmChain::start().await;
    let mut stack = Stack::start_on(&evm, PLAIN).await;
    let holder = stack.holder(SMALL);
    let body = json!({"agent_type": "echo", "name": "agent-again"});
    let spawn = async |stack: &Stack| {
        SpawnedAgent::of(&stack.ask(&holder, Method::POST, "/spawn", body.clone()).await.expect(200))
    };
    let first = spawn(&stack).await;
    endow(&evm, &stack, &holder, &first, whole(3)).await;
    let [vault, wallet, ..] = holdings(&stack, &holder, &first).await;
    let [vault, wallet] = &[vault, wallet].map(|address| address.as_str().unwrap().to_lowercase());
    let keystore = stack.path("agent.json").display().to_string();
    stack.kill_gateway();
    pod_identity(&stack, &["export", &first.id, "--out", &keystore]);
    stack.start_gateway().await;
    stack.until_chain_answers().await;
    stack.remove(&holder, &first.id).await.expect(200);

    let again = spawn(&stack).await;
    let refused =
        stack.ask(&holder, Method::GET, &format!("/agents/{}/vault", again.id), Value::Null).await.expect(409);
    let said = refused["error"].as_str().unwrap().to_lowercase();
    assert!(refused["code"] == "key_missing" && said.contains(vault) && said.contains(wallet), "{refused}");
    let told = stack.status(&holder, &again.id).await.expect(200)["vault"].clone();
    assert_eq!((&told["state"], &told["reason"]), (&json!("failed"), &refused["error"]));
    stack.kill_gateway();
    pod_identity(&stack, &["import", &again.id, &keystore]);
    stack.start_gateway().await;
    until("the vault is found", async || {
        let status = stack.status(&holder, &again.id).await.expect(200);
        (status["vault"]["state"] == "deployed").then_some(())
    })
    .await;
    // It is that agent's as before: its key acts for it.
    let tasks = stack.get(&format!("/vaults/{vault}/tasks")).await.expect(200);
    let decline = format!("/agents/{}/tasks/{}/decline", again.id, tasks["tasks"][0]["id"].as_str().unwrap());
    let declined = stack.ask(&holder, Method::POST, &decline, Value::Null).await;
    assert!(declined.status.is_success(), "{declined:?}");
    stack.end();
}

#[tokio::test]
async fn without_a_chain_everything_else_works_and_says_so() {
    let mut stack = Stack::start(PLAIN).await;
    let holder = stack.holder(SMALL);
    let id = stack.agent(&holder).await.id;
    for path in ["/chain", "/meta/domain", "/supported"] {
        assert_eq!(stack.get(path).await.expect(501)["code"], "no_chain", "{path}");
    }
    let prices = json!({"prices": {"/v1": "1"}});
    let path = format!("/agents/{id}/prices");
    assert_eq!(stack.ask(&holder, Method::PUT, &path, prices).await.expect(501)["code"], "no_chain");
    assert!(stack.status(&holder, &id).await.expect(200)["vault"].is_null());
    assert_eq!(stack.get("/health").await.expect(200)["status"], "ok");
    stack.end();
}

#[tokio::test]
async fn while_the_chain_is_silent_agents_live_and_what_needs_it_says_when_to_try_again() {
    let mut evm = EvmChain::start().await;
    let sections = evm.sections();
    evm.anvil.kill();
    let mut stack = Stack::start(&sections.replace("poll_ms", "timeout_ms = 300\ndeadline_ms = 500\npoll_ms")).await;
    let holder = stack.holder(SMALL);
    let id = stack.agent(&holder).await.id;
    let said = stack.get("/chain").await.expect(503);
    assert_eq!(said["code"], "chain_unavailable");
    assert!(said["retry_after"].is_u64());
    stack.stop(&holder, &id).await.expect(200);
    stack.end();
}
