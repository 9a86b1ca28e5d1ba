//! The "newc" archive the kernel unpacks into its first root, written the same
//! way every time: no clock, no owners, numbered inodes.

use std::io::{self, Write};

const MAGIC: &str = "070701";
const TRAILER: &str = "TRAILER!!!";
const ALIGN: usize = 4;
/// The kernel's own bound on a name (`PATH_MAX`).
const MAX_NAME: usize = 4096;

/// What one entry is.
pub(super) enum Entry<'a> {
    /// A directory, 0755.
    Directory,
    /// A file with this mode.
    File { mode: u32, data: &'a [u8] },
    /// A character device, 0600.
    Device { major: u32, minor: u32 },
}

/// Writes entries, then the trailer.
pub(super) struct CpioWriter<W> {
    to: W,
    inode: u32,
    written: usize,
}

impl<W: Write> CpioWriter<W> {
    pub(super) const fn new(to: W) -> Self {
        Self { to, inode: 1, written: 0 }
    }

    /// Adds one entry; `name` has no leading slash.
    pub(super) fn add(&mut self, name: &str, entry: &Entry<'_>) -> io::Result<()> {
        let (mode, links, device, data): (u32, u32, (u32, u32), &[u8]) = match *entry {
            Entry::Directory => (0o040_755, 2, (0, 0), &[]),
            Entry::File { mode, data } => (0o100_000 | mode, 1, (0, 0), data),
            Entry::Device { major, minor } => (0o020_600, 1, (major, minor), &[]),
        };
        self.record(name, mode, links, device, data)?;
        self.inode += 1;
        Ok(())
    }

    /// Writes the trailer and gives the writer back.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.inode = 0;
        self.record(TRAILER, 0, 1, (0, 0), &[])?;
        Ok(self.to)
    }

    fn record(&mut self, name: &str, mode: u32, links: u32, device: (u32, u32), data: &[u8]) -> io::Result<()> {
        let size = u32::try_from(data.len()).map_err(|_| io::Error::other("a file of 4 GiB or more"))?;
        let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        if name.len() >= MAX_NAME {
            return Err(io::Error::other("a name of 4096 bytes or more"));
        }
        // inode, mode, uid, gid, links, mtime, size, device, rdevice, name size, check
        let fields = [self.inode, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_size, 0];
        let head = fields.iter().fold(String::from(MAGIC), |text, field| text + &format!("{field:08X}"));
        self.put(head.as_bytes())?;
        self.put(name.as_bytes())?;
        self.put(&[0])?;
        self.pad()?;
        self.put(data)?;
        self.pad()
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len();
        self.to.write_all(bytes)
    }

    fn pad(&mut self) -> io::Result<()> {
        let missing = self.written.next_multiple_of(ALIGN) - self.written;
        self.put(&[0; ALIGN][..missing])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut archive = CpioWriter::new(Vec::new());
        archive.add("dev", &Entry::Directory).unwrap();
        archive.add("dev/console", &Entry::Device { major: 5, minor: 1 }).unwrap();
        archive.add("init", &Entry::File { mode: 0o755, data: b"hello" }).unwrap();
        archive.finish().unwrap()
    }

    #[test]
    fn the_archive_is_aligned_and_the_same_every_time() {
        assert_eq!(sample(), sample());
        assert_eq!(sample().len() % ALIGN, 0);
    }

    #[test]
    fn the_system_cpio_lists_what_was_written() {
        let archive = sample();
        let mut cpio = std::process::Command::new("cpio")
            .args(["-tv", "--quiet"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("the package cpio is installed");
        cpio.stdin.take().unwrap().write_all(&archive).unwrap();
        let listing = String::from_utf8(cpio.wait_with_output().unwrap().stdout).unwrap();
        assert!(listing.contains("crw-------") && listing.contains("dev/console"), "{listing}");
        assert!(listing.contains("-rwxr-xr-x") && listing.contains("init"), "{listing}");
    }
}
