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

mod evm;
mod health;
mod house;
mod keys;
mod leftovers;
mod network;
mod parts;
mod prepare;
mod process;
mod progress;
mod solana;
mod supervise;
mod trial;
mod wal;

use std::cell::Cell;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow, bail};
use rustix::process::Signal;
use serde::Serialize;
use tokio::runtime::Builder;

pub(crate) use house::{House, Rooms};
pub(crate) use progress::Step;

use crate::cli;
use crate::failure::Exit;
use crate::output::show;
use health::Health;
use prepare::Prepared;

/// How long a detached house may take to look at the kernel and the image that were
/// made before it was started.
const LOOK_LIMIT: Duration = Duration::from_secs(60);
/// How long a detached house may take to come up.
const DETACHED_LIMIT: Duration = LOOK_LIMIT.saturating_add(parts::START_LIMIT);
/// How long a house may take to end. What it does not get done is done by `down`.
const DOWN_LIMIT: Duration = parts::END_LIMIT;
/// How often a detached house is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What was seen of the parts is believed for so long.
const STALE_AFTER: Duration = Duration::from_secs(30);
/// The variable that tells a detached house that it is the one.
const DETACHED: &str = "PALATINE_UP_DETACHED";

/// Runs the house until it is told to end, or starts one and returns.
pub(crate) fn up(rooms: &Rooms, options: &cli::Up, json: bool) -> Result<()> {
    if let Some(house) = rooms.running()? {
        eprintln!("It is running already; stop it with: palatine down");
        return Ok(show(json, &house, welcome)?);
    }
    if !rustix::process::geteuid().is_root() {
        bail!("Only root can make virtual machines' networks: run this with sudo -E");
    }
    prepare::check_space(rooms)?;
    rooms.build()?;
    let Some(lock) = rooms.take()? else { return Err(busy(rooms)) };
    // A part that a killed house has left may have the port. Guests are adopted.
    leftovers::end_parts(rooms)?;
    check_port(options)?;
    let prepared = Prepared::make(rooms, options)?;
    let runtime = Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    if options.detach {
        drop(lock);
        let house = detach(rooms)?;
        runtime.block_on(try_apart(&house, options))?;
        return Ok(show(json, &house, welcome)?);
    }
    let wanted = prepare::wanted(options)?;
    if network::moves(rooms, &wanted)? {
        // Under its other name nothing would find it any more.
        runtime.block_on(leftovers::clear(rooms))?;
        network::give_back(rooms)?;
    }
    let corner = network::take(rooms, &wanted)?;
    parts::empty_logs(rooms)?;
    let apart = std::env::var_os(DETACHED).is_some();
    let trying = Cell::new(None);
    let first = async |house: &House| {
        if !apart {
            if !options.no_agent {
                trying.set(Some(house.clone()));
                let tried = trial::run(house).await;
                trying.set(None);
                if let Err(error) = tried {
                    eprintln!("✗ The trial failed, and everything runs: {error:#}");
                }
            }
            // Nobody may be reading any more; the house stands all the same.
            if let Err(error) = show(json, house, welcome) {
                eprintln!("! what to type next cannot be said: {error}");
            }
        }
        Ok(())
    };
    let before_end = async || {
        if let Some(house) = trying.take() {
            eprintln!("Interrupted: the agent of the trial is stopped first");
            trial::clear(&house).await?;
        }
        Ok(())
    };
    let outcome = runtime.block_on(parts::run(rooms, options, &prepared, &corner, first, before_end));
    drop(lock);
    outcome
}

/// Does the main job from outside a detached house. Ctrl-C ends the trial alone.
async fn try_apart(house: &House, options: &cli::Up) -> Result<()> {
    if options.no_agent {
        return Ok(());
    }
    tokio::select! {
        tried = trial::run(house) => tried.context("the trial failed, and everything runs; stop it with: palatine down"),
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.context("listen for Ctrl-C")?;
            trial::clear(house).await?;
            bail!("the trial was interrupted, and everything runs; stop it with: palatine down")
        }
    }
}

/// Ends the running house and waits until it is gone; clears what one that was
/// killed has left.
pub(crate) fn down(rooms: &Rooms) -> Result<()> {
    let keeper = rooms.keeper()?;
    if let Some(keeper) = &keeper {
        let step = Step::start("Stopping");
        // One that is stopped hears nothing before it goes on.
        for signal in [Signal::TERM, Signal::CONT] {
            leftovers::send(keeper, signal).context("ask the house to end")?;
        }
        if !leftovers::gone(keeper, DOWN_LIMIT)? {
            bail!("the house did not end within {DOWN_LIMIT:?}; see {}", rooms.logs().display());
        }
        step.done();
    }
    if !rooms.root().is_dir() {
        eprintln!("Nothing is running.");
        return Ok(());
    }
    let Some(_lock) = rooms.hold()? else { return Err(busy(rooms)) };
    let runtime = Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let cleared = runtime.block_on(leftovers::clear(rooms))?;
    network::give_back(rooms)?;
    rooms.forget().context("remove up.json")?;
    if keeper.is_none() && !cleared {
        eprintln!("Nothing is running.");
    }
    Ok(())
}

/// Another command has the house.
fn busy(rooms: &Rooms) -> Error {
    anyhow!("another `palatine up` or `palatine down` is at work in {}", rooms.root().display())
}

/// The running house and its parts: the answer of `palatine status --json`.
#[derive(Serialize)]
struct Standing {
    #[serde(flatten)]
    house: House,
    /// Whether all parts did what they are for.
    ok: bool,
    #[serde(flatten)]
    health: Health,
}

/// Shows the running house, and which part of it is sick. The exit code says whether
/// any is.
pub(crate) fn status(rooms: &Rooms, json: bool) -> Result<ExitCode> {
    let Some(house) = rooms.running()? else { bail!("Nothing is running here. Start it: ./dev up") };
    let health = Health::read(&rooms.parts())?;
    let age = Duration::from_millis(health::now().0.saturating_sub(health.looked_at.0));
    let ok = health.is_ok() && age < STALE_AFTER;
    let standing = Standing { house, ok, health };
    show(json, &standing, |standing| {
        let mut text = welcome(&standing.house);
        for trouble in standing.health.troubles() {
            text.push_str(&format!("\n✗ {trouble}"));
        }
        if age >= STALE_AFTER {
            let at = health::clock(standing.health.looked_at);
            text.push_str(&format!("\n✗ `palatine up` (process {}) has not looked since {at}", standing.house.pid));
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
fn detach(rooms: &Rooms) -> Result<House> {
    let log = rooms.logs().join("up.log");
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
        .context("start the house")?;
    let step = Step::start("Starting");
    let limit = Instant::now() + DETACHED_LIMIT;
    loop {
        if let Some(house) = rooms.running()? {
            step.done();
            return Ok(house);
        }
        if let Some(status) = child.try_wait().context("look after the house")? {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            bail!("the house ended ({status}):\n{}", said.trim_end());
        }
        if Instant::now() > limit {
            child.kill().context("give up on the house")?;
            bail!("the house was not ready within {DETACHED_LIMIT:?}; see {}", log.display());
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn welcome(house: &House) -> String {
    format!(
        "\nPalatine is ready at {}\nA funded holder: {} ({})\nAn owner with test USDC: {} ({})\nThe local chain: {} (id \
         338)\nLogs: {}\n\nTry:\n  palatine wallet link\n  palatine spawn --type echo\n  palatine ask <id> \"are you \
         there?\"\n  palatine stop <id>\n",
        house.gateway,
        house.holder,
        house.holder_keypair.display(),
        house.owner,
        house.owner_keystore.display(),
        house.evm_rpc,
        house.logs.display(),
    )
}
