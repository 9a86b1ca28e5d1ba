//! From the parts to a node that answers, and back down.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::Clock;
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use metrics_exporter_prometheus::PrometheusHandle;
use rustix::fs::{FlockOperation, flock};
use sandbox::Runtime;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tower::ServiceExt;

use crate::api::{Api, routes};
use crate::builders::Builders;
use crate::context::NodeContext;
use crate::heartbeat::HeartbeatFile;
use crate::helpers::Helpers;
use crate::journal::Journal;
use crate::ledger::Ledger;
use crate::node::Node;
use crate::policy::Capacity;
use crate::registry::Registry;
use crate::streams::ConnectionPermit;
use crate::upkeep;
use crate::uploads::Uploads;
use crate::{Config, ImageCatalog, ShutdownPolicy};

/// Connections at most that carry no stream of an agent; those count for the agent.
const CONNECTIONS: usize = 4_096;
/// How long a request's head may take.
const HEAD: Duration = Duration::from_secs(10);
/// How long open calls may take to end when the daemon does.
const DRAIN: Duration = Duration::from_secs(5);
/// Pause after a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a node cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another daemon has the state folder.
    #[error("another hypercore uses {0}; stop it, or give this one another node.state")]
    Taken(String),
    /// The state folder.
    #[error("open the state folder {0}")]
    State(String, #[source] io::Error),
    /// The socket.
    #[error("listen on {0}")]
    Socket(String, #[source] io::Error),
    /// The group of the socket.
    #[error("node.group: this machine has no group {0:?}")]
    Group(String),
    /// What is in the state folder.
    #[error("take up what the daemon before has left")]
    Recover(#[source] anyhow::Error),
}

/// The right to use a state folder, until it is dropped.
#[derive(Debug)]
pub struct StateLock(#[expect(dead_code, reason = "holding it open holds the lock")] File);

impl StateLock {
    /// Claims the state folder, which is made if it is not there.
    ///
    /// # Errors
    /// [`ServeError::Taken`] when another daemon has it.
    pub fn take(config: &Config) -> Result<Self, ServeError> {
        let state = config.state.display().to_string();
        let failed = |error| ServeError::State(state.clone(), error);
        fs::create_dir_all(&config.state).map_err(failed)?;
        fs::set_permissions(&config.state, fs::Permissions::from_mode(0o700)).map_err(failed)?;
        let path = config.state.join("lock");
        let lock =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map_err(failed)?;
        let limit = Instant::now() + Self::PATIENCE;
        loop {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self(lock)),
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < limit => std::thread::sleep(Self::PAUSE),
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(ServeError::Taken(state)),
                Err(error) => return Err(failed(error.into())),
            }
        }
    }

    /// A daemon that was killed in the middle of starting a program leaves a copy
    /// of its lock in the half of the fork that has not yet become the program.
    const PATIENCE: Duration = Duration::from_secs(3);
    const PAUSE: Duration = Duration::from_millis(20);
}

/// What a node is made of.
pub struct NodeParts {
    /// The right to the state folder.
    pub lock: StateLock,
    /// What isolates.
    pub runtime: Arc<dyn Runtime>,
    /// Where images are.
    pub images: Arc<dyn ImageCatalog>,
    /// What tells the time.
    pub clock: Arc<dyn Clock>,
    /// Name servers of the guests.
    pub resolvers: Vec<Ipv4Addr>,
    /// What renders the metrics.
    pub metrics: PrometheusHandle,
}

/// Binds the node's socket: mode 0660, of the configured group. It has its name only
/// when it has its rights.
///
/// # Errors
/// When it cannot be made.
pub fn bind(config: &Config) -> Result<UnixListener, ServeError> {
    let path = &config.socket;
    let failed = |error| ServeError::Socket(path.display().to_string(), error);
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(failed)?;
    }
    let half = path.with_extension("half");
    match fs::remove_file(&half) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&half).map_err(failed)?;
    if let Some(name) = &config.group {
        let group = find_group(name).ok_or_else(|| ServeError::Group(name.clone()))?;
        chown(&half, None, Some(group)).map_err(failed)?;
    }
    fs::set_permissions(&half, fs::Permissions::from_mode(0o660)).map_err(failed)?;
    fs::rename(&half, path).map_err(failed)?;
    Ok(listener)
}

fn find_group(name: &str) -> Option<u32> {
    let groups = fs::read_to_string("/etc/group").ok()?;
    let line = groups.lines().find(|line| line.split(':').next() == Some(name))?;
    line.split(':').nth(2)?.parse().ok()
}

/// Runs the node until `closing` is cancelled.
///
/// # Errors
/// What keeps it from starting.
pub async fn serve(
    config: Config,
    parts: NodeParts,
    listener: UnixListener,
    closing: CancellationToken,
) -> Result<(), ServeError> {
    let state = config.state.clone();
    let failed = |error: anyhow::Error| ServeError::Recover(error);
    let (heartbeat, last_alive) = HeartbeatFile::open(&state.join("heartbeat"))
        .map_err(|error| ServeError::State(state.display().to_string(), error))?;
    let reserve = crate::reserve::of(&state);
    let journal = Journal::open(&state.join("marks"), config.marks, reserve.clone());
    let journal = journal.map_err(|error| failed(error.into()))?;
    let ledger = Ledger::open(&state, reserve.clone()).map_err(|error| failed(error.into()))?;
    let offers = parts.runtime.offers();
    let capacity = capacity(&config, &offers).map_err(|error| failed(error.into()))?;
    let (on_shutdown, least_free_mib) = (config.on_shutdown, config.disk_free_mib);
    let shared = Arc::new(NodeContext {
        config,
        runtime: Arc::clone(&parts.runtime),
        offers,
        uploads: parts.images.store().map(|store| Arc::new(Uploads::new(store, least_free_mib))),
        image_use: tokio::sync::RwLock::new(()),
        images: parts.images,
        journal,
        clock: Arc::clone(&parts.clock),
        resolvers: parts.resolvers.iter().map(Ipv4Addr::to_string).collect(),
        registry: Registry::new(capacity),
        helpers: Helpers::default(),
        builders: Builders::default(),
        kept: tokio::sync::Mutex::new(()),
        disks_changed: tokio::sync::Notify::new(),
    });
    let node = Arc::new(Node::new(Arc::clone(&shared), ledger));
    node.recover(last_alive).await.map_err(failed)?;
    let _beats = AbortOnDropHandle::new(tokio::spawn(heartbeat.run(parts.clock)));
    let sweeping = Arc::clone(&node);
    let _sweeping = AbortOnDropHandle::new(tokio::spawn(async move { upkeep::keep_images(&sweeping).await }));
    let metered = Arc::clone(&node);
    let _metering = AbortOnDropHandle::new(tokio::spawn(async move { upkeep::keep_meter(&metered, last_alive).await }));
    let _keeping = AbortOnDropHandle::new(tokio::spawn(async move { upkeep::keep_disks(&shared, reserve).await }));
    let runtime = Arc::clone(&parts.runtime);
    let _tending = AbortOnDropHandle::new(tokio::spawn(async move { upkeep::keep_network(&*runtime).await }));
    let api = Api { node: Arc::clone(&node), metrics: parts.metrics, closing: closing.clone() };
    accept(listener, api, &closing).await;
    node.close();
    // Nobody would find them again.
    node.end_helpers().await;
    node.shared.builders.end_all().await;
    match on_shutdown {
        ShutdownPolicy::Stop => node.halt().await,
        ShutdownPolicy::Leave => node.leave().await,
    }
    if let Err(error) = parts.runtime.close().await {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "not everything on the machine could be put back as it was"
        );
    }
    drop(parts.lock);
    Ok(())
}

async fn accept(listener: UnixListener, api: Api, closing: &CancellationToken) {
    let (graceful, room) = (GracefulShutdown::new(), Arc::new(Semaphore::new(CONNECTIONS)));
    let router = routes(api);
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { break };
        tokio::select! {
            () = closing.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => converse(stream, ConnectionPermit::of(permit), &router, &graceful),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    drop(listener);
    if timeout(DRAIN, graceful.shutdown()).await.is_err() {
        tracing::warn!("calls that did not end in time are cut off");
    }
}

fn converse(stream: UnixStream, permit: ConnectionPermit, router: &axum::Router, graceful: &GracefulShutdown) {
    let theirs = permit.clone();
    let service = TowerToHyperService::new(router.clone().map_request(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(theirs.clone());
        request
    }));
    let mut server = auto::Builder::new(TokioExecutor::new()).http1_only();
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
    let connection = server.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
    let connection = graceful.watch(connection);
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(error = &*error, "a connection broke");
        }
        permit.free();
    });
}

fn capacity(config: &Config, offers: &[sandbox::RuntimeInfo]) -> io::Result<Capacity> {
    let cores = u32::try_from(std::thread::available_parallelism()?.get()).unwrap_or(u32::MAX);
    let all_mib = match config.memory_mib {
        0 => machine_mib(Path::new("/proc/meminfo"))?.saturating_sub(Config::MACHINE_MIB),
        given => given,
    };
    Ok(Capacity {
        cores,
        vcpus: cores.saturating_mul(config.vcpus_per_core),
        memory_mib: all_mib.saturating_mul(config.memory_percent.into()) / 100,
        // Whichever the next one is in, there is room for it.
        overhead_mib: offers.iter().map(|offered| offered.overhead_mib).max().unwrap_or(0),
        slots: offers.iter().map(|offered| offered.slots).min().unwrap_or(0),
        agent_disk_mib: config.agent_disk_mib(),
        disk_percent: config.disk_percent,
        disk_free_mib: config.disk_free_mib,
    })
}

fn machine_mib(meminfo: &Path) -> io::Result<u64> {
    let text = fs::read_to_string(meminfo)?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.map(|kib| kib / 1024).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no MemTotal in /proc/meminfo"))
}
