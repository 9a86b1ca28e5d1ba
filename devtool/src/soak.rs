//! Runs one shard of the soak within its bound.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::dev::{self, Dev};
use crate::run;
use crate::shards::{self, Shard, Work};

/// How long the tests of a stretched shard go on, in minutes.
const STRETCH: &str = "PALATINE_SOAK_MINUTES";
/// What a stretched shard takes beside its stretch.
const ASIDE_MINUTES: u64 = 10;
/// The exit status of a shard whose time was over, as `timeout` has it.
const OVER: i32 = 124;

/// Which shard, and how.
#[derive(Debug, Args)]
pub(crate) struct Soak {
    /// Its name in tests/shards.toml; without one, they are listed
    pub(crate) shard: Option<String>,
    /// Let a shard that can be stretched go on for this many minutes
    #[arg(long)]
    stretch: Option<u64>,
    /// End it this many minutes after the command began, builds and all, even if it may take more
    #[arg(long)]
    within: Option<u64>,
}

impl Soak {
    /// The shard of this name, stretched if that is asked for.
    pub(crate) fn named(&self, name: &str) -> Result<Shard> {
        let mut shard = shards::named(name)?;
        if let Some(minutes) = self.stretch {
            ensure!(shard.env.contains_key(STRETCH), "shard {} cannot be stretched", shard.name);
            shard.env.insert(STRETCH.to_owned(), minutes.to_string());
            shard.minutes = minutes + ASIDE_MINUTES;
        }
        Ok(shard)
    }

    /// A shard with the time that is left for it in a command which is under way for so long. One that goes on for as
    /// long as it is told goes on for less where there is less, so that it comes to its end.
    fn fitted(&self, mut shard: Shard, elapsed: Duration) -> Result<Shard> {
        if let Some(within) = self.within {
            let left = within.saturating_sub(elapsed.as_secs().div_ceil(60));
            ensure!(left > 0, "shard {} was not begun: nothing is left of {within} minutes", shard.name);
            shard.minutes = shard.minutes.min(left);
        }
        if let Some(stretch) = shard.env.get_mut(STRETCH) {
            let wanted: u64 = stretch.parse().with_context(|| format!("shard {}: {STRETCH}", shard.name))?;
            *stretch = wanted.min(shard.minutes.saturating_sub(ASIDE_MINUTES).max(1)).to_string();
        }
        Ok(shard)
    }
}

/// Runs a shard, and writes down how it went; the exit status.
pub(crate) fn run(dev: &mut Dev, soak: &Soak, shard: Shard) -> Result<i32> {
    // Its tests are built outside of its bound.
    if let Work::Tests(filter) = &shard.work {
        let built = run::list(dev, &of_shard(filter))? == 0;
        ensure!(built, "the tests of shard {} could not be built", shard.name);
    }
    let shard = soak.fitted(shard, dev.elapsed())?;
    eprintln!("shard {}: {}; {} minutes at most", shard.name, shard.covers, shard.minutes);
    let since = Instant::now();
    let end = dev.within(Duration::from_secs(60 * shard.minutes), &mut command(dev, &shard)?)?;
    let status = if end.over { OVER } else { dev::code(end.status) };
    let took = since.elapsed();
    shards::remember(&dev.cache.join("shards"), &shard.name, status == 0, took)?;
    if end.over {
        eprintln!("shard {} was ended: its {} minutes were over", shard.name, shard.minutes);
    }
    eprintln!("shard {} took {:.1} minutes", shard.name, took.div_f64(60.0).as_secs_f64());
    Ok(status)
}

/// What a shard runs.
fn command(dev: &Dev, shard: &Shard) -> Result<Command> {
    let mut command = match &shard.work {
        Work::Tests(filter) => {
            let mut nextest = run::nextest(dev, "run");
            nextest.args(of_shard(filter));
            nextest
        }
        Work::Command(words) => {
            let (program, words) = words.split_first().with_context(|| format!("shard {}: command", shard.name))?;
            let mut command = dev.command(program);
            command.args(words);
            command
        }
    };
    command.envs(&shard.env);
    Ok(command)
}

/// What names a shard's tests to nextest.
fn of_shard(filter: &str) -> [&str; 4] {
    ["--profile", "soak", "-E", filter]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of a shard of the repository after so many seconds: its bound, and how long it goes on.
    fn after(seconds: u64, shard: &str, stretch: Option<u64>, within: Option<u64>) -> Result<(u64, Option<String>)> {
        let soak = Soak { shard: None, stretch, within };
        let shard = soak.fitted(soak.named(shard)?, Duration::from_secs(seconds))?;
        Ok((shard.minutes, shard.env.get(STRETCH).cloned()))
    }

    #[test]
    fn fault_3_2_a_shard_with_less_time_goes_on_for_less_and_one_that_is_stretched_for_more() {
        let fitted = |shard, stretch, within| after(0, shard, stretch, within).unwrap();
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
    fn a_shard_has_what_is_left_of_its_command_after_the_builds() {
        // Begun minutes are gone, so that the shard ends before whoever bounds the command ends it.
        for (seconds, minutes, stretch) in [(1, 29, "19"), (60, 29, "19"), (601, 19, "9"), (1740, 1, "1")] {
            assert_eq!(after(seconds, "day", None, Some(30)).unwrap(), (minutes, Some(stretch.to_owned())));
        }
        assert_eq!(after(3600, "kills", None, None).unwrap(), (35, None));
        let error = after(1741, "kills", None, Some(30)).unwrap_err().to_string();
        assert!(error.contains("kills was not begun"), "{error}");
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
