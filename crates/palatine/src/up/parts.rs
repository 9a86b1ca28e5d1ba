//! The parts, started in the order in which they need each other, kept while the
//! stack stands, and ended in the other order.

use std::convert::Infallible;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use client::NodeClient;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use super::evm::EvmService;
use super::health::{HealthRecorder, PartName};
use super::network::{self, StackResources};
use super::prepare::{self, StackWallets};
use super::process::{self, KILL_LIMIT};
use super::programs::{CHAIN_LIMIT, GATEWAY_LIMIT, GatewayService, NODE_LIMIT, NodeService};
use super::progress::Step;
use super::solana::SolanaService;
use super::stack::LocalStackInfo;
use super::state::StateDir;
use super::supervise::Supervised;
use super::{evm, leftovers, solana, trial};
use crate::cli;

/// Whole tokens of the development holders: the second tier of the seed's table.
const HOLDER_TOKENS: u64 = 500_000;
/// How often the length of our own log is looked at.
const OWN_LOG_EVERY: Duration = Duration::from_secs(60);
/// How long a part may take to end: the node asks its guests first.
const END_GRACE: Duration = Duration::from_secs(30);
/// How many parts there are.
const PARTS: u32 = 4;
/// How long all of them may take to start. The gateway answers first, is then ready, and has the chain in reach.
pub(super) const START_LIMIT: Duration = solana::FIRST_START_LIMIT
    .saturating_add(evm::FIRST_START_LIMIT)
    .saturating_add(NODE_LIMIT)
    .saturating_add(GATEWAY_LIMIT.saturating_mul(2))
    .saturating_add(CHAIN_LIMIT);
/// How long all of it may take to end: the trial's agent, the parts one by one, and
/// what they have left.
pub(super) const END_LIMIT: Duration = trial::CLEAR_LIMIT
    .saturating_add(END_GRACE.saturating_add(KILL_LIMIT).saturating_mul(PARTS))
    .saturating_add(leftovers::CLEAR_LIMIT);

/// Runs the parts until a signal, and meanwhile, once, what `first` does with the
/// stack that stands; what `before_end` does comes before the parts end. A part that
/// dies is started again; only at the start it is a reason to end.
///
/// What the stack calls its own on the machine is given back when none of it is left.
pub(super) async fn run(
    state: &StateDir,
    options: &cli::Up,
    wallets: &StackWallets,
    allocation: &StackResources,
    first: impl AsyncFnOnce(&LocalStackInfo) -> Result<()>,
    before_end: impl AsyncFnOnce() -> Result<()>,
) -> Result<()> {
    // Listened for before anything starts, so that Ctrl-C during the start ends it as well.
    let mut ends = [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?];
    let recorder = HealthRecorder::new(state.parts());
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
        let stack = running.start(state, options, wallets, allocation, &recorder).await?;
        state.publish(&stack)?;
        let ((), never, _) = tokio::try_join!(first(&stack), running.keep(&recorder), bound_own_log(state))?;
        match never {}
    };
    let outcome = tokio::select! {
        outcome = life => outcome,
        () = asked => Ok(()),
    };
    let ending = async {
        let asked = before_end().await;
        let step = Step::start("Stopping: agents are asked first");
        let ended = running.end().await;
        step.done();
        // A node that was down, or was killed, has left its guests.
        let cleared = leftovers::clear(state).await.and_then(|_| network::release(state));
        all([asked, ended, cleared])
    };
    // `palatine down` may ask twice; whoever sits here and asks twice does not want to wait.
    let ended = tokio::select! {
        ended = ending => ended,
        _ = interrupt.recv() => Err(anyhow!("it ended at once, and agents may still run: palatine down clears them")),
    };
    let forgotten = state.unpublish().context("remove up.json");
    all([outcome, ended, forgotten])
}

/// Good when all are; else what each failure says.
fn all(results: impl IntoIterator<Item = Result<()>>) -> Result<()> {
    let mut failures: Vec<_> = results.into_iter().filter_map(Result::err).collect();
    match failures.len() {
        0 => Ok(()),
        1 => Err(failures.remove(0)),
        _ => bail!("{}", failures.iter().map(|error| format!("{error:#}")).collect::<Vec<_>>().join("\n")),
    }
}

/// What runs, in the order of its start.
#[derive(Default)]
struct Running {
    solana: Option<Supervised<SolanaService>>,
    evm: Option<Supervised<EvmService>>,
    node: Option<Supervised<NodeService>>,
    gateway: Option<Supervised<GatewayService>>,
}

impl Running {
    async fn start(
        &mut self,
        state: &StateDir,
        options: &cli::Up,
        wallets: &StackWallets,
        allocation: &StackResources,
        recorder: &HealthRecorder,
    ) -> Result<LocalStackInfo> {
        let step = Step::start("Starting the local Solana");
        let funded = [wallets.holder, wallets.visitor].map(|wallet| (wallet, HOLDER_TOKENS));
        let solana = self.solana.insert(Supervised::new(SolanaService::new(&options.assets, state, funded)?));
        solana.start(recorder).await?;
        let solana_info = solana.service().info()?;
        step.done();

        let step = Step::start("Starting the local EVM chain");
        let evm = self.evm.insert(Supervised::new(EvmService::new(&options.assets, state)?));
        evm.start(recorder).await?;
        let (keys, contracts) = (evm.service().keys.clone(), evm.service().contracts()?.clone());
        let containers = prepare::write_config(state, options, &solana_info, &contracts, allocation)?;
        step.done();

        let step = Step::start("Starting the node");
        self.node.insert(Supervised::new(NodeService::new(state))).start(recorder).await?;
        step.done();
        let info = NodeClient::new(state.socket()).info().await.context("ask the node what it is")?;
        eprintln!("  agents run in {}: {}", info.runtime.as_str(), info.runtime_reason);
        if let Some(said) = containers.allow(&state.config(), info.runtime)? {
            eprintln!("  {said}");
        }

        let step = Step::start("Starting the gateway");
        let url = format!("http://{}", options.listen);
        let gateway = GatewayService::new(state, &url);
        let gateway = self.gateway.insert(Supervised::new(gateway));
        gateway.start(recorder).await?;
        gateway.wait_healthy(GATEWAY_LIMIT).await.context("wait until agents can be spawned")?;
        gateway.service().until_chain_answers().await;
        step.done();

        let process = sandbox::process::facts(std::process::id()).context("read when we were started")?;
        Ok(LocalStackInfo {
            gateway: url,
            holder_keypair: state.holder(),
            holder: wallets.holder,
            solana_rpc: solana_info.rpc,
            mint: solana_info.mint,
            evm_rpc: contracts.rpc.clone(),
            usdc: contracts.deployed.usdc,
            factory: contracts.deployed.factory,
            forwarder: contracts.deployed.forwarder,
            owner_keystore: keys.owner.keystore.clone(),
            owner_password_file: keys.owner.password_file.clone(),
            owner: contracts.owner,
            node_socket: state.socket(),
            config: state.config(),
            logs: state.logs(),
            assets: std::path::absolute(&options.assets).context("find the assets")?,
            visitor_keypair: state.visitor(),
            pid: process.pid,
            process,
        })
    }

    /// Keeps the parts, until this is dropped.
    async fn keep(&mut self, recorder: &HealthRecorder) -> Result<Infallible> {
        let Self { solana: Some(solana), evm: Some(evm), node: Some(node), gateway: Some(gateway) } = self else {
            bail!("a part was never started");
        };
        let (never, ..) =
            tokio::join!(solana.keep(recorder), evm.keep(recorder), node.keep(recorder), gateway.keep(recorder));
        match never {}
    }

    /// Ends what runs, the last first; every part is asked, whatever the others do.
    async fn end(self) -> Result<()> {
        let ours = [self.gateway.and_then(Supervised::into_part), self.node.and_then(Supervised::into_part)];
        let chains = [self.evm.and_then(Supervised::into_part), self.solana.and_then(Supervised::into_part)];
        let mut ends = Vec::new();
        for part in ours.into_iter().chain(chains).flatten() {
            ends.push(part.end(END_GRACE).await);
        }
        all(ends)
    }
}

/// Keeps what we say ourselves, when nobody looks at it, within its bound.
async fn bound_own_log(state: &StateDir) -> Result<Infallible> {
    loop {
        sleep(OWN_LOG_EVERY).await;
        if let Err(error) = process::bound(&state.logs().join("up.log")) {
            eprintln!("! up.log cannot be kept within its bound: {error}");
        }
    }
}

/// Empties the logs: they are of this start.
pub(super) fn empty_logs(state: &StateDir) -> Result<()> {
    for part in [PartName::Solana, PartName::Evm, PartName::Hypercore, PartName::Gateway] {
        process::empty(&state.logs().join(format!("{}.log", part.as_str())))?;
    }
    Ok(())
}
