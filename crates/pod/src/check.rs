//! How far the check of a disk is.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;

/// Bytes of a line of a check's, and of all that it says beside its progress, that are held.
const MAX_LINE: usize = 512;
const MAX_SAID: usize = 4096;
/// What of the work is done after each pass, in per cent, as the checker itself shows it.
const PASSES: [u64; 6] = [0, 70, 90, 92, 95, 100];
/// No disk is checked.
const NONE: u8 = u8::MAX;

/// How far the check is that goes on. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct CheckProgress(Arc<AtomicU8>);

impl Default for CheckProgress {
    fn default() -> Self {
        Self(Arc::new(AtomicU8::new(NONE)))
    }
}

impl CheckProgress {
    /// So much is done, in per cent; nothing while none goes on.
    pub(crate) fn percent(&self) -> Option<u8> {
        Some(self.0.load(Ordering::Relaxed)).filter(|percent| *percent != NONE)
    }

    /// One begins.
    pub(crate) fn begin(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// None goes on any more.
    pub(crate) fn end(&self) {
        self.0.store(NONE, Ordering::Relaxed);
    }

    /// Hears a check to its end; what it says beside its progress.
    pub(crate) async fn hear(self, from: OwnedFd) -> io::Result<String> {
        let mut from = Receiver::from_owned_fd(from)?;
        let (mut line, mut said, mut buffer) = (Vec::new(), Vec::new(), [0; 1024]);
        loop {
            let read = from.read(&mut buffer).await?;
            if read == 0 {
                said.extend_from_slice(&line);
                return Ok(String::from_utf8_lossy(&said).into_owned());
            }
            for byte in &buffer[..read] {
                line.push(*byte);
                if *byte == b'\n' || line.len() == MAX_LINE {
                    self.take(&line, &mut said);
                    line.clear();
                }
            }
        }
    }

    fn take(&self, line: &[u8], said: &mut Vec<u8>) {
        match std::str::from_utf8(line).ok().and_then(percent) {
            Some(percent) => self.0.store(percent, Ordering::Relaxed),
            None => {
                said.extend_from_slice(line);
                // Its last words count.
                let old = said.len().saturating_sub(MAX_SAID);
                said.drain(..old);
            }
        }
    }
}

/// What of the work is done by a line such as `1 3 25 /dev/vdd`: a pass, and how far it is.
fn percent(line: &str) -> Option<u8> {
    let mut words = line.split_ascii_whitespace();
    let mut number = || words.next()?.parse::<u64>().ok();
    let (pass, now, most) = (number()?, number()?, number()?);
    let pass = usize::try_from(pass).ok().filter(|pass| (1..PASSES.len()).contains(pass))?;
    let (before, after) = (PASSES[pass - 1], PASSES[pass]);
    let part = (after - before) * now.min(most) / most.max(1);
    u8::try_from(before + part).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_and_how_far_it_is_are_part_of_the_whole() {
        for (line, is) in [
            ("1 0 25 /dev/vdd", Some(0)),
            ("1 25 25 /dev/vdd\n", Some(70)),
            ("2 1 2 /dev/vdd", Some(80)),
            ("5 50 50 /dev/vdd", Some(100)),
            ("5 9 0 /dev/vdd", Some(95)),
            ("6 1 2 /dev/vdd", None),
            ("0 1 2 /dev/vdd", None),
            ("/dev/vdd: clean, 11/51200 files", None),
            ("", None),
        ] {
            assert_eq!(percent(line), is, "{line}");
        }
    }

    #[tokio::test]
    async fn what_a_check_says_is_told_apart_from_how_far_it_is() {
        let (from, mut to) = std::io::pipe().unwrap();
        let progress = CheckProgress::default();
        assert_eq!(progress.percent(), None);
        progress.begin();
        let hearing = tokio::spawn(progress.clone().hear(from.into()));
        std::io::Write::write_all(&mut to, b"/dev/vdd: recovering journal\n1 1 2 /dev/vdd\nRUN fsck MANUALLY.")
            .unwrap();
        drop(to);
        assert_eq!(hearing.await.unwrap().unwrap(), "/dev/vdd: recovering journal\nRUN fsck MANUALLY.");
        assert_eq!(progress.percent(), Some(35));
        progress.end();
        assert_eq!(progress.percent(), None);
    }
}
