//! Cold spawn to ready through the whole product, beside the same QEMU started by
//! hand; and what our programs hold per guest.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use auth::Keypair;
use domain::{Clock, SystemClock};
use serde_json::Value;
use tempfile::TempDir;

use super::figures::{Figure, percentile};
use super::{assets, programs, scratch};

/// Starts of each kind, in turn.
const ROUNDS: usize = 9;
/// Where the stack under test answers.
const LISTEN: &str = "127.0.0.1:18572";
/// The namespace of the starts by hand.
const NAMESPACE: &str = "palatine-bench";

/// Measures, and returns the figures.
pub(super) fn run() -> Result<Vec<Figure>> {
    let mut stack = ProductStack::start()?;
    let network = BareNetwork::make()?;
    let mut product = Vec::new();
    let mut bare = Vec::new();
    let mut pods = Vec::new();
    for round in 0..ROUNDS {
        eprintln!("  start {} of {ROUNDS}", round + 1);
        let agent = stack.spawn()?;
        product.push(agent.took);
        let like = stack.guest_command()?;
        pods.push(stack.pod_memory(&agent.id)?);
        stack.stop(&agent.id)?;
        bare.push(by_hand(&stack, &like)?);
    }
    drop(network);
    stack.end()?;
    let mut figures = ratio(&product, &bare);
    figures.extend(super::memory::figures(&pods)?);
    Ok(figures)
}

fn ratio(product: &[Duration], bare: &[ByHand]) -> Vec<Figure> {
    let starts: Vec<Duration> = bare.iter().map(|start| start.took).collect();
    let pairs = product
        .iter()
        .zip(&starts)
        .map(|(ours, floor)| Duration::from_secs_f64(ours.as_secs_f64() / floor.as_secs_f64()));
    let ratios: Vec<Duration> = pairs.collect();
    let mut figures = vec![
        Figure::new("cold spawn to ready, signed request to answer, median", millis(percentile(product, 0.5)), "ms"),
        Figure::new("the same QEMU by hand to the same userspace, median", millis(percentile(&starts, 0.5)), "ms"),
        Figure::new(
            "cold spawn to ready over the same QEMU by hand, median of pairs",
            percentile(&ratios, 0.5).as_secs_f64(),
            "×",
        )
        .against(1.15, "at most"),
    ];
    let listening = bare.iter().map(|start| start.pod("listening_after_us"));
    let listening: Vec<Duration> = listening.collect();
    figures.push(
        Figure::new("pod: first instruction to listening, median", millis(percentile(&listening, 0.5)), "ms")
            .against(20.0, "at most"),
    );
    let steps = bare.first().and_then(|start| start.status["timings_us"].as_object());
    for step in steps.into_iter().flat_map(|steps| steps.keys()) {
        let times: Vec<Duration> = bare.iter().map(|start| start.step(step)).collect();
        figures.push(Figure::new(format!("pod: step {step}, median"), millis(percentile(&times, 0.5)), "ms"));
    }
    figures
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// A start by hand.
struct ByHand {
    took: Duration,
    status: Value,
}

impl ByHand {
    fn pod(&self, key: &str) -> Duration {
        Duration::from_micros(self.status[key].as_u64().unwrap_or_default())
    }

    fn step(&self, name: &str) -> Duration {
        Duration::from_micros(self.status["timings_us"][name].as_u64().unwrap_or_default())
    }
}

fn by_hand(stack: &ProductStack, like: &Path) -> Result<ByHand> {
    let scratch = TempDir::with_prefix_in("palatine-bench-", scratch())?;
    let (base, run) = stack.image()?;
    let disks: Vec<PathBuf> = ["layer", "data"].iter().map(|name| scratch.path().join(name)).collect();
    for disk in &disks {
        let made = Command::new("mke2fs")
            .args(["-q", "-t", "ext4", "-F"])
            .arg(disk)
            .arg("1G")
            .stdout(Stdio::null())
            .status()?;
        ensure!(made.success(), "mke2fs: {made}");
    }
    add_neighbour(like)?;
    let mut command = Command::new("ip");
    command.args(["netns", "exec", NAMESPACE]).arg(std::env::current_exe()?).arg("bench-bare");
    command.arg("--like").arg(like).arg("--run").arg(run).arg("--disks").arg(base).args(&disks);
    let output = command.stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "the start by hand failed: {}", output.status);
    let said: Value = serde_json::from_slice(&output.stdout)?;
    let took = Duration::from_secs_f64(said["ready_ms"].as_f64().context("read ready_ms")? / 1000.0);
    Ok(ByHand { took, status: said["status"].clone() })
}

/// Tells the namespace where the guest is, as the product does: asking for it costs
/// up to a second when the first question comes before the guest.
fn add_neighbour(like: &Path) -> Result<()> {
    let words = fs::read_to_string(like)?;
    let mac = words.split(['\n', ',']).find_map(|word| word.strip_prefix("mac=")).context("find the guest's MAC")?;
    let guest = wire::v1::pod::GUEST_ADDRESS;
    ip(&format!("-n {NAMESPACE} neigh replace {guest} lladdr {mac} dev tap0 nud permanent"))
}

/// The namespace and the tap of the starts by hand: made beforehand, not timed.
struct BareNetwork;

impl BareNetwork {
    fn make() -> Result<Self> {
        let gateway = wire::v1::pod::GATEWAY_ADDRESS;
        let inside = [
            "tuntap add tap0 mode tap".to_owned(),
            format!("addr add {gateway}/30 dev tap0"),
            "link set tap0 up".to_owned(),
            "link set lo up".to_owned(),
        ];
        // One that was killed has left its own.
        if Path::new("/run/netns").join(NAMESPACE).exists() {
            drop(Self);
        }
        ip(&format!("netns add {NAMESPACE}"))?;
        let network = Self;
        for words in inside {
            ip(&format!("-n {NAMESPACE} {words}"))?;
        }
        Ok(network)
    }
}

impl Drop for BareNetwork {
    fn drop(&mut self) {
        if let Err(error) = ip(&format!("netns del {NAMESPACE}")) {
            eprintln!("{error:#}");
        }
    }
}

fn ip(words: &str) -> Result<()> {
    let status = Command::new("ip").args(words.split(' ')).status()?;
    ensure!(status.success(), "ip {words}: {status}");
    Ok(())
}

/// The product, as `palatine up` runs it.
struct ProductStack {
    dir: TempDir,
    up: bool,
    web: reqwest::blocking::Client,
    holder: Keypair,
}

struct Spawned {
    id: String,
    took: Duration,
}

impl ProductStack {
    fn start() -> Result<Self> {
        let dir = TempDir::with_prefix_in("palatine-bench-", scratch())?;
        palatine(&dir, &["up", "--detach", "--no-agent", "--listen", LISTEN])?;
        let holder = fs::read_to_string(dir.path().join("holder.json"))?;
        let web = reqwest::blocking::Client::builder().no_proxy().timeout(Duration::from_secs(120)).build()?;
        Ok(Self { dir, up: true, web, holder: Keypair::from_json(&holder)? })
    }

    fn end(&mut self) -> Result<()> {
        self.up = false;
        palatine(&self.dir, &["down"])
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> Result<Value> {
        let signed = auth::BoundRequest { method, path, body: body.as_bytes() };
        let headers = self.holder.sign_request(&LISTEN.parse()?, &signed, SystemClock.now());
        let request = self.web.request(method.parse()?, format!("http://{LISTEN}{path}")).body(body.to_owned());
        let request = request.header("content-type", "application/json").header("x-wallet", headers.wallet);
        let request = request.header("x-signature", headers.signature).header("x-timestamp", headers.timestamp);
        let answer = request.header("x-audience", LISTEN).send()?;
        let status = answer.status();
        let text = answer.text()?;
        ensure!(status.is_success(), "{method} {path}: {status}: {text}");
        Ok(serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    fn spawn(&self) -> Result<Spawned> {
        let since = Instant::now();
        let answer = self.ask("POST", "/spawn", r#"{"agent_type":"echo"}"#)?;
        let took = since.elapsed();
        let id = answer["agent"]["id"].as_str().context("read the agent's id")?.to_owned();
        Ok(Spawned { id, took })
    }

    fn stop(&self, id: &str) -> Result<()> {
        self.ask("POST", &format!("/stop/{id}"), "").map(drop)
    }

    /// The command line of the one guest that runs, a word a line, in a file.
    fn guest_command(&self) -> Result<PathBuf> {
        let pid = self.node(async |node| Ok(node.list().await?.sandboxes))?;
        let pid = pid.first().and_then(|sandbox| sandbox.pid).context("find the guest's process")?;
        let words = String::from_utf8(fs::read(format!("/proc/{pid}/cmdline"))?)?;
        let words: Result<Vec<String>> =
            words.trim_end_matches('\0').split('\0').map(|word| self.seen(pid, word)).collect();
        let path = self.dir.path().join("guest-command");
        fs::write(&path, words?.join("\n"))?;
        Ok(path)
    }

    /// A word of a command line; a file of the guest's own root gets a copy outside.
    fn seen(&self, pid: u32, word: &str) -> Result<String> {
        let Some(name) = word.strip_prefix("/kernel/") else { return Ok(word.to_owned()) };
        let copy = self.dir.path().join(name);
        fs::copy(format!("/proc/{pid}/root{word}"), &copy).with_context(|| format!("copy the guest's {name}"))?;
        Ok(copy.display().to_string())
    }

    /// Resident memory of `pod`, as its own metrics say.
    fn pod_memory(&self, id: &str) -> Result<u64> {
        let id = id.parse()?;
        let metrics = self.node(async |node| Ok(node.guest_metrics(id).await?))?;
        let line =
            metrics.lines().find(|line| line.starts_with("pod_resident_bytes")).context("find pod_resident_bytes")?;
        let value = line.rsplit(' ').next().context("read pod_resident_bytes")?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bytes, written as a float")]
        Ok(value.parse::<f64>()? as u64)
    }

    fn node<T>(&self, ask: impl AsyncFnOnce(client::NodeClient) -> Result<T>) -> Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(ask(client::NodeClient::new(self.dir.path().join("node.sock"))))
    }

    /// The disk of the image and, in a file, how it is run.
    fn image(&self) -> Result<(PathBuf, PathBuf)> {
        let config = image::Config { store: self.dir.path().join("images"), ..image::Config::default() };
        let store = image::ImageStore::open(&config)?;
        let image = store.get(&store.resolve("echo")?)?;
        let run = self.dir.path().join("run.json");
        fs::write(&run, serde_json::to_vec(&image.run)?)?;
        Ok((image.disk, run))
    }
}

impl Drop for ProductStack {
    fn drop(&mut self) {
        if self.up
            && let Err(error) = self.end()
        {
            eprintln!("{error:#}");
        }
    }
}

fn palatine(dir: &TempDir, words: &[&str]) -> Result<()> {
    let mut command = Command::new(programs()?.join("palatine"));
    command.args(words).env("PALATINE_STATE", dir.path()).env("PALATINE_ASSETS", assets()?).stdout(Stdio::null());
    let status = command.status()?;
    ensure!(status.success(), "palatine {words:?}: {status}");
    Ok(())
}
