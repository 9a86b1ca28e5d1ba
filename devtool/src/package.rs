//! `./dev package`: a tarball and a .deb of programs that need no library of the machine, with checksums and a bill of
//! materials. The same commit gives the same bytes wherever it is built.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::build::{guests, statics};
use crate::declared;
use crate::dev::{self, Dev, TRIPLE, say};
use crate::pack::Pack;
use crate::paths::placeless;
use crate::sbom::Sbom;
use crate::stack::{self, Stack};

/// The version of this workspace.
const VERSION: &str = env!("CARGO_PKG_VERSION");
const SUMS: &str = "SHA256SUMS";
/// Where a trial's gateway listens.
const LISTEN: &str = "127.0.0.1:8098";
const QUESTION: &str = "are you there?";

/// Of which programs.
#[derive(Debug, Args)]
pub(crate) struct Package {
    /// One of cargo's profiles; or `try`: of a debug build, and then does the main job with it, without Rust
    #[arg(default_value = "release")]
    profile: String,
}

impl Package {
    pub(crate) fn run(&self, dev: &mut Dev) -> Result<()> {
        dev.watch()?;
        let is_trial = self.profile == "try";
        let packages = made(dev, if is_trial { "dev" } else { &self.profile })?;
        if is_trial { trial(dev, &packages, &declared::started_by_us()?) } else { Ok(()) }
    }
}

/// Makes the packages of a profile's programs; the folder that they are in.
fn made(dev: &mut Dev, profile: &str) -> Result<PathBuf> {
    let epoch = dev.output(dev.command("git").args(["log", "-1", "--format=%ct"]))?;
    dev.tell("SOURCE_DATE_EPOCH", &epoch);
    // The order of names is no matter of the builder's language.
    dev.tell("LC_ALL", "C");
    let epoch: i64 = epoch.parse().context("read the commit's time")?;
    let programs = statics(dev, profile)?;
    guests(dev)?;
    let assets = dev.assets();
    placeless(dev, &[assets.join("pod"), assets.join("images/agent-echo/agent-echo")])?;
    let into = dev.cache.join("packages");
    dev::remove(&into)?;
    dev::make(&into)?;
    say("A bill of materials");
    let bill = Sbom { version: VERSION.to_owned(), epoch, target: TRIPLE.to_owned() };
    bill.run(&into.join(format!("palatine-{VERSION}.cdx.json")))?;
    say("A tarball and a .deb");
    Pack { programs, assets, into: into.clone(), version: VERSION.to_owned(), epoch }.run()?;
    sums(dev, &into)?;
    say(&format!("In {}", into.display()));
    Ok(into)
}

/// The checksums of all packages, in the order of their names.
fn sums(dev: &mut Dev, packages: &Path) -> Result<()> {
    let read = || format!("read {}", packages.display());
    let entries: std::io::Result<Vec<_>> =
        fs::read_dir(packages).with_context(read)?.map(|entry| Ok(entry?.file_name())).collect();
    let mut names = entries.with_context(read)?;
    names.sort();
    let mut sum = dev.command("sha256sum");
    let sums = dev.output(sum.arg("--").args(names).current_dir(packages))? + "\n";
    print!("{sums}");
    dev::write(&packages.join(SUMS), sums)
}

/// The main job by the tarball's programs, with a PATH of what the package depends on: no Rust, no compiler.
fn trial(dev: &mut Dev, packages: &Path, programs: &[String]) -> Result<()> {
    let bare = bare(dev, programs)?;
    let home = stack::folder()?;
    let mut tar = dev.command("tar");
    tar.arg("-xzf").arg(tarball(packages)?).arg("-C").arg(home.path());
    dev.succeed(&mut tar, "The tarball could not be unpacked.")?;
    let program = stack::entry(home.path(), "palatine-")?.join("bin/palatine");
    say("The main job, without Rust");
    Stack::bare(home, program, bare).during(dev, main_job)?;
    say("Works");
    Ok(())
}

fn main_job(dev: &mut Dev, stack: &Stack) -> Result<()> {
    let mut up = stack.palatine(dev, &["up", "--detach", "--no-agent", "--listen", LISTEN]);
    dev.succeed(&mut up, "The stack did not start.")?;
    let said = dev.output(&mut stack.palatine(dev, &["spawn", "--type", "echo"]))?;
    let id = stack::ready(said.lines().next()).context("No agent is ready.")?;
    let said = dev.output(&mut stack.palatine(dev, &["ask", id, QUESTION]))?;
    ensure!(said.contains(QUESTION), "The agent answered: {said}");
    println!("{said}");
    dev.succeed(&mut stack.palatine(dev, &["stop", id]), "The agent could not be stopped.")
}

/// A folder of links to these programs.
fn bare(dev: &Dev, programs: &[String]) -> Result<PathBuf> {
    let folder = dev.cache.join("path/bare");
    dev::remove(&folder)?;
    dev::make(&folder)?;
    for program in programs {
        let link = folder.join(program);
        symlink(found(program)?, &link).with_context(|| format!("make {}", link.display()))?;
    }
    Ok(folder)
}

/// Where a program is.
fn found(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").context("PATH is not set")?;
    let found = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.is_file());
    let found = found.with_context(|| format!("{program} is not in PATH"))?;
    // Of a folder of links what the link means.
    Ok(fs::read_link(&found).ok().filter(|meant| meant.is_absolute()).unwrap_or(found))
}

fn tarball(packages: &Path) -> Result<PathBuf> {
    let tarball = packages.join(format!("palatine-{VERSION}-x86_64-linux.tar.gz"));
    if !tarball.is_file() {
        bail!("{} is not there", tarball.display());
    }
    Ok(tarball)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::{fake, mark};

    /// A trial of a package whose `palatine` answers so.
    fn tried(dir: &Path, answers: &str) -> (Result<()>, Vec<String>) {
        let said = dir.join("said");
        let does = format!("echo \"$PALATINE_STATE $*\" >> {}; case $1 in {answers} esac", said.display());
        fake::script(&dir.join("palatine-1/bin/palatine"), &does);
        let tarball = dir.join(format!("palatine-{VERSION}-x86_64-linux.tar.gz"));
        let mut dev = fake::dev(dir);
        let mut tar = dev.command("tar");
        dev.succeed(tar.arg("-czf").arg(tarball).arg("-C").arg(dir).arg("palatine-1"), "tar").unwrap();
        // The trial's own PATH has no shell: its programs need none, and this one does.
        let programs = ["bash", "env"].map(str::to_owned);
        let trial = trial(&mut dev, dir, &programs);
        (trial, mark(&said).lines().map(str::to_owned).collect())
    }

    #[test]
    fn fault_3_5_a_trial_ends_its_stack_and_removes_its_folder_however_it_ends() {
        const GOOD: &str = "spawn) echo 'agt_1 is ready at http://x';; ask) echo \"I heard: $3\";;";
        for (answers, good) in [
            (GOOD.to_owned(), true),
            ("spawn) echo no;;".to_owned(), false),
            (format!("up) exit 1;; {GOOD}"), false),
            (GOOD.replace("$3", ""), false),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let (trial, said) = tried(dir.path(), &answers);
            assert_eq!(trial.is_ok(), good, "{answers}: {trial:?}");
            let commands: Vec<_> = said.iter().filter_map(|line| Some(line.split_once(' ')?.1)).collect();
            assert!(commands[0].starts_with("up --detach") && commands.ends_with(&["down"]), "{commands:?}");
            assert_eq!(commands.contains(&"stop agt_1"), good, "{commands:?}");
            let state = Path::new(said[0].split(' ').next().unwrap());
            assert!(state.ends_with("state") && !state.parent().unwrap().exists(), "{}", state.display());
        }
    }

    #[test]
    fn a_stack_that_cannot_be_ended_keeps_its_folder_and_fails_the_trial() {
        let dir = tempfile::tempdir().unwrap();
        let answers = "spawn) echo 'agt_1 is ready';; ask) echo \"$3\";; down) exit 1;;";
        let (trial, said) = tried(dir.path(), answers);
        let home = Path::new(said[0].split(' ').next().unwrap()).parent().unwrap().to_owned();
        assert!(trial.unwrap_err().to_string().contains(&*home.to_string_lossy()));
        assert!(home.exists());
        fs::remove_dir_all(home).unwrap();
    }

    #[test]
    fn checksums_are_in_the_order_of_names_and_can_be_checked() {
        let dir = tempfile::tempdir().unwrap();
        let packages = dir.path().join("packages");
        dev::make(&packages).unwrap();
        let names = ["palatine-1.cdx.json", "palatine-1.tar.gz", "palatine_1.deb"];
        for name in names.iter().rev() {
            fs::write(packages.join(name), name).unwrap();
        }
        let mut dev = fake::dev(dir.path());
        sums(&mut dev, &packages).unwrap();
        let sums = fs::read_to_string(packages.join(SUMS)).unwrap();
        let listed: Vec<_> = sums.lines().filter_map(|line| line.split_once("  ")).map(|(_, name)| name).collect();
        assert_eq!(listed, names);
        let mut check = dev.command("sha256sum");
        dev.succeed(check.args(["--check", "--quiet", SUMS]).current_dir(&packages), "they differ").unwrap();
    }
}
