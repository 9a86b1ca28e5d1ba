//! `palatine image push`, `import` and `build`: an archive to the gateway, piece by piece. What broke off goes on, in
//! this run and, but for a build's context, in the next: the gateway knows the archive by its digest.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use client::{ClientError, GatewayClient, ImageUploader};
use domain::{ArchiveSum, ImageRef};
use futures_util::stream::{self, Stream};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use sha2::{Digest, Sha256};
use wire::fault::{Code, Fault};
use wire::printable;
use wire::v1::images::{
    BuildRuntime, CommitRequest, ContextBuild, HolderImage, ImageRequest, ImageUpload, UploadState,
};

/// Bytes of a piece.
const PIECE: u64 = 64 * 1024 * 1024;
/// Bytes read at once.
const READ: usize = 256 * 1024;
/// How often what broke off is begun again without one more byte.
const RETRIES: usize = 8;
/// The first and the longest pause before that.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));
/// Bytes of a line of a build's log that are shown.
const MAX_LINE: usize = 4096;
/// Between two looks at an image that is made.
const LOOK: Duration = Duration::from_secs(1);
/// How long, and how often, it is asked whether another image of the wallet is made, which comes first.
const TURN: (Duration, Duration) = (Duration::from_hours(1), Duration::from_secs(5));

/// Pushes what is at `path`, and says what came of it.
pub(crate) async fn push(client: &GatewayClient, path: &Path, image: &ImageRef) -> Result<HolderImage> {
    Ok(send(client, Archive::of(path)?, image, CommitRequest::default()).await?.image)
}

/// Has an image built of the folder, tells what the build says, and what came of it.
pub(crate) async fn build(
    client: &GatewayClient,
    context: &Path,
    how: ContextBuild,
    image: &ImageRef,
) -> Result<BuiltImage> {
    let archive = Archive::context(context).with_context(|| format!("pack {}", context.display()))?;
    send(client, archive, image, CommitRequest { build: Some(how) }).await
}

/// An image that was sent, and what it was built in, where it was.
#[derive(Debug, Serialize)]
pub(crate) struct BuiltImage {
    #[serde(flatten)]
    pub(crate) image: HolderImage,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) runtime: Option<BuildRuntime>,
}

async fn send(client: &GatewayClient, archive: Archive, image: &ImageRef, commit: CommitRequest) -> Result<BuiltImage> {
    let bar = ProgressBar::new(archive.size);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}")
    {
        bar.set_style(style);
    }
    bar.set_message("Reading the archive");
    let sha256 = archive.sum(&bar)?;
    let request = ImageRequest { image: image.clone(), size: archive.size, sha256 };
    let (upload, uploader) = persistent(|| async { Ok(client.begin_image(&request).await?) }).await?;
    let mut pushing = Pushing { archive, uploader, bar, commit, runtime: None, heard: 0 };
    let made = if pushing.commit.build.is_some() {
        tokio::select! {
            made = pushing.finish(upload) => made,
            stopped = tokio::signal::ctrl_c() => {
                stopped.context("listen for signals")?;
                Err(pushing.stopped().await)
            }
        }
    } else {
        pushing.finish(upload).await
    };
    pushing.bar.finish_and_clear();
    Ok(BuiltImage { image: made?, runtime: pushing.runtime })
}

/// What is sent.
struct Archive {
    path: PathBuf,
    size: u64,
    /// The archive of a layout that is a folder. It has no name, and goes with us however we end.
    _made: Option<File>,
}

impl Archive {
    fn of(path: &Path) -> Result<Self> {
        let shown = || path.display().to_string();
        let found = std::fs::metadata(path).with_context(shown)?;
        if !found.is_dir() {
            return Ok(Self { path: path.to_owned(), size: found.len(), _made: None });
        }
        if !path.join("oci-layout").is_file() {
            bail!("{}: it is a folder, and no OCI layout (such as skopeo copy … oci:FOLDER makes)", path.display());
        }
        let made = packed(path).with_context(|| format!("pack {}", path.display()))?;
        Self::nameless(made)
    }

    /// One that is gone with this process.
    fn nameless(made: File) -> Result<Self> {
        let size = made.metadata()?.len();
        let path = PathBuf::from(format!("/proc/self/fd/{}", made.as_raw_fd()));
        Ok(Self { path, size, _made: Some(made) })
    }

    /// A folder as the context of a build: each build has its own, so that none is taken for an earlier one, whatever
    /// it builds on has become since.
    fn context(folder: &Path) -> Result<Self> {
        let mut mark = [0; 16];
        getrandom::fill(&mut mark).map_err(|error| anyhow::anyhow!("find a random number: {error}"))?;
        Self::nameless(packed_context(folder, &hex::encode(mark))?)
    }

    fn sum(&self, bar: &ProgressBar) -> Result<ArchiveSum> {
        let shown = || self.path.display().to_string();
        let mut file = File::open(&self.path).with_context(shown)?;
        let (mut hash, mut chunk) = (Sha256::new(), vec![0; READ]);
        loop {
            match file.read(&mut chunk).with_context(shown)? {
                0 => return Ok(ArchiveSum(hash.finalize().into())),
                read => {
                    hash.update(&chunk[..read]);
                    bar.inc(read as u64);
                }
            }
        }
    }

    /// The bytes from `start` on, so many.
    fn piece(&self, start: u64, length: u64) -> io::Result<impl Stream<Item = io::Result<Bytes>> + Send + 'static> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(start))?;
        Ok(stream::try_unfold(file.take(length), |mut rest| async move {
            let mut chunk = vec![0; READ];
            let read = rest.read(&mut chunk)?;
            chunk.truncate(read);
            Ok::<_, io::Error>((read > 0).then(|| (Bytes::from(chunk), rest)))
        }))
    }
}

/// A layout's folder as one archive: of the same folder always the same, so that a push of it
/// goes on where it broke off.
fn packed(folder: &Path) -> Result<File> {
    let mut archive = tar::Builder::new(tempfile::tempfile()?);
    let mut folders = vec![PathBuf::new()];
    while let Some(inner) = folders.pop() {
        let mut entries = std::fs::read_dir(folder.join(&inner))?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let name = inner.join(entry.file_name());
            // A link to a blob is that blob: layouts share them so.
            let found = std::fs::metadata(entry.path())?;
            if found.is_dir() {
                folders.push(name);
                continue;
            }
            let mut header = tar::Header::new_gnu();
            header.set_size(found.len());
            header.set_mode(0o644);
            archive.append_data(&mut header, &name, File::open(entry.path())?)?;
        }
    }
    Ok(archive.into_inner()?)
}

/// The folder's files, with what is told of them apart from contents and rights left out; and a mark, which no file
/// is made of.
fn packed_context(folder: &Path, mark: &str) -> Result<File> {
    let mut archive = tar::Builder::new(tempfile::tempfile()?);
    let record = comment(mark);
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::XGlobalHeader);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_size(record.len() as u64);
    archive.append_data(&mut header, "pax_global_header", record.as_bytes())?;
    let mut folders = vec![PathBuf::new()];
    while let Some(inner) = folders.pop() {
        let mut entries = std::fs::read_dir(folder.join(&inner))?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let (name, path) = (inner.join(entry.file_name()), entry.path());
            append_context(&mut archive, &name, &path).with_context(|| name.display().to_string())?;
            if entry.file_type()?.is_dir() {
                folders.push(name);
            }
        }
    }
    Ok(archive.into_inner()?)
}

fn append_context(archive: &mut tar::Builder<File>, name: &Path, path: &Path) -> Result<()> {
    let found = std::fs::symlink_metadata(path)?;
    let mut header = tar::Header::new_gnu();
    header.set_mode(found.permissions().mode() & 0o7777);
    header.set_mtime(0);
    header.set_size(0);
    if found.is_dir() {
        header.set_entry_type(tar::EntryType::Directory);
        archive.append_data(&mut header, name, io::empty())?;
    } else if found.is_symlink() {
        header.set_entry_type(tar::EntryType::Symlink);
        archive.append_link(&mut header, name, std::fs::read_link(path)?)?;
    } else if found.is_file() {
        header.set_size(found.len());
        archive.append_data(&mut header, name, File::open(path)?.take(found.len()))?;
    } else {
        bail!("it is neither a file nor a folder nor a link");
    }
    Ok(())
}

/// A record of an extended header: its own length, and a comment.
fn comment(text: &str) -> String {
    let rest = format!(" comment={text}\n");
    let digits = (1..).find(|digits| (rest.len() + digits).to_string().len() == *digits).unwrap_or(1);
    format!("{}{rest}", rest.len() + digits)
}

/// An upload that goes on.
struct Pushing {
    archive: Archive,
    uploader: ImageUploader,
    bar: ProgressBar,
    commit: CommitRequest,
    /// What it is built in.
    runtime: Option<BuildRuntime>,
    /// How much of its build's log was shown.
    heard: u64,
}

impl Pushing {
    /// Sends what is missing, and has an image made of it.
    async fn finish(&mut self, mut upload: ImageUpload) -> Result<HolderImage> {
        let (mut reached, mut idle) = (None, 0);
        loop {
            upload = match upload.state {
                UploadState::Imported { image } => {
                    self.hear().await;
                    return Ok(image);
                }
                UploadState::Failed { code, error } => return Err(Fault::new(code, error).into()),
                // A node that was started again has it all, and makes no image of it by itself.
                UploadState::Receiving { offset } => {
                    idle = if reached == Some(offset) { idle + 1 } else { 0 };
                    reached = Some(offset);
                    if idle > RETRIES {
                        bail!("the upload stays at {offset} of {} bytes; push again to go on", upload.size);
                    }
                    if idle > 0 {
                        tokio::time::sleep(LOOK).await;
                    }
                    self.go_on(offset).await?
                }
                UploadState::Unknown => {
                    tokio::time::sleep(LOOK).await;
                    persistent(|| async { Ok(self.uploader.status().await?) }).await?
                }
                UploadState::Importing { step, runtime } => {
                    self.runtime = runtime.or(self.runtime);
                    self.bar.set_position(self.archive.size);
                    self.bar.set_message(format!("Making the image: {step}"));
                    tokio::time::sleep(LOOK).await;
                    self.hear().await;
                    persistent(|| async { Ok(self.uploader.status().await?) }).await?
                }
            };
        }
    }

    /// Shows what the build has said since. Should that not be had, the build goes on, and its end is told.
    async fn hear(&mut self) {
        if self.commit.build.is_none() {
            return;
        }
        while let Ok(part) = self.uploader.log(self.heard).await {
            self.heard = part.next;
            // What runs in a build writes what it likes: a terminal obeys none of it.
            self.bar.suspend(|| part.text.lines().for_each(|line| eprintln!("  {}", printable(line, MAX_LINE))));
            if part.text.is_empty() {
                break;
            }
        }
    }

    /// Whoever stops a build wants nothing of it.
    async fn stopped(&self) -> anyhow::Error {
        match persistent(|| async { Ok(self.uploader.give_up().await?) }).await {
            Ok(_) => anyhow::anyhow!("the build was stopped"),
            Err(error) => error.context("the build goes on, as it could not be stopped"),
        }
    }

    /// Sends the next piece, or has an image made of all.
    async fn go_on(&self, offset: u64) -> Result<ImageUpload> {
        if offset < self.archive.size {
            self.bar.set_message(if self.commit.build.is_some() { "Sending the context" } else { "Pushing the image" });
            self.bar.set_position(offset);
            return self.send(offset).await;
        }
        self.commit().await
    }

    /// Has an image made, when none of the wallet's others is.
    async fn commit(&self) -> Result<ImageUpload> {
        let end = Instant::now() + TURN.0;
        loop {
            match persistent(|| async { Ok(self.uploader.commit(&self.commit).await?) }).await {
                Err(error) if waits(&error) && Instant::now() < end => {
                    self.bar.set_message("Waiting for another of your images");
                    tokio::time::sleep(TURN.1).await;
                }
                begun => return begun,
            }
        }
    }

    /// Sends one piece; where that breaks off, says how far the upload is.
    async fn send(&self, offset: u64) -> Result<ImageUpload> {
        let length = PIECE.min(self.archive.size - offset);
        let bytes = self.archive.piece(offset, length).with_context(|| self.archive.path.display().to_string())?;
        match self.uploader.append(offset, length, bytes).await {
            Ok(upload) => Ok(upload),
            Err(error) if goes_on(&error) => {
                tracing::debug!(%error, "a piece of the image broke off");
                persistent(|| async { Ok(self.uploader.status().await?) }).await
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether the upload goes on from where it is: what broke off, and what somebody else has sent.
fn goes_on(error: &ClientError) -> bool {
    let is_elsewhere = matches!(error, ClientError::Refused(refused)
        if matches!(refused.fault().code, Code::UploadOffset | Code::WrongState | Code::InvalidRequest));
    is_elsewhere || error.may_pass()
}

/// Whether it is refused only now.
fn waits(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<ClientError>();
    error.is_some_and(
        |error| matches!(error, ClientError::Refused(refused) if refused.fault().code == Code::RateLimited),
    )
}

/// Once more, where nobody refused it.
async fn persistent<T, F: Future<Output = Result<T>>>(work: impl FnMut() -> F) -> Result<T> {
    let pauses =
        ExponentialBuilder::default().with_min_delay(PAUSES.0).with_max_delay(PAUSES.1).with_max_times(RETRIES);
    let passing = |error: &anyhow::Error| error.downcast_ref().is_some_and(ClientError::may_pass);
    work.retry(pauses).when(passing).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layouts_folder_is_packed_to_the_same_bytes_whenever_and_holds_what_its_links_mean() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = dir.path().join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        std::fs::write(dir.path().join("oci-layout"), "{}").unwrap();
        std::fs::write(dir.path().join("index.json"), "{}").unwrap();
        std::fs::write(dir.path().join("elsewhere"), "blob").unwrap();
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), blobs.join("aa")).unwrap();
        let bar = ProgressBar::hidden();
        let first = Archive::of(dir.path()).unwrap();
        let sum = first.sum(&bar).unwrap();
        let touched = File::options().append(true).open(dir.path().join("index.json")).unwrap();
        touched.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(Archive::of(dir.path()).unwrap().sum(&bar).unwrap(), sum);
        let mut archive = tar::Archive::new(File::open(&first.path).unwrap());
        let names = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let (mut text, name) = (String::new(), entry.path().unwrap().display().to_string());
            entry.read_to_string(&mut text).unwrap();
            (name, text)
        });
        let names: std::collections::BTreeMap<_, _> = names.collect();
        assert_eq!((names["blobs/sha256/aa"].as_str(), names.len()), ("blob", 4));
        let place = std::fs::read_link(&first.path).unwrap();
        assert!(place.display().to_string().ends_with("(deleted)"), "a push that is killed leaves {place:?}");
        let plain = tempfile::tempdir().unwrap();
        assert!(Archive::of(plain.path()).err().unwrap().to_string().contains("no OCI layout"));
    }

    #[test]
    fn a_context_is_its_files_links_and_rights_and_each_build_has_its_own() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("sub/run.sh"), "#!/bin/sh").unwrap();
        let rights = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(dir.path().join("sub/run.sh"), rights).unwrap();
        std::os::unix::fs::symlink("sub/run.sh", dir.path().join("link")).unwrap();
        let read = |mark: &str| {
            let packed = Archive::nameless(packed_context(dir.path(), mark).unwrap()).unwrap();
            std::fs::read(&packed.path).unwrap()
        };
        assert_eq!(read("one"), read("one"));
        assert_ne!(read("one"), read("two"));
        let bytes = read("one");
        let mut archive = tar::Archive::new(&bytes[..]);
        let entries = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let header = entry.header();
            (entry.path().unwrap().display().to_string(), header.entry_type(), header.mode().unwrap() & 0o111 != 0)
        });
        let entries: Vec<_> = entries.filter(|(_, kind, _)| *kind != tar::EntryType::XGlobalHeader).collect();
        assert!(entries.contains(&("sub/run.sh".to_owned(), tar::EntryType::Regular, true)), "{entries:?}");
        assert!(entries.iter().any(|(name, kind, _)| name == "link" && *kind == tar::EntryType::Symlink));
        assert_eq!(entries.len(), 3);
        assert_eq!((comment("x").as_str(), comment(&"y".repeat(99)).len()), ("13 comment=x\n", 112));
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        let refused = packed_context(dir.path(), "one").unwrap_err();
        assert!(format!("{refused:#}").contains("socket"), "{refused:#}");
    }

    #[tokio::test]
    async fn a_piece_is_the_bytes_from_its_offset_on() {
        use futures_util::TryStreamExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "0123456789").unwrap();
        let archive = Archive::of(file.path()).unwrap();
        let piece: Vec<Bytes> = archive.piece(3, 4).unwrap().try_collect().await.unwrap();
        assert_eq!(piece.concat(), b"3456");
    }
}
