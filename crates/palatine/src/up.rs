//! `palatine up`: everything on this machine, for development.
//!
//! ```text
//! up ─┬─ solana     a local Solana with the token and a funded holder
//!     ├─ evm        a local EVM chain with USDC, the vaults' factory and a funded owner
//!     ├─ hypercore  the node
//!     └─ serve      the gateway
//! ```
//!
//! The parts are children that the kernel ends with us, so that no crash of ours
//! leaves one behind; hypercore takes its guests down when it is ended. A part that
//! dies, or a chain that hangs, is started again (`supervise`). What is left when
//! all of it was killed is found and cleared by `down`, and by the next `up`.

mod containers;
mod evm;
mod health;
mod keys;
mod leftovers;
mod lock;
mod network;
mod parts;
mod prepare;
mod process;
mod programs;
mod progress;
mod settings;
mod solana;
mod stack;
mod state;
mod supervise;
mod trial;
mod wal;

use std::cell::Cell;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow, bail};
use domain::{Clock, SystemClock};
use rustix::process::Signal;
use serde::Serialize;
use tokio::runtime::Builder;

pub(crate) use progress::{Step, begin};
pub(crate) use stack::LocalStackInfo;
pub(crate) use state::StateDir;

use crate::cli;
use crate::failure::Exit;
use crate::output::show;
use crate::starters::Starters;
use health::Health;
use network::StackResources;
use prepare::StackWallets;

/// How long a detached stack may take to look at the kernel and the image that were
/// made before it was started.
const LOOK_LIMIT: Duration = Duration::from_secs(60);
/// How long a detached stack may take to come up.
const DETACHED_LIMIT: Duration = LOOK_LIMIT.saturating_add(parts::START_LIMIT);
/// How long a stack may take to end. What it does not get done is done by `down`.
const DOWN_LIMIT: Duration = parts::END_LIMIT;
/// How often a detached stack is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What was seen of the parts is believed for so long.
const STALE_AFTER: Duration = Duration::from_secs(30);
/// The variable that tells a detached stack that it is the one.
const DETACHED: &str = "PALATINE_UP_DETACHED";

/// Runs the stack until it is told to end, or starts one and returns.
pub(crate) fn up(state: &StateDir, options: &cli::Up, json: bool) -> Result<()> {
    if let Some(stack) = state.running()? {
        eprintln!("It is running already; stop it with: palatine down");
        Starters::of(&stack, state).build(&options.images)?;
        return Ok(show(json, &stack, welcome)?);
    }
    if !rustix::process::geteuid().is_root() {
        bail!("Only root can make virtual machines' networks: run this with sudo -E");
    }
    prepare::check_space(state)?;
    state.create()?;
    let Some(lock) = state.try_supervise()? else { return Err(busy(state)) };
    // A part that a killed stack has left may have the port. Guests are adopted.
    leftovers::end_parts(state)?;
    check_port(options)?;
    prepare::build_guest(state, options)?;
    prepare::build_starters(state, options)?;
    let wallets = StackWallets::make(state)?;
    let runtime = Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    if options.detach {
        drop(lock);
        let stack = detach(state)?;
        runtime.block_on(try_detached(&stack, options))?;
        return Ok(show(json, &stack, welcome)?);
    }
    let allocation = runtime.block_on(allocate(state, options))?;
    parts::empty_logs(state)?;
    let outcome = runtime.block_on(foreground(state, options, json, &wallets, &allocation));
    drop(lock);
    outcome
}

/// What this stack has of the machine for itself, as the operator wants it now.
async fn allocate(state: &StateDir, options: &cli::Up) -> Result<StackResources> {
    let wanted = prepare::overrides(options)?;
    if network::is_moved(state, &wanted)? {
        // Under its other name nothing would find it any more.
        leftovers::clear(state).await?;
        network::release(state)?;
    }
    network::allocate(state, &wanted)
}

/// Runs the parts in this process. Once they are up, the trial is made and the way to go on is shown, unless this is
/// the detached process: then whoever started it does both.
async fn foreground(
    state: &StateDir,
    options: &cli::Up,
    json: bool,
    wallets: &StackWallets,
    allocation: &StackResources,
) -> Result<()> {
    let detached = std::env::var_os(DETACHED).is_some();
    let trying = Cell::new(None);
    let first = async |stack: &LocalStackInfo| {
        if detached {
            return Ok(());
        }
        if !options.no_agent {
            trying.set(Some(stack.clone()));
            let tried = trial::run(stack).await;
            trying.set(None);
            if let Err(error) = tried {
                eprintln!("✗ The trial failed, and everything runs: {error:#}");
            }
        }
        // Nobody may be reading any more; the stack stands all the same.
        if let Err(error) = show(json, stack, welcome) {
            eprintln!("! what to type next cannot be said: {error}");
        }
        Ok(())
    };
    let before_end = async || {
        if let Some(stack) = trying.take() {
            eprintln!("Interrupted: the agent of the trial is stopped first");
            trial::clear(&stack).await?;
        }
        Ok(())
    };
    parts::run(state, options, wallets, allocation, first, before_end).await
}

/// Does the main job from outside a detached stack. Ctrl-C ends the trial alone.
async fn try_detached(stack: &LocalStackInfo, options: &cli::Up) -> Result<()> {
    if options.no_agent {
        return Ok(());
    }
    tokio::select! {
        tried = trial::run(stack) => tried.context("the trial failed, and everything runs; stop it with: palatine down"),
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.context("listen for Ctrl-C")?;
            trial::clear(stack).await?;
            bail!("the trial was interrupted, and everything runs; stop it with: palatine down")
        }
    }
}

/// Ends the running stack and waits until it is gone; clears what one that was
/// killed has left.
pub(crate) fn down(state: &StateDir) -> Result<()> {
    let supervisor = state.supervisor()?;
    if let Some(supervisor) = &supervisor {
        let step = Step::start("Stopping");
        // One that is stopped hears nothing before it goes on.
        for signal in [Signal::TERM, Signal::CONT] {
            leftovers::send(supervisor, signal).context("ask the stack to end")?;
        }
        if !leftovers::ends_within(supervisor, DOWN_LIMIT)? {
            bail!("the stack did not end within {DOWN_LIMIT:?}; see {}", state.logs().display());
        }
        step.done();
    }
    if !state.root().is_dir() {
        eprintln!("Nothing is running.");
        return Ok(());
    }
    let Some(_lock) = state.try_lock()? else { return Err(busy(state)) };
    let runtime = Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let cleared = runtime.block_on(leftovers::clear(state))?;
    network::release(state)?;
    state.unpublish().context("remove up.json")?;
    if supervisor.is_none() && !cleared {
        eprintln!("Nothing is running.");
    }
    Ok(())
}

/// Another command has the stack.
fn busy(state: &StateDir) -> Error {
    anyhow!("another `palatine up` or `palatine down` is at work in {}", state.root().display())
}

/// The running stack and its parts: the answer of `palatine status --json`.
#[derive(Serialize)]
struct StackStatus {
    #[serde(flatten)]
    stack: LocalStackInfo,
    /// Whether all parts did what they are for.
    ok: bool,
    #[serde(flatten)]
    health: Health,
}

/// Shows the running stack, and which part of it is sick. The exit code says whether
/// any is.
pub(crate) fn status(state: &StateDir, json: bool) -> Result<ExitCode> {
    let Some(stack) = state.running()? else { bail!("Nothing is running here. Start it: ./dev up") };
    let health = Health::read(&state.parts())?;
    let age = Duration::from_millis(SystemClock.now().since(health.looked_at));
    let ok = health.is_ok() && age < STALE_AFTER;
    let status = StackStatus { stack, ok, health };
    show(json, &status, |status| {
        let mut text = welcome(&status.stack);
        for trouble in status.health.unhealthy() {
            text.push_str(&format!("\n✗ {trouble}"));
        }
        if age >= STALE_AFTER {
            let at = health::clock(status.health.looked_at);
            text.push_str(&format!("\n✗ `palatine up` (process {}) has not looked since {at}", status.stack.pid));
        }
        text
    })?;
    Ok(if ok { ExitCode::SUCCESS } else { Exit::Unavailable.into() })
}

/// The gateway's port must be free.
fn check_port(options: &cli::Up) -> Result<()> {
    let free = TcpListener::bind(options.listen).map(drop);
    free.with_context(|| {
        format!("{} is taken or not ours: stop what listens there, or pass --listen 127.0.0.1:<port>", options.listen)
    })
}

/// Starts ourselves again, apart from this terminal, and waits until it is ready.
fn detach(state: &StateDir) -> Result<LocalStackInfo> {
    let log = state.logs().join("up.log");
    process::empty(&log)?;
    let output = std::fs::File::options().append(true).open(&log);
    let output = output.with_context(|| format!("open {}", log.display()))?;
    let own = std::env::current_exe().context("find our own program")?;
    let arguments = std::env::args_os().skip(1).filter(|word| word != "--detach");
    let mut child = std::process::Command::new(own)
        .args(arguments)
        .env(DETACHED, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(output)
        .process_group(0)
        .spawn()
        .context("start the stack")?;
    let step = Step::start("Starting");
    let limit = Instant::now() + DETACHED_LIMIT;
    loop {
        if let Some(stack) = state.running()? {
            step.done();
            return Ok(stack);
        }
        if let Some(status) = child.try_wait().context("look after the stack")? {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            bail!("the stack ended ({status}):\n{}", said.trim_end());
        }
        if Instant::now() > limit {
            child.kill().context("give up on the stack")?;
            bail!("the stack was not ready within {DETACHED_LIMIT:?}; see {}", log.display());
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn welcome(stack: &LocalStackInfo) -> String {
    format!(
        "\nPalatine is ready at {}\nA funded holder: {} ({})\nAn owner with test USDC: {} ({})\nThe local chain: {} (id \
         338)\nLogs: {}\n\nTry:\n  palatine wallet link\n  palatine spawn --type echo\n  palatine ask <id> \"are you \
         there?\"\n  palatine stop <id>; palatine start <id>; palatine rm <id>\n",
        stack.gateway,
        stack.holder,
        stack.holder_keypair.display(),
        stack.owner,
        stack.owner_keystore.display(),
        stack.evm_rpc,
        stack.logs.display(),
    )
}
