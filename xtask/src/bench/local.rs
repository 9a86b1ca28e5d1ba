//! A local EVM chain with our contracts on it, as `palatine up` has one.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chain::Endpoint;
use chain::evm::{Chain, EvmConfig, Key, calls, deploy_local};
use domain::evm::Call;
use domain::{Address, Usdc};
use relay::fake::Wallet;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::assets;
use super::machine::pin;

/// Cronos' testnet.
pub(super) const CHAIN_ID: u64 = 338;
/// The program, as npm installs it among the assets.
const ANVIL: &str = "evm/node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil";
/// How long the chain may take to start, or to answer.
const LIMIT: Duration = Duration::from_secs(30);
/// Wei that who sends transactions has: 10000 coins.
const COINS: &str = "0x21e19e0c9bab2400000";
/// Gas that one call may use.
const GAS: &str = "0x7a120";
/// Who deploys and mints.
const DEPLOYER: u64 = 1;
/// The name of the one pod.
const POD: &str = "bench";

/// A running chain on processor 0; it ends when dropped. It lets anybody send for
/// anybody, and makes a block for each transaction until it is told otherwise.
pub(super) struct Local {
    _child: Child,
    http: reqwest::Client,
    url: String,
}

impl Local {
    /// Starts it, and takes this process to processor 1.
    pub(super) async fn start() -> Result<Self> {
        pin(0)?;
        let mut child = Command::new(assets()?.join(ANVIL))
            .args(["--host", "127.0.0.1", "--port", "0", "--chain-id", &CHAIN_ID.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("start anvil")?;
        pin(1)?;
        let mut lines = BufReader::new(child.stdout.take().context("read anvil's output")?).lines();
        let listening = async {
            while let Some(line) = lines.next_line().await? {
                if let Some(place) = line.trim().strip_prefix("Listening on ") {
                    return Ok(format!("http://{place}"));
                }
            }
            anyhow::bail!("anvil did not say where it listens")
        };
        let url = tokio::time::timeout(LIMIT, listening).await.context("wait for anvil")??;
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let local = Self { _child: child, http: reqwest::Client::builder().no_proxy().build()?, url };
        local.ask("anvil_autoImpersonateAccount", json!([true])).await?;
        Ok(local)
    }

    /// A call of the RPC, which must succeed.
    pub(super) async fn ask(&self, method: &str, params: Value) -> Result<Value> {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let answer = self.http.post(&self.url).timeout(LIMIT).json(&body).send().await?;
        let mut answer: Value = answer.json().await?;
        ensure!(answer["error"].is_null(), "{method}: {answer}");
        Ok(answer["result"].take())
    }

    pub(super) async fn give_coins(&self, to: Address) -> Result<()> {
        self.ask("anvil_setBalance", json!([to, COINS])).await.map(drop)
    }

    /// Sends a call in somebody's name.
    pub(super) async fn send(&self, from: Address, call: &Call) -> Result<()> {
        let transaction = json!({"from": from, "to": call.to, "data": call.data, "gas": GAS});
        self.ask("eth_sendTransaction", json!([transaction])).await.map(drop)
    }

    /// Whether each transaction has its block at once.
    pub(super) async fn automine(&self, on: bool) -> Result<()> {
        self.ask("evm_setAutomine", json!([on])).await.map(drop)
    }

    pub(super) async fn mine(&self) -> Result<()> {
        self.ask("evm_mine", json!([])).await.map(drop)
    }

    /// Seconds, as the newest block has them.
    pub(super) async fn now(&self) -> Result<u64> {
        let block = self.ask("eth_getBlockByNumber", json!(["latest", false])).await?;
        let at = block["timestamp"].as_str().and_then(|text| text.strip_prefix("0x")).context("read a block's time")?;
        u64::from_str_radix(at, 16).context("read a block's time")
    }

    /// Our contracts; the holder has coins and this much USDC. The configuration is
    /// the one `palatine up` writes.
    pub(super) async fn deploy(&self, holder: Address, funds: Usdc) -> Result<EvmConfig> {
        let deployer = Wallet::new(DEPLOYER);
        self.give_coins(deployer.address()).await?;
        self.give_coins(holder).await?;
        let endpoint = || Endpoint(self.url.clone());
        let key = Key::new(deployer.signer().clone());
        let deployed = deploy_local(endpoint(), CHAIN_ID, &key, holder, funds).await.context("deploy the contracts")?;
        Ok(deployed.config(endpoint(), CHAIN_ID))
    }

    /// A vault whose owner is its agent as well.
    pub(super) async fn vault(&self, chain: &Chain, owner: Address) -> Result<Address> {
        let call = calls::create_vault(chain.evm.config().factory, POD, owner, owner, None);
        self.send(owner, &call).await?;
        let vault = chain.vault_of(POD, owner).await?;
        ensure!(chain.is_vault(vault).await?, "there is no vault at {vault}");
        Ok(vault)
    }
}
