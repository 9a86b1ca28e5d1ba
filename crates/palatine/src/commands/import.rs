//! `palatine volume import`: a volume is filled from a tar archive.
//!
//! The archive is unpacked here, whatever packs it, and read as one in a guest of the volume's node alone. All
//! that it holds is on the volume then, or nothing. What breaks off begins again from the file's start under the
//! same name, by which the guest knows what it has done; the standard input is read once.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use client::GatewayClient;
use domain::VolumeName;
use futures_util::stream::{self, Stream};
use indicatif::ProgressBar;
use tokio::sync::{mpsc, oneshot};
use wire::content::{ArchiveQuery, ImportedArchive, archive_size};
use wire::v1::volumes::{Volume, VolumeRequest};

use super::export::{STANDARD, pauses, progress};
use crate::answers::ImportedVolume;

/// Bytes of an archive that are sent at once.
const PIECE: usize = 128 * 1024;
/// Pieces that are on their way.
const PIECES: usize = 8;
const BLOCK: usize = 512;
/// What stands in a header of tar, and where.
const MAGIC: (usize, &[u8]) = (257, b"ustar");
/// The kind of a header that is of all entries.
const GLOBAL: (usize, u8) = (156, b'g');

/// What is to be done.
pub(crate) struct Import {
    pub(crate) name: VolumeName,
    pub(crate) file: PathBuf,
    /// The size of a new volume, in MiB.
    pub(crate) size_mib: Option<u64>,
    pub(crate) replace: bool,
}

impl Import {
    /// Fills the volume, which is made where there is none; one that was made goes if it is not filled.
    /// `interrupted` comes when we are asked to end.
    pub(crate) async fn run(
        self,
        client: &GatewayClient,
        interrupted: impl Future<Output = anyhow::Error>,
    ) -> Result<ImportedVolume> {
        let first = self.open().await?;
        let found = client.volumes().await?.into_iter().find(|volume| volume.name == self.name);
        let created = found.is_none();
        let volume = match found {
            Some(_) if self.size_mib.is_some() => {
                bail!(
                    "you have a volume {}: --size is that of a new one; `palatine volume resize` grows one",
                    self.name
                )
            }
            Some(volume) => volume,
            None => self.make(client, first.size_mib).await?,
        };
        let filled = tokio::select! {
            filled = self.fill(client, &volume, first) => filled,
            error = interrupted => Err(error),
        };
        match filled {
            Ok(archive) => Ok(ImportedVolume { volume, created, archive }),
            Err(error) if created => Err(self.unmake(client, &volume, error).await),
            Err(error) => Err(error),
        }
    }

    async fn make(&self, client: &GatewayClient, told_mib: Option<u64>) -> Result<Volume> {
        let said = "the archive does not tell how large its volume was: say --size, such as --size 1G";
        let size_mib = self.size_mib.or(told_mib).context(said)?;
        let request = VolumeRequest { name: self.name.to_string(), size_mib: Some(size_mib) };
        Ok(client.create_volume(&request).await?)
    }

    /// Removes the volume that was made for an archive that is not on it.
    async fn unmake(&self, client: &GatewayClient, volume: &Volume, error: anyhow::Error) -> anyhow::Error {
        match client.remove_volume(volume.id).await {
            Ok(()) => error.context(format!("the volume {} is not filled, and not there", self.name)),
            Err(why) => {
                let said = "was made and is empty, unless all of the archive has reached it";
                error.context(format!("the volume {} {said}; it could not be removed ({why})", self.name))
            }
        }
    }

    async fn fill(&self, client: &GatewayClient, volume: &Volume, first: Archive) -> Result<ImportedArchive> {
        let files = client.volume_files(volume.id).await?;
        let mut bits = [0; 16];
        getrandom::fill(&mut bits).context("read random numbers")?;
        let query = ArchiveQuery { replace: Some(self.replace), import: Some(hex::encode(bits)) };
        let bar = progress(&self.file.display().to_string());
        let (mut archive, mut left) = (Some(first), pauses());
        loop {
            let sending = match archive.take() {
                Some(archive) => archive,
                None => self.open().await?,
            };
            let wrong = Arc::clone(&sending.wrong);
            match files.import(&query, None, sending.stream(bar.clone())).await {
                Ok(imported) => {
                    bar.finish_and_clear();
                    return Ok(imported);
                }
                Err(error) => {
                    // What is wrong here is no failure of the connection.
                    if let Some(wrong) = wrong.lock().unwrap_or_else(PoisonError::into_inner).take() {
                        return Err(wrong).with_context(|| format!("read {}", self.file.display()));
                    }
                    let again = error.may_pass() && self.file != Path::new(STANDARD);
                    match left.next().filter(|_| again) {
                        Some(pause) => tokio::time::sleep(pause).await,
                        None => return Err(error.into()),
                    }
                }
            }
        }
    }

    /// Opens the archive and reads its head.
    async fn open(&self) -> Result<Archive> {
        Archive::open(&self.file).await.with_context(|| self.file.display().to_string())
    }
}

/// What is wrong with an archive's file, once that is known.
type Wrong = Arc<Mutex<Option<io::Error>>>;

/// An archive that is read, by a thread of its own: the standard input may never end.
struct Archive {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    /// The size of the volume that it is of, where it tells.
    size_mib: Option<u64>,
    /// Bytes of its file, and how many were read.
    file: Option<u64>,
    read: ProgressBar,
    wrong: Wrong,
}

/// What is known of an archive whose head is read.
struct Head {
    size_mib: Option<u64>,
    file: Option<u64>,
}

impl Archive {
    async fn open(path: &Path) -> Result<Self> {
        let (read, wrong) = (ProgressBar::hidden(), Wrong::default());
        let (pieces, taken) = mpsc::channel(PIECES);
        let (told, head) = oneshot::channel();
        let reader = Reader { path: path.to_owned(), read: read.clone(), wrong: Arc::clone(&wrong), pieces };
        thread::Builder::new().name("archive".to_owned()).spawn(move || reader.run(told))?;
        let Head { size_mib, file } = head.await.context("the archive is not read")??;
        Ok(Self { pieces: taken, size_mib, file, read, wrong })
    }

    /// The archive's bytes, as they are sent.
    fn stream(self, bar: ProgressBar) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        bar.set_length(self.file.unwrap_or(0));
        stream::unfold(self, move |mut archive| {
            bar.set_position(archive.read.position());
            async move { Some((archive.pieces.recv().await?, archive)) }
        })
    }
}

/// Who reads it.
struct Reader {
    path: PathBuf,
    read: ProgressBar,
    wrong: Wrong,
    pieces: mpsc::Sender<io::Result<Bytes>>,
}

impl Reader {
    fn run(self, told: oneshot::Sender<Result<Head>>) {
        match self.begin() {
            Ok((head, first, rest)) => {
                if told.send(Ok(head)).is_ok() {
                    self.send(first, rest);
                }
            }
            // Whoever asked may be gone.
            Err(error) => drop(told.send(Err(error))),
        }
    }

    /// The head of the archive, its first bytes, and what gives the others.
    fn begin(&self) -> Result<(Head, Vec<u8>, Box<dyn Read>)> {
        let (source, file): (Box<dyn Read>, _) = match self.path == Path::new(STANDARD) {
            true => (Box::new(io::stdin()), None),
            false => {
                let file = File::open(&self.path)?;
                let found = file.metadata()?;
                ensure!(!found.is_dir(), "it is a folder: name a tar archive");
                let length = found.is_file().then_some(found.len());
                (Box::new(self.read.wrap_read(file)), length)
            }
        };
        let mut rest = image::unpack(source)?;
        let first = piece(&mut *rest, 3 * BLOCK)?;
        let is_tar = first.get(MAGIC.0..MAGIC.0 + MAGIC.1.len()) == Some(MAGIC.1);
        ensure!(is_tar || first.starts_with(&[0; BLOCK]), "it is no tar archive, nor one packed with zstd or gzip");
        Ok((Head { size_mib: told_size(&first), file }, first, rest))
    }

    fn send(&self, first: Vec<u8>, mut rest: Box<dyn Read>) {
        let mut next: io::Result<Vec<u8>> = Ok(first);
        loop {
            let sent = match next {
                Ok(bytes) if bytes.is_empty() => return,
                Ok(bytes) => self.pieces.blocking_send(Ok(bytes.into())),
                Err(error) => {
                    let said = io::Error::new(error.kind(), error.to_string());
                    *self.wrong.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    // The request breaks off with it.
                    let _ = self.pieces.blocking_send(Err(said));
                    return;
                }
            };
            if sent.is_err() {
                return;
            }
            next = piece(&mut *rest, PIECE);
        }
    }
}

/// So many bytes, or all that are left.
fn piece(from: &mut dyn Read, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(most);
    from.take(u64::try_from(most).unwrap_or(u64::MAX)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The size of the volume that an archive is of: it stands in the comment of a header of all entries.
fn told_size(first: &[u8]) -> Option<u64> {
    if first.get(GLOBAL.0) != Some(&GLOBAL.1) {
        return None;
    }
    let record = first.get(BLOCK..)?.split(|byte| *byte == b'\n').next()?;
    let (_, comment) = std::str::from_utf8(record).ok()?.split_once(" comment=")?;
    archive_size(comment)
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::*;

    /// An archive's head that tells a size, and an entry.
    fn archive() -> Vec<u8> {
        let comment = wire::content::archive_comment(128);
        let record = format!("{} comment={comment}\n", comment.len() + 12);
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::XGlobalHeader);
        header.set_size(record.len() as u64);
        header.set_cksum();
        builder.append(&header, record.as_bytes()).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_size(300_000);
        header.set_path("a").unwrap();
        header.set_cksum();
        builder.append(&header, &[7; 300_000][..]).unwrap();
        builder.into_inner().unwrap()
    }

    async fn read(path: &Path) -> Result<(Option<u64>, Vec<u8>)> {
        let archive = Archive::open(path).await?;
        let size = archive.size_mib;
        let pieces: Vec<_> = archive.stream(ProgressBar::hidden()).collect().await;
        let bytes: Vec<Bytes> = pieces.into_iter().collect::<io::Result<_>>()?;
        Ok((size, bytes.concat()))
    }

    #[tokio::test]
    async fn an_archive_is_read_whatever_packs_it_and_tells_the_size_of_its_volume() {
        let dir = tempfile::tempdir().unwrap();
        let (path, plain) = (dir.path().join("x"), archive());
        let zstd = ruzstd::encoding::compress_to_vec(&plain[..], ruzstd::encoding::CompressionLevel::Fastest);
        for packed in [&plain, &zstd] {
            std::fs::write(&path, packed).unwrap();
            let (size, bytes) = read(&path).await.unwrap();
            assert!(size == Some(128) && bytes == plain);
        }
        std::fs::write(&path, &zstd[..zstd.len() - 100]).unwrap();
        assert!(read(&path).await.is_err(), "it is cut off");
        std::fs::write(&path, &plain[1024..]).unwrap();
        assert_eq!(read(&path).await.unwrap().0, None);
    }

    #[tokio::test]
    async fn what_is_no_archive_is_told_before_anything_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        for bytes in [&b""[..], b"hello", &[1; 4096]] {
            std::fs::write(&path, bytes).unwrap();
            let said = read(&path).await.unwrap_err().to_string();
            assert!(said.contains("no tar archive"), "{said}");
        }
        assert!(read(dir.path()).await.unwrap_err().to_string().contains("folder"));
        assert!(read(&dir.path().join("none")).await.is_err());
    }
}
