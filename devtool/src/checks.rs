//! `./dev lint`, `./dev test` and `./dev soak`: which steps each has.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::dev::{self, Dev};
use crate::run::{self, Plan, Run, counted, nextest};
use crate::soak::{self, Soak};
use crate::{assets, build, last};

/// The shard that takes over what the last version left.
const UPGRADE: &str = "upgrade";

/// Formatting, clippy, licences.
pub(crate) fn lint(dev: &mut Dev) -> i32 {
    counted(dev, Plan { profile: "default", whole: false }, lints)
}

fn lints(run: &mut Run<'_>) -> Result<()> {
    run.step("formatting", |dev| dev.code(dev.command("cargo").args(["fmt", "--all", "--check"])))?;
    run.step("clippy", |dev| {
        let words = ["clippy", "--locked", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"];
        dev.code(dev.command("cargo").args(words))
    })?;
    run.step("licences", |dev| {
        let words = ["deny", "--log-level", "error", "check", "licenses", "bans", "sources"];
        dev.code(dev.command("cargo").args(words))
    })
}

/// All checks and all tests; or the tests of these words alone.
pub(crate) fn test(dev: &mut Dev, words: &[OsString]) -> i32 {
    let whole = words.is_empty();
    counted(dev, Plan { profile: "default", whole }, |run| {
        if whole {
            lints(run)?;
        }
        build::guests(run.dev)?;
        assets::of_tests(run.dev)?;
        if whole {
            run.step("contracts", contracts)?;
        }
        run.step("build", |dev| run::list(dev, words))?;
        let listed = fs::metadata(run.dev.run_folder().join("tests.json")).is_ok_and(|list| list.len() > 0);
        if listed {
            run.step("tests", |dev| dev.code(nextest(dev, "run").args(words)))?;
        }
        Ok(())
    })
}

/// One shard of the soak.
pub(crate) fn soak(dev: &mut Dev, soak: &Soak, name: &str) -> i32 {
    counted(dev, Plan { profile: "soak", whole: false }, |run| {
        let shard = soak.named(name)?;
        build::guests(run.dev)?;
        assets::of_tests(run.dev)?;
        if shard.name == UPGRADE {
            last::version(run.dev)?;
        }
        run.step("soak", |dev| soak::run(dev, soak, shard))
    })
}

/// Builds the contracts and holds them to what they promise, with what is built kept in the cache.
fn contracts(dev: &mut Dev) -> Result<i32> {
    let built = dev.cache.join("contracts");
    dev::make(&built)?;
    let log = dev.run_folder().join("contracts.log");
    let mut check = dev.command(crate::root().join("contracts/check"));
    check
        .env("PALATINE_CONTRACTS_MODULES", dev.assets().join("contracts/node_modules"))
        .env("FOUNDRY_OUT", built.join("out"))
        .env("FOUNDRY_CACHE_PATH", built.join("cache"));
    logged(dev, check, &log)
}

/// How a program ends, of which all that it says is shown and written down. What is counted by the log is not good
/// where the log is not whole.
fn logged(dev: &mut Dev, mut program: Command, log: &Path) -> Result<i32> {
    let (said, both) = io::pipe().context("make a pipe")?;
    let mut tee = dev.command("tee").arg(log).stdin(said).spawn().context("run tee")?;
    program.stdout(both.try_clone().context("make a pipe")?).stderr(both);
    let code = dev.code(&mut program);
    // Its ends of the pipe.
    drop(program);
    let written = tee.wait().context("wait for tee")?;
    let code = code?;
    ensure!(written.success(), "{} is not whole: {written}", log.display());
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::{fake, mark};

    #[test]
    fn a_program_whose_log_cannot_be_written_has_failed() {
        let dir = tempfile::tempdir().unwrap();
        let mut dev = fake::dev(dir.path());
        let says = |dev: &Dev, code: &str| {
            let mut bash = dev.command("bash");
            bash.args(["-c", "echo one; echo two >&2; exit \"$0\"", code]);
            bash
        };
        let log = dir.path().join("log");
        let (good, bad) = (says(&dev, "0"), says(&dev, "3"));
        assert_eq!(logged(&mut dev, good, &log).unwrap(), 0);
        assert_eq!(mark(&log), "one\ntwo");
        assert_eq!(logged(&mut dev, bad, &log).unwrap(), 3);
        let unwritten = says(&dev, "0");
        let error = logged(&mut dev, unwritten, Path::new("/dev/full")).unwrap_err().to_string();
        assert!(error.contains("/dev/full is not whole"), "{error}");
    }
}
