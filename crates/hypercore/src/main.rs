//! `hypercore`: the node daemon.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use config::{Environment, File, FileFormat};
use domain::{RuntimeKind, SystemClock};
use image::ImageStore;
use palatine_hypercore::{Config, NetworkConfig, NodeParts, StateLock, bind, serve};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sandbox::drivers::Several;
use sandbox::drivers::container::{Container, ContainerSettings, OciRuntime};
use sandbox::drivers::qemu::{Kernel, Qemu, QemuSettings};
use sandbox::network::Egress;
use sandbox::{NodeMachine, Runtime};
use serde::Deserialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

/// Threads that serve; the work is in the guests.
const WORKERS: usize = 2;
/// Threads that wait for disks and for the host's programs.
const BLOCKING: usize = 32;

/// The node daemon of Palatine: runs agents in microVMs of their own. Needs root.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// The configuration: the sections [node], [network], [images] and [log] are used.
    /// Variables named PALATINE__<SECTION>__<KEY> go before it.
    #[arg(long, env = "PALATINE_CONFIG")]
    config: Option<PathBuf>,
}

/// The sections that concern a node; the others are other programs'.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Sections {
    node: Config,
    network: NetworkConfig,
    images: image::Config,
    log: telemetry::Config,
}

impl Sections {
    fn load(options: &Options) -> Result<Self> {
        let mut sources = config::Config::builder();
        if let Some(path) = &options.config {
            sources = sources.add_source(File::from(path.as_path()).format(FileFormat::Toml));
        }
        let variables = Environment::with_prefix("PALATINE").prefix_separator("__").separator("__").try_parsing(true);
        let sections: Self = sources.add_source(variables).build()?.try_deserialize()?;
        sections.node.check()?;
        sections.network.check()?;
        sections.images.check()?;
        Ok(sections)
    }
}

/// An error is told with its causes, whatever the environment says of backtraces:
/// without symbols these would bury it.
#[expect(clippy::print_stderr, reason = "there may be no log yet")]
fn main() -> ExitCode {
    match start(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(options: &Options) -> Result<()> {
    let sections = Sections::load(options).context("read the configuration")?;
    // The daemon holds secrets: nothing of it is written to the disk by a crash.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).context("switch core dumps off")?;
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files }).context("raise the limit of open files")?;
    // A second provider cannot be there: this is the first line that needs one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let _telemetry = telemetry::init(&sections.log, "hypercore")?;
    let metrics = telemetry::prometheus()?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING)
        .enable_all()
        .build()
        .context("start the runtime")?
        .block_on(run(sections, metrics))
}

async fn run(sections: Sections, metrics: metrics_exporter_prometheus::PrometheusHandle) -> Result<()> {
    let closing = CancellationToken::new();
    close_on_signal(&closing)?;
    anyhow::ensure!(
        rustix::process::geteuid().is_root(),
        "hypercore makes virtual machines and networks: run it as root"
    );
    let lock = StateLock::take(&sections.node)?;
    let images = ImageStore::open(&sections.images).context("open the image store")?;
    let runtime = start_drivers(&sections).await?;
    for offered in runtime.offers() {
        let name = offered.name.as_str();
        tracing::info!(runtime = name, reason = offered.reason, "guests run in {name}");
    }
    let resolvers = match sections.network.egress {
        Egress::Internet => sections.network.resolvers.clone(),
        Egress::None => Vec::new(),
    };
    let store = images.clone();
    let parts = NodeParts { lock, runtime, images: Arc::new(images), clock: Arc::new(SystemClock), resolvers, metrics };
    let listener = bind(&sections.node)?;
    tracing::info!(socket = %sections.node.socket.display(), "serving the node API");
    let socket = sections.node.socket.clone();
    // A node whose disk is full must serve whoever makes room.
    let _served = store.serve(&socket).inspect_err(|error| {
        let error = error as &dyn std::error::Error;
        tracing::error!(error, "who serves the image store is not written down: leave `palatine image --store` alone");
    });
    serve(sections.node, parts, listener, closing).await?;
    std::fs::remove_file(&socket).with_context(|| format!("remove {}", socket.display()))
}

/// The drivers that the operator names, on one machine.
async fn start_drivers(sections: &Sections) -> Result<Arc<dyn Runtime>> {
    let node = &sections.node;
    let containers = node.oci_runtimes();
    let slots = sections.network.range.slots();
    let users = (!containers.is_empty()).then(|| ContainerSettings::uids(node.first_container_uid, slots));
    let machine = NodeMachine::claim(&node.state, &sections.network, node.first_uid, users).await;
    let machine = Arc::new(machine.context("claim the machine")?);
    let container = match containers.is_empty() {
        true => None,
        false => {
            let started = Container::on(Arc::clone(&machine), container_settings(node, containers)).await;
            Some(started.context("start the container driver")?)
        }
    };
    let qemu = match node.runtimes.contains(&RuntimeKind::Qemu) {
        false => None,
        true => {
            let kernel = prepare_kernel(sections).await?;
            let started = Qemu::on(Arc::clone(&machine), settings(sections, kernel)).await;
            Some(started.context("start the QEMU driver")?)
        }
    };
    match (qemu, container) {
        (Some(qemu), Some(container)) => Ok(Arc::new(Several::new(&machine, qemu, container))),
        (Some(qemu), None) => Ok(Arc::new(qemu)),
        (None, Some(container)) => Ok(Arc::new(container)),
        (None, None) => anyhow::bail!("node.runtimes names nothing to run agents in"),
    }
}

fn container_settings(node: &Config, runtimes: Vec<OciRuntime>) -> ContainerSettings {
    ContainerSettings {
        runtimes,
        runsc: node.runsc.clone(),
        pod: node.pod.clone(),
        first_uid: node.first_container_uid,
        layer_mib: node.layer_mib,
        data_mib: node.data_mib,
        disk_mib_per_second: node.disk_mib_per_second,
        least_free_mib: node.disk_free_mib,
    }
}

async fn prepare_kernel(sections: &Sections) -> Result<Kernel> {
    let (images, pod) = (sections.images.clone(), sections.node.pod.clone());
    let made = spawn_blocking(move || image::kernel::prepare(&images, &pod, &image::NoProgress)).await?;
    let made = made.context("prepare the guests' kernel")?;
    Ok(Kernel { vmlinux: made.vmlinux, initramfs: made.initramfs, version: made.version })
}

fn settings(sections: &Sections, kernel: Kernel) -> QemuSettings {
    let node = &sections.node;
    QemuSettings {
        state: node.state.clone(),
        kernel,
        accelerator: node.accelerator,
        probe_deadline: Duration::from_millis(node.probe_deadline_ms),
        first_uid: node.first_uid,
        layer_mib: node.layer_mib,
        data_mib: node.data_mib,
        translation_cache_mib: node.translation_cache_mib,
        disk_mib_per_second: node.disk_mib_per_second,
        least_free_mib: node.disk_free_mib,
        network: sections.network.clone(),
    }
}

fn close_on_signal(closing: &CancellationToken) -> Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let closing = closing.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("shutting down");
        closing.cancel();
    });
    Ok(())
}
