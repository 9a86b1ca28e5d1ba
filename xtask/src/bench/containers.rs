//! Container spawn to ready through the whole product, beside `ctr run` of the same container by
//! the same runtime to the same userspace; and the floors under both.

use std::fs::{self, DirBuilder, File, Permissions};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use fixtures::{SMALL, SpawnedAgent, Stack};
use reqwest::Method;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};
use wire::v1::pod::GuestConfig;

use super::bare;
use super::figures::{Figure, percentile};

/// Starts of each kind, in turn.
const ROUNDS: usize = 9;
/// A stack in which the tier of the benchmark's holders has machines and containers.
pub(super) const BOTH: &str = "[node]\nruntimes = [\"qemu\", \"container-runc\"]\n[log]\nfilter = \"info\"\n\
                               [tiers.small]\nmin = 100000\ncores = 1\nmemory = 192\n\
                               runtimes = [\"qemu\", \"container-runc\"]\n";
/// Where the copies lie that are started by hand: their users must be able to come there.
const PLACE: &str = "/run/palatine-bench";
/// Their namespace in containerd, and the start of their cgroups' names.
const NAME: &str = "palatine-bench";
/// What a container stands on, as the node has put it together.
const PARTS: [&str; 6] = ["root", "data", "pod", "hosts", "hostname", "resolv.conf"];

/// Runs what awaits.
pub(super) fn within<T>(act: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(act)
}

/// Measures, and returns the figures.
pub(super) fn run() -> Result<Vec<Figure>> {
    within(async {
        let mut stack = Stack::start(BOTH).await;
        let holder = stack.holder(SMALL);
        let wish = json!({"agent_type": "echo", "runtime": "container-runc"});
        let (mut product, mut by_ctr, mut word, mut floor, mut by_hand) = (vec![], vec![], vec![], vec![], None);
        for round in 0..ROUNDS {
            eprintln!("  start {} of {ROUNDS}", round + 1);
            let since = Instant::now();
            let answer = stack.ask(&holder, Method::POST, "/spawn", wish.clone()).await.expect(200);
            product.push(since.elapsed());
            let agent = SpawnedAgent::of(&answer);
            if by_hand.is_none() {
                by_hand = Some(ByHand::like(&stack, &agent)?);
            }
            stack.stop(&holder, &agent.id).await.expect(200);
            let by_hand = by_hand.as_ref().context("copy the product's container")?;
            let took =
                tokio::task::block_in_place(|| anyhow::Ok((by_hand.ready()?, by_hand.word()?, by_hand.runc()?)))?;
            by_ctr.push(took.0);
            word.push(took.1);
            floor.push(took.2);
        }
        drop(by_hand);
        stack.end();
        Ok(figures(&product, &by_ctr, &word, &floor))
    })
}

fn figures(product: &[Duration], by_ctr: &[Duration], word: &[Duration], floor: &[Duration]) -> Vec<Figure> {
    let millis = |times: &[Duration]| percentile(times, 0.5).as_secs_f64() * 1e3;
    let pairs = product.iter().zip(by_ctr).map(|(ours, theirs)| ours.as_secs_f64() / theirs.as_secs_f64());
    let ratios: Vec<Duration> = pairs.map(Duration::from_secs_f64).collect();
    vec![
        Figure::new("container spawn to ready, signed request to answer, median", millis(product), "ms"),
        Figure::new("ctr run of the same container to the same userspace, median", millis(by_ctr), "ms"),
        Figure::new(
            "container spawn to ready over ctr run, runc, median of pairs",
            percentile(&ratios, 0.5).as_secs_f64(),
            "×",
        )
        .against(1.2, "at most"),
        Figure::new("… floor: ctr run to the end of a program of one word", millis(word), "ms"),
        Figure::new("… floor: runc run of the same", millis(floor), "ms"),
    ]
}

/// A container as the product's, in containerd's hands without ours.
struct ByHand {
    containerd: PathBuf,
    spec: Value,
    identity: GuestConfig,
    folder: PathBuf,
}

impl ByHand {
    /// Copies what the product's container stands on, and how it is made.
    fn like(stack: &Stack, agent: &SpawnedAgent) -> Result<Self> {
        let run = agent.text("run");
        let node = stack.path("node/containerd");
        let bundle = node.join("state/io.containerd.runtime.v2.task/palatine").join(run);
        let spec = fs::read_to_string(bundle.join("config.json")).context("read how the container is made")?;
        let mut spec: Value = serde_json::from_str(&spec)?;
        let root = PathBuf::from(spec["root"]["path"].as_str().context("read its root")?);
        let place = root.parent().context("read its place")?;
        let folder = PathBuf::from(PLACE);
        let made = Self::lay(&node, &folder, place).and_then(|()| {
            let text = spec.to_string().replace(&*place.to_string_lossy(), PLACE);
            spec = serde_json::from_str(&text)?;
            identity(stack)
        });
        match made {
            Ok(identity) => Ok(Self { containerd: node.join("grpc.sock"), spec, identity, folder }),
            Err(error) => {
                fs::remove_dir_all(&folder).ok();
                Err(error)
            }
        }
    }

    fn lay(node: &Path, folder: &Path, place: &Path) -> Result<()> {
        ensure!(node.exists(), "{} is not there", node.display());
        if folder.exists() {
            // One that was killed has left it.
            fs::remove_dir_all(folder)?;
        }
        DirBuilder::new().mode(0o711).create(folder)?;
        fs::set_permissions(folder, Permissions::from_mode(0o711))?;
        for part in PARTS {
            let copied = Command::new("cp").arg("-a").arg(place.join(part)).arg(folder).status()?;
            ensure!(copied.success(), "cp {part}: {copied}");
        }
        Ok(())
    }

    /// Writes how the container is made that is started next, with these words as its program.
    fn write(&self, path: &Path, id: &str, words: &[&str]) -> Result<()> {
        let mut spec = self.spec.clone();
        spec["process"]["args"] = json!(words);
        spec["linux"]["cgroupsPath"] = json!(format!("/{id}"));
        // Those that the product's joins are gone; of its own it is made as runc makes any.
        for namespace in spec["linux"]["namespaces"].as_array_mut().into_iter().flatten() {
            if let Some(namespace) = namespace.as_object_mut() {
                namespace.remove("path");
            }
        }
        Ok(fs::write(path, spec.to_string())?)
    }

    fn ctr(&self, words: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(&self.containerd).args(["--namespace", NAME]).args(words);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// From `ctr run` to an agent that is ready.
    fn ready(&self) -> Result<Duration> {
        let (spec, pid) = (self.folder.join("config.json"), self.folder.join("pid"));
        let node = Ipv4Addr::LOCALHOST;
        let listen = SocketAddr::from((node, wire::v1::pod::PORT));
        let pod = ["/run/palatine/pod", "run", "--listen", &listen.to_string(), "--node", &node.to_string()]
            .map(str::to_owned);
        self.write(&spec, NAME, &pod.each_ref().map(String::as_str))?;
        let mut run = self.ctr(&["run", "--detach", "--runtime", "io.containerd.runc.v2", "--pid-file"]);
        run.arg(&pid).arg("--config").arg(&spec).arg(NAME);
        let since = Instant::now();
        let status = run.status()?;
        ensure!(status.success(), "ctr run: {status}");
        let pid = fs::read_to_string(pid)?;
        let network = File::open(format!("/proc/{}/ns/net", pid.trim()))?;
        let identity = &self.identity;
        let asked = thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(std::os::fd::AsFd::as_fd(&network), Some(LinkNameSpaceType::Network))?;
                bare::ready(&bare::client()?, identity, listen, || Ok(()))?;
                anyhow::Ok(since.elapsed())
            });
            inside.join().map_err(|_| anyhow!("who asked pod has died"))
        });
        for words in [&["tasks", "rm", "--force", NAME][..], &["containers", "rm", NAME]] {
            ensure!(self.ctr(words).status()?.success(), "ctr {words:?}");
        }
        asked?
    }

    /// From `ctr run` to the end of a program that says one word.
    fn word(&self) -> Result<Duration> {
        let spec = self.folder.join("config.json");
        self.write(&spec, NAME, &["/usr/bin/agent-echo", "tell", "cores"])?;
        let mut run = self.ctr(&["run", "--rm", "--runtime", "io.containerd.runc.v2", "--config"]);
        timed(run.arg(&spec).arg(NAME))
    }

    /// The same by runc alone.
    fn runc(&self) -> Result<Duration> {
        let mut run = Command::new("runc");
        run.arg("--root").arg(self.folder.join("runc")).args(["run", "--bundle"]).arg(&self.folder).arg(NAME);
        timed(run.stdin(Stdio::null()).stdout(Stdio::null()))
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            eprintln!("{}: {error}", self.folder.display());
        }
    }
}

fn timed(command: &mut Command) -> Result<Duration> {
    let since = Instant::now();
    let status = command.status()?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(since.elapsed())
}

/// The identity of a guest that runs the agent of the benchmark.
fn identity(stack: &Stack) -> Result<GuestConfig> {
    let config = image::Config { store: fixtures::images(), ..image::Config::default() };
    ensure!(stack.path("palatine.toml").exists(), "the stack is gone");
    let store = image::ImageStore::open(&config)?;
    bare::guest_config(store.get(&store.resolve("echo")?)?.run)
}
