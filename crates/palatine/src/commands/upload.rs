//! Files and folders from here into an agent, or onto a disk that no agent has: large files in pieces, which lie
//! beside their place until they become one.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures_util::stream::{self, Stream};
use indicatif::ProgressBar;
use wire::filesystem::FileType;
use wire::printable;

use super::copy::{Copying, PERMISSIONS, SHOWN, key, persistent, size, within};
use super::files::RemoteFiles;
use crate::answers::Copied;

/// Bytes of a piece; a file of no more goes up as it is.
const PIECE: u64 = 8 * 1024 * 1024;
/// Pieces of one file: one that is larger has larger pieces.
const MAX_PIECES: u64 = 9_000;
/// Bytes read at once.
const READ: usize = 128 * 1024;

/// Copies from here.
pub(crate) async fn upload(files: RemoteFiles, source: &Path, destination: &str) -> Result<Copied> {
    let found = fs::metadata(source).with_context(|| source.display().to_string())?;
    // A pipe or a device has no size: nothing of it would be copied, and said to be all.
    ensure!(found.is_dir() || found.is_file(), "{}: it is neither a file nor a folder", source.display());
    let there = files.stat(destination).await?;
    let is_dir = there.as_ref().is_some_and(|entry| entry.kind == FileType::Directory);
    let base = there.map_or_else(|| destination.to_owned(), |entry| entry.path);
    let target = landing(&base, is_dir || destination.ends_with('/'), source)?;
    let mut copying = Copying::new(files);
    if found.is_dir() {
        copying.folder_up(source, &target, !is_contents(source)).await?;
    } else {
        copying.bar.set_length(found.len());
        copying.file_up(source, &target).await?;
    }
    Ok(copying.finish())
}

/// What the copy is called: as asked for, or like what is copied in the folder that was
/// asked for. `folder/.` is what is in the folder.
fn landing(destination: &str, is_folder: bool, source: &Path) -> Result<String> {
    if !is_folder || is_contents(source) {
        return Ok(destination.to_owned());
    }
    let resolved = match source.file_name() {
        Some(name) => PathBuf::from(name),
        None => fs::canonicalize(source).with_context(|| source.display().to_string())?,
    };
    let name = resolved.file_name().and_then(|name| name.to_str()).context("the root directory has no name")?;
    Ok(within(destination, name))
}

/// Whether what is in the folder is meant, and not the folder itself.
fn is_contents(source: &Path) -> bool {
    source.to_string_lossy().ends_with("/.") || source == Path::new(".")
}

impl Copying {
    /// One folder after the other; of each its files in the order of their names. Where
    /// `itself`, the first one is copied too, and else what is in it.
    async fn folder_up(&mut self, source: &Path, target: &str, itself: bool) -> Result<()> {
        let mut folders = vec![(source.to_owned(), target.to_owned())];
        let mut made = Vec::new();
        while let Some((here, there)) = folders.pop() {
            self.files.make_dir(&there).await?;
            let mode = fs::metadata(&here).with_context(|| here.display().to_string())?.mode() & PERMISSIONS;
            made.push((there.clone(), mode));
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
        // What is in a folder comes before it: it may then be closed to us.
        for (there, mode) in made.drain(usize::from(!itself)..).rev() {
            let set = persistent(|| async { Ok(self.files.set_mode(&there, mode).await?) }).await;
            set.or_else(|error| self.keep_going(&there, error))?;
        }
        Ok(())
    }

    async fn file_up(&mut self, source: &Path, target: &str) -> Result<()> {
        let shown = || source.display().to_string();
        let found = fs::metadata(source).with_context(shown)?;
        self.bar.set_message(printable(&shown(), SHOWN));
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
        let folder = if folder.is_empty() { self.files.home() } else { folder };
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
    use client::GatewayClient;

    use super::*;

    #[tokio::test]
    async fn a_pipe_is_no_file_whose_bytes_are_all_copied() {
        rustls::crypto::ring::default_provider().install_default().ok();
        let home = tempfile::tempdir().unwrap();
        let pipe = home.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
        for source in [pipe.as_path(), Path::new("/dev/null")] {
            let client = GatewayClient::new("http://127.0.0.1:9").unwrap();
            let access = client.access_by("agent-123".parse().unwrap(), &"plt_x".to_owned().into()).unwrap();
            let refused = upload(RemoteFiles::Agent(access.files()), source, "/x").await.unwrap_err().to_string();
            assert!(refused.contains("neither a file nor a folder"), "{refused}");
        }
    }

    #[test]
    fn a_copy_is_called_as_asked_or_lies_in_the_folder_that_is_asked_for() {
        let lands = |destination: &str, is_folder, source: &str| landing(destination, is_folder, Path::new(source));
        assert_eq!(lands("/data/b", false, "a/x.txt").unwrap(), "/data/b");
        assert_eq!(lands("/data", true, "a/x.txt").unwrap(), "/data/x.txt");
        assert_eq!(lands("/data/", true, "a/folder/").unwrap(), "/data/folder");
        assert_eq!(lands("/data", true, "a/folder/.").unwrap(), "/data");
        assert_eq!(lands("", true, "x.txt").unwrap(), "x.txt");
        assert_eq!(lands("/", true, "x.txt").unwrap(), "/x.txt");
        for (source, contents) in [(".", true), ("a/.", true), ("a", false), ("a/..", false), ("a.", false)] {
            assert_eq!(is_contents(Path::new(source)), contents, "{source}");
        }
    }
}
