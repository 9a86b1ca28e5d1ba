//! An agent's lines, each with the boot and the number under which `pod` gave it.
//! The last line says where to go on, so a line is neither lost nor doubled
//! whenever the daemon dies.

use std::io;
use std::path::Path;
use std::sync::Arc;

use wire::v1::pod::LogLine;

use super::RotatedLog;

const NAME: &str = "agent";

/// The last line that was written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    /// In which boot of the guest, from 1.
    pub(crate) boot: u32,
    /// Its number there.
    pub(crate) seq: u64,
}

/// The log of one agent.
pub(crate) struct AgentLog {
    log: Arc<RotatedLog>,
    last: Position,
}

impl AgentLog {
    pub(crate) fn open(dir: &Path, most: u64) -> io::Result<Self> {
        let log = Arc::new(RotatedLog::open(dir, NAME, most, true)?);
        let last = last_position(&log)?;
        Ok(Self { log, last })
    }

    /// The files, for readers.
    pub(crate) fn files(&self) -> Arc<RotatedLog> {
        Arc::clone(&self.log)
    }

    /// The number after which lines of this boot are still missing.
    pub(crate) const fn after(&self, boot: u32) -> u64 {
        if self.last.boot == boot { self.last.seq } else { 0 }
    }

    /// Writes a line down, unless it is there already.
    pub(crate) fn add(&mut self, boot: u32, line: &LogLine) -> io::Result<()> {
        let numbered = self.after(boot).checked_add(1);
        let expected =
            numbered.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "its lines have no more numbers"))?;
        if line.seq < expected {
            return Ok(());
        }
        if line.seq > expected {
            let lost = line.seq - expected;
            let note = format!("({lost} lines were lost: the agent printed faster than they were read)");
            self.write(Position { boot, seq: line.seq - 1 }, &note)?;
        }
        self.write(Position { boot, seq: line.seq }, &line.line)
    }

    fn write(&mut self, at: Position, text: &str) -> io::Result<()> {
        // One line is one line, whatever a guest puts into it.
        let text = text.replace(['\n', '\r'], " ");
        self.log.append(format!("{} {} {text}\n", at.boot, at.seq).as_bytes())?;
        self.last = at;
        Ok(())
    }
}

fn last_position(log: &RotatedLog) -> io::Result<Position> {
    let newest = log.watch().borrow().file;
    for number in [Some(newest), newest.checked_sub(1)].into_iter().flatten() {
        let mut bytes = Vec::new();
        match log.open_file(number) {
            Ok(mut file) => io::Read::read_to_end(&mut file, &mut bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let line = bytes.trim_ascii_end().rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        if let Some(position) = position_of(line) {
            return Ok(position);
        }
    }
    Ok(Position::default())
}

fn position_of(line: &[u8]) -> Option<Position> {
    let mut words = line.split(|byte| *byte == b' ');
    let mut number = || std::str::from_utf8(words.next()?).ok()?.parse::<u64>().ok();
    Some(Position { boot: u32::try_from(number()?).ok()?, seq: number()? })
}

/// A stored line without its numbers.
pub(super) fn text_of(line: &[u8]) -> &[u8] {
    line.splitn(3, |byte| *byte == b' ').nth(2).unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use domain::UnixMillis;

    use super::*;

    fn line(seq: u64, text: &str) -> LogLine {
        LogLine { seq, at: UnixMillis(0), stream: "stdout".to_owned(), line: text.to_owned() }
    }

    fn stored(dir: &Path) -> String {
        fs::read_to_string(dir.join("agent.0.log")).unwrap()
    }

    #[test]
    fn lines_given_twice_by_two_daemons_are_there_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = AgentLog::open(dir.path(), 1_000).unwrap();
        for seq in 1..=3 {
            log.add(1, &line(seq, "x")).unwrap();
        }
        drop(log);
        let mut next = AgentLog::open(dir.path(), 1_000).unwrap();
        assert_eq!(next.after(1), 3);
        for seq in 2..=5 {
            next.add(1, &line(seq, "x")).unwrap();
        }
        assert_eq!(stored(dir.path()), "1 1 x\n1 2 x\n1 3 x\n1 4 x\n1 5 x\n");
    }

    #[test]
    fn each_boot_counts_anew_and_a_gap_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = AgentLog::open(dir.path(), 1_000).unwrap();
        log.add(1, &line(1, "a")).unwrap();
        assert_eq!(log.after(2), 0);
        log.add(2, &line(5, "b")).unwrap();
        assert!(stored(dir.path()).contains("2 4 (4 lines were lost"));
        assert!(stored(dir.path()).ends_with("2 5 b\n"));
    }

    #[test]
    fn a_guest_cannot_forge_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = AgentLog::open(dir.path(), 1_000).unwrap();
        log.add(1, &line(1, "a\n9 9 forged")).unwrap();
        assert_eq!(AgentLog::open(dir.path(), 1_000).unwrap().after(1), 1);
    }

    #[test]
    fn fault_1_9_a_guest_that_uses_up_the_numbers_is_refused_and_nothing_is_written_twice() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = AgentLog::open(dir.path(), 1_000).unwrap();
        log.add(1, &line(u64::MAX, "last")).unwrap();
        let before = stored(dir.path());
        assert_eq!(log.add(1, &line(1, "again")).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(stored(dir.path()), before);
        log.add(2, &line(1, "the next boot")).unwrap();
    }

    #[test]
    fn the_place_is_found_in_the_older_file_when_the_newer_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("agent.3.log"), "2 7 x\n").unwrap();
        fs::write(dir.path().join("agent.4.log"), "2 8 torn").unwrap();
        assert_eq!(AgentLog::open(dir.path(), 1_000).unwrap().after(2), 7);
    }
}
