//! A counter that outlives the process: what tests look at for persistence.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The file in the state directory.
const FILE: &str = "echo.json";

/// What is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// How often the process has started.
    pub(crate) starts: u64,
    /// How often `POST /state` was called.
    pub(crate) count: u64,
}

/// The state directory.
pub(crate) struct StateDir {
    dir: PathBuf,
    counts: Counts,
}

impl StateDir {
    /// Reads what earlier processes left, and counts this one.
    pub(crate) fn open(dir: PathBuf) -> io::Result<Self> {
        let counts = match fs::read(dir.join(FILE)) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Counts::default(),
            Err(error) => return Err(error),
        };
        let mut state = Self { dir, counts };
        state.change(|counts| counts.starts += 1)?;
        Ok(state)
    }

    pub(crate) const fn counts(&self) -> Counts {
        self.counts
    }

    /// Counts one more, on the disk before it is told.
    pub(crate) fn count(&mut self) -> io::Result<Counts> {
        self.change(|counts| counts.count += 1)
    }

    fn change(&mut self, change: impl FnOnce(&mut Counts)) -> io::Result<Counts> {
        let mut counts = self.counts;
        change(&mut counts);
        let unfinished = self.dir.join(format!("{FILE}.new"));
        let mut file = File::create(&unfinished)?;
        file.write_all(&serde_json::to_vec(&counts)?)?;
        file.sync_all()?;
        fs::rename(unfinished, self.dir.join(FILE))?;
        File::open(&self.dir)?.sync_all()?;
        self.counts = counts;
        Ok(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_outlive_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = StateDir::open(dir.path().to_owned()).unwrap();
        first.count().unwrap();
        first.count().unwrap();
        let second = StateDir::open(dir.path().to_owned()).unwrap();
        assert_eq!(second.counts(), Counts { starts: 2, count: 2 });
    }
}
