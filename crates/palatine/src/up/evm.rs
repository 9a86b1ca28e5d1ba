//! The local EVM chain: anvil, with the chain id of Cronos' testnet. What was on
//! it is there again at the next start.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use chain::Endpoint;
use chain::evm::{Deployed, Key, deploy_local};
use domain::{Address, Usdc};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{ChildStdout, Command};
use toml::Table;
use x402::TokenConfig;

use super::keys::DevKey;
use super::process::Part;

/// The program, as npm installs it among the assets.
const ANVIL: &str = "evm/node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil";
/// Cronos' testnet.
pub(crate) const CHAIN_ID: u64 = 338;
/// Cronos' testnet, as x402 version 1 calls it.
const NETWORK: &str = "cronos-testnet";
/// The test token's EIP-712 domain, which is the real one's.
const TOKEN_NAME: &str = "Bridged USDC (Stargate)";
const TOKEN_VERSION: &str = "2";
/// What the development owner has.
const OWNER_USDC: Usdc = Usdc(10_000_000_000);
/// Wei that who sends transactions has: 10000 coins.
const COINS: &str = "0x21e19e0c9bab2400000";
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

/// The keys of the local chain, and the chain itself on disk.
#[derive(Clone, Debug)]
pub(crate) struct EvmKeys {
    pub(crate) chain: PathBuf,
    /// Deploys and mints.
    deployer: DevKey,
    relayer: DevKey,
    pub(crate) owner: DevKey,
}

impl EvmKeys {
    /// The keys in this folder. A deployer whose chain is gone is forgotten: with
    /// another one, another factory stands, and no books of the old one are taken
    /// for its.
    pub(crate) fn at(dir: &Path) -> Result<Self> {
        let key = |name| DevKey::at(dir, name);
        let keys = Self {
            chain: dir.join("chain.json"),
            deployer: key("deployer"),
            relayer: key("relayer"),
            owner: key("owner"),
        };
        if !keys.chain.exists() {
            keys.deployer.forget()?;
        }
        Ok(keys)
    }
}

/// What stands on the local chain.
#[derive(Clone, Debug)]
pub(crate) struct Contracts {
    pub(crate) rpc: String,
    pub(crate) deployed: Deployed,
    pub(crate) owner: Address,
    relayer: DevKey,
}

impl Contracts {
    /// Puts our contracts onto the chain, as far as they are not there, gives the
    /// owner test USDC, and the relayer coins. The owner gets no coins: nothing of
    /// his needs any.
    pub(crate) async fn deploy(rpc: &str, keys: &EvmKeys) -> Result<Self> {
        let (deployer, relayer, owner) = (keys.deployer.open()?, keys.relayer.open()?, keys.owner.open()?);
        for account in [deployer.address(), relayer.address()] {
            give_coins(rpc, account).await?;
        }
        let endpoint = Endpoint(rpc.to_owned());
        let key = Key::new(deployer);
        let deployed = deploy_local(endpoint, CHAIN_ID, &key, owner.address(), OWNER_USDC).await;
        let deployed = deployed.context("put our contracts onto the local chain")?;
        Ok(Self { rpc: rpc.to_owned(), deployed, owner: owner.address(), relayer: keys.relayer.clone() })
    }

    /// Where the relayer's key lies.
    pub(crate) const fn relayer(&self) -> &DevKey {
        &self.relayer
    }

    /// The token, for `[[x402.tokens]]`.
    pub(crate) fn token(&self) -> Result<Table> {
        let token = token(self.deployed.usdc);
        Ok(toml::Table::try_from(token)?)
    }
}

/// The local chain's token, as payments know it.
pub(crate) fn token(usdc: Address) -> TokenConfig {
    TokenConfig {
        chain_id: CHAIN_ID,
        network: NETWORK.to_owned(),
        address: usdc,
        name: TOKEN_NAME.to_owned(),
        version: TOKEN_VERSION.to_owned(),
    }
}

/// Sets an account's coins, as this chain lets anybody do.
async fn give_coins(rpc: &str, account: Address) -> Result<()> {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "anvil_setBalance", "params": [account, COINS]});
    let body = serde_json::to_vec(&body)?;
    let request = reqwest::Client::new().post(rpc).header("content-type", "application/json").body(body);
    let answer = request.send().await.context("give coins on the local chain")?.bytes().await?;
    let answer: Value = serde_json::from_slice(&answer).context("read the local chain's answer")?;
    match answer.get("error") {
        None => Ok(()),
        Some(error) => bail!("the local chain gives {account} no coins: {error}"),
    }
}

/// Where it listens, as it says itself.
async fn place(lines: &mut Lines<BufReader<ChildStdout>>) -> Result<String> {
    while let Some(line) = lines.next_line().await.context("read where the local chain answers")? {
        if let Some(place) = line.trim().strip_prefix(LISTENING) {
            return Ok(place.to_owned());
        }
    }
    bail!("the local chain did not say where it answers")
}
