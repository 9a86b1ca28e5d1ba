//! Durable reservations per second, on one pinned core.
//!
//! `cargo run --release -p palatine-store --example reserve -- [callers] [seconds] [directory] [rate]`
//!
//! With a rate (reservations a second), callers start on a schedule and the
//! latency counts from the moment each was due.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use domain::{Clock, RunId, SystemClock, Wallet};
use palatine_store::{Admission, Config, ReplayKey, RunReservation, Store};

type Fault = Box<dyn std::error::Error + Send + Sync>;

struct Plan {
    callers: u64,
    lasts: Duration,
    directory: PathBuf,
    rate: Option<f64>,
}

fn main() -> Result<(), Fault> {
    let plan = plan()?;
    pin()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let mut latencies = runtime.block_on(run(&plan))?;
    latencies.sort_unstable();
    report(&plan, &latencies);
    Ok(())
}

fn plan() -> Result<Plan, Fault> {
    let mut words = std::env::args().skip(1);
    let callers = words.next().map_or(Ok(256), |word| word.parse())?;
    let seconds = words.next().map_or(Ok(5), |word| word.parse())?;
    let directory = words.next().map_or_else(|| std::env::temp_dir().join("palatine-reserve-bench"), PathBuf::from);
    let rate = words.next().map(|word| word.parse()).transpose()?;
    if directory.exists() {
        std::fs::remove_dir_all(&directory)?;
    }
    Ok(Plan { callers, lasts: Duration::from_secs(seconds), directory, rate })
}

/// The whole process on the first core it may use: runtime, writer and readers.
fn pin() -> Result<(), Fault> {
    let all = rustix::thread::sched_getaffinity(None)?;
    let first = (0..rustix::thread::CpuSet::MAX_CPU).find(|core| all.is_set(*core)).ok_or("no core to run on")?;
    let mut one = rustix::thread::CpuSet::new();
    one.set(first);
    Ok(rustix::thread::sched_setaffinity(None, &one)?)
}

async fn run(plan: &Plan) -> Result<Vec<Duration>, Fault> {
    let store = Store::open(&Config { directory: plan.directory.clone(), ..Config::default() }).await?;
    let began = Instant::now();
    let callers: Vec<_> = (0..plan.callers)
        .map(|caller| tokio::spawn(call(store.clone(), caller, began, pace(plan), plan.lasts)))
        .collect();
    let mut latencies = Vec::new();
    for caller in callers {
        latencies.extend(caller.await??);
    }
    Ok(latencies)
}

fn pace(plan: &Plan) -> Option<Duration> {
    let callers = f64::from(u32::try_from(plan.callers).unwrap_or(u32::MAX));
    plan.rate.map(|rate| Duration::from_secs_f64(callers / rate))
}

async fn call(
    store: Store,
    caller: u64,
    began: Instant,
    pace: Option<Duration>,
    lasts: Duration,
) -> Result<Vec<Duration>, Fault> {
    let mut latencies = Vec::new();
    let mut due = Instant::now() + pace.map_or(Duration::ZERO, |pace| pace.mul_f64(spread(caller)));
    for turn in 0_u64.. {
        if began.elapsed() >= lasts {
            break;
        }
        if pace.is_some() {
            tokio::time::sleep_until(due.into()).await;
        } else {
            due = Instant::now();
        }
        let admission = store.reserve(reservation(caller, turn)?).await?;
        if !matches!(admission, Admission::Reserved(_)) {
            return Err(format!("not reserved: {admission:?}").into());
        }
        latencies.push(due.elapsed());
        due += pace.unwrap_or_default();
    }
    Ok(latencies)
}

/// Spreads the callers over one period.
fn spread(caller: u64) -> f64 {
    f64::from(u32::try_from(mix(caller) >> 40).unwrap_or(0)) / f64::from(1_u32 << 24)
}

fn reservation(caller: u64, turn: u64) -> Result<RunReservation, Fault> {
    let seed = mix(caller << 32 | turn);
    let mut wallet = [0; 32];
    for (at, chunk) in (0_u64..).zip(wallet.chunks_exact_mut(8)) {
        chunk.copy_from_slice(&mix(seed ^ at).to_be_bytes());
    }
    let mut key = wallet;
    key.reverse();
    let now = SystemClock.now();
    Ok(RunReservation {
        volumes: Vec::new(),
        replay_key: Some(ReplayKey { key, expires_at: now.plus(330_000) }),
        id: RunId::from_bits(seed),
        wallet: Wallet(wallet),
        now,
        ..fixtures::reservation(caller, turn)
    })
}

/// SplitMix64: spreads a counter over all 64 bits, and never gives one twice.
const fn mix(counter: u64) -> u64 {
    let z = counter.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn report(plan: &Plan, sorted: &[Duration]) {
    let count = f64::from(u32::try_from(sorted.len()).unwrap_or(u32::MAX));
    let at = |share: usize| sorted.get(sorted.len() * share / 1000).copied().unwrap_or_default();
    println!("{:.0} durable reservations/s on one core, {} callers", count / plan.lasts.as_secs_f64(), plan.callers);
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let micros = Duration::new(cpu.tv_sec.unsigned_abs(), u32::try_from(cpu.tv_nsec).unwrap_or(0)).as_secs_f64() * 1e6;
    println!("{:.1} µs of processor time each: {:.0}/s on a core of one's own", micros / count, 1e6 * count / micros);
    println!(
        "latency p50 {:?}, p99 {:?}, p99.9 {:?}, max {:?}",
        at(500),
        at(990),
        at(999),
        sorted.last().copied().unwrap_or_default()
    );
}
