//! The local EVM chain: anvil, with the chain id of Cronos' testnet. What was on
//! it is there again at the next start.

use std::cell::Cell;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use chain::Endpoint;
use chain::evm::{LocalContracts, SigningKey, deploy_local};
use domain::{Address, Usdc};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{ChildStdout, Command};
use tokio_util::task::AbortOnDropHandle;
use toml::Table;
use x402::TokenConfig;

use super::health::{HealthRecorder, PartName};
use super::keys::DevKeyFile;
use super::process::Part;
use super::state::StateDir;
use super::supervise::Service;
use super::wal::Wal;

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
/// How often the chain is written to disk, beside the time it ends. What it is told
/// meanwhile is in its write-ahead log.
const SAVE_EVERY_S: u64 = 2;
/// How often what was written is looked at, and kept beside it if it is whole.
const BACKUP_EVERY: Duration = Duration::from_secs(20);
/// States of past blocks that are held in memory; none is written to disk. Without a
/// bound there would be one more for each transaction, for ever.
const STATES: &str = "128";
/// Three contracts and some money.
const CONTRACTS_LIMIT: Duration = Duration::from_secs(60);
/// How long an answer may take.
const CALL_LIMIT: Duration = Duration::from_secs(30);
/// `balanceOf(address)`.
const BALANCE_OF: &str = "0x70a08231";
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long its first start may take.
pub(super) const FIRST_START_LIMIT: Duration = START_LIMIT.saturating_add(CONTRACTS_LIMIT);
/// How the program says where it listens.
const LISTENING: &str = "Listening on ";

/// The chain: what it is started with, each time.
#[derive(Debug)]
pub(super) struct EvmService {
    program: PathBuf,
    logs: PathBuf,
    /// Where clients come in: the same at each start, so that what was told of it stays
    /// true.
    port: u16,
    listener: Option<TcpListener>,
    proxy: Option<AbortOnDropHandle<()>>,
    wal: Arc<Wal>,
    pub(super) keys: LocalEvmFiles,
    contracts: Option<Contracts>,
    backed_up_at: Cell<Option<Instant>>,
}

impl EvmService {
    /// The chain of this stack, if there is one, else a new one.
    pub(super) fn new(assets: &Path, state: &StateDir) -> Result<Self> {
        let (program, logs) = (assets.join(ANVIL), state.logs());
        let keys = LocalEvmFiles::at(&state.evm())?;
        let log = keys.log();
        if !keys.exist() {
            durable::wipe("wal", &log).with_context(|| format!("remove {}", log.display()))?;
        }
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("listen for calls to the local EVM chain")?;
        let port = listener.local_addr()?.port();
        let (wal, listener, backed_up_at) = (Arc::new(Wal::open(log)?), Some(listener), Cell::new(None));
        Ok(Self { program, logs, port, listener, proxy: None, wal, keys, contracts: None, backed_up_at })
    }

    /// Lets clients in, once.
    fn open(&mut self) -> Result<()> {
        if let Some(listener) = self.listener.take() {
            listener.set_nonblocking(true)?;
            self.proxy = Some(self.wal.serve(tokio::net::TcpListener::from_std(listener)?));
        }
        Ok(())
    }

    /// What stands on it, once it was started.
    pub(super) fn contracts(&self) -> Result<&Contracts> {
        self.contracts.as_ref().context("the local EVM chain was never started")
    }
}

impl Service for EvmService {
    const NAME: PartName = PartName::Evm;
    const RESTARTS_WHEN_HUNG: bool = true;

    async fn start(&mut self, part: &mut Option<Part>, recorder: &HealthRecorder) -> Result<()> {
        self.wal.close();
        if self.keys.repair_chain()? == Repair::Replaced {
            self.wal.clear().await?;
        }
        self.open()?;
        let mut command = Command::new(&self.program);
        command.args(["--host", "127.0.0.1", "--port", "0", "--prune-history", STATES]);
        command.args(["--chain-id", &CHAIN_ID.to_string(), "--state-interval", &SAVE_EVERY_S.to_string()]);
        command.arg("--state").arg(&self.keys.chain).stdin(Stdio::null()).stdout(Stdio::piped());
        // A Ctrl-C is for us alone: we end the parts in their order.
        command.process_group(0);
        let part = part.insert(Part::start(Self::NAME.as_str(), &self.logs, command)?);
        recorder.spawned(Self::NAME, part.facts());
        let stdout = part.child().stdout.take().context("take its standard output")?;
        let mut lines = BufReader::new(stdout).lines();
        let address = part.until(START_LIMIT, listen_address(&mut lines)).await??;
        // It is read for as long as it runs: a full pipe would stop it.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        part.until(CONTRACTS_LIMIT, self.wal.replay(&format!("http://{address}"))).await??;
        let rpc = format!("http://127.0.0.1:{}", self.port);
        let contracts = part.until(CONTRACTS_LIMIT, Contracts::deploy(&rpc, &self.keys)).await??;
        if let Some(before) = &self.contracts {
            let same = before.rpc == contracts.rpc && before.deployed == contracts.deployed;
            let other = contracts.deployed;
            ensure!(same, "the local EVM chain came back as another ({other:?}): palatine down, then palatine up");
        }
        self.contracts = Some(contracts);
        Ok(())
    }

    /// Calls a contract at the newest block.
    async fn probe(&self) -> Result<()> {
        let contracts = self.contracts()?;
        let owner = contracts.owner.to_string();
        let data = format!("{BALANCE_OF}{:0>64}", owner.trim_start_matches("0x").to_lowercase());
        let params = json!([{"to": contracts.deployed.usdc, "data": data}, "latest"]);
        let answer = call(&contracts.rpc, "eth_call", &params).await?;
        ensure!(
            answer.as_str().is_some_and(|word| word.len() == 66),
            "it answers {answer} where a balance is asked for"
        );
        if let Some(block) = self.back_up() {
            self.wal.forget(block).await?;
        }
        Ok(())
    }
}

impl EvmService {
    /// Keeps a copy when it is time, and says of which block. One that fails makes no
    /// chain sick: the last one is still there.
    fn back_up(&self) -> Option<u64> {
        if self.backed_up_at.get().is_some_and(|at| at.elapsed() < BACKUP_EVERY) {
            return None;
        }
        match self.keys.back_up_chain() {
            Ok(Some(block)) => {
                self.backed_up_at.set(Some(Instant::now()));
                Some(block)
            }
            // Just being written: the next probe finds it whole.
            Ok(None) => None,
            Err(error) => {
                eprintln!("! the local EVM chain has no newer copy: {error:#}");
                None
            }
        }
    }
}

/// The keys of the local chain, and the chain itself on disk.
#[derive(Clone, Debug)]
pub(crate) struct LocalEvmFiles {
    pub(crate) chain: PathBuf,
    /// Deploys and mints.
    deployer: DevKeyFile,
    relayer: DevKeyFile,
    pub(crate) owner: DevKeyFile,
}

impl LocalEvmFiles {
    /// The keys in this folder. A deployer whose chain is gone is forgotten: with
    /// another one, another factory stands, and no ledger of the old one is taken
    /// for its.
    pub(crate) fn at(dir: &Path) -> Result<Self> {
        let key = |name| DevKeyFile::at(dir, name);
        let keys = Self {
            chain: dir.join("chain.json"),
            deployer: key("deployer"),
            relayer: key("relayer"),
            owner: key("owner"),
        };
        if !keys.exist() {
            keys.deployer.forget()?;
        }
        Ok(keys)
    }

    /// Whether there is a chain on disk.
    fn exist(&self) -> bool {
        self.chain.exists() || self.backup().exists()
    }

    /// What changed the chain since it was last written.
    fn log(&self) -> PathBuf {
        self.chain.with_extension("wal")
    }

    /// A copy of the chain's file that is known to be whole.
    fn backup(&self) -> PathBuf {
        self.chain.with_extension("whole.json")
    }

    /// Keeps a copy of the chain's file, if it is whole: a kill may cut the next
    /// writing of it. Says of which block it is.
    fn back_up_chain(&self) -> Result<Option<u64>> {
        let Some((bytes, block)) = read_whole(&self.chain)? else { return Ok(None) };
        durable::replace("chain-copy", &self.backup(), &bytes).context("keep a copy of the local EVM chain")?;
        Ok(Some(block))
    }

    /// Puts the copy in the place of a file that is cut or gone. Where neither is
    /// whole, both are set aside, and a new chain begins, with another deployer.
    fn repair_chain(&self) -> Result<Repair> {
        if read_whole(&self.chain)?.is_some() {
            return Ok(Repair::Intact);
        }
        let backup = self.backup();
        if let Some((bytes, _)) = read_whole(&backup)? {
            eprintln!("! {} is not whole: the copy beside it is taken", self.chain.display());
            durable::replace("chain", &self.chain, &bytes)
                .with_context(|| format!("put {} in its place", backup.display()))?;
            return Ok(Repair::Intact);
        }
        let mut repair = Repair::Intact;
        for broken in [&self.chain, &backup] {
            if broken.exists() {
                eprintln!("! {} cannot be read: it is set aside, and a new chain begins", broken.display());
                durable::set_aside(broken).with_context(|| format!("set {} aside", broken.display()))?;
                self.deployer.forget()?;
                repair = Repair::Replaced;
            }
        }
        Ok(repair)
    }
}

/// What becomes of the chain on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repair {
    /// It goes on, or is none yet.
    Intact,
    /// It could not be read: another one begins.
    Replaced,
}

/// What stands on the local chain.
#[derive(Clone, Debug)]
pub(crate) struct Contracts {
    pub(crate) rpc: String,
    pub(crate) deployed: LocalContracts,
    pub(crate) owner: Address,
    relayer: DevKeyFile,
}

impl Contracts {
    /// Puts our contracts onto the chain, as far as they are not there, gives the
    /// owner test USDC, and the relayer coins. The owner gets no coins: nothing of
    /// his needs any.
    pub(crate) async fn deploy(rpc: &str, keys: &LocalEvmFiles) -> Result<Self> {
        let (deployer, relayer, owner) = (keys.deployer.open()?, keys.relayer.open()?, keys.owner.open()?);
        for account in [deployer.address(), relayer.address()] {
            give_coins(rpc, account).await?;
        }
        let endpoint = Endpoint(rpc.to_owned());
        let key = SigningKey::new(deployer);
        let deployed = deploy_local(endpoint, CHAIN_ID, &key, owner.address(), OWNER_USDC).await;
        let deployed = deployed.context("put our contracts onto the local chain")?;
        Ok(Self { rpc: rpc.to_owned(), deployed, owner: owner.address(), relayer: keys.relayer.clone() })
    }

    /// Where the relayer's key lies.
    pub(crate) const fn relayer(&self) -> &DevKeyFile {
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
    let given = call(rpc, "anvil_setBalance", &json!([account, COINS])).await;
    given.map(drop).with_context(|| format!("give {account} coins"))
}

async fn call(rpc: &str, method: &str, params: &Value) -> Result<Value> {
    let body = serde_json::to_vec(&json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))?;
    let client = reqwest::Client::builder().no_proxy().timeout(CALL_LIMIT).build()?;
    let request = client.post(rpc).header("content-type", "application/json").body(body);
    let answer = request.send().await.context("ask the local EVM chain")?.bytes().await?;
    let mut answer: Value = serde_json::from_slice(&answer).context("read the local EVM chain's answer")?;
    match answer.get("error") {
        None => Ok(answer["result"].take()),
        Some(error) => bail!("the local EVM chain refuses {method}: {error}"),
    }
}

/// Where it listens, as it says itself.
async fn listen_address(lines: &mut Lines<BufReader<ChildStdout>>) -> Result<String> {
    while let Some(line) = lines.next_line().await.context("read where the local chain answers")? {
        if let Some(address) = line.trim().strip_prefix(LISTENING) {
            return Ok(address.to_owned());
        }
    }
    bail!("the local chain did not say where it answers")
}

/// What a chain's file holds, and of which block it is; nothing if it is not there, or
/// not whole.
fn read_whole(path: &Path) -> Result<Option<(Vec<u8>, u64)>> {
    #[derive(Deserialize)]
    struct Written {
        #[serde(default)]
        best_block_number: u64,
    }
    match fs::read(path) {
        Ok(bytes) => {
            Ok(serde_json::from_slice(&bytes).ok().map(|Written { best_block_number }| (bytes, best_block_number)))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_1_0_a_chain_whose_file_was_cut_comes_back_from_the_last_whole_one() {
        let dir = tempfile::tempdir().unwrap();
        let keys = LocalEvmFiles::at(dir.path()).unwrap();
        keys.repair_chain().unwrap();
        assert!(!keys.chain.exists());
        fs::write(&keys.chain, r#"{"best_block_number": 7}"#).unwrap();
        assert_eq!(keys.back_up_chain().unwrap(), Some(7));
        fs::write(&keys.chain, r#"{"best_block_number": "#).unwrap();
        assert_eq!(keys.back_up_chain().unwrap(), None);
        assert_eq!(keys.repair_chain().unwrap(), Repair::Intact);
        assert_eq!(fs::read_to_string(&keys.chain).unwrap(), r#"{"best_block_number": 7}"#);
        fs::remove_file(&keys.chain).unwrap();
        LocalEvmFiles::at(dir.path()).unwrap().repair_chain().unwrap();
        assert!(keys.chain.exists());
    }

    #[test]
    fn fault_1_0_a_chain_that_is_whole_nowhere_is_set_aside_and_another_deployer_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let keys = LocalEvmFiles::at(dir.path()).unwrap();
        let first = keys.deployer.open().unwrap().address();
        let owner = keys.owner.open().unwrap().address();
        for file in [&keys.chain, &keys.backup()] {
            fs::write(file, r#"{"block": "#).unwrap();
        }
        assert_eq!(keys.repair_chain().unwrap(), Repair::Replaced);
        assert!(!keys.chain.exists() && !keys.backup().exists());
        assert!(dir.path().join("chain.json.broken").exists() && dir.path().join("chain.whole.json.broken").exists());
        assert_ne!(keys.deployer.open().unwrap().address(), first);
        assert_eq!(keys.owner.open().unwrap().address(), owner);
    }

    #[test]
    fn fault_1_0_a_copy_that_cannot_be_made_makes_no_chain_sick_and_is_tried_again() {
        rustls::crypto::ring::default_provider().install_default().ok();
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::at(Some(dir.path())).unwrap();
        fs::create_dir(state.evm()).unwrap();
        let evm = EvmService::new(Path::new("/nowhere"), &state).unwrap();
        fs::write(&evm.keys.chain, "{}").unwrap();
        // A folder is in the way.
        fs::create_dir(evm.keys.backup()).unwrap();
        assert_eq!(evm.back_up(), None);
        assert!(evm.backed_up_at.get().is_none());
        fs::remove_dir(evm.keys.backup()).unwrap();
        assert_eq!(evm.back_up(), Some(0));
        assert!(evm.backed_up_at.get().is_some() && evm.keys.backup().is_file());
    }
}
