//! The last lines of an agent, for who looks at its state.

use std::io::{self, Read, Seek, SeekFrom};

use super::RotatedLog;
use super::lines::text_of;

/// Lines that are shown.
const LINES: usize = 10;
/// Bytes of the log in which they are looked for.
const BYTES: u64 = 16 * 1024;
/// Bytes of a line that are shown.
const LINE: usize = 200;

/// The last lines of an agent's log, oldest first.
///
/// # Errors
/// The log cannot be read.
pub(crate) fn last_lines(log: &RotatedLog) -> io::Result<Vec<String>> {
    let newest = log.watch().borrow().file;
    let mut lines: Vec<String> = Vec::new();
    for number in [Some(newest), newest.checked_sub(1)].into_iter().flatten() {
        let older = match end_of(log, number) {
            Ok(older) => older,
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        };
        lines.splice(..0, older);
        if lines.len() >= LINES {
            break;
        }
    }
    Ok(lines.split_off(lines.len().saturating_sub(LINES)))
}

/// The last whole lines of one file.
fn end_of(log: &RotatedLog, number: u64) -> io::Result<Vec<String>> {
    let mut file = log.open_file(number)?;
    let from = file.metadata()?.len().saturating_sub(BYTES);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(BYTES).read_to_end(&mut bytes)?;
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
    if from > 0 {
        // What it begins with may be the rest of one.
        lines.next();
    }
    Ok(lines.map(|line| printable(&String::from_utf8_lossy(text_of(line)))).collect())
}

/// A guest's words as one line of bounded length that a terminal shows and does not obey.
pub(crate) fn printable(text: &str) -> String {
    wire::printable(text, LINE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ten_lines_are_shown_also_over_the_turn_of_a_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = RotatedLog::open(dir.path(), "agent", 400, true).unwrap();
        assert!(last_lines(&log).unwrap().is_empty());
        for number in 1..=40 {
            log.append(format!("1 {number} line {number}\n").as_bytes()).unwrap();
        }
        let shown = last_lines(&log).unwrap();
        assert_eq!(shown, (31..=40).map(|number| format!("line {number}")).collect::<Vec<_>>());
    }

    #[test]
    fn a_line_that_is_cut_by_where_reading_begins_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let log = RotatedLog::open(dir.path(), "agent", 1 << 20, true).unwrap();
        log.append(format!("1 1 {}\n1 2 short\n", "x".repeat(20_000)).as_bytes()).unwrap();
        assert_eq!(last_lines(&log).unwrap(), ["short"]);
    }
}
