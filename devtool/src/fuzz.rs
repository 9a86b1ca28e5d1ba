//! Runs the programs of the fuzzer, as many at once as there are cores, each for its time.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::child::{self, Bounds};
use crate::dev::{Dev, TRIPLE, say, time_to_end};
use crate::signals::{Ended, Signals};

/// Bytes of one input at most.
const MAX_INPUT: u32 = 64 << 10;
/// MiB that a program may hold.
const MEMORY_MIB: u32 = 3072;
/// Seconds that one input may take.
const INPUT_S: u32 = 30;
/// Lines of a broken program's last words that are repeated.
const LAST_LINES: usize = 40;

/// Which targets, and for how long.
#[derive(Debug, Args)]
pub(crate) struct Fuzz {
    /// Targets; all, if none is named
    targets: Vec<String>,
    /// Seconds for each
    #[arg(long, default_value_t = 90)]
    seconds: u32,
}

/// Where what they find is kept, and they are built.
struct Place {
    home: PathBuf,
    programs: PathBuf,
}

impl Fuzz {
    /// Builds the programs and runs them; whether all is good.
    pub(crate) fn run(&self, dev: &mut Dev) -> Result<bool> {
        dev.watch()?;
        dev.alone()?;
        let home = dev.cache.join("fuzz");
        let target = home.join("target");
        say("Building the fuzzer's programs");
        let mut cargo = dev.command("cargo");
        // The dependencies as they are shipped: many are weaker when they are told that they are fuzzed.
        cargo.args(["fuzz", "build", "-s", "none", "--no-cfg-fuzzing", "--target-dir"]).arg(&target);
        cargo.current_dir(crate::root().join("fuzz"));
        dev.succeed(&mut cargo, "The fuzzer's programs could not be built. Is there a network?")?;
        self.all(dev, &Place { home, programs: target.join(TRIPLE).join("release") })
    }

    fn all(&self, dev: &mut Dev, place: &Place) -> Result<bool> {
        let known = known(&crate::root().join("fuzz/fuzz_targets"))?;
        if let Some(other) = self.targets.iter().find(|target| !known.contains(*target)) {
            anyhow::bail!("there is no target {other:?}; there are {}", Vec::from_iter(known).join(", "));
        }
        let targets: Vec<String> =
            if self.targets.is_empty() { known.into_iter().collect() } else { self.targets.clone() };
        let at_once = thread::available_parallelism()?.get().min(targets.len());
        let turns = u32::try_from(targets.len().div_ceil(at_once))?;
        let minutes = self.seconds.saturating_mul(turns).div_ceil(60);
        eprintln!("{} targets, {} s each, {at_once} at a time: about {minutes} minutes", targets.len(), self.seconds);
        let left = Mutex::new(targets.into_iter());
        let next = &|| left.lock().ok().and_then(|mut left| left.next());
        // Each thread hands signals on to its own program, from before the last look at whether one came.
        let watches: Vec<_> = (0..at_once).map(|_| Signals::watch()).collect::<Result<_>>()?;
        dev.go_on()?;
        let broken: usize = thread::scope(|scope| {
            let some = |signals| scope.spawn(move || self.some(next, place, signals));
            let threads: Vec<_> = watches.into_iter().map(some).collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or(1)).sum()
        });
        dev.go_on()?;
        Ok(broken == 0)
    }

    /// Runs one target after the other, until there is none or a signal came; how many broke.
    fn some(&self, next: impl Fn() -> Option<String>, place: &Place, mut signals: Signals) -> usize {
        let mut broken = 0;
        while let Some(target) = next() {
            match self.one(&target, place, &mut signals) {
                Ok(said) => eprintln!("{target}: {said}"),
                Err(error) if error.is::<Ended>() => break,
                Err(error) => {
                    eprintln!("{target}: {error:#}");
                    broken += 1;
                }
            }
        }
        broken
    }

    /// Runs one target; what it did, in words.
    fn one(&self, target: &str, place: &Place, signals: &mut Signals) -> Result<String> {
        let folder = |name: &str| -> Result<PathBuf> {
            let folder = place.home.join(name).join(target);
            fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
            Ok(folder)
        };
        let (corpus, broken) = (folder("corpus")?, folder("broken")?);
        let log = place.home.join(format!("{target}.log"));
        let file = File::create(&log).with_context(|| format!("write {}", log.display()))?;
        let mut program = Command::new(place.programs.join(target));
        program
            .args([&corpus, &crate::root().join("fuzz/seeds").join(target)])
            .arg(format!("-max_total_time={}", self.seconds))
            .arg(format!("-max_len={MAX_INPUT}"))
            .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
            .arg(format!("-timeout={INPUT_S}"))
            .arg(format!("-artifact_prefix={}/", broken.display()))
            .arg("-print_final_stats=1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file);
        let status = child::run(&mut program, signals, Bounds { work: None, end: time_to_end() })?.status;
        let said = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        let last =
            said.lines().rev().take(LAST_LINES).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n");
        ensure!(
            status.success(),
            "BROKEN\n{last}\nThe input is in {}: mend the code, and keep it as a seed in fuzz/seeds/{target}/.",
            broken.display()
        );
        let runs = runs(&said).filter(|runs| *runs > 0);
        Ok(format!("{} runs, nothing broken", runs.with_context(|| format!("it ran nothing: {}", log.display()))?))
    }
}

/// The targets that have a program.
fn known(dir: &Path) -> Result<BTreeSet<String>> {
    let entries = fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?;
    let stem = |path: PathBuf| Some(path.file_stem()?.to_str()?.to_owned());
    Ok(entries.flatten().filter_map(|entry| stem(entry.path())).collect())
}

/// How many inputs libFuzzer says that it tried.
fn runs(said: &str) -> Option<u64> {
    said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::dev::fake;

    /// Fuzzes the target `qmp` with a program that does this.
    fn fuzz(script: &str) -> Result<String> {
        let dir = tempfile::tempdir()?;
        let program = dir.path().join("qmp");
        fs::write(&program, format!("#!/usr/bin/env bash\n{script}\n"))?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        let place = Place { programs: dir.path().to_owned(), home: dir.path().join("home") };
        Fuzz { targets: Vec::new(), seconds: 1 }.one("qmp", &place, &mut Signals::watch()?)
    }

    #[test]
    fn fault_3_4_a_target_that_breaks_or_runs_nothing_fails_the_run() {
        let said = fuzz("echo 'stat::number_of_executed_units: 7' >&2").unwrap();
        assert!(said.starts_with("7 runs"), "{said}");
        let broken = fuzz("echo 'it panicked' >&2; exit 77").unwrap_err().to_string();
        assert!(broken.contains("it panicked") && broken.contains("fuzz/seeds/qmp"), "{broken}");
        for nothing in ["true", "echo 'stat::number_of_executed_units: 0' >&2"] {
            assert!(fuzz(nothing).is_err(), "{nothing}");
        }
    }

    #[test]
    fn a_target_that_there_is_not_is_named_with_those_that_there_are() {
        let place = Place { programs: PathBuf::from("/nowhere"), home: PathBuf::from("/nowhere") };
        let fuzz = Fuzz { targets: vec!["nonsense".to_owned()], seconds: 1 };
        let dir = tempfile::tempdir().unwrap();
        let error = fuzz.all(&mut fake::dev(dir.path()), &place).unwrap_err().to_string();
        assert!(error.contains("nonsense") && error.contains("qmp"), "{error}");
    }
}
