//! Files with holes, in the four ways in which archives write them down.
//!
//! GNU's own type `S` has its map in the header and in blocks behind it. The PAX
//! formats 0.0 and 0.1 have it in records, 1.0 before the data (GNU tar's manual,
//! "Storing Sparse Files").

use std::io::{self, Read};

use tar::{GnuSparseHeader, Header};

use super::LayerError;
use super::archive::{BLOCK, TarReader};

/// Pieces of one file at most.
const MAX_PIECES: usize = 1 << 16;
/// Digits of a number at most.
const MAX_DIGITS: usize = 20;

/// A file with holes: how long it is, and where its bytes belong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SparseMap {
    pub(super) size: u64,
    /// Offset and length of each, in the order in which they stand in the archive.
    pub(super) pieces: Vec<(u64, u64)>,
}

impl SparseMap {
    /// Refuses a map whose pieces overlap, lie outside the file, or are not what the
    /// archive holds.
    fn checked(self, stored: u64) -> Result<Self, LayerError> {
        let mut end = 0_u64;
        let mut sum = 0_u64;
        for (offset, length) in &self.pieces {
            let behind = offset.checked_add(*length).filter(|behind| *offset >= end && *behind <= self.size);
            end = behind.ok_or_else(wrong)?;
            sum = sum.checked_add(*length).ok_or_else(wrong)?;
        }
        if sum == stored { Ok(self) } else { Err(wrong()) }
    }

    fn push(&mut self, offset: u64, length: u64) -> Result<(), LayerError> {
        if self.pieces.len() == MAX_PIECES {
            return Err(LayerError::Malformed(format!("a sparse file of more than {MAX_PIECES} pieces")));
        }
        self.pieces.push((offset, length));
        Ok(())
    }
}

/// What records of an extended header say of holes.
#[derive(Debug, Default)]
pub(super) struct SparseRecords {
    pub(super) name: Option<Vec<u8>>,
    size: Option<u64>,
    major: Option<u64>,
    sparse: SparseMap,
    offset: Option<u64>,
    /// Whether there was any.
    said: bool,
}

impl SparseRecords {
    /// Takes the record `GNU.sparse.<key>`.
    pub(super) fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), LayerError> {
        self.said = true;
        match key {
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.size = Some(number(value)?),
            b"major" => self.major = Some(number(value)?),
            b"offset" => self.offset = Some(number(value)?),
            b"numbytes" => {
                let offset = self.offset.take().ok_or_else(wrong)?;
                self.sparse.push(offset, number(value)?)?;
            }
            b"map" => {
                let mut numbers = value.split(|byte| *byte == b',').map(number);
                while let Some(offset) = numbers.next() {
                    self.sparse.push(offset?, numbers.next().ok_or_else(wrong)??)?;
                }
            }
            // The rest counts what is there anyway.
            _ => {}
        }
        Ok(())
    }

    /// The map, if there is one. Format 1.0 has it at the front of the entry's bytes.
    pub(super) fn map<R: Read>(self, archive: &mut TarReader<R>) -> Result<Option<SparseMap>, LayerError> {
        if !self.said {
            return Ok(None);
        }
        let mut sparse = SparseMap { size: self.size.ok_or_else(wrong)?, ..self.sparse };
        match self.major {
            None | Some(0) => {}
            Some(1) => sparse.pieces = pieces_before(archive)?,
            Some(_) => return Err(LayerError::Malformed("a sparse file of a format that is not known".into())),
        }
        sparse.checked(archive.left()).map(Some)
    }
}

/// The map of the type `S`: four pieces in the header, 21 in each block behind it.
/// The entry is opened behind them.
pub(super) fn map_of<R: Read>(header: &Header, size: u64, archive: &mut TarReader<R>) -> Result<SparseMap, LayerError> {
    let gnu = header.as_gnu().ok_or_else(wrong)?;
    let mut sparse = SparseMap { size: gnu.real_size().map_err(malformed)?, pieces: Vec::new() };
    gnu.sparse.iter().try_for_each(|piece| add(&mut sparse, piece))?;
    let mut more = gnu.is_extended();
    while more {
        let mut block = tar::GnuExtSparseHeader::new();
        block.as_mut_bytes().copy_from_slice(&archive.block().map_err(malformed)?);
        block.sparse().iter().try_for_each(|piece| add(&mut sparse, piece))?;
        more = block.is_extended();
    }
    archive.open(size).map_err(malformed)?;
    sparse.checked(size)
}

fn add(sparse: &mut SparseMap, piece: &GnuSparseHeader) -> Result<(), LayerError> {
    if piece.is_empty() {
        return Ok(());
    }
    sparse.push(piece.offset().map_err(malformed)?, piece.length().map_err(malformed)?)
}

/// Lines of digits, filled up to a whole block: how many pieces, then each one's
/// offset and length.
fn pieces_before<R: Read>(archive: &mut TarReader<R>) -> Result<Vec<(u64, u64)>, LayerError> {
    let mut read = 0_usize;
    let mut line = || -> Result<u64, LayerError> {
        let mut digits = Vec::with_capacity(MAX_DIGITS);
        loop {
            let mut byte = [0];
            archive.read_exact(&mut byte).map_err(malformed)?;
            read += 1;
            match byte[0] {
                b'\n' => return number(&digits),
                byte if digits.len() < MAX_DIGITS => digits.push(byte),
                _ => return Err(wrong()),
            }
        }
    };
    let count = usize::try_from(line()?).ok().filter(|count| *count <= MAX_PIECES).ok_or_else(wrong)?;
    let pieces = (0..count).map(|_| Ok((line()?, line()?))).collect::<Result<Vec<_>, LayerError>>()?;
    let filling = (read.wrapping_neg() % BLOCK) as u64;
    let skipped = io::copy(&mut archive.take(filling), &mut io::sink()).map_err(malformed)?;
    if skipped == filling { Ok(pieces) } else { Err(wrong()) }
}

fn number(value: &[u8]) -> Result<u64, LayerError> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).ok().filter(|_| digits);
    text.and_then(|text| text.parse().ok()).ok_or_else(wrong)
}

fn malformed(error: io::Error) -> LayerError {
    super::error::read(&error)
}

fn wrong() -> LayerError {
    LayerError::Malformed("a sparse file whose map does not fit it".into())
}
