//! The blocks of an archive, one entry after the other.
//!
//! The archive library reads extended headers of any size into memory, believes the
//! plain header's size where an extended one says another (every file of more than
//! 8 GiB has it), and knows only the oldest of the sparse formats. It reads headers
//! here; which bytes are an entry's is decided by [`super::entry`].

use std::io::{self, Read};

use tar::Header;

/// Bytes of a block.
pub(super) const BLOCK: usize = 512;

/// An archive that is read once from front to back.
pub(super) struct TarReader<R> {
    from: R,
    /// Bytes of the entry that were not read yet.
    left: u64,
    /// Bytes behind it that fill its last block.
    padding: u64,
}

impl<R: Read> TarReader<R> {
    pub(super) const fn new(from: R) -> Self {
        Self { from, left: 0, padding: 0 }
    }

    /// The next header; nothing at the archive's end. What was not read of the entry
    /// before it is skipped.
    pub(super) fn next(&mut self) -> io::Result<Option<Header>> {
        let rest = self.left + self.padding;
        (self.left, self.padding) = (0, 0);
        if io::copy(&mut (&mut self.from).take(rest), &mut io::sink())? < rest {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some(block) = self.block_or_end()? else { return Ok(None) };
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block).clone();
        check_sum(&block, header.cksum()?)?;
        Ok(Some(header))
    }

    /// The entry of the header that was read last has so many bytes here.
    pub(super) fn open(&mut self, size: u64) -> io::Result<()> {
        let padding = size.wrapping_neg() % BLOCK as u64;
        size.checked_add(padding).ok_or_else(|| io::Error::other("an entry's size is out of range"))?;
        (self.left, self.padding) = (size, padding);
        Ok(())
    }

    /// Bytes of the entry that were not read yet.
    pub(super) const fn left(&self) -> u64 {
        self.left
    }

    /// A block that belongs to the header, before the entry is opened.
    pub(super) fn block(&mut self) -> io::Result<[u8; BLOCK]> {
        self.block_or_end()?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn block_or_end(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut found = 0;
        while found < BLOCK {
            match self.from.read(&mut block[found..])? {
                0 if found == 0 => return Ok(None),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => found += read,
            }
        }
        Ok(Some(block))
    }
}

/// The bytes of the entry. One that ends too early is an error, never a short file.
impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).map_or(into.len(), |left| left.min(into.len()));
        let read = self.from.read(&mut into[..most])?;
        if read == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= read as u64;
        Ok(read)
    }
}

fn check_sum(block: &[u8; BLOCK], said: u32) -> io::Result<()> {
    // The sum's own field counts as blanks.
    let blank = |(at, byte): (usize, &u8)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) };
    let sum: u32 = block.iter().enumerate().map(blank).sum();
    if sum == said { Ok(()) } else { Err(io::Error::other("a header's checksum is not its own")) }
}
