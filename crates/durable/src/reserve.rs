//! Room for what must be written on a disk that others have filled.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use crate::failpoint;

/// It is made again when so many times its size is free.
const ROOM: u64 = 4;

/// A file that is given up when the disk is full, so that its room can be written to.
/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct BallastFile {
    path: Arc<Path>,
    bytes: usize,
}

impl BallastFile {
    /// What the file is called.
    pub const NAME: &str = "reserve";

    /// The reserve of a folder, of this size. Nothing is made yet.
    #[must_use]
    pub fn at(folder: &Path, bytes: usize) -> Self {
        Self { path: folder.join(Self::NAME).into(), bytes }
    }

    /// Whether it is there.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.path.exists()
    }

    /// Gives the room up; `false` where there was none.
    #[must_use]
    pub fn release(&self) -> bool {
        fs::remove_file(&self.path).is_ok()
    }

    /// Makes it, unless it is there or the disk is nearly full.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn refill(&self) -> io::Result<()> {
        if self.is_kept() {
            return Ok(());
        }
        let stat = rustix::fs::statvfs(self.path.parent().unwrap_or(&self.path))?;
        if stat.f_bavail.saturating_mul(stat.f_frsize) < (self.bytes as u64).saturating_mul(ROOM) {
            return Ok(());
        }
        let half = self.path.with_extension("half");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&half)?;
        // Written, and not only promised: a hole has no room.
        file.write_all(&vec![0; self.bytes])?;
        failpoint("reserve", "written");
        file.sync_all()?;
        fs::rename(&half, &self.path)?;
        failpoint("reserve", "renamed");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_1_6_the_reserve_is_given_up_once_and_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = BallastFile::at(dir.path(), 100_000);
        assert!(!reserve.release());
        reserve.refill().unwrap();
        assert_eq!(fs::metadata(dir.path().join("reserve")).unwrap().len(), 100_000);
        assert!(reserve.release() && !reserve.release());
        reserve.refill().unwrap();
        assert!(reserve.is_kept());
    }
}
