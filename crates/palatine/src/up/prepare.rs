//! What the stack needs before it starts: room, a kernel, an image, a holder and
//! a configuration. All of it is kept for the next time.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use anyhow::{Context, Result, bail};
use domain::Wallet;
use toml::{Table, Value};
use wire::v1::images::BuildKind;

use super::containers::Containers;
use super::evm::Contracts;
use super::network::{OperatorSettings, StackResources};
use super::progress::Step;
use super::settings::{said, section};
use super::solana::SolanaInfo;
use super::state::StateDir;
use crate::starters::{Settings, Starters};
use crate::{cli, keypair};

/// Free disk that a stack needs: images, and some agents' disks.
const MIN_FREE_MIB: u64 = 1024;
/// How often the local chain is looked at.
const POLL_MS: i64 = 200;
/// Ports behind the gateway's that are tried for the agents' paths.
const PATH_PORTS: u16 = 20;
/// How often the gateway asks the parts it works with.
const PROBE_MS: i64 = 2000;
/// How long the gateway lets requests end: less than a part has to end.
const DRAIN_MS: i64 = 10_000;
/// How long an agent may take to be ready, and a guest before it is started again: without KVM one with a runtime of its
/// own takes half a minute, and as much again where something is built beside it. A guest that hangs at boot is started
/// once more within the first.
const SPAWN_MS: i64 = 300_000;
const BOOT_MS: i64 = 120_000;
/// Calls relayed for one client a minute: everybody here is one client.
const RELAYED_PER_MINUTE: i64 = 600;
/// Where the reference agent's recipe lies among the assets.
const ECHO: &str = "images/agent-echo";

/// The wallets of a stack: they hold its tokens from the start.
pub(super) struct StackWallets {
    pub(super) holder: Wallet,
    pub(super) visitor: Wallet,
}

impl StackWallets {
    /// Makes those that are missing.
    pub(super) fn make(state: &StateDir) -> Result<Self> {
        Ok(Self { holder: wallet(&state.holder())?, visitor: wallet(&state.visitor())? })
    }
}

/// Makes what a guest boots of: the kernel, and the image of the reference agent.
pub(super) fn build_guest(state: &StateDir, options: &cli::Up) -> Result<()> {
    let images = images(state, options)?;
    let step = Step::start("Preparing the guest kernel");
    image::kernel::prepare(&images, &options.assets.join("pod"), &step).context("prepare the guest kernel")?;
    step.done();
    let step = Step::start("Building the image of agent-echo");
    let recipe = options.assets.join(ECHO);
    image::ImageStore::open(&images)?.build(&recipe, &image::BuildOptions::default(), "echo", &step)?;
    step.done();
    Ok(())
}

/// Builds what is wanted of the images of packages.
pub(super) fn build_starters(state: &StateDir, options: &cli::Up) -> Result<()> {
    let settings = Settings::Known(Box::new(images(state, options)?));
    Starters::new(&options.assets, state, settings).build(&options.images)
}

/// How the operator has images made, in the store of this stack.
fn images(state: &StateDir, options: &cli::Up) -> Result<image::Config> {
    let config = crate::config::Config::load(options.config.config.as_deref())?;
    Ok(image::Config { store: state.root().join("images"), ..config.images })
}

/// Refuses a disk without room, before anything is written.
pub(super) fn check_space(state: &StateDir) -> Result<()> {
    let there = state.root().ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    let disk = rustix::fs::statvfs(there).with_context(|| format!("look at the disk of {}", there.display()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize) / (1024 * 1024);
    if free < MIN_FREE_MIB {
        bail!(
            "{} has {free} MiB left, and the stack needs {MIN_FREE_MIB}: free some, or pass --state on a roomier disk",
            there.display()
        );
    }
    Ok(())
}

/// A development wallet; its keypair is made the first time.
fn wallet(path: &Path) -> Result<Wallet> {
    if !path.exists() {
        keypair::make(path)?;
    }
    Ok(keypair::read(path)?.wallet())
}

/// Where agents are paths: the first port behind the gateway's that is free. With
/// none, the gateway says which one it wanted.
fn free_path_address(gateway: SocketAddr) -> Option<SocketAddr> {
    let ports = gateway.port().checked_add(1)?..=gateway.port().saturating_add(PATH_PORTS);
    let mut addresses = ports.map(|port| SocketAddr::new(gateway.ip(), port));
    addresses.find(|address| TcpListener::bind(address).is_ok())
}

/// The operator's own file, if there is one.
fn operator_config(options: &cli::Up) -> Result<Table> {
    let Some(path) = crate::config::Config::find(options.config.config.as_deref()) else { return Ok(Table::new()) };
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("read {}", path.display()))
}

/// What the operator says of the stack's own.
pub(super) fn overrides(options: &cli::Up) -> Result<OperatorSettings> {
    let config = operator_config(options)?;
    let said = |section: &str, key: &str| said(&config, section, key);
    let name = |value: Value| value.as_str().map(str::to_owned).context("[network]: a text is wanted");
    let number = |value: Value| {
        let number = value.as_integer().or_else(|| value.as_str()?.parse().ok());
        number.and_then(|number| u32::try_from(number).ok()).context("[node] first_uid: a user's number is wanted")
    };
    Ok(OperatorSettings {
        name: said("network", "name").map(name).transpose()?,
        range: said("network", "range").map(name).transpose()?,
        first_uid: said("node", "first_uid").map(number).transpose()?,
    })
}

/// Writes the configuration of the parts: the operator's own file, if one is
/// given, with what must be so here laid over it; and whether the node offers containers.
pub(super) fn write_config(
    state: &StateDir,
    options: &cli::Up,
    solana: &SolanaInfo,
    evm: &Contracts,
    allocation: &StackResources,
) -> Result<Containers> {
    let mut config = operator_config(options)?;
    let path = |name: &str| Value::from(state.root().join(name).to_string_lossy().into_owned());
    let asset = |name: &str| Value::from(options.assets.join(name).to_string_lossy().into_owned());
    let relayer = evm.relayer();
    let text = |path: &Path| Value::from(path.to_string_lossy().into_owned());
    let settings: [(&str, &str, Value); 33] = [
        ("gateway", "listen", vec![options.listen.to_string()].into()),
        ("gateway", "token_key_file", path("gateway/token.key")),
        ("store", "directory", path("gateway/store")),
        ("store", "sealing_key_file", path("gateway/sealing.key")),
        ("solana", "endpoints", vec![solana.rpc.clone()].into()),
        ("solana", "mint", solana.mint.clone().into()),
        // A chain that was started again counts its slots from the first.
        ("solana", "max_lag_slots", 0.into()),
        ("gateway", "probe_ms", PROBE_MS.into()),
        ("gateway", "drain_ms", DRAIN_MS.into()),
        ("node", "state", path("node")),
        ("node", "socket", path("node.sock")),
        ("node", "pod", asset("pod")),
        ("node", "on_shutdown", "stop".into()),
        ("images", "store", path("images")),
        ("evm", "endpoints", vec![evm.rpc.clone()].into()),
        ("evm", "chain_id", i64::try_from(super::evm::CHAIN_ID)?.into()),
        ("evm", "usdc", evm.deployed.usdc.to_string().into()),
        ("evm", "factory", evm.deployed.factory.to_string().into()),
        ("evm", "forwarder", evm.deployed.forwarder.to_string().into()),
        // This chain makes a block for each transaction, and none otherwise.
        ("evm", "confirmations", 1.into()),
        ("evm", "poll_ms", POLL_MS.into()),
        ("treasury", "identities", path("gateway/identities")),
        ("treasury", "key_file", path("gateway/identities.key")),
        ("relayer", "enabled", true.into()),
        ("relayer", "key", text(&relayer.keystore)),
        ("relayer", "password_file", text(&relayer.password_file)),
        ("relayer", "per_client_minute", RELAYED_PER_MINUTE.into()),
        ("x402", "tokens", Value::Array(vec![Value::Table(evm.token()?)])),
        ("x402", "facilitator", "own".into()),
        ("x402", "serve", Value::Table([("anyone".to_owned(), true.into())].into_iter().collect())),
        // What the operator says of these is in it.
        ("network", "name", allocation.name.clone().into()),
        ("network", "range", allocation.range.clone().into()),
        ("node", "first_uid", i64::from(allocation.first_uid).into()),
    ];
    for (name, key, value) in settings {
        section(&mut config, name)?.insert(key.to_owned(), value);
    }
    set_defaults(&mut config, options.listen)?;
    let containers = Containers::offer(&mut config, &state.root().join("node"), allocation.first_container_uid())?;
    fs::write(state.config(), toml::to_string(&config)?).context("write the configuration")?;
    Ok(containers)
}

/// Says what is left open, as it fits one machine: the operator's own word stands.
fn set_defaults(config: &mut Table, gateway: SocketAddr) -> Result<()> {
    // Everybody here is one client, and often one wallet.
    let whole = ["wallet_percent", "payee_percent", "client_percent"].map(|share| (share.to_owned(), 100.into()));
    let mut settings = vec![
        ("relayer", "budgets", Value::Table(whole.into_iter().collect())),
        ("control", "spawn_timeout_ms", SPAWN_MS.into()),
        ("node", "boot_deadline_ms", BOOT_MS.into()),
    ];
    if gateway.ip().is_loopback() {
        // Whoever builds here has this machine: where no other machine can be made for it, in its own kernel.
        let kinds = [BuildKind::Qemu, BuildKind::ContainerBubblewrap].map(|kind| kind.as_str().to_owned());
        settings.push(("images", "build_runtimes", kinds.to_vec().into()));
    }
    if gateway.ip().is_loopback()
        && let Some(address) = free_path_address(gateway)
    {
        settings.push(("gateway", "path_listen", vec![address.to_string()].into()));
    }
    for (name, key, value) in settings {
        section(config, name)?.entry(key).or_insert(value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_has_long_to_be_ready_unless_the_operator_says_otherwise() {
        let mut config: Table = "[control]\nspawn_timeout_ms = 7\n".parse().unwrap();
        set_defaults(&mut config, "192.0.2.1:80".parse().unwrap()).unwrap();
        assert!(!config.contains_key("images"), "strangers build in machines of their own alone");
        assert_eq!(config["control"]["spawn_timeout_ms"].as_integer(), Some(7));
        assert_eq!(config["node"]["boot_deadline_ms"].as_integer(), Some(BOOT_MS));
        assert_eq!(config["relayer"]["budgets"]["wallet_percent"].as_integer(), Some(100));
        // Agents have paths where nobody else can ask for them.
        assert!(!config.contains_key("gateway"));
        let mut odd: Table = "node = 1\n".parse().unwrap();
        let error = set_defaults(&mut odd, "192.0.2.1:80".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("node is no section"), "{error}");
    }
}
