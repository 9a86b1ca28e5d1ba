//! When the node last lived. A guest that died while the daemon was down is billed
//! up to then and not further: nobody saw it longer.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use domain::{Clock, UnixMillis};
use tokio::time::{MissedTickBehavior, interval};

/// How often it is written. What a guest is billed after its last sign of life is
/// less than this.
pub(crate) const PERIOD: Duration = Duration::from_secs(1);
/// Digits, so that one beat covers the other.
const WIDTH: usize = 20;

/// The file.
pub(crate) struct HeartbeatFile(File);

impl HeartbeatFile {
    /// Opens it, and says when the daemon before last lived.
    pub(crate) fn open(path: &Path) -> io::Result<(Self, Option<UnixMillis>)> {
        let before = last_beat(path)?;
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        Ok((Self(file), before))
    }

    fn beat(&self, now: UnixMillis) -> io::Result<()> {
        self.0.write_all_at(format!("{now:WIDTH$}\n", now = now.0).as_bytes(), 0)
    }

    /// Beats for ever.
    pub(crate) async fn run(self, clock: Arc<dyn Clock>) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(error) = self.beat(clock.now()) {
                tracing::warn!(%error, "the heartbeat cannot be written");
            }
        }
    }
}

/// The last beat. Of a file that cannot be read, the time at which it was written: a
/// guest that died unseen must not be billed to this day.
fn last_beat(path: &Path) -> io::Result<Option<UnixMillis>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let said = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok()).map(UnixMillis);
    if said.is_some() {
        return Ok(said);
    }
    tracing::error!(path = %path.display(), "the heartbeat cannot be read; the time of its file is taken for it");
    Ok(UnixMillis::from_system(fs::metadata(path)?.modified()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_daemon_reads_the_last_beat() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("heartbeat");
        let (heart, before) = HeartbeatFile::open(&path).unwrap();
        assert_eq!(before, None);
        heart.beat(UnixMillis(1_700_000_000_123)).unwrap();
        heart.beat(UnixMillis(7)).unwrap();
        assert_eq!(HeartbeatFile::open(&path).unwrap().1, Some(UnixMillis(7)));
    }

    #[test]
    fn fault_1_2_a_heartbeat_that_cannot_be_read_says_when_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("heartbeat");
        fs::write(&path, [0xff; 21]).unwrap();
        let written = UnixMillis::from_system(fs::metadata(&path).unwrap().modified().unwrap());
        assert_eq!(HeartbeatFile::open(&path).unwrap().1, written);
    }
}
