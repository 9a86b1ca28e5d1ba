//! The parts, started in the order in which they need each other, and ended in
//! the other.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use client::NodeClient;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use super::evm::{Contracts, Evm, EvmKeys};
use super::house::{House, Rooms};
use super::prepare::{self, Prepared};
use super::process::Part;
use super::progress::Step;
use super::solana::Solana;
use crate::cli;

/// Whole tokens of the development holder: the second tier of the seed's table.
const HOLDER_TOKENS: u64 = 500_000;
/// Three contracts and some money.
const CONTRACTS_LIMIT: Duration = Duration::from_secs(60);
/// The first start of a node tries its accelerator with a guest.
const NODE_LIMIT: Duration = Duration::from_secs(60);
const GATEWAY_LIMIT: Duration = Duration::from_secs(20);
/// How often a part that starts is asked whether it is ready.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// How long a part may take to end: the node asks its guests first.
const END_GRACE: Duration = Duration::from_secs(30);

/// Runs the parts until a signal, or until one of them dies.
pub(super) async fn run(
    rooms: &Rooms,
    options: &cli::Up,
    prepared: &Prepared,
    ready: impl FnOnce(&House) -> Result<()>,
) -> Result<()> {
    // Listened for before anything starts, so that Ctrl-C during the start ends it as well.
    let mut ends = [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?];
    let mut running = Running::default();
    let [interrupt, terminate, hangup] = &mut ends;
    let asked = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    };
    let life = async {
        let house = running.start(rooms, options, prepared).await?;
        rooms.announce(&house)?;
        ready(&house)?;
        Err(running.first_death().await)
    };
    let outcome = tokio::select! {
        outcome = life => outcome,
        () = asked => Ok(()),
    };
    let ended = running.end().await;
    rooms.forget().context("remove up.json")?;
    outcome.and(ended)
}

/// What runs, in the order of its start.
#[derive(Default)]
struct Running {
    solana: Option<Solana>,
    evm: Option<Evm>,
    node: Option<Part>,
    gateway: Option<Part>,
}

impl Running {
    async fn start(&mut self, rooms: &Rooms, options: &cli::Up, prepared: &Prepared) -> Result<House> {
        let step = Step::start("Starting the local Solana");
        let solana = self.solana.insert(Solana::start(&options.assets, &rooms.logs()).await?);
        solana.fund(prepared.holder, HOLDER_TOKENS).await?;
        let place = solana.place.clone();
        step.done();

        let step = Step::start("Starting the local EVM chain");
        let keys = EvmKeys::at(&rooms.evm())?;
        let evm = self.evm.insert(Evm::start(&options.assets, &rooms.logs(), &keys.chain).await?);
        let evm_rpc = evm.rpc.clone();
        let contracts = evm.part.until(CONTRACTS_LIMIT, Contracts::deploy(&evm_rpc, &keys)).await??;
        prepare::write_config(rooms, options, &place, &contracts)?;
        step.done();

        let step = Step::start("Starting the node");
        let node = NodeClient::new(rooms.socket());
        let part = self.node.insert(start("hypercore", rooms, &[])?);
        let info = part
            .until(NODE_LIMIT, async {
                loop {
                    match node.info().await {
                        Ok(info) => break info,
                        Err(_) => sleep(ASK_EVERY).await,
                    }
                }
            })
            .await?;
        step.done();
        eprintln!("  agents run in {}: {}", info.runtime.as_str(), info.runtime_reason);

        let step = Step::start("Starting the gateway");
        let part = self.gateway.insert(start("palatine", rooms, &["serve"])?);
        let gateway = format!("http://{}", options.listen);
        let ready = format!("{gateway}/ready");
        part.until(GATEWAY_LIMIT, async {
            while !reqwest::get(&ready).await.is_ok_and(|answer| answer.status().is_success()) {
                sleep(ASK_EVERY).await;
            }
        })
        .await?;
        step.done();

        Ok(House {
            gateway,
            holder_keypair: rooms.holder(),
            holder: prepared.holder,
            solana_rpc: place.rpc,
            mint: place.mint,
            evm_rpc,
            usdc: contracts.deployed.usdc,
            factory: contracts.deployed.factory,
            forwarder: contracts.deployed.forwarder,
            owner_keystore: keys.owner.keystore.clone(),
            owner_password_file: keys.owner.password_file.clone(),
            owner: contracts.owner,
            node_socket: rooms.socket(),
            config: rooms.config(),
            logs: rooms.logs(),
            pid: i32::try_from(std::process::id()).context("read our own process id")?,
        })
    }

    /// Waits until a part has died, and says which.
    async fn first_death(&mut self) -> anyhow::Error {
        let Self { solana: Some(solana), evm: Some(evm), node: Some(node), gateway: Some(gateway) } = self else {
            return anyhow::anyhow!("a part was never started");
        };
        tokio::select! {
            death = solana.part.died() => death,
            death = evm.part.died() => death,
            death = node.died() => death,
            death = gateway.died() => death,
        }
    }

    /// Ends what runs, the last first; every part is asked, whatever the others do.
    async fn end(self) -> Result<()> {
        let chains = [self.evm.map(|evm| evm.part), self.solana.map(|solana| solana.part)];
        let parts = [self.gateway, self.node].into_iter().chain(chains);
        let mut failures = Vec::new();
        for part in parts.flatten() {
            if let Err(error) = part.end(END_GRACE).await {
                failures.push(format!("{error:#}"));
            }
        }
        if failures.is_empty() { Ok(()) } else { bail!("{}", failures.join("\n")) }
    }
}

/// Starts a program of ours, which lies beside our own.
fn start(program: &'static str, rooms: &Rooms, words: &[&str]) -> Result<Part> {
    let own = std::env::current_exe().context("find our own program")?;
    let path = own.parent().unwrap_or(Path::new("/")).join(program);
    let mut command = Command::new(path);
    command.args(words).arg("--config").arg(rooms.config());
    command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    // A Ctrl-C is for us alone: we end the parts in their order.
    command.process_group(0);
    Part::start(if program == "palatine" { "gateway" } else { program }, &rooms.logs(), command)
}
