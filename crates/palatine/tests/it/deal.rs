//! A whole deal by the command line alone: every happy and unhappy end of a task.

use std::fs;
use std::process::Output;

use chain::evm::{BlockTag, CheckedChain, EvmConfig};
use domain::{Address, U256, Usdc};
use fixtures::{CHAIN_ID, EvmRpc, FUNDS, LocalStack, mint, stderr_of, until};
use identity::Identity;
use serde_json::{Value, json};

/// Somebody with a key file: the words that name it, and its address.
struct Party {
    words: Vec<String>,
    address: Address,
}

impl Party {
    /// Makes a key file in the stack's state folder.
    fn new(stack: &LocalStack, name: &str) -> Self {
        let (keystore, password) = (format!("{name}.json"), format!("{name}.password"));
        let [keystore, password] = [keystore, password].map(|file| stack.state().join(file).display().to_string());
        fs::write(&password, format!("of {name}\n")).unwrap();
        let made = stack.json(&["wallet", "--password-file", &password, "new", &keystore]);
        let words = ["--keystore", &keystore, "--password-file", &password].map(str::to_owned);
        Self { words: words.to_vec(), address: address(&made, "address") }
    }

    fn words(&self) -> Vec<&str> {
        self.words.iter().map(String::as_str).collect()
    }
}

fn address(json: &Value, key: &str) -> Address {
    json[key].as_str().unwrap().parse().unwrap()
}

/// Who deployed the contracts of the stack, and mints its token.
fn deployer(stack: &LocalStack) -> Identity {
    let password = fs::read_to_string(stack.state().join("evm/deployer.password")).unwrap();
    Identity::load(&stack.state().join("evm/deployer.json"), &password.into()).unwrap()
}

/// A stack of `palatine up`, an agent with a vault, and who deals with it: nobody of
/// them holds a coin for gas.
struct Deal {
    stack: LocalStack,
    rpc: EvmRpc,
    chain: CheckedChain,
    owner: Address,
    client: Party,
    arbiter: Party,
    agent: String,
    vault: Address,
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
        let stack = LocalStack::new();
        stack.up(&[]);
        let status = stack.status().unwrap();
        let rpc = EvmRpc::at(status["evm_rpc"].as_str().unwrap().to_owned());
        let [usdc, factory, forwarder] = ["usdc", "factory", "forwarder"].map(|key| address(&status, key));
        let evm = EvmConfig::new(vec![rpc.endpoint()], CHAIN_ID, usdc, factory, forwarder);
        let chain = CheckedChain::connect(&EvmConfig { confirmations: 1, ..evm }).await.unwrap();
        let (client, arbiter) = (Party::new(&stack, "client"), Party::new(&stack, "arbiter"));
        mint(&rpc.url, deployer(&stack), client.address, FUNDS).await;
        stack.json(&["wallet", "link"]);
        let agent = stack.spawn("echo");
        let vault = stack.json(&["vault", "deploy", &agent]);
        assert_eq!(vault["state"], "deployed");
        assert_eq!(stack.json(&["status", &agent])["vault"]["address"], vault["address"]);
        let vault = address(&vault, "address");
        Self { owner: address(&status, "owner"), stack, rpc, chain, client, arbiter, agent, vault }
    }

    async fn usdc(&self, who: Address) -> Usdc {
        self.chain.usdc_of(who, BlockTag::Latest).await.unwrap()
    }

    fn show(&self) -> Value {
        self.act(None, "show", &[])
    }

    /// `palatine vault <what> <agent> <words>` as somebody; as the stack's owner if nobody is named.
    #[track_caller]
    fn act(&self, who: Option<&Party>, what: &str, words: &[&str]) -> Value {
        let who = who.map(Party::words).unwrap_or_default();
        self.stack.json(&[&["vault"][..], &who, &[what, &self.agent], words].concat())
    }

    /// The ledger says that a task is there.
    async fn is(&self, task: &str, wanted: &str) {
        until(&format!("{task} is {wanted}"), async || {
            let tasks = self.act(None, "tasks", &[]);
            let found = tasks["tasks"].as_array()?.iter().find(|it| it["id"] == task)?.clone();
            (found["state"] == wanted).then_some(())
        })
        .await;
    }

    async fn appoint_arbiter(&self) {
        self.act(None, "set", &["--arbiter", &self.arbiter.address.to_string()]);
        until("the ledger has the arbiter", async || {
            (self.show()["arbiter"].as_str()?.parse() == Ok(self.arbiter.address)).then_some(())
        })
        .await;
    }

    /// Pays for the tasks, by signatures alone.
    async fn create(&self) -> Tasks {
        let create = |amount: &str, what: &str| {
            let spans = ["--submit-within", "2m", "--review", "1m", "--arbitration", "1m", "--at-least", "1"];
            let done = self.act(Some(&self.client), "create", &[&[amount, what][..], &spans].concat());
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
        let result = self.stack.state().join("result");
        fs::write(&result, "roses are red").unwrap();
        for task in [&tasks.paid, &tasks.unreviewed, &tasks.undecided, &tasks.decided] {
            self.act(None, "submit", &[task, "--result", result.to_str().unwrap()]);
        }
        self.act(None, "decline", &[&tasks.declined]);
        self.act(Some(&self.client), "complete", &[&tasks.paid, "--pay", "4.5"]);
        for task in [&tasks.undecided, &tasks.decided] {
            self.act(Some(&self.client), "dispute", &[task, "--reason", "violets are missing"]);
        }
        self.act(Some(&self.arbiter), "resolve", &[&tasks.decided, "--agent", "2.000001"]);
        // Before its time nobody can end what waits for an answer.
        let early = self.stack.output(&["vault", "claim", &self.agent, &tasks.unreviewed]);
        assert!(!early.status.success());
    }

    /// What anyone may do when the time is over.
    async fn outlast(&self, tasks: &Tasks) {
        self.rpc.advance_time(200).await;
        self.act(Some(&self.client), "refund", &[&tasks.unanswered]);
        self.act(None, "claim", &[&tasks.unreviewed]);
        self.act(None, "default-resolve", &[&tasks.undecided]);
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
        let words = ["ask", &self.agent, "hello", "--token", "none", "--pay-up-to", most];
        self.stack.output(&[&words[..], &self.client.words()].concat())
    }

    async fn ask_for_money(&self) {
        self.stack.json(&["price", &self.agent, "/v1/chat/completions=0.25"]);
        let refused = self.ask("0.2");
        assert!(stderr_of(&refused).contains("0.25"), "{refused:?}");
        let before = (self.usdc(self.owner).await, self.usdc(self.client.address).await);
        let answered = self.ask("0.25");
        let (said, told) = (String::from_utf8_lossy(&answered.stdout), stderr_of(&answered));
        assert!(answered.status.success() && said.contains("hello") && told.contains("Paid 0.25 USDC"), "{told}");
        let after = (self.usdc(self.owner).await, self.usdc(self.client.address).await);
        let quarter = Some(Usdc(250_000));
        assert_eq!((after.0.checked_sub(before.0), before.1.checked_sub(after.1)), (quarter, quarter));
    }
}

#[tokio::test]
async fn by_the_command_line_alone_a_vault_pays_and_every_unhappy_end_adds_up() {
    let deal = Deal::begin().await;
    let (client, owner) = (deal.client.address, deal.owner);
    let (owned, funded) = (deal.usdc(owner).await, deal.usdc(client).await);
    deal.appoint_arbiter().await;

    let tasks = deal.create().await;
    assert_eq!(deal.usdc(deal.vault).await, Usdc(PAID_IN));
    assert_eq!(funded.checked_sub(deal.usdc(client).await), Some(Usdc(PAID_IN)));
    deal.work(&tasks);
    deal.outlast(&tasks).await;

    let ledger = deal.show();
    assert_eq!(ledger["available_balance"], EARNED.to_string());
    assert_eq!(ledger["locked"], "0");
    let back = (PAID_IN - EARNED).to_string();
    assert_eq!(ledger["credits"], json!({client.to_string().to_lowercase(): back}));
    deal.act(None, "withdraw", &[]);
    deal.act(Some(&deal.client), "withdraw", &["--credit"]);
    assert_eq!(deal.usdc(owner).await.checked_sub(owned), Some(Usdc(EARNED)));
    assert_eq!(funded.checked_sub(deal.usdc(client).await), Some(Usdc(EARNED)));
    assert_eq!(deal.usdc(deal.vault).await, Usdc(0));

    deal.ask_for_money().await;
    for who in [owner, client, deal.arbiter.address] {
        assert_eq!(deal.chain.evm.balance_wei(who).await.unwrap(), U256::ZERO, "{who} needed a coin");
    }
    deal.stack.run(&["stop", &deal.agent]);
}
