//! A process's latest output, by bytes. Pure.

use std::collections::VecDeque;
use std::sync::Arc;

use wire::process::Output;

/// Output in numbered pieces; the oldest go when the bound is reached.
#[derive(Debug)]
pub(super) struct OutputBuffer {
    pieces: VecDeque<Arc<Output>>,
    bytes: usize,
    limit: usize,
    first: u64,
    /// Bytes of the pieces that are gone.
    forgotten: u64,
}

impl OutputBuffer {
    /// An empty one of `limit` bytes.
    pub(super) const fn new(limit: usize) -> Self {
        Self { pieces: VecDeque::new(), bytes: 0, limit, first: 0, forgotten: 0 }
    }

    /// Adds a piece; gives the number of the first that is still here.
    pub(super) fn push(&mut self, piece: Output) {
        self.first = self.first_after(&piece);
        self.bytes += size(&piece);
        self.pieces.push_back(Arc::new(piece));
        while self.bytes > self.limit && self.pieces.len() > 1 {
            let Some(oldest) = self.pieces.pop_front() else { break };
            self.bytes -= size(&oldest);
            self.forgotten += u64::try_from(size(&oldest)).unwrap_or(u64::MAX);
        }
    }

    /// The number of the first piece that would be left after this one came.
    pub(super) fn first_after(&self, piece: &Output) -> u64 {
        let (mut bytes, mut first) = (self.bytes + size(piece), self.first);
        for oldest in &self.pieces {
            if bytes <= self.limit {
                break;
            }
            bytes -= size(oldest);
            first += 1;
        }
        first
    }

    /// The piece of this number.
    pub(super) fn get(&self, number: u64) -> Option<Arc<Output>> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.pieces.get(at).cloned()
    }

    /// How many bytes came before the first that is here.
    pub(super) const fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// The number of the first piece that is here.
    pub(super) const fn first(&self) -> u64 {
        self.first
    }
}

fn size(piece: &Output) -> usize {
    match piece {
        Output::Stdout(bytes) | Output::Stderr(bytes) | Output::Pty(bytes) => bytes.0.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use wire::process::Base64;

    proptest! {
        #[test]
        fn the_newest_pieces_stay_within_the_bound_and_keep_their_numbers(
            lengths in proptest::collection::vec(1_usize..50, 1..60), limit in 50_usize..200,
        ) {
            let mut buffer = OutputBuffer::new(limit);
            for length in &lengths {
                let piece = Output::Stdout(Base64(vec![0; *length]));
                let expected = buffer.first_after(&piece);
                buffer.push(piece);
                prop_assert_eq!(buffer.first(), expected);
                prop_assert!(buffer.bytes <= limit);
                let gone = lengths.iter().take(usize::try_from(buffer.first()).unwrap()).sum::<usize>();
                prop_assert_eq!(buffer.forgotten(), gone as u64);
            }
            for (number, length) in (0..).zip(&lengths) {
                let here = buffer.get(number);
                prop_assert_eq!(here.is_some(), number >= buffer.first());
                if let Some(piece) = here { prop_assert_eq!(size(&piece), *length); }
            }
            prop_assert!(buffer.get(lengths.len() as u64).is_none());
        }
    }
}
