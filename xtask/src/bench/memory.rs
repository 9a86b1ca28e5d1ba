//! What our programs hold in memory, per running guest.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use client::NodeClient;
use domain::{Generation, RunId};
use rustix::process::{Pid, Signal};
use tempfile::TempDir;
use wire::v1::node::{DataDisk, SandboxPhase, SandboxSpec};

use super::figures::Figure;
use super::{assets, programs, scratch};

/// Guests that run side by side.
const GUESTS: u32 = 6;
/// Memory of each, in MiB.
const GUEST_MIB: u64 = 192;
/// How long a node and its guests may take.
const LIMIT: Duration = Duration::from_secs(120);

/// The node's own memory per guest, and `pod`'s as it told before.
pub(super) fn figures(pods: &[u64]) -> Result<Vec<Figure>> {
    let node = Node::start()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (idle, busy) = runtime.block_on(node.fill())?;
    drop(node);
    let per_guest = (busy - idle) / f64::from(GUESTS);
    let pod = pods.iter().max().copied().unwrap_or_default();
    Ok(vec![
        Figure::new("hypercore: resident, no guest", idle, "MiB"),
        Figure::new(format!("hypercore: resident, {GUESTS} guests"), busy, "MiB"),
        Figure::new("hypercore: resident per running guest", per_guest, "MiB").against(1.0, "at most"),
        Figure::new("pod: resident, largest seen", mib(pod), "MiB").against(12.0, "at most"),
    ])
}

fn mib(bytes: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let bytes = bytes as f64;
    bytes / (1024.0 * 1024.0)
}

/// A node; it and its guests end when it is dropped, before its folder goes.
struct Node {
    child: Child,
    client: NodeClient,
    _dir: TempDir,
}

impl Node {
    fn start() -> Result<Self> {
        let dir = TempDir::with_prefix_in("palatine-bench-", scratch())?;
        let path = |name: &str| dir.path().join(name).display().to_string();
        let config = format!(
            "[node]\nstate = \"{}\"\nsocket = \"{}\"\npod = \"{}\"\non_shutdown = \"stop\"\naccelerator = \"tcg\"\n\
             [network]\nname = \"bench\"\nrange = \"10.211.0.0/16\"\n[images]\nstore = \"{}\"\n",
            path("node"),
            path("node.sock"),
            assets()?.join("pod").display(),
            path("images"),
        );
        fs::write(dir.path().join("palatine.toml"), config)?;
        let images = image::Config { store: dir.path().join("images"), ..image::Config::default() };
        let recipe = assets()?.join("images/agent-echo");
        image::ImageStore::open(&images)?.build(
            &recipe,
            &image::BuildOptions::default(),
            "echo",
            &image::NoProgress,
        )?;
        let mut command = Command::new(programs()?.join("hypercore"));
        command.arg("--config").arg(dir.path().join("palatine.toml")).stdin(Stdio::null()).stderr(Stdio::null());
        let client = NodeClient::new(dir.path().join("node.sock"));
        Ok(Self { child: command.spawn()?, _dir: dir, client })
    }

    /// Resident MiB before and after the guests were started.
    async fn fill(&self) -> Result<(f64, f64)> {
        let limit = Instant::now() + LIMIT;
        let info = loop {
            match self.client.info().await {
                Ok(info) => break info,
                Err(error) if Instant::now() > limit => return Err(error).context("wait for the node"),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        let image = *info.images.get("echo").context("find the image")?;
        let idle = self.resident()?;
        for guest in 0..GUESTS {
            let id = RunId::from_bits(u64::from(guest));
            let spec = SandboxSpec {
                pod: id.into(),
                data: DataDisk::KeptOrEmpty,
                generation: Generation::FIRST,
                image,
                cores: 1,
                memory_mib: GUEST_MIB,
                volumes: Vec::new(),
                runtime: None,
                env: wire::Environment::default(),
            };
            self.client.create(id, &spec, None).await?;
            let sandbox = self.client.wait_ready(id, LIMIT).await?.context("find the sandbox")?;
            ensure!(sandbox.phase == SandboxPhase::Ready, "guest {guest} is {:?}", sandbox.phase);
        }
        Ok((idle, self.resident()?))
    }

    fn resident(&self) -> Result<f64> {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id()))?;
        let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:")).context("find Rss")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(mib(kib * 1024))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM).ok();
        self.child.wait().ok();
    }
}
