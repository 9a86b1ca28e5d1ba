//! Our own programs as parts of a stack: the node and the gateway.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use client::NodeClient;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use super::health::{HealthRecorder, PartName};
use super::process::Part;
use super::state::StateDir;
use super::supervise::{ASK_EVERY, Service};

/// The first start of a node tries its accelerator with a guest.
pub(super) const NODE_LIMIT: Duration = Duration::from_secs(60);
/// How long a gateway may take to answer.
pub(super) const GATEWAY_LIMIT: Duration = Duration::from_secs(30);

/// How often the gateway is asked whether it has the vaults' chain in reach.
const ASK_CHAIN_EVERY: Duration = Duration::from_millis(100);

/// How long that is waited for.
pub(super) const CHAIN_LIMIT: Duration = Duration::from_secs(10);

/// The node. One that hangs is only told of: its guests go on, and it may come back.
pub(super) struct NodeService {
    state: StateDir,
}

impl NodeService {
    pub(super) fn new(state: &StateDir) -> Self {
        Self { state: state.clone() }
    }
}

impl Service for NodeService {
    const NAME: PartName = PartName::Hypercore;
    const RESTARTS_WHEN_HUNG: bool = false;

    async fn start(&mut self, part: &mut Option<Part>, recorder: &HealthRecorder) -> Result<()> {
        let part = part.insert(start(Self::NAME, "hypercore", &self.state, &[])?);
        recorder.spawned(Self::NAME, part.facts());
        part.until(NODE_LIMIT, async {
            while self.probe().await.is_err() {
                sleep(ASK_EVERY).await;
            }
        })
        .await
    }

    async fn probe(&self) -> Result<()> {
        let info = NodeClient::new(self.state.socket()).info().await;
        info.map(drop).context("ask the node what it is")
    }
}

/// The gateway.
pub(super) struct GatewayService {
    state: StateDir,
    url: String,
}

impl GatewayService {
    pub(super) fn new(state: &StateDir, url: &str) -> Self {
        Self { state: state.clone(), url: url.to_owned() }
    }
}

impl Service for GatewayService {
    const NAME: PartName = PartName::Gateway;
    const RESTARTS_WHEN_HUNG: bool = false;

    async fn start(&mut self, part: &mut Option<Part>, recorder: &HealthRecorder) -> Result<()> {
        let part = part.insert(start(Self::NAME, "palatine", &self.state, &["serve"])?);
        recorder.spawned(Self::NAME, part.facts());
        // It runs when it answers: while another part is sick it is not ready, and that is
        // no reason to kill it.
        part.until(GATEWAY_LIMIT, async {
            while !self.get("/health").await.is_ok_and(|answer| answer.status().is_success()) {
                sleep(ASK_EVERY).await;
            }
        })
        .await
    }

    /// `/ready` knows of the gateway and of what it works with.
    async fn probe(&self) -> Result<()> {
        let answer = self.get("/ready").await?;
        let status = answer.status();
        let said: wire::v1::public::ReadyResponse = answer.json().await.context("read the gateway's answer")?;
        if status.is_success() { Ok(()) } else { bail!("{}", said.status) }
    }
}

impl GatewayService {
    /// Waits until the vaults' chain is in the gateway's reach: what is typed first may need it.
    /// Without it agents live all the same, so that it is only told of, after a while.
    pub(super) async fn until_chain_answers(&self) {
        let answers = async {
            while !self.get("/chain").await.is_ok_and(|answer| answer.status().is_success()) {
                sleep(ASK_CHAIN_EVERY).await;
            }
        };
        if timeout(CHAIN_LIMIT, answers).await.is_err() {
            eprintln!("! The gateway does not reach the local EVM chain yet: vaults and payments wait for it.");
        }
    }

    async fn get(&self, path: &str) -> Result<reqwest::Response> {
        let client = reqwest::Client::builder().no_proxy().build()?;
        client.get(format!("{}{path}", self.url)).send().await.context("ask the gateway")
    }
}

/// Starts a program of ours, which lies beside our own.
fn start(name: PartName, program: &str, state: &StateDir, words: &[&str]) -> Result<Part> {
    let own = std::env::current_exe().context("find our own program")?;
    let path = own.parent().unwrap_or(Path::new("/")).join(program);
    let mut command = Command::new(path);
    command.args(words).arg("--config").arg(state.config());
    command.stdin(Stdio::null()).stdout(Stdio::null());
    // A Ctrl-C is for us alone: we end the parts in their order.
    command.process_group(0);
    Part::start(name.as_str(), &state.logs(), command)
}
