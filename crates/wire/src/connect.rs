//! The envelope of Connect's stream calls: one flag byte, a big-endian `u32`
//! length, the message. Pure: bytes in, bytes out.
//!
//! The maintained `connectrpc` crate is built around generated protobuf types
//! and brings its own HTTP stack, compression and code generation; the part of
//! the protocol that clients see is these five bytes and what [`proto`](crate::proto) has.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

const HEAD: usize = 5;
const COMPRESSED: u8 = 0b01;
const END: u8 = 0b10;

/// One message of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Whether it is the stream's last, an end-of-stream message.
    pub end: bool,
    /// The message: JSON, or protobuf; JSON in an end-of-stream message.
    pub message: Bytes,
}

/// Why bytes are not an envelope. The stream is lost after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// We never negotiate compression.
    #[error("the message is compressed, which was not negotiated")]
    Compressed,
    /// A flag of a later protocol.
    #[error("the message has unknown flags {0:#04x}")]
    Flags(u8),
    /// Longer than the reader allows.
    #[error("the message of {length} bytes is larger than {limit}")]
    TooLarge {
        /// What it claims.
        length: usize,
        /// What is allowed.
        limit: usize,
    },
}

impl Envelope {
    /// The longest message either side sends: output comes in pieces of at most
    /// 32 KiB, which base64 makes 43 KiB; an environment is at most 64 KiB.
    pub const MAX_MESSAGE: usize = 256 * 1024;

    /// Appends the envelope's bytes.
    pub fn encode(&self, to: &mut BytesMut) {
        to.reserve(HEAD + self.message.len());
        to.put_u8(if self.end { END } else { 0 });
        // A message is far below 4 GiB; one that were not is cut, and refused by its reader.
        to.put_u32(u32::try_from(self.message.len()).unwrap_or(u32::MAX));
        to.put_slice(&self.message);
    }

    /// How many bytes the first envelope of `from` has in all; `None` while its head is
    /// not whole.
    ///
    /// # Errors
    /// [`EnvelopeError`], after which the stream cannot be read on.
    pub fn length(from: &[u8]) -> Result<Option<usize>, EnvelopeError> {
        let [flags, a, b, c, d, ..] = from[..] else { return Ok(None) };
        if flags & COMPRESSED != 0 {
            return Err(EnvelopeError::Compressed);
        }
        if flags & !END != 0 {
            return Err(EnvelopeError::Flags(flags));
        }
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if length > Self::MAX_MESSAGE {
            return Err(EnvelopeError::TooLarge { length, limit: Self::MAX_MESSAGE });
        }
        Ok(Some(HEAD + length))
    }

    /// Takes the first envelope off `from`; `None` while it is not whole.
    ///
    /// # Errors
    /// [`EnvelopeError`], after which the stream cannot be read on.
    pub fn decode(from: &mut BytesMut) -> Result<Option<Self>, EnvelopeError> {
        let Some(length) = Self::length(from)?.filter(|length| from.len() >= *length) else { return Ok(None) };
        let end = from[0] & END != 0;
        from.advance(HEAD);
        Ok(Some(Self { end, message: from.split_to(length - HEAD).freeze() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn envelope() -> impl Strategy<Value = Envelope> {
        (any::<bool>(), proptest::collection::vec(any::<u8>(), 0..200))
            .prop_map(|(end, message)| Envelope { end, message: message.into() })
    }

    proptest! {
        #[test]
        fn what_was_encoded_comes_back_however_the_bytes_arrive(
            sent in proptest::collection::vec(envelope(), 0..8), cut in 1_usize..50,
        ) {
            let mut bytes = BytesMut::new();
            sent.iter().for_each(|one| one.encode(&mut bytes));
            let (mut buffer, mut seen) = (BytesMut::new(), Vec::new());
            for piece in bytes.chunks(cut) {
                buffer.extend_from_slice(piece);
                while let Some(one) = Envelope::decode(&mut buffer).unwrap() { seen.push(one); }
            }
            prop_assert_eq!(seen, sent);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = Envelope::decode(&mut buffer) {}
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_its_bytes_come() {
        let mut bytes = BytesMut::from(&[0, 0x7f, 0, 0, 0][..]);
        assert!(matches!(Envelope::decode(&mut bytes), Err(EnvelopeError::TooLarge { .. })));
        let mut bytes = BytesMut::from(&[1, 0, 0, 0, 0][..]);
        assert_eq!(Envelope::decode(&mut bytes), Err(EnvelopeError::Compressed));
    }
}
