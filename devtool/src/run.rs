//! A run of checks: its steps, one after the other, and a last line that counts what they did.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::dev::{self, Dev, failed, say};
use crate::facts;
use crate::report::Report;
use crate::signals::Ended;

/// The count of a run that did not come to its own.
pub(crate) const UNCOUNTED: &str = "0 passed, 1 failed, 0 skipped";
/// What fails outside of a step.
const SETUP: &str = "setup";

/// What is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Nextest's profile
    pub(crate) profile: &'static str,
    /// All tests, not those of a filter
    pub(crate) whole: bool,
}

/// One that has begun.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    pub(crate) dev: &'a mut Dev,
    plan: Plan,
    /// The step under way
    step: Option<(&'static str, Instant)>,
}

/// Runs this and counts what it did; the exit status. The last line is a count, whatever ends it.
pub(crate) fn counted(dev: &mut Dev, plan: Plan, work: impl FnOnce(&mut Run<'_>) -> Result<()>) -> i32 {
    let mut promise = Promise { kept: false };
    match Run::begin(dev, plan) {
        Ok(mut run) => {
            let ended = run.equip().and_then(|()| work(&mut run));
            let status = run.finish(ended);
            promise.kept = true;
            status
        }
        Err(error) => failed(&error),
    }
}

/// Counts a run that never began, or whose end was none.
struct Promise {
    kept: bool,
}

impl Drop for Promise {
    fn drop(&mut self) {
        if !self.kept {
            println!("{UNCOUNTED}");
        }
    }
}

impl<'a> Run<'a> {
    /// From here on the run's folder is this run's.
    fn begin(dev: &'a mut Dev, plan: Plan) -> Result<Self> {
        dev.watch()?;
        dev.alone()?;
        let folder = dev.run_folder();
        dev::remove(&folder)?;
        dev::make(&folder)?;
        dev::write(&folder.join("steps"), "")?;
        Ok(Self { dev, plan, step: None })
    }

    /// Finds out what this machine has, and tells it and the rest to all that is started.
    fn equip(&mut self) -> Result<()> {
        let folder = self.dev.run_folder();
        let config = crate::root().join(".config/nextest.toml");
        let config = fs::read_to_string(&config).with_context(|| format!("read {}", config.display()))?;
        // What nextest writes down goes into the run's folder, not into the checkout.
        let store = format!("[store]\ndir = \"{}\"\n\n", folder.join("nextest").display());
        dev::write(&self.dev.nextest_config(), store + &config)?;
        say("What this machine has of what tests need");
        facts::probe(&folder.join("facts"))?;
        let (assets, programs) = (self.dev.assets(), self.dev.target().join("debug"));
        self.dev.tell("PALATINE_FACTS", folder.join("facts"));
        self.dev.tell("PALATINE_SKIPS", folder.join("skips"));
        self.dev.tell("PALATINE_ASSETS", assets);
        self.dev.tell("PALATINE_BIN", programs);
        Ok(())
    }

    /// One step, which gives an exit status; those after it run whether or not it ends well. A signal leaves it open.
    pub(crate) fn step(&mut self, name: &'static str, work: impl FnOnce(&mut Dev) -> Result<i32>) -> Result<()> {
        self.step = Some((name, Instant::now()));
        say(&(name[..1].to_uppercase() + &name[1..]));
        let status = match work(self.dev) {
            Ok(status) => status,
            Err(error) if error.is::<Ended>() => return Err(error),
            Err(error) => failed(&error),
        };
        self.record(status)
    }

    /// Writes down how the step under way ended.
    fn record(&mut self, status: i32) -> Result<()> {
        let (name, took) =
            self.step.take().map_or((SETUP, self.dev.elapsed()), |(name, since)| (name, since.elapsed()));
        let steps = self.dev.run_folder().join("steps");
        let written = File::options()
            .append(true)
            .open(&steps)
            .and_then(|mut file| file.write_all(line(name, status, took).as_bytes()));
        written.with_context(|| format!("write {}", steps.display()))
    }

    /// The end, however it came: the step that it ended in has failed, and what failed outside of one is a failure
    /// more.
    fn finish(&mut self, ended: Result<()>) -> i32 {
        let status = ended.map_or_else(|error| failed(&error), |()| 0);
        if status != 0
            && let Err(error) = self.record(status)
        {
            failed(&error);
        }
        let folder = self.dev.run_folder();
        let junit = folder.join("nextest").join(self.plan.profile).join("junit.xml");
        let good = Report { run: folder, junit, whole: self.plan.whole }.run();
        if status == 0 { i32::from(!good) } else { status }
    }
}

/// A step's line of the run's own record.
fn line(name: &str, status: i32, took: Duration) -> String {
    format!("{name}\t{status}\t{}\n", took.as_secs())
}

/// Nextest over the workspace, as a run has it.
pub(crate) fn nextest(dev: &Dev, verb: impl AsRef<OsStr>) -> Command {
    let mut cargo = dev.command("cargo");
    cargo.arg("nextest").arg(verb).arg("--config-file").arg(dev.nextest_config()).args(["--locked", "--workspace"]);
    cargo
}

/// Builds the tests of these words, and writes down which there are.
pub(crate) fn list(dev: &mut Dev, words: &[impl AsRef<OsStr>]) -> Result<i32> {
    let list = dev.run_folder().join("tests.json");
    let file = File::create(&list).with_context(|| format!("write {}", list.display()))?;
    dev.code(nextest(dev, "list").args(["--message-format", "json"]).args(words).stdout(file))
}
