//! A layer's bytes, whatever packs them.

use std::io::{self, BufReader, Chain, Read};

use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// Frames that a decoder skips have these first bytes, but for the last digit.
const SKIPPED: u32 = 0x184d_2a50;
const SKIPPED_MASK: u32 = 0xffff_fff0;
/// Memory a frame may ask of its decoder: what `zstd --long=27` writes.
const MAX_WINDOW: u64 = 128 << 20;
/// Bytes read at once.
const BUFFER: usize = 256 << 10;

/// The plain bytes of a packed or plain stream. The first bytes say which: media
/// types are wrong too often.
///
/// # Errors
/// The first bytes cannot be read.
pub fn unpack<'a>(from: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut from = BufReader::with_capacity(BUFFER, from);
    let mut head = [0; 4];
    let found = read_up_to(&mut from, &mut head)?;
    let head = &head[..found];
    let whole = io::Cursor::new(head.to_vec()).chain(from);
    if head.starts_with(GZIP) {
        // Some builders write several members one after the other.
        Ok(Box::new(flate2::read::MultiGzDecoder::new(whole)))
    } else if head.starts_with(ZSTD) {
        Ok(Box::new(Frames::new(whole)))
    } else {
        Ok(Box::new(whole))
    }
}

fn read_up_to(from: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    let mut found = 0;
    while found < into.len() {
        match from.read(&mut into[found..])? {
            0 => break,
            read => found += read,
        }
    }
    Ok(found)
}

/// The bytes of one frame: its first four, and the rest.
type Rest<'a> = Chain<io::Cursor<Vec<u8>>, Box<dyn Read + 'a>>;

/// Zstandard frames one after the other, with what is to be skipped between
/// them; the decoder itself knows only one.
struct Frames<'a> {
    now: Option<StreamingDecoder<Rest<'a>, FrameDecoder>>,
    /// Present between two frames.
    rest: Option<Box<dyn Read + 'a>>,
}

impl<'a> Frames<'a> {
    fn new(from: impl Read + 'a) -> Self {
        Self { now: None, rest: Some(Box::new(from)) }
    }

    /// Goes to the next frame; `false` at the end.
    fn next(&mut self) -> io::Result<bool> {
        let Some(mut rest) = self.rest.take() else { return Ok(false) };
        loop {
            let mut head = [0; 4];
            match read_up_to(&mut rest, &mut head)? {
                0 => return Ok(false),
                4 => {}
                _ => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
            if u32::from_le_bytes(head) & SKIPPED_MASK != SKIPPED {
                let frame = io::Cursor::new(head.to_vec()).chain(rest);
                let decoder = StreamingDecoder::new_with_max_window_size(frame, MAX_WINDOW);
                self.now = Some(decoder.map_err(io::Error::other)?);
                return Ok(true);
            }
            let mut length = [0; 4];
            rest.read_exact(&mut length)?;
            io::copy(&mut (&mut rest).take(u32::from_le_bytes(length).into()), &mut io::sink())?;
        }
    }
}

impl Read for Frames<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(decoder) = &mut self.now {
                let read = decoder.read(into)?;
                if read > 0 || into.is_empty() {
                    return Ok(read);
                }
            }
            if let Some(decoder) = self.now.take() {
                self.rest = Some(decoder.into_inner().into_inner().1);
            }
            if !self.next()? {
                return Ok(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn plain(packed: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        unpack(packed).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(bytes).unwrap();
        gz.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    }

    #[test]
    fn plain_gzip_and_zstd_are_told_apart_by_their_first_bytes() {
        for packed in [b"layer".to_vec(), gzip(b"layer"), zstd(b"layer")] {
            assert_eq!(plain(&packed), b"layer");
        }
        assert_eq!(plain(b""), b"");
        assert_eq!(plain(b"ab"), b"ab");
    }

    #[test]
    fn several_members_are_one_stream() {
        assert_eq!(plain(&[gzip(b"la"), gzip(b"yer")].concat()), b"layer");
        let skipped = [SKIPPED.to_le_bytes().to_vec(), 3u32.to_le_bytes().to_vec(), b"toc".to_vec()].concat();
        assert_eq!(plain(&[zstd(b"la"), skipped.clone(), zstd(b"yer"), skipped].concat()), b"layer");
    }

    #[test]
    fn bytes_behind_a_packed_stream_are_an_error_and_not_ignored() {
        for packed in [gzip(b"layer"), zstd(b"layer")] {
            let mut bytes = Vec::new();
            let odd = [packed, b"odd bytes".to_vec()].concat();
            assert!(unpack(&odd[..]).and_then(|mut from| from.read_to_end(&mut bytes)).is_err());
        }
    }
}
