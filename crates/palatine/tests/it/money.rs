//! What agents are paid: on a real chain with the real contracts.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use chain::Endpoint;
use chain::evm::typed::{CreateVault, Window, digest, factory_domain, task_id, task_payment, token_domain};
use chain::evm::{At, Chain, Deployed, EvmConfig, Key, calls, deploy_local};
use domain::evm::Call;
use domain::vault::Terms;
use domain::{Address, B256, Bytes, U256, Usdc};
use futures_util::future::join_all;
use identity::{Cost, Identity, SignerSync};
use reqwest::StatusCode;
use secrecy::SecretString;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::house::{House, assets, free_port, program, until};

const CHAIN_ID: u64 = 338;
const TOKEN_VERSION: &str = "2";
/// What a payer of a test begins with.
const FUNDS: Usdc = Usdc(1_000_000_000);

/// `n` whole USDC.
const fn whole(n: u64) -> Usdc {
    Usdc(n * 1_000_000)
}

/// A local chain of a test, with the contracts on it.
struct Evm {
    child: Child,
    rpc: String,
    deployer: Identity,
    relayer: Identity,
    deployed: Deployed,
    dir: TempDir,
}

impl Evm {
    async fn start() -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        let anvil = assets().join("evm/node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil");
        let mut child = Command::new(anvil)
            .args(["--port", "0", "--chain-id", &CHAIN_ID.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let rpc = format!("http://{}", listening(&mut child));
        let (deployer, relayer) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        for who in [&deployer, &relayer] {
            call_rpc(&rpc, "anvil_setBalance", json!([who.address(), "0x21e19e0c9bab2400000"])).await;
        }
        let key = Key::new(deployer.clone());
        let deployed = deploy_local(Endpoint(rpc.clone()), CHAIN_ID, &key, deployer.address(), Usdc(0)).await.unwrap();
        Self { child, rpc, deployer, relayer, deployed, dir: TempDir::new().unwrap() }
    }

    fn config(&self) -> EvmConfig {
        let mut config = self.deployed.config(Endpoint(self.rpc.clone()), CHAIN_ID);
        config.usdc_version = Some(TOKEN_VERSION.to_owned());
        config
    }

    async fn chain(&self) -> Chain {
        Chain::connect(&self.config()).await.unwrap()
    }

    /// A payer with test USDC, and without a coin for gas.
    async fn payer(&self) -> Identity {
        let payer = Identity::generate().unwrap();
        fund(&self.rpc, self.deployer.clone(), payer.address()).await;
        payer
    }

    /// The sections that a house needs to work on this chain.
    fn sections(&self) -> String {
        let password = SecretString::from("of a test");
        let keystore = self.dir.path().join("relayer.json");
        self.relayer.save(&keystore, &password, Cost::LIGHT).unwrap();
        let file = self.dir.path().join("relayer.password");
        std::fs::write(&file, "of a test").unwrap();
        let Deployed { usdc, factory, forwarder, .. } = self.deployed;
        format!(
            r#"
            [evm]
            endpoints = ["{rpc}"]
            chain_id = {CHAIN_ID}
            usdc = "{usdc}"
            factory = "{factory}"
            forwarder = "{forwarder}"
            confirmations = 1
            poll_ms = 50
            [treasury]
            identities = "{dir}/identities"
            key_file = "{dir}/identities.key"
            [relayer]
            enabled = true
            key = "{keystore}"
            password_file = "{file}"
            per_client_minute = 100000
            per_client_day = 100000
            queue = 1000
            [x402]
            pay_to = "{payee}"
            tokens = [{{ chain_id = {CHAIN_ID}, network = "cronos-testnet", address = "{usdc}", name = "Bridged USDC (Stargate)", version = "{TOKEN_VERSION}" }}]
            "#,
            rpc = self.rpc,
            dir = self.dir.path().display(),
            keystore = keystore.display(),
            file = file.display(),
            payee = PAYEE,
        )
    }
}

impl Drop for Evm {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Who is paid for requests in these tests.
const PAYEE: Address = Address::repeat_byte(0x77);

/// Where a chain that was just started listens, as it says itself.
fn listening(child: &mut Child) -> String {
    let mut stdout = child.stdout.take().unwrap();
    let mut said = Vec::new();
    let place = loop {
        let mut byte = [0];
        stdout.read_exact(&mut byte).unwrap();
        said.push(byte[0]);
        let text = String::from_utf8_lossy(&said);
        if let Some((_, rest)) = text.split_once("Listening on ")
            && let Some((place, _)) = rest.split_once('\n')
        {
            break place.trim().to_owned();
        }
    };
    // A full pipe would stop it.
    std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
    place
}

async fn call_rpc(rpc: &str, method: &str, params: Value) -> Value {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    let answer = reqwest::Client::new().post(rpc).json(&body).send().await.unwrap();
    let answer: Value = answer.json().await.unwrap();
    assert!(answer.get("error").is_none(), "{method}: {answer}");
    answer["result"].clone()
}

/// Sees to it that somebody has test USDC.
async fn fund(rpc: &str, deployer: Identity, who: Address) {
    deploy_local(Endpoint(rpc.to_owned()), CHAIN_ID, &Key::new(deployer), who, FUNDS).await.unwrap();
}

fn sign(who: &Identity, hash: B256) -> Bytes {
    Bytes::from(who.sign_hash_sync(&hash).unwrap().as_bytes())
}

fn now_s() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// A command line whose state is a house of `palatine up`.
struct Shell {
    state: PathBuf,
}

impl Shell {
    fn output(&self, words: &[&str]) -> Output {
        let mut command = Command::new(program("palatine"));
        command.args(words).env("PALATINE_STATE", &self.state).env_remove("PALATINE_CONFIG");
        command.stdin(Stdio::null()).output().unwrap()
    }

    #[track_caller]
    fn run(&self, words: &[&str]) -> Value {
        let output = self.output(&[words, &["--json"]].concat());
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    /// Makes a key file; gives the words that name it, and its address.
    #[track_caller]
    fn wallet(&self, name: &str) -> (Vec<String>, Address) {
        let password = self.state.join(format!("{name}.password"));
        std::fs::write(&password, format!("of {name}\n")).unwrap();
        let keystore = self.state.join(format!("{name}.json"));
        let words = |path: &Path| path.display().to_string();
        let file = words(&password);
        let made = self.run(&["wallet", "--password-file", &file, "new", &words(&keystore)]);
        let as_them = vec!["--keystore".to_owned(), words(&keystore), "--password-file".to_owned(), file];
        (as_them, made["address"].as_str().unwrap().parse().unwrap())
    }

    /// Who deployed the contracts of the house, and mints its token.
    fn deployer(&self) -> Identity {
        let password = std::fs::read_to_string(self.state.join("evm/deployer.password")).unwrap();
        Identity::load(&self.state.join("evm/deployer.json"), &password.into()).unwrap()
    }

    /// `palatine vault … <words>` as somebody; the house's owner if nobody is named.
    #[track_caller]
    fn vault(&self, who: &[String], words: &[&str]) -> Value {
        let who: Vec<&str> = who.iter().map(String::as_str).collect();
        self.run(&[&["vault"][..], &who, words].concat())
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        self.output(&["down"]);
    }
}

/// A house of `palatine up`, an agent with a vault, and who deals with it: nobody of
/// them holds a coin for gas.
struct Deal {
    shell: Shell,
    rpc: String,
    chain: Chain,
    owner: Address,
    client: (Vec<String>, Address),
    arbiter: (Vec<String>, Address),
    agent: String,
    vault: Address,
    _dir: TempDir,
}

/// The tasks of a deal, by what becomes of them.
struct Tasks {
    paid: String,
    unanswered: String,
    unreviewed: String,
    undecided: String,
    decided: String,
    declined: String,
}

/// All that is paid into the tasks, in micro-USDC.
const PAID_IN: u64 = 22_000_001;
/// What the agent earns of it: 4.5 paid, 2 claimed, half of 4, 2.000001 decided.
const EARNED: u64 = 4_500_000 + 2_000_000 + 2_000_000 + 2_000_001;

impl Deal {
    async fn begin() -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        let dir = TempDir::with_prefix("palatine-").unwrap();
        let shell = Shell { state: dir.path().join("state") };
        let listen = format!("127.0.0.1:{}", free_port());
        let house = shell.run(&["up", "--detach", "--listen", &listen, "--assets", assets().to_str().unwrap()]);
        let text = |key: &str| house[key].as_str().unwrap().to_owned();
        let address = |key: &str| text(key).parse::<Address>().unwrap();
        let rpc = text("evm_rpc");
        let places = (address("usdc"), address("factory"), address("forwarder"));
        let evm = EvmConfig::new(vec![Endpoint(rpc.clone())], CHAIN_ID, places.0, places.1, places.2);
        let chain = Chain::connect(&EvmConfig { confirmations: 1, ..evm }).await.unwrap();
        let (client, arbiter) = (shell.wallet("client"), shell.wallet("arbiter"));
        fund(&rpc, shell.deployer(), client.1).await;
        shell.run(&["wallet", "link"]);
        let agent = shell.run(&["spawn", "--type", "echo"])["agent"]["id"].as_str().unwrap().to_owned();
        let vault = shell.vault(&[], &["deploy", &agent]);
        assert_eq!(vault["state"], "deployed");
        assert_eq!(shell.run(&["status", &agent])["vault"]["address"], vault["address"]);
        let vault = vault["address"].as_str().unwrap().parse().unwrap();
        Self { owner: address("owner"), shell, rpc, chain, client, arbiter, agent, vault, _dir: dir }
    }

    async fn usdc(&self, who: Address) -> Usdc {
        self.chain.usdc_of(who, At::Latest).await.unwrap()
    }

    fn show(&self) -> Value {
        self.shell.vault(&[], &["show", &self.agent])
    }

    /// `palatine vault <what> <agent> <words>` as somebody.
    #[track_caller]
    fn act(&self, who: &[String], what: &str, words: &[&str]) -> Value {
        self.shell.vault(who, &[&[what, &self.agent], words].concat())
    }

    /// The books say that a task is there.
    async fn is(&self, task: &str, wanted: &str) {
        until(&format!("{task} is {wanted}"), async || {
            let tasks = self.shell.vault(&[], &["tasks", &self.agent]);
            let found = tasks["tasks"].as_array()?.iter().find(|it| it["id"] == task)?.clone();
            (found["state"] == wanted).then_some(())
        })
        .await;
    }

    async fn appoint_arbiter(&self) {
        self.act(&[], "set", &["--arbiter", &self.arbiter.1.to_string()]);
        until("the books have the arbiter", async || {
            (self.show()["arbiter"].as_str()?.parse() == Ok(self.arbiter.1)).then_some(())
        })
        .await;
    }

    /// Pays for the tasks, by signatures alone.
    async fn create(&self) -> Tasks {
        let create = |amount: &str, what: &str| {
            let spans = ["--submit-within", "2m", "--review", "1m", "--arbitration", "1m", "--at-least", "1"];
            let done = self.act(&self.client.0, "create", &[&[amount, what][..], &spans].concat());
            done["task"].as_str().unwrap().to_owned()
        };
        let tasks = Tasks {
            paid: create("5", "a poem"),
            unanswered: create("3", "the agent keeps silent"),
            unreviewed: create("2", "the client keeps silent"),
            undecided: create("4", "the arbiter keeps silent"),
            decided: create("7.000001", "the arbiter decides"),
            declined: create("1", "not for me"),
        };
        self.is(&tasks.declined, "funded").await;
        tasks
    }

    /// What the parties do while there is time.
    fn work(&self, tasks: &Tasks) {
        let result = self.shell.state.join("result");
        std::fs::write(&result, "roses are red").unwrap();
        for task in [&tasks.paid, &tasks.unreviewed, &tasks.undecided, &tasks.decided] {
            self.act(&[], "submit", &[task, "--result", result.to_str().unwrap()]);
        }
        self.act(&[], "decline", &[&tasks.declined]);
        self.act(&self.client.0, "complete", &[&tasks.paid, "--pay", "4.5"]);
        for task in [&tasks.undecided, &tasks.decided] {
            self.act(&self.client.0, "dispute", &[task, "--reason", "violets are missing"]);
        }
        self.act(&self.arbiter.0, "resolve", &[&tasks.decided, "--agent", "2.000001"]);
        // Before its time nobody can end what waits for an answer.
        let early = self.shell.output(&["vault", "claim", &self.agent, &tasks.unreviewed]);
        assert!(!early.status.success());
    }

    /// What anyone may do when the time is over.
    async fn outlast(&self, tasks: &Tasks) {
        call_rpc(&self.rpc, "evm_increaseTime", json!([200])).await;
        call_rpc(&self.rpc, "evm_mine", json!([])).await;
        self.act(&self.client.0, "refund", &[&tasks.unanswered]);
        self.act(&[], "claim", &[&tasks.unreviewed]);
        self.act(&[], "default-resolve", &[&tasks.undecided]);
        for (task, end) in [
            (&tasks.paid, "completed"),
            (&tasks.unanswered, "refunded"),
            (&tasks.unreviewed, "completed"),
            (&tasks.undecided, "resolved"),
            (&tasks.decided, "resolved"),
            (&tasks.declined, "refunded"),
        ] {
            self.is(task, end).await;
        }
    }

    /// `palatine ask`, with the client as who pays.
    fn ask(&self, most: &str) -> Output {
        let client: Vec<&str> = self.client.0.iter().map(String::as_str).collect();
        let words = ["ask", &self.agent, "hello", "--token", "none", "--pay-up-to", most];
        self.shell.output(&[&words[..], &client].concat())
    }

    async fn ask_for_money(&self) {
        self.shell.run(&["price", &self.agent, "/v1/chat/completions=0.25"]);
        let refused = self.ask("0.2");
        assert!(String::from_utf8_lossy(&refused.stderr).contains("0.25"), "{refused:?}");
        let before = (self.usdc(self.owner).await, self.usdc(self.client.1).await);
        let answered = self.ask("0.25");
        let (said, told) = (String::from_utf8_lossy(&answered.stdout), String::from_utf8_lossy(&answered.stderr));
        assert!(answered.status.success() && said.contains("hello") && told.contains("Paid 0.25 USDC"), "{told}");
        let after = (self.usdc(self.owner).await, self.usdc(self.client.1).await);
        let quarter = Some(Usdc(250_000));
        assert_eq!((after.0.checked_sub(before.0), before.1.checked_sub(after.1)), (quarter, quarter));
    }
}

#[tokio::test]
async fn by_the_command_line_alone_a_vault_pays_and_every_unhappy_end_adds_up() {
    let deal = Deal::begin().await;
    let (client, owner) = (deal.client.1, deal.owner);
    let (owned, funded) = (deal.usdc(owner).await, deal.usdc(client).await);
    deal.appoint_arbiter().await;

    let tasks = deal.create().await;
    assert_eq!(deal.usdc(deal.vault).await, Usdc(PAID_IN));
    assert_eq!(funded.checked_sub(deal.usdc(client).await), Some(Usdc(PAID_IN)));
    deal.work(&tasks);
    deal.outlast(&tasks).await;

    let books = deal.show();
    assert_eq!(books["available_balance"], EARNED.to_string());
    assert_eq!(books["locked"], "0");
    let back = (PAID_IN - EARNED).to_string();
    assert_eq!(books["credits"], json!({client.to_string().to_lowercase(): back}));
    deal.act(&[], "withdraw", &[]);
    deal.act(&deal.client.0, "withdraw", &["--credit"]);
    assert_eq!(deal.usdc(owner).await.checked_sub(owned), Some(Usdc(EARNED)));
    assert_eq!(funded.checked_sub(deal.usdc(client).await), Some(Usdc(EARNED)));
    assert_eq!(deal.usdc(deal.vault).await, Usdc(0));

    deal.ask_for_money().await;
    for who in [owner, client, deal.arbiter.1] {
        assert_eq!(deal.chain.evm.coins(who).await.unwrap(), U256::ZERO, "{who} needed a coin");
    }
    deal.shell.run(&["stop", &deal.agent]);
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
    let answer = until("the vault is made", async || carry(house, &call).await).await;
    assert_eq!(answer["success"], true, "{answer}");
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
        let instant = crate::crash::random_below(Duration::from_millis(600));
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
            402 | 409 | 503 => {}
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

/// Signs payments.
struct Buyer(Identity);

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
    evm.child.kill().unwrap();
    let mut house = House::start(&sections.replace("poll_ms", "timeout_ms = 300\ndeadline_ms = 500\npoll_ms")).await;
    let holder = house.holder(crate::house::SMALL);
    let id = house.spawn(&holder).await.expect(200)["agent"]["id"].as_str().unwrap().to_owned();
    let said = house.get("/chain").await.expect(503);
    assert_eq!(said["code"], "chain_unavailable");
    assert!(said["retry_after"].is_u64());
    house.stop(&holder, &id).await.expect(200);
    house.end();
}
