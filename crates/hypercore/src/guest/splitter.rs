//! A guest's output, cut into lines and taken no faster than is good for the node.

use std::time::Duration;

use bytes::BytesMut;
use tokio::time::Instant;

/// Cuts a stream into lines. Each byte is looked at once, in whatever pieces it comes.
#[derive(Debug, Default)]
pub(crate) struct LineSplitter {
    pending: BytesMut,
    /// So many bytes hold no end of a line.
    seen: usize,
}

impl LineSplitter {
    /// Takes a piece.
    pub(crate) fn push(&mut self, piece: &[u8]) {
        self.pending.extend_from_slice(piece);
    }

    /// The next whole line, with its end.
    pub(crate) fn next(&mut self) -> Option<BytesMut> {
        match self.pending[self.seen..].iter().position(|byte| *byte == b'\n') {
            Some(end) => {
                let line = self.pending.split_to(self.seen + end + 1);
                self.seen = 0;
                Some(line)
            }
            None => {
                self.seen = self.pending.len();
                None
            }
        }
    }

    /// Bytes of a line whose end has not come yet.
    pub(crate) fn unfinished(&self) -> usize {
        self.pending.len()
    }
}

/// A rate that may be exceeded for a while: who takes more waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RateLimiter {
    per_second: u32,
    burst: u32,
    /// What was taken and is not yet paid for with time.
    taken: f64,
    at: Instant,
}

impl RateLimiter {
    pub(crate) fn new(per_second: u32, burst: u32) -> Self {
        Self { per_second, burst, taken: 0.0, at: Instant::now() }
    }

    /// How long to wait after so many bytes.
    pub(crate) fn take(&mut self, bytes: u32, now: Instant) -> Duration {
        let rate = f64::from(self.per_second);
        let paid = now.saturating_duration_since(self.at).as_secs_f64() * rate;
        self.at = now;
        self.taken = (self.taken - paid).max(0.0) + f64::from(bytes);
        Duration::from_secs_f64((self.taken - f64::from(self.burst)).max(0.0) / rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_1_9_a_line_that_comes_byte_by_byte_is_searched_once() {
        const LINE: usize = 128 * 1024;
        let (mut lines, since) = (LineSplitter::default(), std::time::Instant::now());
        for _ in 0..LINE {
            lines.push(b"x");
            assert!(lines.next().is_none());
        }
        lines.push(b"\nnext");
        assert_eq!(lines.next().unwrap().len(), LINE + 1);
        assert_eq!((lines.next(), lines.unfinished()), (None, 4));
        // Eight thousand million comparisons take longer on any machine.
        assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    }

    #[test]
    fn lines_do_not_depend_on_the_pieces_in_which_they_come() {
        let text = b"one\n\ntwo\nthree";
        for size in 1..text.len() {
            let (mut lines, mut found) = (LineSplitter::default(), Vec::new());
            for piece in text.chunks(size) {
                lines.push(piece);
                found.extend(std::iter::from_fn(|| lines.next()));
            }
            assert_eq!(found, [&b"one\n"[..], b"\n", b"two\n"], "pieces of {size}");
            assert_eq!(lines.unfinished(), 5);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn fault_1_9_a_guest_that_babbles_is_read_at_the_nodes_pace() {
        let (since, mut limiter) = (Instant::now(), RateLimiter::new(1_000, 4_000));
        for _ in 0..100 {
            let wait = limiter.take(1_000, Instant::now());
            tokio::time::sleep(wait).await;
        }
        let took = since.elapsed();
        assert!((Duration::from_secs(95)..Duration::from_secs(97)).contains(&took), "{took:?}");
        // One that is quiet for a while may say more at once again.
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert_eq!(limiter.take(4_000, Instant::now()), Duration::ZERO);
    }
}
