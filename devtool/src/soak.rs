//! Runs one shard of the soak within its bound.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::dev::Dev;
use crate::run;
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
    /// Its name in tests/shards.toml; without one, they are listed
    pub(crate) shard: Option<String>,
    /// Let a shard that can be stretched go on for this many minutes
    #[arg(long)]
    stretch: Option<u64>,
    /// End it after this many minutes even if it may take more
    #[arg(long)]
    within: Option<u64>,
}

impl Soak {
    /// The shard of this name with the time that it has. One that goes on for as long as it is told goes on for less
    /// where there is less, so that it comes to its end.
    pub(crate) fn fitted(&self, name: &str) -> Result<Shard> {
        let mut shard = shards::named(name)?;
        if let Some(minutes) = self.stretch {
            ensure!(shard.env.contains_key(STRETCH), "shard {} cannot be stretched", shard.name);
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
}

/// Runs a shard, and writes down how it went; the exit status.
pub(crate) fn run(dev: &mut Dev, shard: &Shard) -> Result<i32> {
    // Its tests are built outside of its bound.
    if let Work::Tests(filter) = &shard.work {
        let built = run::list(dev, &of_shard(filter))? == 0;
        ensure!(built, "the tests of shard {} could not be built", shard.name);
    }
    eprintln!("shard {}: {}; {} minutes at most", shard.name, shard.covers, shard.minutes);
    let since = Instant::now();
    let status = dev.code(&mut bounded(dev, shard))?;
    let took = since.elapsed();
    shards::remember(&dev.cache.join("shards"), &shard.name, status == 0, took)?;
    if matches!(status, ENDED | KILLED) {
        eprintln!("shard {} was ended: its {} minutes were over", shard.name, shard.minutes);
    }
    eprintln!("shard {} took {:.1} minutes", shard.name, took.div_f64(60.0).as_secs_f64());
    Ok(status)
}

/// `timeout` ends the whole group of processes, and kills what does not end.
fn bounded(dev: &Dev, shard: &Shard) -> Command {
    let bound = Duration::from_secs(60 * shard.minutes).as_secs().to_string();
    let mut timeout = dev.command("timeout");
    timeout.args(["--kill-after", "60", &bound]).envs(&shard.env);
    match &shard.work {
        Work::Tests(filter) => {
            let nextest = run::nextest(dev, "run");
            timeout.arg(nextest.get_program()).args(nextest.get_args()).args(of_shard(filter));
        }
        Work::Command(words) => {
            timeout.args(words);
        }
    }
    timeout
}

/// What names a shard's tests to nextest.
fn of_shard(filter: &str) -> [&str; 4] {
    ["--profile", "soak", "-E", filter]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of a shard of the repository: its bound, and how long it goes on.
    fn fitted(shard: &str, stretch: Option<u64>, within: Option<u64>) -> (u64, Option<String>) {
        let soak = Soak { shard: None, stretch, within };
        let shard = soak.fitted(shard).unwrap();
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
