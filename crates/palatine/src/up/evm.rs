//! The local EVM chain: anvil, with the chain id of Cronos' testnet. What was on
//! it is there again at the next start.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{ChildStdout, Command};

use super::process::Part;

/// The program, as npm installs it among the assets.
const ANVIL: &str = "evm/node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil";
/// Cronos' testnet.
pub(crate) const CHAIN_ID: u64 = 338;
/// How often the chain is written to disk, beside the time it ends.
const SAVE_EVERY_S: u64 = 10;
const START_LIMIT: Duration = Duration::from_secs(30);
/// How the program says where it listens.
const LISTENING: &str = "Listening on ";

/// The running chain.
#[derive(Debug)]
pub(crate) struct Evm {
    pub(crate) part: Part,
    /// Where its JSON-RPC answers.
    pub(crate) rpc: String,
    /// Its output is read for as long as it runs: a full pipe would stop it.
    _output: tokio::task::JoinHandle<()>,
}

impl Evm {
    /// Starts it, with the chain of `state` if there is one.
    pub(crate) async fn start(assets: &Path, logs: &Path, state: &Path) -> Result<Self> {
        let mut command = Command::new(assets.join(ANVIL));
        command.args(["--host", "127.0.0.1", "--port", "0"]);
        command.args(["--chain-id", &CHAIN_ID.to_string(), "--state-interval", &SAVE_EVERY_S.to_string()]);
        command.arg("--state").arg(state).stdin(Stdio::null()).stdout(Stdio::piped());
        // A Ctrl-C is for us alone: we end the parts in their order.
        command.process_group(0);
        let mut part = Part::start("evm", logs, command)?;
        let stdout = part.child().stdout.take().context("take its standard output")?;
        let mut lines = BufReader::new(stdout).lines();
        let place = part.until(START_LIMIT, place(&mut lines)).await??;
        let output = tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self { part, rpc: format!("http://{place}"), _output: output })
    }
}

/// Where it listens, as it says itself.
async fn place(lines: &mut Lines<BufReader<ChildStdout>>) -> Result<String> {
    while let Some(line) = lines.next_line().await.context("read where the local chain answers")? {
        if let Some(place) = line.trim().strip_prefix(LISTENING) {
            return Ok(place.to_owned());
        }
    }
    anyhow::bail!("the local chain did not say where it answers")
}
