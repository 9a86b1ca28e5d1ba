//! Runs one shard of the soak within its bound.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;

use crate::shards::{self, Shard, Work};

/// How long the tests of a stretched shard go on, in minutes.
const STRETCH: &str = "PALATINE_SOAK_MINUTES";
/// What a stretched shard takes beside its stretch.
const ASIDE_MINUTES: u64 = 10;
/// What `timeout` says when it had to end the command.
const ENDED: i32 = 124;
const KILLED: i32 = 137;

/// Which shard, and how.
#[derive(Debug, Args)]
pub(crate) struct Soak {
    /// Its name in tests/shards.toml
    shard: String,
    /// Let a shard that can be stretched go on for this many minutes
    #[arg(long)]
    stretch: Option<u64>,
    /// End it after this many minutes even if it may take more
    #[arg(long)]
    within: Option<u64>,
    /// Where its run is written down
    #[arg(long)]
    record: PathBuf,
    /// Where the list of its tests goes
    #[arg(long)]
    list: PathBuf,
    /// Nextest's configuration
    #[arg(long)]
    nextest: PathBuf,
}

impl Soak {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let mut shard = shards::named(&self.shard)?;
        if let Some(minutes) = self.stretch {
            anyhow::ensure!(shard.env.contains_key(STRETCH), "shard {} cannot be stretched", shard.name);
            shard.env.insert(STRETCH.to_owned(), minutes.to_string());
            shard.minutes = minutes + ASIDE_MINUTES;
        }
        shard.minutes = self.within.map_or(shard.minutes, |within| shard.minutes.min(within));
        self.build(&shard)?;
        eprintln!("shard {}: {}; {} minutes at most", shard.name, shard.covers, shard.minutes);
        let since = Instant::now();
        let status = self.command(&shard).status().context("run timeout")?;
        let took = since.elapsed();
        shards::remember(&self.record, &shard.name, status.success(), took)?;
        if matches!(status.code(), Some(ENDED | KILLED)) {
            eprintln!("shard {} was ended: its {} minutes were over", shard.name, shard.minutes);
        }
        eprintln!("shard {} took {:.1} minutes", shard.name, took.div_f64(60.0).as_secs_f64());
        Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Builds a shard's tests and lists them, outside of its bound.
    fn build(&self, shard: &Shard) -> Result<()> {
        let Work::Tests(filter) = &shard.work else { return Ok(()) };
        let mut cargo = Command::new("cargo");
        cargo
            .args(nextest("list", filter))
            .arg("--config-file")
            .arg(&self.nextest)
            .args(["--message-format", "json"])
            .current_dir(crate::root());
        cargo.stdout(File::create(&self.list).with_context(|| format!("write {}", self.list.display()))?);
        let status = cargo.status().context("run cargo")?;
        anyhow::ensure!(status.success(), "the tests of shard {} could not be built", shard.name);
        Ok(())
    }

    /// `timeout` ends the whole group of processes, and kills what does not end.
    fn command(&self, shard: &Shard) -> Command {
        let bound = Duration::from_secs(60 * shard.minutes).as_secs().to_string();
        let mut command = Command::new("timeout");
        command.args(["--kill-after", "60", &bound]).current_dir(crate::root()).envs(&shard.env);
        match &shard.work {
            Work::Tests(filter) => {
                command.arg("cargo").args(nextest("run", filter)).arg("--config-file").arg(&self.nextest);
            }
            Work::Command(words) => {
                command.args(words);
            }
        }
        command
    }
}

/// The words of a nextest command over a shard's tests.
fn nextest<'a>(verb: &'a str, filter: &'a str) -> [&'a str; 8] {
    ["nextest", verb, "--locked", "--workspace", "--profile", "soak", "-E", filter]
}
