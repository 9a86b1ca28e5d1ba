//! How many spawns one gateway on one core admits, each reservation durable.
//!
//! The gateway is a process of its own on processor 0, the load on processor 1.
//! Every request is a spawn of another wallet, signed beforehand in the bound
//! form our clients use, over kept-alive connections. Behind the gateway a fake
//! chain says that everybody holds enough, and a fake node starts every agent at
//! once; the database is the real one, on a real disk.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use auth::{GatewayName, Keypair};
use bytes::Bytes;
use domain::{Clock, SystemClock, UnixMillis};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http1::{SendRequest, handshake};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::sync::mpsc;

use super::figures::{Figure, percentile};
use super::machine::pin;

/// Spawns of the run that finds the peak.
const PEAK_SPAWNS: usize = 60_000;
/// Spawns of the run at half of it.
const HALF_SPAWNS: usize = 25_000;
/// Spawns of the run on PostgreSQL.
const POSTGRES_SPAWNS: usize = 20_000;
/// Spawns nobody counts.
const WARM_SPAWNS: usize = 3_000;
/// Connections of the load.
const CONNECTIONS: usize = 256;
/// Verifications with nothing around them.
const BARE: u32 = 20_000;
/// How long before the run the first of its requests was signed.
const SIGNED_BEFORE_MS: u64 = 20_000;
/// The seed's public gateway on Express: admissions per second, as seen.
const SEED_PER_SECOND: f64 = 81.0;

const BODY: &[u8] = br#"{"agent_type":"echo"}"#;
const PATH: &str = "/spawn?wait=false";
const SPAWN: auth::BoundRequest<'static> = auth::BoundRequest { method: "POST", path: PATH, body: BODY };

type Sender = SendRequest<Full<Bytes>>;

/// Measures on SQLite, and returns the figures.
pub(super) fn run() -> Result<Vec<Figure>> {
    let dir = tempfile::TempDir::with_prefix_in("palatine-bench-", super::scratch())?;
    let server = Server::start(dir.path(), None)?;
    pin(1)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(load(&server));
    drop(server);
    outcome
}

/// Measures on PostgreSQL, which shares the load's processor.
pub(super) fn run_on_postgres() -> Result<Vec<Figure>> {
    let dir = tempfile::TempDir::with_prefix_in("palatine-bench-", super::scratch())?;
    pin(1)?;
    let database = fixtures::Postgres::start();
    let server = Server::start(dir.path(), Some(&database.url("postgres")))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(load_on_postgres(&server));
    drop(server);
    outcome
}

async fn load_on_postgres(server: &Server) -> Result<Vec<Figure>> {
    let (mut idle, mut take) = prepare(server).await?;
    closed(&mut idle, take(WARM_SPAWNS)?).await?;
    let requests = take(POSTGRES_SPAWNS)?;
    let since = Instant::now();
    let latencies = closed(&mut idle, requests).await?;
    let peak = count(latencies.len()) / since.elapsed().as_secs_f64();
    Ok(vec![
        Figure::new("admissions per second on PostgreSQL, the server on the load's core", peak, "1/s"),
        Figure::new(
            format!("… p99 at the peak, {CONNECTIONS} connections, PostgreSQL"),
            millis(percentile(&latencies, 0.99)),
            "ms",
        ),
    ])
}

/// Connections to the gateway, and what makes the next signed requests.
async fn prepare(server: &Server) -> Result<(Vec<Sender>, impl FnMut(usize) -> Result<Vec<Request<Full<Bytes>>>>)> {
    let port = server.port;
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS {
        idle.push(connect(port).await?);
    }
    let mut at = 0;
    let take = move |count: usize| {
        let requests = requests(port, at, count);
        at += count;
        requests
    };
    Ok((idle, take))
}

async fn load(server: &Server) -> Result<Vec<Figure>> {
    let (mut idle, mut take) = prepare(server).await?;
    closed(&mut idle, take(WARM_SPAWNS)?).await?;

    let requests = take(PEAK_SPAWNS)?;
    let (since, worked) = (Instant::now(), server.processor_time()?);
    let latencies = closed(&mut idle, requests).await?;
    let peak = count(latencies.len()) / since.elapsed().as_secs_f64();
    let each = (server.processor_time()? - worked).as_secs_f64() * 1e6 / count(latencies.len());

    let bare = bare_verification()?;
    let half = open(idle, take(HALF_SPAWNS)?, peak / 2.0).await?;
    Ok(vec![
        Figure::new("admissions per second, one core", peak, "1/s").against(SEED_PER_SECOND * 100.0, "at least"),
        Figure::new("… as a multiple of the seed's 81 per second", peak / SEED_PER_SECOND, "×")
            .against(100.0, "at least"),
        Figure::new("… processor time of the gateway for each", each, "µs"),
        Figure::new("… one signature verified by itself, on the other core", bare, "µs"),
        Figure::new(
            format!("… p99 at the peak, {CONNECTIONS} connections"),
            millis(percentile(&latencies, 0.99)),
            "ms",
        ),
        Figure::new("… p50 at half of the peak", millis(percentile(&half, 0.5)), "ms"),
        Figure::new("… p99 at half of the peak", millis(percentile(&half, 0.99)), "ms").against(5.0, "at most"),
    ])
}

/// Each connection sends the next request when its last was answered.
async fn closed(idle: &mut [Sender], requests: Vec<Request<Full<Bytes>>>) -> Result<Vec<Duration>> {
    let queue = Arc::new(Mutex::new(requests.into_iter()));
    let runs = idle.iter_mut().map(|sender| {
        let queue = queue.clone();
        async move {
            let mut latencies = Vec::new();
            loop {
                let Some(request) = queue.lock().await.next() else { break anyhow::Ok(latencies) };
                let since = Instant::now();
                admit(sender, request).await?;
                latencies.push(since.elapsed());
            }
        }
    });
    let runs = futures_util::future::try_join_all(runs).await?;
    Ok(runs.into_iter().flatten().collect())
}

/// Requests are sent when they are due, whatever became of the ones before; a
/// latency is counted from the moment its request was due.
async fn open(idle: Vec<Sender>, requests: Vec<Request<Full<Bytes>>>, rate: f64) -> Result<Vec<Duration>> {
    let (free, mut idle_ones) = mpsc::unbounded_channel();
    for sender in idle {
        free.send(sender).ok().context("queue a connection")?;
    }
    let start = tokio::time::Instant::now();
    let mut running = tokio::task::JoinSet::new();
    for (at, request) in requests.into_iter().enumerate() {
        let due = start + Duration::from_secs_f64(count(at) / rate);
        tokio::time::sleep_until(due).await;
        let mut sender: Sender = idle_ones.recv().await.context("every connection broke")?;
        let free = free.clone();
        running.spawn(async move {
            admit(&mut sender, request).await?;
            let latency = due.elapsed();
            free.send(sender).ok();
            anyhow::Ok(latency)
        });
    }
    let mut latencies = Vec::new();
    while let Some(done) = running.join_next().await {
        latencies.push(done??);
    }
    Ok(latencies)
}

async fn admit(sender: &mut Sender, request: Request<Full<Bytes>>) -> Result<()> {
    sender.ready().await?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    ensure!(status == 202, "{status}: {}", String::from_utf8_lossy(&body));
    Ok(())
}

async fn connect(port: u16) -> Result<Sender> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(hyper_util::rt::TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// Signed spawns of wallets `from..from + count`.
fn requests(port: u16, from: usize, count: usize) -> Result<Vec<Request<Full<Bytes>>>> {
    let gateway: GatewayName = format!("127.0.0.1:{port}").parse()?;
    // Clients sign when they send: their instants rise, five of them a millisecond.
    let start = SystemClock.now();
    let signed = (from..from + count).map(|wallet| {
        let now = UnixMillis(start.0 - SIGNED_BEFORE_MS + u64::try_from(wallet - from)? / 5);
        let mut seed = [0x5e; 32];
        seed[..8].copy_from_slice(&u64::try_from(wallet)?.to_le_bytes());
        let headers = Keypair::generate(&seed).sign_request(&gateway, &SPAWN, now);
        let request = Request::post(PATH)
            .header("host", gateway.as_str())
            .header("content-type", "application/json")
            .header("x-wallet", headers.wallet)
            .header("x-signature", headers.signature)
            .header("x-timestamp", headers.timestamp)
            .header("x-audience", gateway.as_str());
        Ok(request.body(Full::new(Bytes::from_static(BODY)))?)
    });
    signed.collect()
}

/// Microseconds of one verification with nothing around it: how quick the machine is
/// at the moment.
fn bare_verification() -> Result<f64> {
    let now = SystemClock.now();
    let gateway: GatewayName = "127.0.0.1:8080".parse()?;
    let headers = Keypair::generate(&[0x5e; 32]).sign_request(&gateway, &SPAWN, now);
    let presented = auth::SignatureHeaders {
        wallet: Some(&headers.wallet),
        signature: Some(&headers.signature),
        timestamp: Some(&headers.timestamp),
        audience: Some(gateway.as_str()),
    };
    let policy = auth::VerifyPolicy { audiences: std::slice::from_ref(&gateway), require_bound: false };
    let since = Instant::now();
    for _ in 0..BARE {
        auth::verify(presented, &SPAWN, policy, now)?;
    }
    Ok(since.elapsed().as_secs_f64() * 1e6 / f64::from(BARE))
}

fn millis(latency: Duration) -> f64 {
    latency.as_secs_f64() * 1000.0
}

fn count(n: usize) -> f64 {
    f64::from(u32::try_from(n).unwrap_or(u32::MAX))
}

/// The gateway under test.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(dir: &std::path::Path, store: Option<&str>) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("bench-gateway").arg(dir);
        if let Some(url) = store {
            command.arg("--store").arg(url);
        }
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("read the gateway's port")?;
        BufReader::new(stdout).read_line(&mut line)?;
        Ok(Self { child, port: line.trim().parse().context("read the gateway's port")? })
    }

    /// What its threads have worked.
    fn processor_time(&self) -> Result<Duration> {
        let mut sum = Duration::ZERO;
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = std::fs::read_to_string(thread?.path().join("schedstat"))?;
            let worked = text.split(' ').next().context("read a thread's time")?;
            sum += Duration::from_nanos(worked.parse()?);
        }
        Ok(sum)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
