//! `palatine volume export`: all files of a volume to a tar archive.
//!
//! The archive is made in a guest of the volume's node; here it is packed with zstd, and has its name when
//! all of it is on disk. What breaks off goes on at the byte where it did, as long as nobody changes the
//! volume meanwhile.

use std::fmt;
use std::io::{self, IsTerminal as _, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use backon::{BackoffBuilder as _, ExponentialBuilder};
use bytes::{Buf as _, Bytes};
use client::{ArchiveDownload, ClientError, DiskFiles};
use domain::VolumeId;
use indicatif::{ProgressBar, ProgressStyle};
use ruzstd::encoding::{CompressionLevel, compress};
use tempfile::NamedTempFile;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use crate::answers::ExportedVolume;

/// How often what broke off is begun again without one more byte.
const RETRIES: usize = 6;
/// The first and the longest pause before that.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));
/// Pieces that are on their way to the file.
const PIECES: usize = 16;
/// The file that is the standard output or input.
pub(crate) const STANDARD: &str = "-";
/// How the name of an archive ends that is not packed.
const PLAIN: &str = "tar";

/// Writes the archive of a volume's files. `interrupted` comes when we are asked to end: nothing half is left then.
pub(crate) async fn export(
    files: &DiskFiles,
    volume: VolumeId,
    file: &Path,
    interrupted: impl Future<Output = anyhow::Error>,
) -> Result<ExportedVolume> {
    let target = Target::open(file)?;
    let bar = progress(&files.disk().to_string());
    let (pieces, taken) = mpsc::channel(PIECES);
    let writing = spawn_blocking(move || target.write(taken));
    let sent = tokio::select! {
        sent = download(files, &bar, &pieces) => sent,
        error = interrupted => Err(error),
    };
    if sent.is_ok() {
        // The end; what is written without it is no archive. Nobody takes it who has failed.
        let _ = pieces.send(Piece::End).await;
    }
    drop(pieces);
    let written = writing.await.context("write the archive")?;
    bar.finish_and_clear();
    match (sent, written) {
        (Ok(Sent { entries, left_out, bytes }), Ok(written)) => {
            Ok(ExportedVolume { volume, file: file.to_owned(), entries, left_out, bytes, written })
        }
        // Why the file takes no more is why nothing more was sent.
        (Err(error), Err(why)) if error.is::<Refused>() => Err(why),
        (Err(error), _) | (Ok(_), Err(error)) => Err(error),
    }
}

/// A bar for so many bytes as are told later.
pub(crate) fn progress(what: &str) -> ProgressBar {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}") {
        bar.set_style(style);
    }
    bar.set_message(what.to_owned());
    bar
}

/// The pauses before what broke off is begun again.
pub(crate) fn pauses() -> impl Iterator<Item = Duration> {
    let pauses = ExponentialBuilder::default().with_min_delay(PAUSES.0).with_max_delay(PAUSES.1);
    pauses.with_max_times(RETRIES).build()
}

/// What of an archive is on its way to its file.
enum Piece {
    Bytes(Bytes),
    End,
}

/// Whoever writes the file takes no more: it says why.
#[derive(Debug)]
struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the archive cannot be written")
    }
}

impl std::error::Error for Refused {}

/// What has come.
struct Sent {
    entries: u64,
    left_out: u64,
    bytes: u64,
}

async fn download(files: &DiskFiles, bar: &ProgressBar, pieces: &mpsc::Sender<Piece>) -> Result<Sent> {
    let (mut have, mut tag, mut left) = (0, None::<String>, pauses());
    loop {
        let before = have;
        let from = tag.as_deref().filter(|_| have > 0).map(|tag| (have, tag));
        let error = match files.export(from).await {
            Ok(mut archive) => {
                let resumed = archive.bytes.offset == have;
                ensure!(resumed, "the volume was changed while it was exported: export it again");
                bar.set_length(have + archive.bytes.length.unwrap_or(0));
                tag.clone_from(&archive.bytes.tag);
                match drain(&mut archive, bar, &mut have, pieces).await? {
                    None => return Ok(Sent { entries: archive.entries, left_out: archive.left_out, bytes: have }),
                    Some(error) => error,
                }
            }
            Err(error) => error,
        };
        if have > before {
            left = pauses();
        }
        match left.next().filter(|_| error.may_pass()) {
            Some(pause) => tokio::time::sleep(pause).await,
            None => return Err(error.into()),
        }
    }
}

/// Hands on what comes; why no more came, where that was not the end.
async fn drain(
    archive: &mut ArchiveDownload,
    bar: &ProgressBar,
    have: &mut u64,
    pieces: &mpsc::Sender<Piece>,
) -> Result<Option<ClientError>> {
    loop {
        match archive.bytes.chunk().await {
            Ok(Some(bytes)) => {
                *have += u64::try_from(bytes.len())?;
                bar.set_position(*have);
                pieces.send(Piece::Bytes(bytes)).await.map_err(|_| Refused)?;
            }
            Ok(None) => return Ok(None),
            Err(error) => return Ok(Some(error)),
        }
    }
}

/// Where the archive goes.
enum Target {
    /// A file, which has its name once it is whole.
    File { part: NamedTempFile, path: PathBuf, packed: bool },
    /// The standard output.
    Standard,
}

impl Target {
    fn open(path: &Path) -> Result<Self> {
        if path == Path::new(STANDARD) {
            ensure!(!io::stdout().is_terminal(), "an archive is not for a terminal: name a file, or pipe it on");
            return Ok(Self::Standard);
        }
        if path.is_dir() {
            bail!("{} is a folder: name the archive's file", path.display());
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let part = tempfile::Builder::new().prefix(".palatine-export.").suffix(".part").tempfile_in(folder);
        let part = part.with_context(|| format!("write to {}", folder.display()))?;
        let packed = path.extension().is_none_or(|extension| extension != PLAIN);
        Ok(Self::File { part, path: path.to_owned(), packed })
    }

    /// Writes all that comes; how many bytes that took. Without an end nothing is left.
    fn write(self, taken: mpsc::Receiver<Piece>) -> Result<u64> {
        let source = Source { taken, held: Bytes::new(), ended: false };
        match self {
            Self::Standard => pack(source, &mut io::stdout().lock(), true),
            Self::File { mut part, path, packed } => {
                let written = pack(source, part.as_file_mut(), packed).with_context(|| path.display().to_string())?;
                part.as_file().sync_all().with_context(|| path.display().to_string())?;
                part.persist(&path).with_context(|| path.display().to_string())?;
                Ok(written)
            }
        }
    }
}

fn pack(mut source: Source, target: &mut dyn Write, packed: bool) -> Result<u64> {
    let mut sink = Sink { target, written: 0, error: None };
    if packed {
        compress(&mut source, &mut sink, CompressionLevel::Fastest);
    } else {
        io::copy(&mut source, &mut sink)?;
    }
    if let Some(error) = sink.error {
        return Err(error.into());
    }
    ensure!(source.ended, "the archive did not come to its end");
    sink.target.flush()?;
    Ok(sink.written)
}

/// The pieces as they come.
struct Source {
    taken: mpsc::Receiver<Piece>,
    held: Bytes,
    ended: bool,
}

impl Read for Source {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.held.is_empty() && !self.ended {
            match self.taken.blocking_recv() {
                Some(Piece::Bytes(bytes)) => self.held = bytes,
                Some(Piece::End) => self.ended = true,
                // It broke off: what is written is thrown away.
                None => break,
            }
        }
        let length = into.len().min(self.held.len());
        self.held.copy_to_slice(&mut into[..length]);
        Ok(length)
    }
}

/// Where bytes go; the first error is kept, for who packs them knows of none.
struct Sink<'a> {
    target: &'a mut dyn Write,
    written: u64,
    error: Option<io::Error>,
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.error.is_none() {
            match self.target.write_all(bytes) {
                Ok(()) => self.written += u64::try_from(bytes.len()).unwrap_or(0),
                Err(error) => self.error = Some(error),
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(path: &Path, pieces: Vec<Piece>) -> Result<u64> {
        let (sender, taken) = mpsc::channel(8);
        pieces.into_iter().for_each(|piece| assert!(sender.try_send(piece).is_ok()));
        drop(sender);
        Target::open(path).unwrap().write(taken)
    }

    fn bytes() -> Piece {
        Piece::Bytes(Bytes::from_static(&[b'a'; 100_000]))
    }

    #[test]
    fn an_archive_has_its_name_when_it_is_whole_and_is_packed_unless_it_is_called_tar() {
        let dir = tempfile::tempdir().unwrap();
        let (packed, plain) = (dir.path().join("work.tar.zst"), dir.path().join("work.tar"));
        assert!(written(&packed, vec![bytes()]).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left of half an archive");
        let size = written(&packed, vec![bytes(), bytes(), Piece::End]).unwrap();
        assert!(size < 10_000 && size == std::fs::metadata(&packed).unwrap().len(), "{size}");
        let mut unpacked = Vec::new();
        image::unpack(std::fs::File::open(&packed).unwrap()).unwrap().read_to_end(&mut unpacked).unwrap();
        assert_eq!(unpacked, [b'a'; 200_000]);
        assert_eq!(written(&plain, vec![bytes(), Piece::End]).unwrap(), 100_000);
        assert!(Target::open(dir.path()).is_err());
    }

    #[test]
    fn a_disk_that_takes_no_more_is_told() {
        let (sender, taken) = mpsc::channel(8);
        assert!(sender.try_send(bytes()).is_ok() && sender.try_send(Piece::End).is_ok());
        let source = Source { taken, held: Bytes::new(), ended: false };
        let mut full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let error = pack(source, &mut full, true).unwrap_err();
        assert!(error.to_string().contains("No space left"), "{error}");
    }
}
