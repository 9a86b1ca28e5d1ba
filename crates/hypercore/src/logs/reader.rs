//! Reading a log while it is written.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use futures_util::stream::try_unfold;
use tokio::sync::watch;

use super::lines::text_of;
use super::rotated::{End, RotatedLog};

/// Bytes read at once; what a reader costs while it waits for the other end.
const PIECE: usize = 16 * 1024;

/// How what is read is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// As it is.
    Raw,
    /// An agent's lines, without what only the node needs.
    Text,
}

struct Reader {
    log: Arc<RotatedLog>,
    end: watch::Receiver<End>,
    form: LogFormat,
    follow: bool,
    /// Where in which file.
    number: u64,
    file: File,
    at: u64,
    /// A line whose end was not read yet.
    rest: BytesMut,
}

/// All that the log still holds, and if `follow` all that comes, until it is closed.
pub(crate) fn read(
    log: Arc<RotatedLog>,
    form: LogFormat,
    follow: bool,
) -> io::Result<impl Stream<Item = io::Result<Bytes>> + Send> {
    let end = log.watch();
    let number = log.oldest()?;
    let file = log.open_file(number)?;
    let reader = Reader { log, end, form, follow, number, file, at: 0, rest: BytesMut::new() };
    Ok(try_unfold(reader, |mut reader| async move { Ok(reader.next().await?.map(|piece| (piece, reader))) }))
}

impl Reader {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let piece = self.piece()?;
            if !piece.is_empty() {
                let shown = self.show(&piece);
                if shown.is_empty() {
                    continue;
                }
                return Ok(Some(shown));
            }
            if !self.turn()? && !self.wait().await {
                return Ok(None);
            }
        }
    }

    fn piece(&mut self) -> io::Result<Vec<u8>> {
        let mut piece = vec![0; PIECE];
        let read = self.file.read_at(&mut piece, self.at)?;
        self.at += read as u64;
        piece.truncate(read);
        Ok(piece)
    }

    /// Goes to the next file, if this one is finished. A reader that is too slow
    /// finds its next file gone and goes on with the oldest that is left.
    fn turn(&mut self) -> io::Result<bool> {
        let end = *self.end.borrow_and_update();
        if self.number == end.file {
            return Ok(self.at < end.length);
        }
        // The writer has turned: what it added to this file before is all there.
        if self.file.metadata()?.len() > self.at {
            return Ok(true);
        }
        self.number = (self.number + 1).max(self.log.oldest()?);
        self.file = self.log.open_file(self.number)?;
        self.at = 0;
        Ok(true)
    }

    async fn wait(&mut self) -> bool {
        self.follow && !self.log.is_closed() && self.end.changed().await.is_ok()
    }

    fn show(&mut self, piece: &[u8]) -> Bytes {
        match self.form {
            LogFormat::Raw => Bytes::copy_from_slice(piece),
            LogFormat::Text => {
                self.rest.extend_from_slice(piece);
                let whole = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
                let lines = self.rest.split_to(whole);
                let mut text = BytesMut::with_capacity(lines.len());
                for line in lines.split_inclusive(|byte| *byte == b'\n') {
                    text.extend_from_slice(text_of(line));
                }
                text.freeze()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt, TryStreamExt};

    use super::*;

    async fn all(log: &Arc<RotatedLog>, form: LogFormat) -> Vec<u8> {
        let pieces: Vec<Bytes> = read(Arc::clone(log), form, false).unwrap().try_collect().await.unwrap();
        pieces.concat()
    }

    #[tokio::test]
    async fn a_follower_gets_every_byte_across_turns_and_ends_with_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = Arc::new(RotatedLog::open(dir.path(), "x", 4_000, false).unwrap());
        let mut follower = Box::pin(read(Arc::clone(&log), LogFormat::Raw, true).unwrap());
        let (mut written, mut got) = (Vec::new(), Vec::new());
        for turn in 0..100_u32 {
            let piece = format!("line {turn}, {}\n", "x".repeat(90));
            log.append(piece.as_bytes()).unwrap();
            written.extend_from_slice(piece.as_bytes());
            got.extend_from_slice(&follower.next().await.unwrap().unwrap());
        }
        log.close();
        assert!(follower.next().await.is_none());
        assert_eq!(got, written);
    }

    #[tokio::test]
    async fn a_reader_that_comes_late_gets_what_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let log = Arc::new(RotatedLog::open(dir.path(), "x", 100, false).unwrap());
        for _ in 0..10 {
            log.append(&[b'x'; 30]).unwrap();
        }
        assert_eq!(all(&log, LogFormat::Raw).await.len(), 60);
    }

    #[tokio::test]
    async fn a_slow_follower_skips_what_is_gone_and_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let log = Arc::new(RotatedLog::open(dir.path(), "x", 100, false).unwrap());
        log.append(b"first").unwrap();
        let mut follower = Box::pin(read(Arc::clone(&log), LogFormat::Raw, true).unwrap());
        assert_eq!(follower.next().await.unwrap().unwrap(), "first");
        for _ in 0..10 {
            log.append(&[b'x'; 40]).unwrap();
        }
        log.append(b"last").unwrap();
        log.close();
        let rest: Vec<Bytes> = follower.try_collect().await.unwrap();
        assert!(rest.concat().ends_with(b"last"));
    }

    #[tokio::test]
    async fn an_agents_lines_are_shown_without_their_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let log = Arc::new(RotatedLog::open(dir.path(), "x", 1_000, true).unwrap());
        log.append(b"1 1 hello world\n1 2 \n2 1 again\n").unwrap();
        assert_eq!(all(&log, LogFormat::Text).await, b"hello world\n\nagain\n");
    }
}
