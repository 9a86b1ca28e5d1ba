//! A house of our own for a test: a local Solana, a node, a gateway, each a
//! process that the test may kill.

use std::cell::Cell;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use auth::Keypair;
use domain::{UnixMillis, Wallet};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::machine::PATIENCE;

/// Whole tokens for the test tiers `small` and `large`.
pub(crate) const SMALL: u64 = 100_000;
pub(crate) const LARGE: u64 = 500_000;

/// What a test may change of the configuration, in TOML, over the defaults below.
pub(crate) const PLAIN: &str = "";

pub(crate) struct House {
    pub(crate) dir: TempDir,
    pub(crate) url: String,
    pub(crate) solana: Solana,
    node: Option<Child>,
    gateway: Option<Child>,
    web: reqwest::Client,
    /// Which program is told what by its environment.
    failpoint: Option<Failpoint>,
}

/// What a program is told of its failpoints.
#[derive(Clone)]
pub(crate) struct Failpoint {
    pub(crate) program: &'static str,
    /// [`durable::AT`] or [`durable::SEEN`].
    pub(crate) variable: &'static str,
    pub(crate) value: String,
}

/// A wallet of a test. Each signature is of its own instant: two of the same
/// would be one request.
pub(crate) struct Holder {
    pub(crate) keypair: Keypair,
    last: Cell<u64>,
}

impl Holder {
    /// A new wallet without tokens.
    pub(crate) fn new() -> Self {
        let mut random = [0; 32];
        getrandom::fill(&mut random).unwrap();
        Self { keypair: Keypair::generate(&random), last: Cell::new(0) }
    }

    pub(crate) fn wallet(&self) -> Wallet {
        self.keypair.wallet()
    }

    /// An instant that this wallet has not signed.
    pub(crate) fn instant(&self) -> UnixMillis {
        let now = UnixMillis::from_system(SystemTime::now()).unwrap();
        self.last.set(now.0.max(self.last.get() + 1));
        UnixMillis(self.last.get())
    }
}

/// An answer, whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Value,
}

impl Answer {
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.body);
        self.body
    }

    pub(crate) async fn of(response: Response) -> Self {
        let status = response.status();
        let text = response.text().await.unwrap();
        Self { status, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) }
    }
}

impl House {
    /// Builds a house and waits until it answers. `extra` is TOML over the tests'
    /// own defaults.
    pub(crate) async fn start(extra: &str) -> Self {
        let mut house = Self::prepare(extra);
        house.start_node().await;
        house.start_gateway().await;
        house
    }

    /// A house in which nothing of ours runs yet.
    pub(crate) fn prepare(extra: &str) -> Self {
        needs::needs!(root, network, tun, cgroups);
        rustls::crypto::ring::default_provider().install_default().ok();
        let dir = TempDir::with_prefix("palatine-").unwrap();
        let solana = Solana::start();
        let port = free_port();
        let config = config(dir.path(), &solana, port, extra);
        fs::write(dir.path().join("palatine.toml"), config).unwrap();
        offer(dir.path(), "echo");
        let web = reqwest::Client::builder().no_proxy().timeout(PATIENCE * 2);
        // A connection that idled while a test did something slow may be closing.
        let web = web.pool_max_idle_per_host(0).build().unwrap();
        let url = format!("http://127.0.0.1:{port}");
        Self { dir, url, solana, node: None, gateway: None, web, failpoint: None }
    }

    /// Starts what does not run, with `failpoint`; says whether all of it lives and answers.
    pub(crate) async fn come_up(&mut self, failpoint: Option<Failpoint>) -> bool {
        self.failpoint = failpoint;
        self.bury();
        if self.node.is_none() {
            self.node = Some(self.program("hypercore", &[]));
        }
        if self.gateway.is_none() {
            self.gateway = Some(self.program("palatine", &["serve"]));
        }
        let (node, ready) = (self.node_client(), format!("{}/ready", self.url));
        until("the programs answer, or one has died", async || {
            if self.bury() {
                return Some(false);
            }
            let answer = self.web.get(&ready).send().await.ok()?;
            (answer.status().is_success() && node.info().await.is_ok()).then_some(true)
        })
        .await
    }

    /// Forgets the programs that died; says whether one has.
    pub(crate) fn bury(&mut self) -> bool {
        let mut died = false;
        for part in [&mut self.node, &mut self.gateway] {
            if part.as_mut().is_some_and(|child| child.try_wait().unwrap().is_some()) {
                *part = None;
                died = true;
            }
        }
        died
    }

    /// Offers the reference agent by another name. The gateway may take a while to
    /// know it; a spawn looks again.
    pub(crate) fn offer(&self, name: &str) {
        offer(self.dir.path(), name);
    }

    /// Writes a holder's key as Solana's programs do.
    pub(crate) fn write_keypair(&self, holder: &Holder, file: &Path) {
        secrecy_free_write(file, holder);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) async fn start_node(&mut self) {
        self.node = Some(self.program("hypercore", &[]));
        let node = self.node_client();
        until("the node answers", async || node.info().await.ok()).await;
    }

    pub(crate) async fn start_gateway(&mut self) {
        self.gateway = Some(self.program("palatine", &["serve"]));
        let ready = format!("{}/ready", self.url);
        until("the gateway is ready", async || {
            let answer = self.web.get(&ready).send().await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
    }

    /// `kill -9`.
    pub(crate) fn kill_node(&mut self) {
        kill(&mut self.node);
    }

    /// `kill -9`.
    pub(crate) fn kill_gateway(&mut self) {
        kill(&mut self.gateway);
    }

    pub(crate) fn node_client(&self) -> client::NodeClient {
        client::NodeClient::new(self.path("node.sock"))
    }

    /// A wallet that holds so many whole tokens.
    pub(crate) fn holder(&mut self, tokens: u64) -> Holder {
        let holder = Holder::new();
        self.solana.tell(&json!({"do": "fund", "wallet": holder.wallet(), "amount": tokens}));
        holder
    }

    /// A request without a signature.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        Answer::of(self.web.get(format!("{}{path}", self.url)).send().await.unwrap()).await
    }

    /// A request without a signature, that may find nobody.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> reqwest::Result<Response> {
        self.web.post(format!("{}{path}", self.url)).json(body).send().await
    }

    /// A signed request in the bound form, not yet sent.
    pub(crate) fn signed(&self, holder: &Holder, method: Method, path: &str, body: &Value) -> reqwest::RequestBuilder {
        let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(body).unwrap() };
        let gateway = self.url.strip_prefix("http://").unwrap().parse().unwrap();
        let signed = auth::Request { method: method.as_str(), path, body: &body };
        let headers = holder.keypair.sign_request(&gateway, &signed, holder.instant());
        let request = self.web.request(method, format!("{}{path}", self.url));
        request
            .header("x-wallet", headers.wallet)
            .header("x-signature", headers.signature)
            .header("x-timestamp", headers.timestamp)
            .header("x-audience", gateway.as_str())
            .header("content-type", "application/json")
            .body(body)
    }

    pub(crate) async fn ask(&self, holder: &Holder, method: Method, path: &str, body: Value) -> Answer {
        Answer::of(self.signed(holder, method, path, &body).send().await.unwrap()).await
    }

    pub(crate) async fn spawn(&self, holder: &Holder) -> Answer {
        self.ask(holder, Method::POST, "/spawn", json!({"agent_type": "echo"})).await
    }

    pub(crate) async fn stop(&self, holder: &Holder, id: &str) -> Answer {
        self.ask(holder, Method::POST, &format!("/stop/{id}"), Value::Null).await
    }

    pub(crate) async fn status(&self, holder: &Holder, id: &str) -> Answer {
        self.ask(holder, Method::GET, &format!("/status/{id}"), Value::Null).await
    }

    /// A request to an agent, by its own host name.
    pub(crate) fn agent(&self, method: Method, agent: &Value, path: &str) -> reqwest::RequestBuilder {
        let host = agent["url"].as_str().unwrap().strip_prefix("http://").unwrap().to_owned();
        let request = self.web.request(method, format!("{}{path}", self.url)).header("host", host);
        match agent["token"].as_str() {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Runs the command line as this holder.
    pub(crate) fn palatine(&self, holder: &Holder, words: &[&str]) -> Command {
        let file = self.path(&format!("{}.json", holder.wallet()));
        secrecy_free_write(&file, holder);
        let mut command = Command::new(program("palatine"));
        command.args(words).env("PALATINE_GATEWAY", &self.url).env("PALATINE_KEYPAIR", file);
        command.env("PALATINE_STATE", self.path("user")).env_remove("PALATINE_CONFIG");
        command
    }

    /// Ends the house as an operator does; the guests end with it.
    pub(crate) fn end(mut self) {
        self.take_down();
    }

    fn take_down(&mut self) {
        for part in [&mut self.gateway, &mut self.node] {
            if let Some(mut child) = part.take() {
                terminate(&child);
                wait(&mut child);
            }
        }
    }

    fn program(&self, name: &str, words: &[&str]) -> Child {
        let log = File::options().create(true).append(true).open(self.path(&format!("{name}.log"))).unwrap();
        let mut command = Command::new(program(name));
        command.args(words).arg("--config").arg(self.path("palatine.toml"));
        if let Some(failpoint) = self.failpoint.as_ref().filter(|failpoint| failpoint.program == name) {
            command.env(failpoint.variable, &failpoint.value);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in ["hypercore.log", "palatine.log"] {
                let text = fs::read_to_string(self.path(log)).unwrap_or_default();
                let tail: Vec<_> = text.lines().rev().take(40).collect();
                eprintln!("--- {log}\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
            }
        }
        // A node that the test killed may have left guests: a new one takes them down.
        if self.node.is_none() && self.gateway.is_some() {
            self.node = Some(self.program("hypercore", &[]));
            let socket = self.path("node.sock");
            let limit = Instant::now() + PATIENCE;
            while std::os::unix::net::UnixStream::connect(&socket).is_err() && Instant::now() < limit {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        self.take_down();
    }
}

/// The local Solana.
pub(crate) struct Solana {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    pub(crate) rpc: String,
    pub(crate) mint: String,
}

impl Solana {
    pub(crate) fn start() -> Self {
        let dir = assets().join("solana");
        let mut command = Command::new("node");
        command.arg("chain.mjs").current_dir(&dir).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("node in {}: {error}", dir.display()));
        let commands = child.stdin.take().unwrap();
        let mut answers = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        answers.read_line(&mut line).unwrap();
        let place: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
        let text = |key: &str| place[key].as_str().unwrap().to_owned();
        Self { child, commands, answers, rpc: text("rpc"), mint: text("mint") }
    }

    /// Gives one command and waits for its effect.
    pub(crate) fn tell(&mut self, command: &Value) -> Value {
        writeln!(self.commands, "{command}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        let answer: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(answer["ok"], true, "{command}: {answer}");
        answer
    }
}

impl Drop for Solana {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Waits until `look` sees what it looks for.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> impl Future<Output = T> {
    let limit = Instant::now() + PATIENCE;
    async move {
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            assert!(Instant::now() < limit, "in vain: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// What `./dev` put together for the guests and the local Solana.
pub(crate) fn assets() -> PathBuf {
    PathBuf::from(std::env::var_os("PALATINE_ASSETS").expect("PALATINE_ASSETS is not set: run this by ./dev test"))
}

/// A program of ours, as it was built for this test.
pub(crate) fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_palatine")).with_file_name(name)
}

pub(crate) fn free_port() -> u16 {
    // Below those that connections are given: none takes it while what listens there is
    // started anew. The next one is for agents under paths.
    const PORTS: std::ops::Range<u64> = 20_000..32_000;
    let draws = (0_u32..).map(|draw| PORTS.start + RandomState::new().hash_one(draw) % (PORTS.end - PORTS.start));
    let is_free = |port: &u16| [*port, *port + 1].iter().all(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    draws.map(|port| u16::try_from(port).unwrap()).find(is_free).unwrap()
}

/// Which of the tests that run at the same time on this machine this one is: its
/// node's name, range and users are its own.
fn slot() -> u32 {
    std::env::var("NEXTEST_TEST_GROUP_SLOT").ok().and_then(|slot| slot.parse().ok()).map_or(0, |slot: u32| slot % 4)
}

/// Images and kernels are the same for all tests: they are made once.
pub(crate) fn images() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("images")
}

/// Offers the reference agent by this name.
fn offer(dir: &Path, name: &str) {
    let recipe = assets().join("images/agent-echo");
    let mut command = Command::new(program("palatine"));
    command.args(["image", "--config"]).arg(dir.join("palatine.toml")).arg("build").arg(recipe).arg(name);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn config(dir: &Path, solana: &Solana, port: u16, extra: &str) -> String {
    let path = |name: &str| dir.join(name).display().to_string();
    let base = format!(
        r#"
        [gateway]
        listen = ["127.0.0.1:{port}"]
        path_listen = ["127.0.0.1:{paths}"]
        token_key_file = "{key}"
        [limits]
        wallet_per_minute = 6000
        address_per_second = 1000
        [tiers.small]
        min = {SMALL}
        cores = 1
        memory = 192
        [tiers.large]
        min = {LARGE}
        cores = 2
        memory = 256
        [store]
        directory = "{store}"
        [solana]
        endpoints = ["{rpc}"]
        mint = "{mint}"
        cache_ms = 100
        [node]
        state = "{state}"
        socket = "{socket}"
        pod = "{pod}"
        accelerator = "tcg"
        on_shutdown = "stop"
        layer_mib = 256
        data_mib = 128
        first_uid = {first_uid}
        [network]
        name = "palatine{slot}"
        range = "10.202.{third}.0/18"
        [images]
        store = "{images}"
        [log]
        filter = "debug,hyper=info,h2=info,reqwest=info"
        "#,
        paths = free_port(),
        key = path("gateway/token.key"),
        store = path("gateway/store"),
        rpc = solana.rpc,
        mint = solana.mint,
        state = path("node"),
        socket = path("node.sock"),
        pod = assets().join("pod").display(),
        images = images().display(),
        slot = slot(),
        third = 64 * slot(),
        first_uid = 1_900_000_000 + 20_000 * slot(),
    );
    let mut config: toml::Table = base.parse().unwrap();
    let extra: toml::Table = extra.parse().unwrap();
    for (section, keys) in extra {
        let section = config.entry(section).or_insert_with(|| toml::Table::new().into());
        section.as_table_mut().unwrap().extend(keys.as_table().unwrap().clone());
    }
    toml::to_string(&config).unwrap()
}

fn secrecy_free_write(file: &Path, holder: &Holder) {
    use secrecy::ExposeSecret;
    fs::write(file, holder.keypair.to_json().expose_secret()).unwrap();
}

fn kill(part: &mut Option<Child>) {
    let mut child = part.take().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
}

fn terminate(child: &Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
}

fn wait(child: &mut Child) {
    let limit = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > limit {
            child.kill().ok();
            child.wait().ok();
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
