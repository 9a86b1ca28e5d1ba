//! The version before this one, of the commit in `tests/last-version`: its programs, and what they boot.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::dev::{self, Dev, mark, say};

/// Where a version before devtool built has how it is built.
const SHELL: &str = "dev.d/build.sh";
/// What that wants to have been set, and calls.
const BY_SHELL: &str = r#"
    TARGET=$CARGO_TARGET_DIR ASSETS=$CACHE/assets TRIPLE=$PALATINE_TRIPLE
    say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
    fail() { printf '%s\n' "$*" >&2; exit 1; }
    . dev.d/build.sh
    programs debug
    guests
"#;

/// Has it built, and tells the tests where it is.
pub(crate) fn version(dev: &mut Dev) -> Result<()> {
    let commit = fs::read_to_string(crate::root().join("tests/last-version")).context("read tests/last-version")?;
    let (commit, last) = (commit.trim(), dev.cache.join("last-version"));
    dev.tell("PALATINE_LAST_VERSION", &last);
    if mark(&last.join("built")) == commit {
        return Ok(());
    }
    let mut git = dev.command("git");
    git.args(["cat-file", "-e", &format!("{commit}^{{commit}}")]).stderr(Stdio::null());
    dev.succeed(
        &mut git,
        &format!("The last version's commit {commit} is not in this checkout: git fetch --unshallow"),
    )?;
    say(&format!("Building the last version, {commit}"));
    dev::remove(&last)?;
    unpack(dev, commit, &last.join("tree"))?;
    build(dev, &last)?;
    // What was only needed to build it is large.
    for folder in ["tree", "guest"] {
        dev::remove(&last.join(folder))?;
    }
    for folder in ["build", "deps", "incremental", ".fingerprint"] {
        dev::remove(&last.join("target/debug").join(folder))?;
    }
    dev::write(&last.join("built"), commit)
}

/// The files of a commit.
fn unpack(dev: &mut Dev, commit: &str, into: &Path) -> Result<()> {
    dev::make(into)?;
    let mut git = dev.command("git").args(["archive", commit]).stdout(Stdio::piped()).spawn().context("run git")?;
    let archive = git.stdout.take().context("read git's archive")?;
    let mut tar = dev.command("tar");
    dev.succeed(tar.arg("-x").arg("-C").arg(into).stdin(archive), "The last version could not be unpacked.")?;
    ensure!(git.wait()?.success(), "git could not give the files of {commit}.");
    Ok(())
}

/// Has the version's own files say how it is built: a later one has a devtool that does.
fn build(dev: &mut Dev, last: &Path) -> Result<()> {
    if last.join("tree").join(SHELL).is_file() {
        let mut bash = dev.command("bash");
        bash.args(["-euo", "pipefail", "-c", BY_SHELL]).env("CACHE", last).env("PALATINE_TRIPLE", dev::TRIPLE);
        return dev.succeed(inside(&mut bash, last), "The last version could not be built.");
    }
    let mut cargo = dev.command("cargo");
    cargo.args(["build", "--locked", "--quiet", "-p", "devtool"]);
    dev.succeed(inside(&mut cargo, last), "The last version's devtool could not be built.")?;
    let mut devtool = dev.command(last.join("target/debug/devtool"));
    devtool.arg("programs").arg("--cache").arg(last);
    dev.succeed(inside(&mut devtool, last), "The last version could not be built.")
}

/// In the version's own checkout, with a folder of its own to build in.
fn inside<'a>(command: &'a mut Command, last: &Path) -> &'a mut Command {
    command.current_dir(last.join("tree")).env("CARGO_TARGET_DIR", last.join("target"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::fake;

    /// What was done to build a version with these files.
    fn built(files: &[(&str, &str)]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let mut dev = fake::dev(dir.path());
        let cargo = "echo \"cargo $* in ${PWD##*/}\" >> ../said; mkdir -p \"$CARGO_TARGET_DIR/debug\"; \
                     cp devtool/program \"$CARGO_TARGET_DIR/debug/devtool\"";
        fake::script(&dir.path().join("bin/cargo"), cargo);
        let last = dir.path().join("last");
        for (file, does) in files {
            fake::script(&last.join("tree").join(file), does);
        }
        build(&mut dev, &last).unwrap();
        mark(&last.join("said")).replace(&*last.to_string_lossy(), "LAST")
    }

    #[test]
    fn a_last_version_of_shell_is_built_by_its_shell_and_a_later_one_by_its_devtool() {
        let shell = "programs() { echo \"programs $1 $TARGET\" >> ../said; }\n\
                     guests() { say x; echo \"guests $CACHE $ASSETS $TRIPLE $CARGO_TARGET_DIR\" >> ../said; }";
        let by_shell = format!("programs debug LAST/target\nguests LAST LAST/assets {} LAST/target", dev::TRIPLE);
        assert_eq!(built(&[(SHELL, shell), ("devtool/program", "exit 1")]), by_shell);
        let by_devtool = "cargo build --locked --quiet -p devtool in tree\ndevtool programs --cache LAST LAST/target";
        let devtool = "echo \"devtool $* $CARGO_TARGET_DIR\" >> ../said";
        assert_eq!(built(&[("devtool/program", devtool)]), by_devtool);
    }
}
