//! What the guest is, as E2B's clients ask for it: its environment, what of it is used.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::header::CACHE_CONTROL;
use rustix::fs::statvfs;
use serde::Serialize;
use wire::fault::Code;

use super::error::ApiError;
use crate::agent::Pod;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
/// Over how long the use of the processors is looked at.
const SAMPLE: Duration = Duration::from_millis(100);

/// `GET /envs`: what the agent's processes find in their environment.
pub(super) async fn envs(State(pod): State<Pod>) -> Result<Response, ApiError> {
    let plan = pod.plan().ok_or_else(|| ApiError::new(Code::WrongState, "the pod has no identity yet"))?;
    let envs: BTreeMap<&str, &str> = plan.env.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
    Ok(([(CACHE_CONTROL, "no-store")], Json(envs)).into_response())
}

/// What the guest uses.
#[derive(Debug, Serialize)]
pub(super) struct GuestUsage {
    /// Now, in seconds.
    ts: u64,
    cpu_count: usize,
    cpu_used_pct: f64,
    /// Bytes, where nothing else is said.
    mem_total: u64,
    mem_used: u64,
    mem_cache: u64,
    mem_total_mib: u64,
    mem_used_mib: u64,
    disk_used: u64,
    disk_total: u64,
}

/// `GET /usage`: what the guest's kernel counts.
pub(super) async fn usage() -> Result<Json<GuestUsage>, ApiError> {
    let memory = Memory::of(&read("/proc/meminfo")?);
    let before = CpuTicks::of(&read("/proc/stat")?);
    tokio::time::sleep(SAMPLE).await;
    let after = CpuTicks::of(&read("/proc/stat")?);
    let disk = statvfs("/").map_err(|error| unreadable("/", &error.into()))?;
    let disk_total = disk.f_blocks * disk.f_frsize;
    let mem_used = memory.total.saturating_sub(memory.available);
    Ok(Json(GuestUsage {
        ts: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        cpu_count: std::thread::available_parallelism().map_or(1, NonZero::get),
        cpu_used_pct: after.used_since(before),
        mem_total: memory.total,
        mem_used,
        mem_cache: memory.cached,
        mem_total_mib: memory.total / MIB,
        mem_used_mib: mem_used / MIB,
        disk_used: disk_total.saturating_sub(disk.f_bavail * disk.f_frsize),
        disk_total,
    }))
}

fn read(path: &str) -> Result<String, ApiError> {
    std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))
}

fn unreadable(path: &str, error: &std::io::Error) -> ApiError {
    ApiError::new(Code::Internal, format!("{path} cannot be read: {error}"))
}

/// What `/proc/meminfo` says, in bytes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Memory {
    total: u64,
    available: u64,
    cached: u64,
}

impl Memory {
    fn of(text: &str) -> Self {
        let mut memory = Self::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some(name), Some(Ok(number))) = (words.next(), words.next().map(str::parse::<u64>)) else { continue };
            match name {
                "MemTotal:" => memory.total = number * KIB,
                "MemAvailable:" => memory.available = number * KIB,
                "Cached:" => memory.cached = number * KIB,
                _ => {}
            }
        }
        memory
    }
}

/// What the first line of `/proc/stat` says of all processors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct CpuTicks {
    all: u32,
    idle: u32,
}

impl CpuTicks {
    fn of(text: &str) -> Self {
        let numbers = text.lines().next().unwrap_or_default().split_ascii_whitespace().skip(1);
        // Guests' time, after the eighth, is in the users' already.
        let numbers: Vec<u64> = numbers.take(8).map_while(|number| number.parse().ok()).collect();
        let ticks = |numbers: &[u64]| {
            let sum = numbers.iter().fold(0, |sum: u64, number| sum.wrapping_add(*number));
            // Only differences of a moment are looked at.
            u32::try_from(sum & u64::from(u32::MAX)).unwrap_or(0)
        };
        Self { all: ticks(&numbers), idle: ticks(numbers.get(3..5).unwrap_or_default()) }
    }

    /// How much of the processors was used since, in percent.
    fn used_since(self, before: Self) -> f64 {
        let (all, idle) = (self.all.wrapping_sub(before.all), self.idle.wrapping_sub(before.idle));
        match all {
            0 => 0.0,
            all => (10_000.0 * f64::from(all.saturating_sub(idle)) / f64::from(all)).round() / 100.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_counts_is_read() {
        let text = "MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:    400 kB\nCached: 30 kB\nHugePages_Total: 0\n";
        let memory = Memory { total: 1000 * KIB, available: 400 * KIB, cached: 30 * KIB };
        assert_eq!((Memory::of(text), Memory::of("")), (memory, Memory::default()));
        let before = CpuTicks::of("cpu  100 0 50 800 50 0 0 0 7 7\ncpu0 1 2\n");
        let after = CpuTicks::of("cpu  110 0 60 850 80 0 0 0 9 9\n");
        assert_eq!((before, after.used_since(before)), (CpuTicks { all: 1000, idle: 850 }, 20.0));
        assert_eq!(before.used_since(before), 0.0);
    }
}
