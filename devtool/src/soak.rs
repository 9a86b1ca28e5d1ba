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
        let shard = self.fitted(shards::named(&self.shard)?)?;
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

    /// The shard with the time that it has. One that goes on for as long as it is told goes on for less where there
    /// is less, so that it comes to its end.
    fn fitted(&self, mut shard: Shard) -> Result<Shard> {
        if let Some(minutes) = self.stretch {
            anyhow::ensure!(shard.env.contains_key(STRETCH), "shard {} cannot be stretched", shard.name);
            shard.env.insert(STRETCH.to_owned(), minutes.to_string());
            shard.minutes = minutes + ASIDE_MINUTES;
        }
        shard.minutes = self.within.map_or(shard.minutes, |within| shard.minutes.min(within));
        if let Some(stretch) = shard.env.get_mut(STRETCH) {
            let wanted: u64 = stretch.parse().with_context(|| format!("shard {}: {STRETCH}", shard.name))?;
            *stretch = wanted.min(shard.minutes.saturating_sub(ASIDE_MINUTES).max(1)).to_string();
        }
        Ok(shard)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of a shard of the repository: its bound, and how long it goes on.
    fn fitted(shard: &str, stretch: Option<u64>, within: Option<u64>) -> (u64, Option<String>) {
        let nowhere = PathBuf::new();
        let (record, list, nextest) = (nowhere.clone(), nowhere.clone(), nowhere);
        let soak = Soak { shard: shard.to_owned(), stretch, within, record, list, nextest };
        let shard = soak.fitted(shards::named(shard).unwrap()).unwrap();
        (shard.minutes, shard.env.get(STRETCH).cloned())
    }

    #[test]
    fn fault_3_2_a_shard_with_less_time_goes_on_for_less_and_one_that_is_stretched_for_more() {
        for shard in ["day", "stack"] {
            assert_eq!(fitted(shard, None, None), (35, Some("25".to_owned())));
            assert_eq!(fitted(shard, None, Some(20)), (20, Some("10".to_owned())));
            assert_eq!(fitted(shard, None, Some(4)), (4, Some("1".to_owned())));
            assert_eq!(fitted(shard, Some(60), None), (70, Some("60".to_owned())));
            assert_eq!(fitted(shard, Some(60), Some(40)), (40, Some("30".to_owned())));
        }
        assert_eq!(fitted("kills", None, Some(20)), (20, None));
    }

    #[test]
    fn a_shard_that_goes_on_has_its_minutes_aside() {
        for shard in shards::read().unwrap() {
            let Some(stretch) = shard.env.get(STRETCH) else { continue };
            let stretch: u64 = stretch.parse().unwrap();
            assert!(stretch + ASIDE_MINUTES <= shard.minutes, "{}", shard.name);
        }
    }
}
