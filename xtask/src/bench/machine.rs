//! What machine this is, and which of its processors we run on.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde::Serialize;

/// What a figure must be read with.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Machine {
    processor: String,
    processors: usize,
    memory_mib: u64,
    kernel: String,
    qemu: String,
    commit: String,
    date: String,
}

impl Machine {
    pub(super) fn read() -> Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("read /proc/cpuinfo")?;
        let meminfo = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let total = field(&meminfo, "MemTotal").unwrap_or_default();
        let kib: u64 = total.split(' ').next().unwrap_or_default().parse().context("read MemTotal")?;
        Ok(Self {
            processor: field(&cpuinfo, "model name").unwrap_or_default(),
            processors: std::thread::available_parallelism()?.get(),
            memory_mib: kib / 1024,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            qemu: first_line("qemu-system-x86_64", &["--version"])?,
            commit: commit()?,
            date: first_line("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"])?,
        })
    }
}

/// The commit that is measured, and whether anything but earlier figures differs from it.
fn commit() -> Result<String> {
    let commit = first_line("git", &["describe", "--always"])?;
    let changed = first_line("git", &["status", "--porcelain", "--untracked-files=no", "--", ".", ":!bench/results"])?;
    Ok(if changed.is_empty() { commit } else { format!("{commit}-dirty") })
}

fn first_line(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).current_dir(crate::root()).output();
    let output = output.with_context(|| format!("run {program}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

/// Keeps this process, and the threads it starts from here on, on one processor.
pub(super) fn pin(processor: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(processor);
    sched_setaffinity(None, &set).with_context(|| format!("keep to processor {processor}"))
}

/// Lets this process run everywhere again.
pub(super) fn unpin() -> Result<()> {
    let mut set = CpuSet::new();
    for processor in 0..std::thread::available_parallelism().map_or(1, |_| num_processors()) {
        set.set(processor);
    }
    sched_setaffinity(None, &set).context("run on every processor again")
}

fn num_processors() -> usize {
    fs::read_to_string("/proc/cpuinfo")
        .map_or(1, |text| text.lines().filter(|line| line.starts_with("processor")).count())
}
