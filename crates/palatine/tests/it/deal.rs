//! A whole deal by the command line alone: every happy and unhappy end of a task.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use chain::Endpoint;
use chain::evm::{At, Chain, EvmConfig};
use domain::{Address, U256, Usdc};
use identity::Identity;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::evm::{CHAIN_ID, call_rpc, fund};
use crate::house::{assets, free_port, program, until};

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
