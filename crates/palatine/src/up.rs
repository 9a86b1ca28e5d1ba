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
//! leaves one behind; hypercore takes its guests down when it is ended.

mod evm;
mod house;
mod keys;
mod parts;
mod prepare;
mod process;
mod progress;
mod solana;

use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::runtime::Builder;

pub(crate) use house::{House, Rooms};
pub(crate) use progress::Step;

use crate::cli;
use crate::output::show;
use prepare::Prepared;

/// How long a detached house may take to come up.
const DETACHED_LIMIT: Duration = Duration::from_secs(120);
/// How long a house may take to end: guests are asked first.
const DOWN_LIMIT: Duration = Duration::from_secs(90);
/// How often a detached house is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The variable that tells a detached house that it is the one.
const DETACHED: &str = "PALATINE_UP_DETACHED";

/// Runs the house until it is told to end, or starts one and returns.
pub(crate) fn up(rooms: &Rooms, options: &cli::Up, json: bool) -> Result<()> {
    if let Some(house) = rooms.running() {
        eprintln!("It is running already; stop it with: palatine down");
        return Ok(show(json, &house, welcome)?);
    }
    check_machine(rooms, options)?;
    rooms.build()?;
    let prepared = Prepared::make(rooms, options)?;
    if options.detach {
        let house = detach(rooms)?;
        return Ok(show(json, &house, welcome)?);
    }
    let Some(lock) = rooms.take()? else { bail!("another `palatine up` is starting in {}", rooms.root().display()) };
    let runtime = Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let outcome = runtime.block_on(parts::run(rooms, options, &prepared, |house| {
        if std::env::var_os(DETACHED).is_none() {
            show(json, house, welcome)?;
        }
        Ok(())
    }));
    drop(lock);
    outcome
}

/// Ends the running house and waits until it is gone.
pub(crate) fn down(rooms: &Rooms) -> Result<()> {
    let Some(house) = rooms.running() else {
        eprintln!("Nothing is running.");
        return Ok(());
    };
    let step = Step::start("Stopping");
    let pid = Pid::from_raw(house.pid).context("read the house's process id")?;
    kill_process(pid, Signal::TERM).context("ask the house to end")?;
    let limit = Instant::now() + DOWN_LIMIT;
    while rooms.running().is_some() {
        if Instant::now() > limit {
            bail!("the house (process {}) did not end within {DOWN_LIMIT:?}; see {}", house.pid, house.logs.display());
        }
        std::thread::sleep(LOOK_EVERY);
    }
    step.done();
    Ok(())
}

/// Shows the running house.
pub(crate) fn status(rooms: &Rooms, json: bool) -> Result<()> {
    let Some(house) = rooms.running() else { bail!("Nothing is running here. Start it: ./dev up") };
    Ok(show(json, &house, welcome)?)
}

/// What must hold before anything is touched.
fn check_machine(rooms: &Rooms, options: &cli::Up) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("Only root can make virtual machines' networks: run this with sudo -E");
    }
    if options.listen.port() != 0 {
        TcpListener::bind(options.listen).with_context(|| {
            format!(
                "{} is taken or not ours: stop what listens there, or pass --listen 127.0.0.1:<port>",
                options.listen
            )
        })?;
    }
    prepare::check_space(rooms)
}

/// Starts ourselves again, apart from this terminal, and waits until it is ready.
fn detach(rooms: &Rooms) -> Result<House> {
    let log = rooms.logs().join("up.log");
    let output = std::fs::File::create(&log).with_context(|| format!("open {}", log.display()))?;
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
        if let Some(house) = rooms.running() {
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
