//! Signed calls and payments through the gateway, on a real chain.

use std::time::Duration;

use chain::evm::typed::{CreateVault, Window, digest, factory_domain, task_id, task_payment, token_domain};
use chain::evm::{At, Chain, calls};
use domain::evm::Call;
use domain::vault::Terms;
use domain::{Address, B256, U256, Usdc};
use futures_util::future::join_all;
use identity::{Identity, SignerSync};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::evm::{CHAIN_ID, Evm, FUNDS, PAYEE, TOKEN_VERSION, now_s, sign};
use crate::house::{House, until};

/// `n` whole USDC.
const fn whole(n: u64) -> Usdc {
    Usdc(n * 1_000_000)
}

/// One task that was signed for, and its call.
struct Signed {
    id: B256,
    amount: Usdc,
    call: Call,
}

fn signed_task(evm: &Evm, vault: Address, payer: &Identity, amount: Usdc, salt: u64) -> Signed {
    let config = evm.config();
    let now = now_s();
    let terms = Terms {
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
    let window = Window { after: now - 600, before: now + 3600 };
    let payment = task_payment(&config, vault, &terms, window);
    let signature = sign(payer, digest(&payment, &token_domain(&config, TOKEN_VERSION)));
    let call = calls::create_task_with_authorization(vault, &terms, "work", window, signature);
    Signed { id: task_id(&config, vault, &terms).0, amount, call }
}

/// Has a call carried; the answer, if the gateway lived to give one.
async fn carry(house: &House, call: &Call) -> Option<Value> {
    let body = json!({"to": call.to, "data": call.data});
    let answer = house.post("/meta/call", &body).await.ok()?;
    answer.json().await.ok()
}

async fn deployed_vault(evm: &Evm, house: &House, chain: &Chain, owner: &Identity) -> Address {
    let config = evm.config();
    let deadline = now_s() + 3600;
    let (name, agent) = ("a-pod", Address::repeat_byte(0xa9));
    let message = CreateVault {
        podId: name.to_owned(),
        owner: owner.address(),
        agentWallet: agent,
        deadline: U256::from(deadline),
    };
    let consent = calls::Consent { deadline, signature: sign(owner, digest(&message, &factory_domain(&config))) };
    let call = calls::create_vault(config.factory, name, owner.address(), agent, Some(&consent));
    // The operator pays for nobody's vault but those of agents here.
    let refused = house.post("/meta/call", &json!({"to": call.to, "data": call.data})).await.unwrap();
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    let said: Value = refused.json().await.unwrap();
    assert_eq!(said["error"], "DEPLOYMENT_NOT_SPONSORED");
    evm.pay(&call).await;
    chain.vault_of(name, owner.address()).await.unwrap()
}

#[tokio::test]
async fn whatever_kills_the_gateway_each_signed_task_is_created_once_and_the_books_equal_the_chain() {
    let evm = Evm::start().await;
    let chain = evm.chain().await;
    let mut house = House::start(&evm.sections()).await;
    until("the chain answers", async || (house.get("/chain").await.status == 200).then_some(())).await;
    let payer = evm.payer().await;
    let vault = deployed_vault(&evm, &house, &chain, &payer).await;
    let mut all = Vec::new();
    for round in 0..u64::from(crate::crash::rounds()) {
        let tasks: Vec<Signed> =
            (0..4).map(|n| signed_task(&evm, vault, &payer, Usdc(1 + round * 10 + n), round * 10 + n)).collect();
        let sending = join_all(tasks.iter().map(|task| carry(&house, &task.call)));
        let instant = crate::crash::random_below(Duration::from_millis(150));
        tokio::time::timeout(instant, sending).await.ok();
        house.kill_gateway();
        house.start_gateway().await;
        for task in &tasks {
            let answer = until("the task is created", async || {
                let answer = carry(&house, &task.call).await?;
                (answer["success"] == true).then_some(answer)
            })
            .await;
            assert_eq!(answer["status"], "executed", "{answer}");
        }
        all.extend(tasks);
    }
    let locked: u64 = all.iter().map(|task| task.amount.0).sum();
    assert_eq!(chain.usdc_of(vault, At::Latest).await.unwrap(), Usdc(locked));
    assert_eq!(chain.usdc_of(payer.address(), At::Latest).await.unwrap(), Usdc(FUNDS.0 - locked));
    let books = until("the books are read to the end", async || {
        let books = house.get(&format!("/vaults/{vault}")).await;
        (books.status == 200 && books.body["locked"].as_str() == Some(&format!("{locked}"))).then_some(books.body)
    })
    .await;
    assert_eq!(books["available_balance"], "0");
    let tasks = house.get(&format!("/vaults/{vault}/tasks")).await.expect(200);
    let mut listed: Vec<_> = tasks["tasks"].as_array().unwrap().iter().map(|task| task["id"].clone()).collect();
    let mut made: Vec<_> = all.iter().map(|task| json!(task.id)).collect();
    listed.sort_by_key(Value::to_string);
    made.sort_by_key(Value::to_string);
    assert_eq!(listed, made);
    house.end();
}

#[tokio::test]
async fn a_hundred_copies_of_one_payment_buy_one_answer_and_one_for_another_path_buys_none() {
    let evm = Evm::start().await;
    let chain = evm.chain().await;
    let mut house = House::start(&evm.sections()).await;
    until("the chain answers", async || (house.get("/chain").await.status == 200).then_some(())).await;
    let payer = evm.payer().await;
    let holder = house.holder(crate::house::SMALL);
    let agent = house.spawn(&holder).await.expect(200)["agent"].clone();
    let id = agent["id"].as_str().unwrap().to_owned();
    let prices = json!({"prices": {"/v1": "1000000"}});
    house.ask(&holder, reqwest::Method::PUT, &format!("/agents/{id}/prices"), prices).await.expect(200);

    // Without its token, and without a payment: terms.
    let stranger = json!({"url": agent["url"]});
    let question = json!({"model": "default", "messages": [{"role": "user", "content": "for money"}]});
    let path = "/v1/chat/completions";
    let asked = |path: &str| house.agent(reqwest::Method::POST, &stranger, path).json(&question);
    let terms = asked(path).send().await.unwrap();
    assert_eq!(terms.status(), StatusCode::PAYMENT_REQUIRED);
    // No other writing of the path is free.
    for path in ["//v1/chat/completions", "/v1/../v1/chat/completions", "/%761/chat/completions"] {
        let answer = asked(path).send().await.unwrap();
        assert!((400..=402).contains(&answer.status().as_u16()), "{path}: {}", answer.status());
    }
    let headers = terms.headers().clone();
    let body = terms.bytes().await.unwrap();
    let tokens = std::sync::Arc::new(x402::Tokens::from_iter([x402::Token::new(
        CHAIN_ID,
        "cronos-testnet",
        evm.deployed.usdc,
        "Bridged USDC (Stargate)",
        TOKEN_VERSION,
    )]));
    let buyer = x402::Buyer::new(Buyer(payer.clone()), tokens, 300);
    let paying = buyer.pay(&headers, &body, whole(1), now_s(), B256::repeat_byte(9)).unwrap();
    assert_eq!((paying.amount, paying.payee), (whole(1), PAYEE));
    let (name, value) = paying.header;

    let unread = asked(path).header(&name, "!").send().await.unwrap();
    assert_eq!(unread.status(), StatusCode::BAD_REQUEST, "x402-bad-header");
    let said: Value = unread.json().await.unwrap();
    assert_eq!((&said["code"], &said["field"]), (&json!("malformed_payment"), &json!(name.as_str())));

    let copies = (0..100).map(|_| asked(path).header(&name, &value).send());
    let answers = join_all(copies).await;
    let mut served = 0;
    for answer in answers {
        let answer = answer.unwrap();
        match answer.status().as_u16() {
            200 => {
                assert!(answer.headers().contains_key("payment-response"));
                assert!(answer.text().await.unwrap().contains("for money"));
                served += 1;
            }
            402 => {}
            409 | 503 => {
                let said: Value = answer.json().await.unwrap();
                assert!(said["code"].is_string() && said["retry_after"].is_u64(), "503-code: {said}");
            }
            other => panic!("{other}"),
        }
    }
    assert_eq!(served, 1, "one payment buys one answer");
    assert_eq!(chain.usdc_of(PAYEE, At::Latest).await.unwrap(), whole(1));
    // The same payment for another request, and again after a restart: nothing.
    house.kill_gateway();
    house.start_gateway().await;
    until("the chain answers", async || (house.get("/chain").await.status == 200).then_some(())).await;
    for path in [path, "/v1/models"] {
        let answer = house.agent(reqwest::Method::POST, &stranger, path).json(&question).header(&name, &value);
        assert_eq!(answer.send().await.unwrap().status(), StatusCode::PAYMENT_REQUIRED, "{path}");
    }
    assert_eq!(chain.usdc_of(PAYEE, At::Latest).await.unwrap(), whole(1));
    // Who holds the agent's token goes free.
    let free = house.agent(reqwest::Method::POST, &agent, path).json(&question).send().await.unwrap();
    assert_eq!(free.status(), StatusCode::OK);
    house.end();
}

#[tokio::test]
async fn an_unmodified_client_from_npm_pays_one_of_our_agents() {
    let evm = Evm::start().await;
    let chain = evm.chain().await;
    let mut house = House::start(&evm.sections()).await;
    until("the chain answers", async || (house.get("/chain").await.status == 200).then_some(())).await;
    let secret = [0x51; 32];
    let payer = evm.payer_of(&secret).await;
    let holder = house.holder(crate::house::SMALL);
    let agent = house.spawn(&holder).await.expect(200)["agent"].clone();
    let path = format!("/agents/{}/prices", agent["id"].as_str().unwrap());
    let prices = json!({"prices": {"/echo": "2000000"}});
    house.ask(&holder, reqwest::Method::PUT, &path, prices).await.expect(200);

    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = here.join("../x402/tests/npm/fetch-v2.mjs");
    let url = format!("{}/echo", agent["url"].as_str().unwrap());
    let output = tokio::process::Command::new("node")
        .current_dir(crate::house::assets().join("x402"))
        .arg("--import")
        .arg(here.join("tests/npm/localhost.mjs"))
        .args(["--input-type=module", "-", &url, &format!("0x{}", hex::encode(secret))])
        .arg(evm.deployed.usdc.to_string())
        .stdin(std::fs::File::open(script).unwrap())
        .output()
        .await
        .unwrap();
    let said: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!(said["status"], 200, "{said}");
    assert!(said["body"].as_str().unwrap().contains("hello"), "{said}");
    assert_eq!(said["receipt"]["success"], true, "{said}");
    assert_eq!(said["receipt"]["payer"].as_str().unwrap().parse(), Ok(payer.address()));
    assert_eq!(chain.usdc_of(PAYEE, At::Latest).await.unwrap(), whole(2));
    assert_eq!(chain.usdc_of(payer.address(), At::Latest).await.unwrap(), Usdc(FUNDS.0 - whole(2).0));
    house.end();
}

/// Signs payments.
pub(crate) struct Buyer(pub(crate) Identity);

impl x402::SignHash for Buyer {
    fn address(&self) -> Address {
        self.0.address()
    }

    fn sign(&self, hash: &B256) -> Result<alloy_primitives::Signature, x402::SignError> {
        Ok(self.0.sign_hash_sync(hash).unwrap())
    }
}

#[tokio::test]
async fn a_link_needs_both_and_a_vault_that_somebody_else_deployed_is_found() {
    let evm = Evm::start().await;
    let mut house = House::start(&evm.sections()).await;
    until("the chain answers", async || (house.get("/chain").await.status == 200).then_some(())).await;
    let holder = house.holder(crate::house::SMALL);
    let (owner, stranger) = (evm.payer().await, evm.payer().await);
    let agent = house.spawn(&holder).await.expect(200)["agent"]["id"].as_str().unwrap().to_owned();
    let path = format!("/agents/{agent}/vault");
    assert_eq!(house.ask(&holder, reqwest::Method::GET, &path, Value::Null).await.expect(403)["code"], "not_linked");

    let terms = auth::LinkTerms {
        gateway: house.url.strip_prefix("http://").unwrap().parse().unwrap(),
        holder: holder.wallet(),
        owner: owner.address(),
        chain_id: CHAIN_ID,
        nonce: alloy_primitives::B128::repeat_byte(7),
        issued_at: holder.instant(),
        expires_at: holder.instant().plus(60_000),
    };
    let link = |signer: &Identity| {
        let text = terms.text();
        let owners = auth::EvmSignature::try_from(signer.sign_message_sync(text.as_bytes()).unwrap()).unwrap();
        let holders = holder.keypair.sign_link(&terms, auth::Form::Raw);
        json!({"text": text, "holder_signature": holders.to_string(), "owner_signature": owners.to_string()})
    };
    let links = async |body| house.ask(&holder, reqwest::Method::POST, "/links", body).await;
    assert_eq!(links(link(&stranger)).await.expect(403)["code"], "invalid_evm_signature");
    assert_eq!(links(link(&owner)).await.expect(200)["owner"], json!(owner.address()));
    assert_eq!(links(link(&owner)).await.expect(401)["code"], "replayed_signature");

    let vault = house.ask(&holder, reqwest::Method::GET, &path, Value::Null).await.expect(200);
    assert_eq!((&vault["state"], &vault["owner"]), (&json!("unsigned"), &json!(owner.address())));
    let deadline = now_s() + 3600;
    let message = CreateVault {
        podId: agent.clone(),
        owner: owner.address(),
        agentWallet: vault["agent_wallet"].as_str().unwrap().parse().unwrap(),
        deadline: U256::from(deadline),
    };
    let hash = digest(&message, &factory_domain(&evm.config()));
    // Only the owner's own signature deploys it.
    let wish = json!({"deadline": deadline, "signature": sign(&stranger, hash)});
    let refused = house.ask(&holder, reqwest::Method::POST, &path, wish).await.expect(409);
    assert!(refused["code"] == "would_revert" && refused["error"].as_str().unwrap().contains("owner"), "{refused}");
    let consent = calls::Consent { deadline, signature: sign(&owner, hash) };
    let call = calls::create_vault(evm.deployed.factory, &agent, message.owner, message.agentWallet, Some(&consent));
    assert_eq!(carry(&house, &call).await.unwrap()["success"], true);
    let found = house.ask(&holder, reqwest::Method::GET, &path, Value::Null).await.expect(200);
    assert_eq!((&found["state"], &found["address"]), (&json!("deployed"), &vault["address"]));
    assert_eq!(house.status(&holder, &agent).await.expect(200)["vault"]["state"], "deployed");
    house.end();
}

#[tokio::test]
async fn without_a_chain_everything_else_works_and_says_so() {
    let mut house = House::start(crate::house::PLAIN).await;
    let holder = house.holder(crate::house::SMALL);
    let id = house.spawn(&holder).await.expect(200)["agent"]["id"].as_str().unwrap().to_owned();
    for path in ["/chain", "/meta/domain", "/supported"] {
        assert_eq!(house.get(path).await.expect(501)["code"], "no_chain", "{path}");
    }
    let prices = json!({"prices": {"/v1": "1"}});
    let path = format!("/agents/{id}/prices");
    assert_eq!(house.ask(&holder, reqwest::Method::PUT, &path, prices).await.expect(501)["code"], "no_chain");
    assert!(house.status(&holder, &id).await.expect(200)["vault"].is_null());
    assert_eq!(house.get("/health").await.expect(200)["status"], "ok");
    house.end();
}

#[tokio::test]
async fn while_the_chain_is_silent_agents_live_and_what_needs_it_says_when_to_try_again() {
    let mut evm = Evm::start().await;
    let sections = evm.sections();
    evm.anvil.kill();
    let mut house = House::start(&sections.replace("poll_ms", "timeout_ms = 300\ndeadline_ms = 500\npoll_ms")).await;
    let holder = house.holder(crate::house::SMALL);
    let id = house.spawn(&holder).await.expect(200)["agent"]["id"].as_str().unwrap().to_owned();
    let said = house.get("/chain").await.expect(503);
    assert_eq!(said["code"], "chain_unavailable");
    assert!(said["retry_after"].is_u64());
    house.stop(&holder, &id).await.expect(200);
    house.end();
}
