//! Bytes into lines.

/// Cuts a stream of bytes into lines of at most `limit` bytes; what is longer
/// loses its rest.
#[derive(Debug)]
pub(crate) struct LineSplitter {
    partial: Vec<u8>,
    limit: usize,
}

impl LineSplitter {
    /// The longest line that is kept whole.
    pub(crate) const MAX_LINE: usize = 16 * 1024;

    /// A splitter with that bound.
    pub(crate) const fn new() -> Self {
        Self { partial: Vec::new(), limit: Self::MAX_LINE }
    }

    /// Takes bytes, gives the lines they complete.
    pub(crate) fn take(&mut self, mut bytes: &[u8], mut line: impl FnMut(String)) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.keep(&bytes[..end]);
            line(self.cut());
            bytes = &bytes[end + 1..];
        }
        self.keep(bytes);
    }

    /// The line that was not ended, at the end of the stream.
    pub(crate) fn rest(&mut self) -> Option<String> {
        (!self.partial.is_empty()).then(|| self.cut())
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = self.limit.saturating_sub(self.partial.len());
        self.partial.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn cut(&mut self) -> String {
        let bytes = std::mem::take(&mut self.partial);
        let text = String::from_utf8_lossy(bytes.strip_suffix(b"\r").unwrap_or(&bytes));
        // A character that the limit cut in two may have grown on its way.
        let end = text.floor_char_boundary(self.limit);
        text[..end].to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(pieces: &[&[u8]], limit: usize) -> Vec<String> {
        let mut splitter = LineSplitter { partial: Vec::new(), limit };
        let mut lines = Vec::new();
        pieces.iter().for_each(|piece| splitter.take(piece, |line| lines.push(line)));
        lines.extend(splitter.rest());
        lines
    }

    #[test]
    fn lines_arrive_whole_whatever_the_pieces() {
        assert_eq!(split(&[b"a\nb", b"c\r\n", b"\nd"], 99), ["a", "bc", "", "d"]);
    }

    #[test]
    fn a_line_that_is_too_long_loses_its_rest_and_the_next_one_is_whole() {
        assert_eq!(split(&[b"12345678\nab\n"], 4), ["1234", "ab"]);
        assert_eq!(split(&[b"123", b"456", b"78\nab\n"], 4), ["1234", "ab"]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_line_beyond_the_limit(bytes in proptest::collection::vec(any::<u8>(), 0..200), limit in 1_usize..20) {
            prop_assert!(split(&[&bytes], limit).iter().all(|line| line.len() <= limit));
        }
    }
}
