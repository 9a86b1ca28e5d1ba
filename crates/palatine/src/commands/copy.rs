//! `palatine cp`: files and folders into an agent and out of it.
//!
//! A large file goes up in pieces, which lie beside it until they become one, and comes
//! down into a part that lies beside it until it is whole. What broke off goes on there,
//! in this run and in the next: what a piece or a part is of stands in its name.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use client::{AgentFiles, ClientError};
use futures_util::stream::{self, Stream};
use indicatif::{ProgressBar, ProgressStyle};
use wire::filesystem::{EntryInfo, FileType};

use crate::answers::Copied;

/// Bytes of a piece; a file of no more goes up as it is.
const PIECE: u64 = 8 * 1024 * 1024;
/// Pieces of one file: one that is larger has larger pieces.
const MAX_PIECES: u64 = 9_000;
/// Bytes read at once.
const READ: usize = 128 * 1024;
/// How often what broke off is begun again without one more byte.
const RETRIES: usize = 6;
/// The first and the longest pause before that.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));
/// The permissions of a file that may be used by who made it.
const PERMISSIONS: u32 = 0o777;

/// What is copied, and what of it is done.
struct Copying {
    files: AgentFiles,
    bar: ProgressBar,
    done: Copied,
}

/// Copies from here to an agent.
pub(crate) async fn upload(files: AgentFiles, source: &Path, destination: &str) -> Result<Copied> {
    let found = fs::metadata(source).with_context(|| source.display().to_string())?;
    let there = files.stat(destination).await?;
    let is_dir = there.as_ref().is_some_and(|entry| entry.kind == FileType::Directory);
    let base = there.map_or_else(|| destination.to_owned(), |entry| entry.path);
    let target = landing(&base, is_dir || destination.ends_with('/'), source)?;
    let mut copying = Copying::new(files);
    if found.is_dir() {
        copying.folder_up(source, &target).await?;
    } else {
        copying.bar.set_length(found.len());
        copying.file_up(source, &target).await?;
    }
    Ok(copying.finish())
}

/// Copies from an agent to here.
pub(crate) async fn download(files: AgentFiles, source: &str, destination: &Path) -> Result<Copied> {
    let found = files.stat(source).await?.ok_or_else(|| anyhow!("{source}: there is no such file in the agent"))?;
    let into = destination.is_dir() || destination.to_string_lossy().ends_with('/');
    let name = if source.ends_with("/.") { Path::new(".") } else { Path::new(&found.path) };
    let target = PathBuf::from(landing(&destination.to_string_lossy(), into, name)?);
    let mut copying = Copying::new(files);
    match found.kind {
        FileType::Directory => copying.folder_down(found.path, target).await?,
        FileType::File => {
            copying.bar.set_length(size(&found));
            copying.file_down(&found, &target).await?;
        }
        FileType::Symlink | FileType::Unspecified => bail!("{source}: it is neither a file nor a folder"),
    }
    Ok(copying.finish())
}

/// What the copy is called: as asked for, or like what is copied in the folder that was
/// asked for. `folder/.` is what is in the folder.
fn landing(destination: &str, is_folder: bool, source: &Path) -> Result<String> {
    if !is_folder || source.to_string_lossy().ends_with("/.") || source == Path::new(".") {
        return Ok(destination.to_owned());
    }
    let resolved = match source.file_name() {
        Some(name) => PathBuf::from(name),
        None => fs::canonicalize(source).with_context(|| source.display().to_string())?,
    };
    let name = resolved.file_name().and_then(|name| name.to_str()).context("the root directory has no name")?;
    Ok(within(destination, name))
}

fn within(folder: &str, name: &str) -> String {
    match folder.trim_end_matches('/') {
        "" if folder.is_empty() => name.to_owned(),
        folder => format!("{folder}/{name}"),
    }
}

/// A name that a guest says: one that leads out of the folder is none.
fn plain(name: &str) -> Result<&str> {
    let mut parts = Path::new(name).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(part)), None) if part == name => Ok(name),
        _ => bail!("the agent names a file {name:?}, which is no name"),
    }
}

fn size(entry: &EntryInfo) -> u64 {
    u64::try_from(entry.size).unwrap_or(0)
}

/// A number that is the same for the same file, and another one once it has changed.
fn key(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// Once more, where nobody refused it.
async fn persistent<T, F: Future<Output = Result<T>>>(work: impl FnMut() -> F) -> Result<T> {
    let pauses =
        ExponentialBuilder::default().with_min_delay(PAUSES.0).with_max_delay(PAUSES.1).with_max_times(RETRIES);
    let passing = |error: &anyhow::Error| error.downcast_ref().is_some_and(ClientError::may_pass);
    work.retry(pauses).when(passing).await
}

impl Copying {
    fn new(files: AgentFiles) -> Self {
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{msg:40!} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}") {
            bar.set_style(style);
        }
        Self { files, bar, done: Copied::default() }
    }

    fn finish(self) -> Copied {
        self.bar.finish_and_clear();
        self.done
    }

    fn skip(&mut self, path: String, why: &str) {
        self.bar.suspend(|| eprintln!("warning: {path}: {why}; it is not copied"));
        self.done.skipped.push(path);
    }

    /// One folder after the other; of each its files in the order of their names.
    async fn folder_up(&mut self, source: &Path, target: &str) -> Result<()> {
        let mut folders = vec![(source.to_owned(), target.to_owned())];
        while let Some((here, there)) = folders.pop() {
            self.files.make_dir(&there).await?;
            let at = || here.display().to_string();
            let mut entries = fs::read_dir(&here).and_then(Iterator::collect::<io::Result<Vec<_>>>).with_context(at)?;
            entries.sort_by_key(fs::DirEntry::file_name);
            for entry in entries {
                let path = entry.path();
                let kind = entry.file_type().with_context(at)?;
                let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
                    self.skip(path.display().to_string(), "its name is not UTF-8");
                    continue;
                };
                if kind.is_dir() {
                    folders.push((path, within(&there, &name)));
                } else if kind.is_file() {
                    self.bar.inc_length(entry.metadata().with_context(at)?.len());
                    self.file_up(&path, &within(&there, &name)).await?;
                } else {
                    self.skip(path.display().to_string(), "it is neither a file nor a folder");
                }
            }
        }
        Ok(())
    }

    async fn file_up(&mut self, source: &Path, target: &str) -> Result<()> {
        let shown = || source.display().to_string();
        let found = fs::metadata(source).with_context(shown)?;
        self.bar.set_message(shown());
        let mode = found.mode() & PERMISSIONS;
        if found.len() <= PIECE {
            self.piece_up(source, 0..found.len(), target, mode).await?;
        } else {
            let key = key((target, found.len(), found.ino(), found.mtime(), found.mtime_nsec()));
            self.pieces_up(source, found.len(), target, mode, key).await?;
        }
        self.done.files += 1;
        self.done.bytes += found.len();
        Ok(())
    }

    /// Sends the pieces that are not there yet, and makes one file of all.
    async fn pieces_up(&self, source: &Path, length: u64, target: &str, mode: u32, key: u64) -> Result<()> {
        let piece = PIECE.max(length.div_ceil(MAX_PIECES));
        let folder = target.rsplit_once('/').map_or("", |(folder, _)| if folder.is_empty() { "/" } else { folder });
        let there = self.pieces_there(folder, key).await?;
        let mut pieces = Vec::new();
        for (number, start) in (0..length).step_by(usize::try_from(piece)?).enumerate() {
            let part = start..length.min(start + piece);
            let name = format!(".palatine-cp.{key:016x}.{number}");
            let path = if folder.is_empty() { name.clone() } else { within(folder, &name) };
            if there.get(&name) == Some(&(part.end - part.start)) {
                self.bar.inc(part.end - part.start);
            } else {
                self.piece_up(source, part, &path, 0o600).await?;
            }
            pieces.push(path);
        }
        persistent(|| async { Ok(self.files.compose(pieces.clone(), target, mode).await?) }).await
    }

    /// The pieces of an upload that broke off, and their sizes: each is whole.
    async fn pieces_there(&self, folder: &str, key: u64) -> Result<HashMap<String, u64>> {
        let folder = if folder.is_empty() { "~" } else { folder };
        if self.files.stat(folder).await?.is_none() {
            return Ok(HashMap::new());
        }
        let prefix = format!(".palatine-cp.{key:016x}.");
        let listed = self.files.list(folder).await?;
        let pieces = listed.into_iter().filter(|entry| entry.name.starts_with(&prefix));
        Ok(pieces.map(|entry| (entry.name.clone(), size(&entry))).collect())
    }

    async fn piece_up(&self, source: &Path, part: std::ops::Range<u64>, target: &str, mode: u32) -> Result<()> {
        let before = self.bar.position();
        persistent(|| async {
            self.bar.set_position(before);
            let mut file = File::open(source).with_context(|| source.display().to_string())?;
            file.seek(SeekFrom::Start(part.start))?;
            let length = part.end - part.start;
            let bytes = chunks(file.take(length), length, self.bar.clone());
            Ok(self.files.write(target, mode, length, bytes).await?)
        })
        .await
    }

    async fn folder_down(&mut self, source: String, target: PathBuf) -> Result<()> {
        let mut folders = vec![(source, target)];
        while let Some((there, here)) = folders.pop() {
            fs::create_dir_all(&here).with_context(|| here.display().to_string())?;
            for entry in self.files.list(&there).await? {
                let target = here.join(plain(&entry.name)?);
                let path = within(&there, &entry.name);
                match entry.kind {
                    FileType::Directory if entry.symlink_target.is_none() => folders.push((path, target)),
                    FileType::File if entry.symlink_target.is_none() => {
                        self.bar.inc_length(size(&entry));
                        self.file_down(&EntryInfo { path, ..entry }, &target).await?;
                    }
                    FileType::Directory | FileType::File | FileType::Symlink | FileType::Unspecified => {
                        self.skip(path, "it is neither a file nor a folder");
                    }
                }
            }
        }
        Ok(())
    }

    async fn file_down(&mut self, source: &EntryInfo, target: &Path) -> Result<()> {
        self.bar.set_message(source.path.clone());
        let at = || target.display().to_string();
        let name = key((&source.path, source.size, &source.modified_time, target.file_name()));
        let beside = |kind: &str| target.with_file_name(format!(".palatine-cp.{name:016x}.{kind}"));
        let (part, tag) = (beside("part"), beside("tag"));
        let before = self.bar.position();
        let bytes = persistent(|| self.part_down(&source.path, &part, &tag, before)).await?;
        fs::set_permissions(&part, Permissions::from_mode(source.mode & PERMISSIONS)).with_context(at)?;
        fs::rename(&part, target).with_context(at)?;
        fs::remove_file(&tag).with_context(at)?;
        self.done.files += 1;
        self.done.bytes += bytes;
        Ok(())
    }

    /// Adds to a part what it lacks; says how many bytes it has then.
    async fn part_down(&self, source: &str, part: &Path, tag: &Path, before: u64) -> Result<u64> {
        let at = || part.display().to_string();
        let known = fs::read_to_string(tag).ok();
        let have = fs::metadata(part).map_or(0, |found| found.len());
        let from = known.as_deref().filter(|_| have > 0).map(|tag| (have, tag));
        let mut answer = self.files.read(source, from).await?;
        let mut file = OpenOptions::new().create(true).append(true).open(part).with_context(at)?;
        if answer.offset == 0 {
            file.set_len(0).with_context(at)?;
            fs::write(tag, answer.tag.as_deref().unwrap_or_default()).with_context(at)?;
        }
        let mut length = answer.offset;
        self.bar.set_position(before + length);
        while let Some(bytes) = answer.chunk().await? {
            file.write_all(&bytes).with_context(at)?;
            length += u64::try_from(bytes.len())?;
            self.bar.inc(u64::try_from(bytes.len())?);
        }
        Ok(length)
    }
}

/// A file's bytes as they are sent. One that turns out shorter has changed meanwhile.
fn chunks(mut file: io::Take<File>, length: u64, bar: ProgressBar) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let mut left = length;
    stream::iter(std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let mut buffer = vec![0; READ];
        let read = match file.read(&mut buffer) {
            Ok(0) => return Some(Err(io::Error::other("the file became shorter while it was copied"))),
            Ok(read) => read,
            Err(error) => return Some(Err(error)),
        };
        buffer.truncate(read);
        let count = u64::try_from(read).unwrap_or(left);
        left = left.saturating_sub(count);
        bar.inc(count);
        Some(Ok(buffer.into()))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_called_as_asked_or_lies_in_the_folder_that_is_asked_for() {
        let lands = |destination: &str, is_folder, source: &str| landing(destination, is_folder, Path::new(source));
        assert_eq!(lands("/data/b", false, "a/x.txt").unwrap(), "/data/b");
        assert_eq!(lands("/data", true, "a/x.txt").unwrap(), "/data/x.txt");
        assert_eq!(lands("/data/", true, "a/folder/").unwrap(), "/data/folder");
        assert_eq!(lands("/data", true, "a/folder/.").unwrap(), "/data");
        assert_eq!(lands("", true, "x.txt").unwrap(), "x.txt");
        assert_eq!(lands("/", true, "x.txt").unwrap(), "/x.txt");
    }

    #[test]
    fn a_name_of_the_guests_leads_nowhere_else() {
        assert_eq!(plain("a.txt").unwrap(), "a.txt");
        for name in ["", ".", "..", "/", "a/b", "../x", "/etc/passwd", "a/"] {
            assert!(plain(name).is_err(), "{name:?}");
        }
    }
}
