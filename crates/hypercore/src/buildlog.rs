//! What a build has said: the last of it, in memory.

use wire::v1::images::BuildLogPart;

/// Bytes that are kept while it goes on, and when it is over.
const MOST: usize = 256 << 10;
const AFTERWARDS: usize = 16 << 10;
/// Bytes of one answer at most.
const PART: usize = 64 << 10;

/// The last lines of a build.
#[derive(Debug, Default)]
pub(crate) struct BuildLog {
    /// Bytes that were said before them.
    start: u64,
    text: String,
}

impl BuildLog {
    pub(crate) fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
        if self.text.len() > 2 * MOST {
            self.shorten(MOST);
        }
    }

    /// It is over: who was told of it as it went has it.
    pub(crate) fn end(&mut self) {
        self.shorten(AFTERWARDS);
        self.text.shrink_to_fit();
    }

    /// What was said from this byte on.
    pub(crate) fn from(&self, from: u64) -> BuildLogPart {
        let behind = usize::try_from(from.saturating_sub(self.start)).unwrap_or(usize::MAX).min(self.text.len());
        let rest = &self.text[line_at(&self.text, behind)..];
        let begun = self.start + (self.text.len() - rest.len()) as u64;
        let text = if rest.len() <= PART { rest } else { &rest[..=last_line(rest, PART)] };
        BuildLogPart { from: begun, text: text.to_owned(), next: begun + text.len() as u64 }
    }

    fn shorten(&mut self, to: usize) {
        let cut = line_at(&self.text, self.text.len().saturating_sub(to));
        self.text.drain(..cut);
        self.start += cut as u64;
    }
}

/// Where a line begins, from this byte on.
fn line_at(text: &str, at: usize) -> usize {
    if at == 0 || text.as_bytes().get(at - 1) == Some(&b'\n') {
        return at;
    }
    text.bytes().skip(at).position(|byte| byte == b'\n').map_or(text.len(), |more| at + more + 1)
}

/// Where the last line ends that fits; lines are shorter than an answer.
fn last_line(text: &str, most: usize) -> usize {
    text.as_bytes()[..most].iter().rposition(|byte| *byte == b'\n').unwrap_or(text.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read_on_from_where_it_was_read_to_and_forgets_its_beginning_by_whole_lines() {
        let mut log = BuildLog::default();
        assert_eq!(log.from(0), BuildLogPart::default());
        log.line("one é");
        log.line("two");
        let first = log.from(0);
        assert_eq!((first.text.as_str(), first.next), ("one é\ntwo\n", 11));
        log.line("three");
        assert_eq!((log.from(11).text.as_str(), log.from(17).text.as_str()), ("three\n", ""));
        assert_eq!(log.from(u64::MAX).next, 17, "nothing was said there");
        // In the middle of a letter, the next line.
        assert_eq!(log.from(5).text, "two\nthree\n");
        for number in 0..100_000 {
            log.line(&format!("line {number}"));
        }
        let (mut at, mut read) = (0, String::new());
        loop {
            let part = log.from(at);
            assert!(part.text.len() <= PART && (part.text.is_empty() || part.text.ends_with('\n')));
            if part.text.is_empty() {
                break;
            }
            read.push_str(&part.text);
            at = part.next;
        }
        assert!(read.len() <= 2 * MOST && read.starts_with("line ") && read.ends_with("line 99999\n"));
        log.end();
        let end = log.from(0);
        assert!(end.text.len() <= AFTERWARDS && end.next == at && end.text.ends_with("line 99999\n"));
    }
}
