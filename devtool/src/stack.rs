//! A stack for the time of one command, in a folder of its own: however the command ends, nothing of it stays.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::dev::{self, Dev, aside};

/// What the end of a stack may take: `palatine down` waits for its parts, and kills what is left of them, in less.
const DOWN: Duration = Duration::from_secs(60);

/// One that may run.
#[derive(Debug)]
pub(crate) struct Stack {
    home: TempDir,
    program: PathBuf,
    /// The only PATH that it knows, where that is not ours
    bare: Option<PathBuf>,
}

impl Stack {
    /// One of this program.
    pub(crate) fn of(program: PathBuf) -> Result<Self> {
        Ok(Self { home: folder()?, program, bare: None })
    }

    /// One of a program that was unpacked into the folder `home`, and knows nothing of this machine but a PATH.
    pub(crate) fn bare(home: TempDir, program: PathBuf, path: PathBuf) -> Self {
        Self { home, program, bare: Some(path) }
    }

    /// A command of `palatine`.
    pub(crate) fn palatine(&self, dev: &Dev, words: &[&str]) -> Command {
        let mut command = dev.command(&self.program);
        if let Some(path) = &self.bare {
            command.env_clear().env("PATH", path).env("HOME", self.home.path());
        }
        command.args(words).env("PALATINE_STATE", self.state());
        command
    }

    /// Does this with the stack, and ends it.
    pub(crate) fn during<T>(self, dev: &mut Dev, work: impl FnOnce(&mut Dev, &Self) -> Result<T>) -> Result<T> {
        let done = work(dev, &self);
        let ended = self.end(dev);
        if let (Err(_), Err(left)) = (&done, &ended) {
            dev::failed(left);
        }
        let done = done?;
        ended.map(|()| done)
    }

    fn state(&self) -> PathBuf {
        self.home.path().join("state")
    }

    /// One that cannot be ended keeps its folder: `down` needs it.
    fn end(self, dev: &mut Dev) -> Result<()> {
        let mut down = self.palatine(dev, &["down"]);
        if dev.finish(DOWN, down.stdout(aside())).is_ok_and(|end| end.status.success()) {
            return self.home.close().context("remove the stack's folder");
        }
        let state = self.state();
        let _kept = self.home.keep();
        bail!("The stack in {} was not ended.", state.display())
    }
}

/// A folder that is removed when it is dropped.
pub(crate) fn folder() -> Result<TempDir> {
    tempfile::Builder::new().prefix("palatine-").tempdir().context("make a folder")
}

/// The agent's id in a line of `spawn`.
pub(crate) fn ready(line: Option<&str>) -> Option<&str> {
    line?.split_once(" is ready").map(|(id, _)| id).filter(|id| !id.is_empty())
}

/// The one entry of a folder whose name begins so.
pub(crate) fn entry(folder: &Path, beginning: &str) -> Result<PathBuf> {
    let read = std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let named = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(beginning));
    let mut found = read.flatten().map(|entry| entry.path()).filter(named);
    found.next().with_context(|| format!("{} has no {beginning}…", folder.display()))
}
