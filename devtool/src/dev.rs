//! One command of `./dev`: where its things lie, what all that it starts is told, and what ends it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::child::{self, Bounds, End};
use crate::signals::{Ended, Signals};

/// What all programs and tests are built for.
pub(crate) const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// Tells a command that it is part of another, which has the lock.
const ALONE: &str = "PALATINE_DEV_ALONE";
/// What a program has for its end when a signal came or its time is over. `.ci/run` kills us 60 s after it asked us.
const END: Duration = Duration::from_secs(45);
/// The same in a command that is part of another, which has only the above itself.
const END_OF_PART: Duration = Duration::from_secs(20);

/// Where things lie, and how programs are started.
#[derive(Debug)]
pub(crate) struct Dev {
    /// The folder of everything that is built or fetched
    pub(crate) cache: PathBuf,
    /// Cargo's own
    pub(crate) cargo_home: PathBuf,
    since: Instant,
    told: BTreeMap<&'static str, OsString>,
    signals: Option<Signals>,
    lock: Option<File>,
}

impl Dev {
    /// A command that has been under way for so long already.
    pub(crate) fn new(cache: PathBuf, after: Duration) -> Result<Self> {
        let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo"));
        let cargo_home = std::env::var_os("CARGO_HOME").filter(|it| !it.is_empty()).map(PathBuf::from).or_else(home);
        let cargo_home = cargo_home.context("neither CARGO_HOME nor HOME is set")?;
        let since = Instant::now().checked_sub(after).unwrap_or_else(Instant::now);
        let mut dev = Self { cache, cargo_home, since, told: BTreeMap::new(), signals: None, lock: None };
        dev.tell("CARGO_TARGET_DIR", dev.target());
        Ok(dev)
    }

    /// Cargo's folder.
    pub(crate) fn target(&self) -> PathBuf {
        self.cache.join("target")
    }

    /// What the programs and their tests find beside them.
    pub(crate) fn assets(&self) -> PathBuf {
        self.cache.join("assets")
    }

    /// What a run of checks writes down.
    pub(crate) fn run_folder(&self) -> PathBuf {
        self.cache.join("run")
    }

    /// Nextest's configuration for a run.
    pub(crate) fn nextest_config(&self) -> PathBuf {
        self.run_folder().join("nextest.toml")
    }

    /// How long the command is under way.
    pub(crate) fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    /// Sets a variable for all that is started from now on.
    pub(crate) fn tell(&mut self, name: &'static str, value: impl Into<OsString>) {
        self.told.insert(name, value.into());
    }

    /// A program, to be started in the checkout. It reads no terminal: there it would wait for us to end.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(crate::root()).envs(&self.told).stdin(Stdio::null());
        command
    }

    /// From now on a signal is no end before what was begun is put away: it is handed on to what is under way, and
    /// that, or what is started next, ends as `Ended`.
    pub(crate) fn watch(&mut self) -> Result<()> {
        self.signals = Some(Signals::watch()?);
        Ok(())
    }

    /// How a program ends.
    pub(crate) fn status(&mut self, command: &mut Command) -> Result<ExitStatus> {
        match &mut self.signals {
            Some(signals) => Ok(child::run(command, signals, Bounds { work: None, end: time_to_end() })?.status),
            None => command.status().with_context(|| run(command)),
        }
    }

    /// How a program ends that has so long for its work, in a command that watches for signals.
    pub(crate) fn within(&mut self, work: Duration, command: &mut Command) -> Result<End> {
        let signals = self.signals.as_mut().context("a program is bounded where signals are watched")?;
        child::run(command, signals, Bounds { work: Some(work), end: time_to_end() })
    }

    /// How a program ends that puts away what was begun, whatever signals come: it has so long for that.
    pub(crate) fn finish(&mut self, bound: Duration, command: &mut Command) -> Result<End> {
        if self.signals.is_none() {
            self.watch()?;
        }
        let signals = self.signals.as_mut().context("signals are watched")?;
        child::finish(command, signals, bound)
    }

    /// How it ends, as a shell says it.
    pub(crate) fn code(&mut self, command: &mut Command) -> Result<i32> {
        self.status(command).map(code)
    }

    /// Runs a program that must end well.
    pub(crate) fn succeed(&mut self, command: &mut Command, otherwise: &str) -> Result<()> {
        let status = self.status(command)?;
        ensure!(status.success(), "{otherwise}");
        Ok(())
    }

    /// What a program that ends well says, without the end of its last line.
    pub(crate) fn output(&mut self, command: &mut Command) -> Result<String> {
        let mut file = tempfile::tempfile().context("make a file")?;
        let status = self.status(command.stdout(file.try_clone().context("make a file")?))?;
        ensure!(status.success(), "{}: {status}", command.get_program().display());
        let mut said = String::new();
        file.rewind().and_then(|()| file.read_to_string(&mut said)).with_context(|| run(command))?;
        Ok(said.trim_end().to_owned())
    }

    /// Becomes a program.
    pub(crate) fn become_it(&self, command: &mut Command) -> Result<std::convert::Infallible> {
        Err(command.stdin(Stdio::inherit()).exec()).with_context(|| run(command))
    }

    /// One run at a time: they share the run's folder, the cache and the machine. A run that is part of another has
    /// its lock. `./dev` held it until now.
    pub(crate) fn alone(&mut self) -> Result<()> {
        if is_part() {
            return Ok(());
        }
        make(&self.cache)?;
        let path = self.cache.join("run.lock");
        let lock = File::options().create(true).append(true).open(&path);
        let lock = lock.with_context(|| format!("open {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!(
                "Another ./dev test, soak, lint or fuzz uses {}: wait for its end, or set PALATINE_CACHE.",
                self.cache.display()
            ),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("lock {}", path.display()));
            }
        }
        self.lock = Some(lock);
        self.tell(ALONE, "yes");
        Ok(())
    }

    /// How a command ends: what fails because a signal reached it too, or was put away for one, ends by the signal.
    pub(crate) fn ended(&mut self, done: Result<i32>) -> Result<i32> {
        done.or_else(|error| self.go_on().and(Err(error)))
    }

    /// Nothing more is begun once a signal came.
    pub(crate) fn go_on(&mut self) -> Result<()> {
        self.signals.as_mut().map_or(Ok(()), Signals::go_on).map_err(Into::into)
    }
}

/// Whether this command is part of another.
fn is_part() -> bool {
    std::env::var_os(ALONE).is_some_and(|it| !it.is_empty())
}

/// What a program of this command has for its end.
pub(crate) fn time_to_end() -> Duration {
    if is_part() { END_OF_PART } else { END }
}

/// The exit status that a shell gives to such an end.
pub(crate) fn code(status: ExitStatus) -> i32 {
    let by_signal = || status.signal().map(|signal| Ended(signal).status());
    status.code().or_else(by_signal).unwrap_or(1)
}

/// Says in bold what comes now.
pub(crate) fn say(words: &str) {
    eprintln!("\x1b[1m{words}\x1b[0m");
}

/// Says what went wrong, and gives the exit status for it.
pub(crate) fn failed(error: &anyhow::Error) -> i32 {
    if let Some(ended) = error.downcast_ref::<Ended>() {
        return ended.status();
    }
    eprintln!("{error:#}");
    1
}

/// Where what a program says for people goes, if its words are no result.
pub(crate) fn aside() -> Stdio {
    Stdio::from(io::stderr())
}

/// Makes a folder, and those above it.
pub(crate) fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))
}

/// Removes a folder with all that is in it, if it is there.
pub(crate) fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// What a mark or a stamp holds; nothing if it is not there.
pub(crate) fn mark(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default().trim_end().to_owned()
}

/// Writes a file.
pub(crate) fn write(path: &Path, text: impl AsRef<[u8]>) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

fn run(command: &Command) -> String {
    format!("run {}", command.get_program().display())
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    #[test]
    fn what_a_signal_broke_ends_by_the_signal_and_not_by_what_it_broke() {
        let dir = tempfile::tempdir().unwrap();
        let mut dev = fake::dev(dir.path());
        dev.watch().unwrap();
        let broke = || Err(anyhow::anyhow!("tar: ended"));
        assert_eq!(failed(&dev.ended(broke()).unwrap_err()), 1);
        kill_process(getpid(), Signal::INT).unwrap();
        // Another thread may be handed it.
        dev.signals.as_mut().unwrap().rest(None);
        assert_eq!(failed(&dev.ended(broke()).unwrap_err()), 130);
        assert_eq!(dev.ended(Ok(7)).unwrap(), 7, "it came to its end");
    }
}

#[cfg(test)]
pub(crate) mod fake {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A command with a cache in this folder, which finds the scripts of its `bin` first.
    pub(crate) fn dev(dir: &Path) -> Dev {
        let mut dev = Dev::new(dir.join("cache"), Duration::ZERO).unwrap();
        dev.cargo_home = PathBuf::from("/its/cargo");
        let path = std::env::var("PATH").unwrap();
        dev.tell("PATH", format!("{}:{path}", dir.join("bin").display()));
        make(&dev.cache).unwrap();
        dev
    }

    /// A program that does this.
    pub(crate) fn script(path: &Path, does: &str) {
        make(path.parent().unwrap()).unwrap();
        fs::write(path, format!("#!/usr/bin/env bash\n{does}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}
