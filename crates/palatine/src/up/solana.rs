//! The local Solana: a real validator of the JSON-RPC with the real SPL Token
//! program, a mint, and balances that we hand out.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use domain::Wallet;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{ChildStdin, ChildStdout, Command};

use super::process::Part;

const START_LIMIT: Duration = Duration::from_secs(30);

/// Where it answers, and the token's mint.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Place {
    pub(crate) rpc: String,
    pub(crate) mint: String,
}

/// The running chain.
#[derive(Debug)]
pub(crate) struct Solana {
    pub(crate) part: Part,
    pub(crate) place: Place,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Solana {
    /// Starts it; `assets/solana` holds its program.
    pub(crate) async fn start(assets: &Path, logs: &Path) -> Result<Self> {
        let mut command = Command::new("node");
        command.arg("chain.mjs").current_dir(assets.join("solana")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut part = Part::start("solana", logs, command)?;
        let commands = part.child().stdin.take().context("take its standard input")?;
        let stdout = part.child().stdout.take().context("take its standard output")?;
        let mut answers = BufReader::new(stdout).lines();
        let line = part.until(START_LIMIT, answers.next_line()).await??.context("read where it answers")?;
        let place = serde_json::from_str(&line).with_context(|| format!("understand {line:?}"))?;
        Ok(Self { part, place, commands, answers })
    }

    /// Gives a wallet so many whole tokens.
    pub(crate) async fn fund(&mut self, wallet: Wallet, tokens: u64) -> Result<()> {
        let mut command = serde_json::to_vec(&json!({"do": "fund", "wallet": wallet, "amount": tokens}))?;
        command.push(b'\n');
        self.commands.write_all(&command).await.context("ask the local Solana for tokens")?;
        let answer = self.part.until(START_LIMIT, self.answers.next_line()).await??.context("read its answer")?;
        let answer: Value = serde_json::from_str(&answer).with_context(|| format!("understand {answer:?}"))?;
        if answer["ok"] != true {
            bail!("the local Solana could not fund {wallet}: {}", answer["error"]);
        }
        Ok(())
    }
}
