//! A root directory to a disk that guests mount read-only.

use std::fs::File;
use std::io;
use std::ops::{Range, RangeInclusive};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use crate::ImageError;
use crate::digest::BlobDigest;
use crate::tool::{HostTool, ToolError};

/// An image of many gigabytes on a slow disk.
const DEADLINE: Duration = Duration::from_secs(3600);
const MKFS: HostTool = HostTool { name: "mkfs.erofs", package: "erofs-utils", deadline: DEADLINE };

/// What the tool says when the disk is full.
const NO_SPACE: &str = "No space left on device";
/// Where the superblock begins, and in it: its checksum, its features, the size
/// of a block (as a power of two), and when it was made (seconds, nanoseconds).
const SUPERBLOCK: usize = 1024;
const CHECKSUM: Range<usize> = 4..8;
const FEATURES: Range<usize> = 8..12;
const BLOCK_BITS: usize = 12;
const MADE_AT: Range<usize> = 24..36;
/// The feature of having a checksum.
const HAS_CHECKSUM: u32 = 1;
/// Blocks of 512 bytes to 64 KiB.
const SANE_BLOCK_BITS: RangeInclusive<u8> = 9..=16;

/// Writes the file system of `root` into `disk`: the same for the same content
/// and name. Not compressed: an emulated processor unpacks slower than it reads,
/// and the host's page cache holds each block once for all guests. Extended
/// attributes only where files `grant` capabilities: no other comes from an image.
pub(crate) fn make(root: &Path, disk: &Path, image: BlobDigest, grant: bool) -> Result<(), ImageError> {
    let uuid = format!("-U{}", uuid(image));
    let attributes = if grant { "-x2" } else { "-x-1" };
    let made = MKFS.run(|c| c.args(["--preserve-mtime", attributes, &uuid]).arg(disk).arg(root));
    made.map_err(|error| match error {
        ToolError::Failed { said, .. } if said.contains(NO_SPACE) => ImageError::NoSpace(disk.to_owned()),
        error => error.into(),
    })?;
    forget_time(disk).map_err(|source| ImageError::file("finish", disk, source))
}

/// Takes the time of its making out of a file system. The tool has an option for
/// that, but then it also takes away the times of all files, and programs compare
/// those (Python believes a compiled file by its source's time).
fn forget_time(disk: &Path) -> io::Result<()> {
    let file = File::options().read(true).write(true).open(disk)?;
    let mut head = vec![0; SUPERBLOCK + MADE_AT.end];
    file.read_exact_at(&mut head, 0)?;
    let bits = head[SUPERBLOCK + BLOCK_BITS];
    if !SANE_BLOCK_BITS.contains(&bits) {
        return Err(io::Error::other("mkfs.erofs wrote a superblock that is not understood"));
    }
    let end = (1_usize << bits).max(SUPERBLOCK + MADE_AT.end);
    let mut block = vec![0; end - SUPERBLOCK];
    file.read_exact_at(&mut block, SUPERBLOCK as u64)?;
    refresh(&mut block);
    file.write_all_at(&block, SUPERBLOCK as u64)
}

/// Zeroes the time in a superblock and sets its checksum anew, if it has one.
fn refresh(block: &mut [u8]) {
    block[MADE_AT].fill(0);
    block[CHECKSUM].fill(0);
    let features = u32::from_le_bytes(block[FEATURES].try_into().expect("the range has four bytes"));
    if features & HAS_CHECKSUM != 0 {
        let sum = crc32c(block);
        block[CHECKSUM].copy_from_slice(&sum.to_le_bytes());
    }
}

/// CRC-32C as erofs uses it: begun with ones, and not inverted at the end.
fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| if sum & 1 == 1 { (sum >> 1) ^ POLYNOMIAL } else { sum >> 1 })
    })
}

/// A UUID that says which image it is (version 8: made of other things).
fn uuid(image: BlobDigest) -> String {
    let hex = image.hex();
    format!("{}-{}-8{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uuid_is_one_and_depends_on_the_image() {
        let one = uuid(BlobDigest::of(b"a"));
        assert_eq!(one.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
        assert_ne!(one, uuid(BlobDigest::of(b"b")));
    }

    #[test]
    fn the_checksum_is_that_of_the_standard_but_for_its_last_step() {
        assert_eq!(!crc32c(b"123456789"), 0xe306_9283);
    }
}
