//! The ring, shared: many write, many follow, nobody waits for a slow reader.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::{Clock, SystemClock};
use tokio::sync::watch;
use wire::v1::pod::LogLine;

use super::ring::RingBuffer;

/// Bytes of lines that are kept.
const RING_BYTES: usize = 256 * 1024;
/// Bytes of lines a reader gets at once.
const BATCH_BYTES: usize = 32 * 1024;

/// What the agent and `pod` wrote. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Logs(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    ring: Mutex<RingBuffer>,
    /// Changes with each line; `true` once no more will come.
    closed: watch::Sender<bool>,
}

impl Logs {
    /// An empty memory.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared { ring: Mutex::new(RingBuffer::new(RING_BYTES)), closed: watch::Sender::new(false) }))
    }

    /// Keeps a line of a stream.
    pub(crate) fn push(&self, stream: &str, line: String) {
        self.ring().push(SystemClock.now(), stream, line);
        self.0.closed.send_modify(|_| ());
    }

    /// Ends every reader, once it has what there is.
    pub(crate) fn close(&self) {
        self.0.closed.send_replace(true);
    }

    /// Lines that no reader can see any more.
    pub(crate) fn dropped(&self) -> u64 {
        self.ring().dropped()
    }

    /// Reads from after this line on.
    pub(crate) fn reader(&self, after: u64, follow: bool) -> Reader {
        let until = if follow { u64::MAX } else { self.ring().newest() };
        Reader { changed: self.0.closed.subscribe(), logs: self.clone(), at: after, until }
    }

    fn ring(&self) -> MutexGuard<'_, RingBuffer> {
        self.0.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One reader's position. One that is too slow misses the oldest lines, and sees so
/// by their numbers.
#[derive(Debug)]
pub(crate) struct Reader {
    logs: Logs,
    changed: watch::Receiver<bool>,
    at: u64,
    /// The last line it wants: without that, who only wants what there is would
    /// stay for ever with an agent that never stops talking.
    until: u64,
}

impl Reader {
    /// The next lines; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Vec<LogLine>> {
        loop {
            let closed = *self.changed.borrow_and_update();
            let lines = self.batch();
            if !lines.is_empty() {
                return Some(lines);
            }
            if closed || self.until < u64::MAX || self.changed.changed().await.is_err() {
                return None;
            }
        }
    }

    fn batch(&mut self) -> Vec<LogLine> {
        let ring = self.logs.ring();
        // A number of an earlier boot says nothing here.
        let after = if self.at > ring.newest() { 0 } else { self.at };
        let wanted = ring.after(after, BATCH_BYTES).take_while(|line| line.seq <= self.until);
        let lines: Vec<LogLine> = wanted.cloned().collect();
        drop(ring);
        if let Some(last) = lines.last() {
            self.at = last.seq;
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_follower_gets_old_and_new_lines_and_ends_when_the_logs_close() {
        let logs = Logs::new();
        logs.push("stdout", "old".to_owned());
        let mut reader = logs.reader(0, true);
        assert_eq!(reader.next().await.unwrap()[0].line, "old");
        let waiting = tokio::spawn(async move { (reader.next().await, reader.next().await) });
        tokio::task::yield_now().await;
        logs.push("stderr", "new".to_owned());
        tokio::task::yield_now().await;
        logs.close();
        let (lines, end) = waiting.await.unwrap();
        assert_eq!(lines.unwrap()[0].line, "new");
        assert_eq!(end, None);
    }

    #[tokio::test]
    async fn a_reader_that_does_not_follow_gets_what_there_is_and_ends() {
        assert_eq!(Logs::new().reader(0, false).next().await, None);
        let logs = Logs::new();
        logs.push("stdout", "before".to_owned());
        let mut reader = logs.reader(0, false);
        assert_eq!(reader.next().await.unwrap().len(), 1);
        logs.push("stdout", "after".to_owned());
        assert_eq!(reader.next().await, None);
    }

    #[tokio::test]
    async fn a_position_of_an_earlier_boot_starts_over() {
        let logs = Logs::new();
        logs.push("pod", "first".to_owned());
        assert_eq!(logs.reader(900, false).next().await.unwrap().len(), 1);
    }
}
