//! A log of two files: the newer is written, the older goes when the newer is full.
//!
//! The files are numbered (`agent.0.log`, `agent.1.log`, …), so a reader that is in
//! the middle of one knows which comes next.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// How far a log reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct End {
    /// The number of the newer file.
    pub(crate) file: u64,
    /// Its length.
    pub(crate) length: u64,
}

/// A log of bounded size.
#[derive(Debug)]
pub(crate) struct RotatedLog {
    dir: PathBuf,
    name: &'static str,
    /// Bytes of one file; two are kept.
    limit: u64,
    newer: Mutex<Option<File>>,
    end: watch::Sender<End>,
}

impl RotatedLog {
    /// Opens the log, going on where the daemon before ended. A line that it did not
    /// finish is cut off if `whole_lines`.
    pub(crate) fn open(dir: &Path, name: &'static str, most: u64, whole_lines: bool) -> io::Result<Self> {
        let file = numbers(dir, name)?.last().copied().unwrap_or(0);
        let path = path(dir, name, file);
        let newer = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
        if whole_lines {
            let text = fs::read(&path)?;
            let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
            newer.set_len(whole as u64)?;
        }
        let end = End { file, length: newer.metadata()?.len() };
        let limit = (most / 2).max(1);
        Ok(Self { dir: dir.to_owned(), name, limit, newer: Mutex::new(Some(newer)), end: watch::Sender::new(end) })
    }

    /// Adds bytes. A piece is never divided between two files.
    pub(crate) fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let mut newer = self.newer();
        let mut end = *self.end.borrow();
        if end.length > 0 && end.length + bytes.len() as u64 > self.limit {
            end = End { file: end.file + 1, length: 0 };
            *newer = Some(self.rotate(end.file)?);
        }
        let Some(file) = newer.as_mut() else { return Ok(()) };
        file.write_all(bytes)?;
        end.length += bytes.len() as u64;
        self.end.send_replace(end);
        Ok(())
    }

    /// Tells readers that nothing follows.
    pub(crate) fn close(&self) {
        *self.newer() = None;
        // Wakes them.
        self.end.send_modify(|_| {});
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.newer().is_none()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<End> {
        self.end.subscribe()
    }

    /// The oldest file that is kept.
    pub(crate) fn oldest(&self) -> io::Result<u64> {
        Ok(numbers(&self.dir, self.name)?.first().copied().unwrap_or(0))
    }

    pub(crate) fn open_file(&self, number: u64) -> io::Result<File> {
        File::open(path(&self.dir, self.name, number))
    }

    fn rotate(&self, number: u64) -> io::Result<File> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path(&self.dir, self.name, number))?;
        for old in numbers(&self.dir, self.name)? {
            if old + 1 < number {
                fs::remove_file(path(&self.dir, self.name, old))?;
            }
        }
        Ok(file)
    }

    fn newer(&self) -> MutexGuard<'_, Option<File>> {
        self.newer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn path(dir: &Path, name: &str, number: u64) -> PathBuf {
    dir.join(format!("{name}.{number}.log"))
}

fn numbers(dir: &Path, name: &str) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        let file = entry?.file_name();
        let number = file.to_str().and_then(|file| file.strip_prefix(name)?.strip_prefix('.')?.strip_suffix(".log"));
        numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(dir: &Path) -> u64 {
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
    }

    #[test]
    fn a_guest_that_babbles_fills_two_files_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let log = RotatedLog::open(dir.path(), "console", 1_000, false).unwrap();
        for _ in 0..500 {
            log.append(&[b'x'; 100]).unwrap();
            assert!(size(dir.path()) <= 1_000);
        }
        assert_eq!(numbers(dir.path(), "console").unwrap().len(), 2);
    }

    #[test]
    fn the_next_daemon_goes_on_behind_the_last_whole_line() {
        let dir = tempfile::tempdir().unwrap();
        let log = RotatedLog::open(dir.path(), "agent", 1_000, true).unwrap();
        log.append(b"one\ntw").unwrap();
        drop(log);
        RotatedLog::open(dir.path(), "agent", 1_000, true).unwrap().append(b"two\n").unwrap();
        assert_eq!(fs::read(path(dir.path(), "agent", 0)).unwrap(), b"one\ntwo\n");
    }
}
