//! The last lines, by bytes.

use std::collections::VecDeque;

use domain::UnixMillis;
use wire::v1::pod::LogLine;

/// Bytes a line costs beyond its text.
const LINE_OVERHEAD: usize = 64;

/// Keeps the newest lines within a bound, and counts what it drops.
#[derive(Debug)]
pub(super) struct RingBuffer {
    lines: VecDeque<LogLine>,
    bytes: usize,
    limit: usize,
    next: u64,
    dropped: u64,
}

impl RingBuffer {
    /// A ring of `limit` bytes; its first line is number 1.
    pub(super) const fn new(limit: usize) -> Self {
        Self { lines: VecDeque::new(), bytes: 0, limit, next: 1, dropped: 0 }
    }

    /// Adds a line; the oldest make room.
    pub(super) fn push(&mut self, at: UnixMillis, stream: &str, line: String) {
        let line = LogLine { seq: self.next, at, stream: stream.to_owned(), line };
        self.next += 1;
        self.bytes += cost(&line);
        self.lines.push_back(line);
        while self.bytes > self.limit {
            let Some(oldest) = self.lines.pop_front() else { break };
            self.bytes -= cost(&oldest);
            self.dropped += 1;
        }
    }

    /// The lines after this number that are still here, at most `bytes` of them.
    pub(super) fn after(&self, seq: u64, bytes: usize) -> impl Iterator<Item = &LogLine> {
        let start = self.lines.partition_point(|line| line.seq <= seq);
        let mut taken = 0;
        self.lines.range(start..).take_while(move |line| {
            let first = taken == 0;
            taken += cost(line);
            first || taken <= bytes
        })
    }

    /// The number of the newest line; 0 before the first.
    pub(super) const fn newest(&self) -> u64 {
        self.next - 1
    }

    /// Lines that were dropped to make room.
    pub(super) const fn dropped(&self) -> u64 {
        self.dropped
    }
}

fn cost(line: &LogLine) -> usize {
    line.line.len() + LINE_OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filled(lengths: &[usize], limit: usize) -> RingBuffer {
        let mut ring = RingBuffer::new(limit);
        lengths.iter().for_each(|length| ring.push(UnixMillis(0), "stdout", "x".repeat(*length)));
        ring
    }

    proptest! {
        #[test]
        fn the_ring_keeps_the_newest_lines_in_order_within_its_bound(
            lengths in proptest::collection::vec(0_usize..300, 0..60), limit in 100_usize..2_000,
        ) {
            let ring = filled(&lengths, limit);
            let kept: Vec<u64> = ring.after(0, usize::MAX).map(|line| line.seq).collect();
            let sum = lengths.len() as u64;
            prop_assert!(ring.bytes <= limit);
            prop_assert_eq!(kept.len() as u64 + ring.dropped(), sum);
            prop_assert_eq!(kept, (ring.dropped() + 1..=sum).collect::<Vec<_>>());
        }

        #[test]
        fn reading_in_pieces_gives_every_kept_line_once(
            lengths in proptest::collection::vec(0_usize..300, 0..60), piece in 1_usize..500,
        ) {
            let ring = filled(&lengths, 4_000);
            let (mut seen, mut at) = (Vec::new(), 0);
            loop {
                let part: Vec<u64> = ring.after(at, piece).map(|line| line.seq).collect();
                let Some(last) = part.last() else { break };
                at = *last;
                seen.extend(part);
            }
            prop_assert_eq!(seen, ring.after(0, usize::MAX).map(|line| line.seq).collect::<Vec<_>>());
        }
    }
}
