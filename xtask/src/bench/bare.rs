//! The floor of a cold start: the same QEMU, kernel, disks and network as the
//! product's, started by hand, to the same userspace.
//!
//! Runs inside a network namespace with a `tap0`; everything that can be made
//! beforehand is.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use domain::{Clock, RunId, SystemClock};
use serde_json::{Value, json};
use wire::v1::pod::{GuestConfig, ImageRunConfig};
use wire::{Environment, Secret};

/// How long a start may take.
const LIMIT: Duration = Duration::from_secs(60);
/// How long one try of the guest's port lasts.
const TRY: Duration = Duration::from_millis(25);

/// Pause after a try that was refused at once: somebody is there who does not listen yet.
const REFUSED: Duration = Duration::from_millis(1);

/// What `pod` is spoken to with: a benchmark has no secrets.
const TOKEN: &str = "0123456789abcdef";

/// What is started.
#[derive(Debug, Args)]
pub(crate) struct Bare {
    /// The arguments of a running guest of the product, one a line: kernel,
    /// memory and processors are taken from there
    #[arg(long)]
    like: PathBuf,
    /// The disks: base, layer, data
    #[arg(long, num_args = 3)]
    disks: Vec<PathBuf>,
    /// How the image is run, as the image store has it
    #[arg(long)]
    run: PathBuf,
}

/// Starts it, waits until the agent is ready, and prints the milliseconds that
/// took and what `pod` measured of itself.
pub(crate) fn run(bare: &Bare) -> Result<()> {
    let config = guest_config(serde_json::from_slice(&fs::read(&bare.run)?)?)?;
    let mut qemu = command(bare)?;
    let web = client()?;
    let since = Instant::now();
    let mut child = qemu.spawn().context("start QEMU")?;
    let address = SocketAddr::from((wire::v1::pod::GUEST_ADDRESS, wire::v1::pod::PORT));
    let outcome = ready(&web, &config, address, || match child.try_wait()? {
        Some(status) => bail!("QEMU ended: {status}"),
        None => Ok(()),
    });
    let took = since.elapsed();
    child.kill().ok();
    child.wait()?;
    println!("{}", json!({"ready_ms": took.as_secs_f64() * 1000.0, "status": outcome?}));
    Ok(())
}

/// What `pod` is asked with.
pub(super) fn client() -> Result<reqwest::blocking::Client> {
    Ok(reqwest::blocking::Client::builder().no_proxy().timeout(LIMIT).build()?)
}

/// Gives a guest its identity and waits until its agent is ready; what `pod` says then.
pub(super) fn ready(
    web: &reqwest::blocking::Client,
    config: &GuestConfig,
    address: SocketAddr,
    lives: impl FnMut() -> Result<()>,
) -> Result<Value> {
    knock(address, lives)?;
    let pod = format!("http://{address}");
    let answer =
        web.post(format!("{pod}/v1/identity")).json(config).send().context("deliver the guest's configuration")?;
    if !answer.status().is_success() {
        bail!("pod refused its configuration: {}", answer.text()?);
    }
    let status = web.get(format!("{pod}/v1/status?wait_ms=60000&until=ready")).bearer_auth(TOKEN).send()?;
    let status: Value = status.json()?;
    if status["phase"] != "ready" {
        bail!("the agent is not ready: {status}");
    }
    Ok(status)
}

/// Waits until the port is open. What comes before the guest has its address is
/// lost, and the kernel repeats it only after a second: so many short tries.
fn knock(address: SocketAddr, mut lives: impl FnMut() -> Result<()>) -> Result<()> {
    let limit = Instant::now() + LIMIT;
    while let Err(error) = TcpStream::connect_timeout(&address, TRY) {
        if Instant::now() > limit {
            return Err(error).context("reach pod");
        }
        lives()?;
        if error.kind() == std::io::ErrorKind::ConnectionRefused {
            thread::sleep(REFUSED);
        }
    }
    Ok(())
}

/// The identity of a guest that is started by hand.
pub(super) fn guest_config(run: ImageRunConfig) -> Result<GuestConfig> {
    Ok(GuestConfig {
        pod_id: "by-hand".parse()?,
        run_id: RunId::from_bits(1),
        token: Secret::from(TOKEN.to_owned()),
        clock_unix_ns: SystemClock.now().0 * 1_000_000,
        // Base64 of 64 zero bytes.
        entropy: Secret::from(format!("{}==", "A".repeat(86))),
        resolvers: vec!["1.1.1.1".to_owned()],
        run,
        env: Environment::default(),
        traceparent: None,
        volumes: Vec::new(),
    })
}

/// The product's own command line, with files and a tap of ours in place of the
/// open ones it was handed.
fn command(bare: &Bare) -> Result<Command> {
    let text = fs::read_to_string(&bare.like)?;
    let words: Vec<&str> = text.lines().collect();
    let mut command = Command::new(words.first().context("read the product's command line")?);
    let mut serials = ["base", "layer", "data"].iter().zip(&bare.disks);
    let mut pairs = words[1..].chunks(1).map(|word| word[0]).peekable();
    while let Some(word) = pairs.next() {
        match (word, pairs.peek().copied()) {
            ("-add-fd" | "-mon", Some(_)) => drop(pairs.next()),
            ("-chardev", Some(value)) => {
                pairs.next();
                if value.contains("id=console") {
                    command.args(["-chardev", "null,id=console"]);
                }
            }
            ("-netdev", Some(_)) => {
                pairs.next();
                command.args(["-netdev", "tap,id=net,ifname=tap0,script=no,downscript=no"]);
            }
            ("-blockdev", Some(value)) => {
                pairs.next();
                let (serial, path) = serials.next().context("more disks than base, layer and data")?;
                let access = if value.contains("read-only=on") { "read-only=on" } else { "discard=unmap" };
                let file = format!("file.driver=file,file.filename={},file.locking=off", path.display());
                command.args(["-blockdev", &format!("driver=raw,node-name={serial},{access},{file}")]);
            }
            _ => drop(command.arg(word)),
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::null());
    Ok(command)
}
