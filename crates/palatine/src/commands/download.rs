//! Files and folders out of an agent, or from a disk that no agent has.
//!
//! What comes out of an agent is its guest's word, and the machine here is not the guest's:
//! it chooses no name and no folder outside the one that was asked for, gives nobody here
//! more rights than the umask does, and its lists, folders and files have an end.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::fs::OFlags;
use wire::filesystem::{EntryInfo, FileType};
use wire::printable;

use super::copy::{Copying, PERMISSIONS, SHOWN, key, persistent, size, within};
use super::files::RemoteFiles;
use crate::answers::Copied;

/// What its owner may do with a part that is not whole yet.
const OWNERS: u32 = 0o600;
/// What is said of the rest of a file that has no more bytes than are here.
const NOTHING_LEFT: u16 = 416;

/// What comes out of an agent at most.
#[derive(Clone, Copy, Debug)]
struct DownloadBounds {
    /// Files and folders of one copy.
    entries: u64,
    /// Folders below each other.
    depth: usize,
    /// Bytes by which a file may grow while it is copied; all of one that has no size before.
    growth: u64,
}

impl Default for DownloadBounds {
    fn default() -> Self {
        Self { entries: 1_000_000, depth: 128, growth: 256 * 1024 * 1024 }
    }
}

/// What is copied out of an agent.
struct Downloading {
    copying: Copying,
    bounds: DownloadBounds,
    /// Files and folders that the agent has named.
    named: u64,
}

/// Copies to here.
pub(crate) async fn download(files: RemoteFiles, source: &str, destination: &Path) -> Result<Copied> {
    fetch(files, source, destination, DownloadBounds::default()).await
}

async fn fetch(files: RemoteFiles, source: &str, destination: &Path, bounds: DownloadBounds) -> Result<Copied> {
    let into = destination.is_dir() || destination.to_string_lossy().ends_with('/');
    // Called as whoever asks calls it: the guest would choose any name in the folder here.
    let target = match into && !source.ends_with("/.") {
        true => destination.join(asked_name(source)?),
        false => destination.to_owned(),
    };
    let found = files.stat(source).await?.ok_or_else(|| anyhow!("{source}: there is no such file in the agent"))?;
    let mut downloading = Downloading { copying: Copying::new(files), bounds, named: 0 };
    match found.kind {
        FileType::Directory => downloading.folder_down(found, target).await?,
        FileType::File => {
            downloading.copying.bar.set_length(size(&found));
            downloading.file_down(&found, &target).await?;
        }
        FileType::Symlink | FileType::Unspecified => bail!("{source}: it is neither a file nor a folder"),
    }
    Ok(downloading.copying.finish())
}

/// The name by which something in an agent is asked for.
fn asked_name(source: &str) -> Result<&str> {
    let name = Path::new(source).file_name().and_then(|name| name.to_str()).filter(|name| *name != "~");
    name.with_context(|| format!("{source:?} names no file: say what its copy is called here, with its whole path"))
}

/// A name that a guest says: one that leads out of the folder is none.
fn plain(name: &str) -> Result<&str> {
    let mut parts = Path::new(name).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(part)), None) if part == name => Ok(name),
        _ => bail!("the agent names a file {name:?}, which is no name"),
    }
}

impl Downloading {
    /// One folder after the other. A folder that is here already keeps its own permissions.
    async fn folder_down(&mut self, source: EntryInfo, target: PathBuf) -> Result<()> {
        let is_new = !target.exists();
        fs::create_dir_all(&target).with_context(|| target.display().to_string())?;
        let mut made = Vec::new();
        if is_new {
            made.push((target.clone(), source.mode));
        }
        let mut folders = vec![(source.path, target, 1)];
        while let Some((there, here, depth)) = folders.pop() {
            for entry in self.copying.files.list(&there).await? {
                self.named += 1;
                if self.named > self.bounds.entries {
                    bail!("the agent names more than {} files: copy one folder at a time", self.bounds.entries);
                }
                let target = here.join(plain(&entry.name)?);
                let path = within(&there, &entry.name);
                match entry.kind {
                    FileType::Directory if entry.symlink_target.is_none() => {
                        if depth == self.bounds.depth {
                            bail!("{:?} lies more than {depth} folders deep", target.display());
                        }
                        if make_folder(&target)? {
                            made.push((target.clone(), entry.mode));
                        }
                        folders.push((path, target, depth + 1));
                    }
                    FileType::File if entry.symlink_target.is_none() => {
                        self.copying.bar.inc_length(size(&entry));
                        self.file_down(&EntryInfo { path, ..entry }, &target).await?;
                    }
                    FileType::Directory | FileType::File | FileType::Symlink | FileType::Unspecified => {
                        self.copying.skip(path, "it is neither a file nor a folder");
                    }
                }
            }
        }
        for (here, mode) in made.into_iter().rev() {
            // What the umask has left of what the guest says.
            let set = fs::symlink_metadata(&here).and_then(|found| {
                fs::set_permissions(&here, Permissions::from_mode(found.mode() & mode & PERMISSIONS))
            });
            let path = here.display().to_string();
            set.or_else(|error| self.copying.keep_going(&path, anyhow::Error::from(error)))?;
        }
        Ok(())
    }

    async fn file_down(&mut self, source: &EntryInfo, target: &Path) -> Result<()> {
        self.copying.bar.set_message(printable(&source.path, SHOWN));
        let at = || target.display().to_string();
        // A device or a pipe would be gone, and a file in its place.
        let is_other = fs::metadata(target).is_ok_and(|found| !found.is_file());
        ensure!(!is_other, "{} is here and is no file: nothing is put in its place", target.display());
        let [part, tag] = ["part", "tag"].map(|kind| beside(&self.copying.files.name(), source, target, kind));
        let before = self.copying.bar.position();
        // Ours until it has its name: nobody adds to what is whole.
        let (bytes, _taken) = persistent(|| self.part_down(source, &part, &tag, before)).await?;
        // What the umask has left of what the guest says.
        let left = fs::symlink_metadata(&part).with_context(at)?.mode() & source.mode & PERMISSIONS;
        fs::set_permissions(&part, Permissions::from_mode(left)).with_context(at)?;
        fs::rename(&part, target).with_context(at)?;
        fs::remove_file(&tag).with_context(at)?;
        self.copying.done.files += 1;
        self.copying.done.bytes += bytes;
        Ok(())
    }

    /// Adds to a part what it lacks; says how many bytes it has then. It is nobody else's while the
    /// file is open.
    async fn part_down(&self, source: &EntryInfo, part: &Path, tag: &Path, before: u64) -> Result<(u64, File)> {
        let at = || part.display().to_string();
        let mut file = take_part(part, source.mode)?;
        let known = fs::read_to_string(tag).ok();
        let have = file.metadata().with_context(at)?.len();
        let from = known.as_deref().filter(|_| have > 0).map(|tag| (have, tag));
        let mut answer = self.copying.files.read(&source.path, from).await;
        if from.is_some() && answer.as_ref().is_err_and(|error| error.guest_status() == Some(NOTHING_LEFT)) {
            if have == size(source) {
                // All of it had come, and whoever copied it was ended before it had its name.
                self.copying.bar.set_position(before + have);
                return Ok((have, file));
            }
            answer = self.copying.files.read(&source.path, None).await;
        }
        if have == 0 && answer.is_err() {
            // Nothing has come that a later copy could go on with.
            let _ = fs::remove_file(part);
        }
        let mut answer = answer?;
        if answer.offset == 0 {
            file.set_len(0).with_context(at)?;
            let mut tag = open_beside(tag, OWNERS).with_context(at)?;
            tag.set_len(0).with_context(at)?;
            tag.write_all(answer.tag.as_deref().unwrap_or_default().as_bytes()).with_context(at)?;
        }
        let mut length = answer.offset;
        let most = size(source).saturating_add(self.bounds.growth);
        self.copying.bar.set_position(before + length);
        while let Some(bytes) = answer.chunk().await? {
            length += u64::try_from(bytes.len())?;
            if length > most {
                bail!("{:?} has many more bytes than the {} that the agent told of", source.path, size(source));
            }
            file.write_all(&bytes).with_context(at)?;
            self.copying.bar.inc(u64::try_from(bytes.len())?);
        }
        Ok((length, file))
    }
}

/// What lies beside a copy until it is whole, by what it is a copy of.
fn beside(place: &str, source: &EntryInfo, target: &Path, kind: &str) -> PathBuf {
    let name = key((place, &source.path, source.size, &source.modified_time, target.file_name()));
    target.with_file_name(format!(".palatine-cp.{name:016x}.{kind}"))
}

/// Opens a part as its only writer: two copies of one file would both add to it, and none of them
/// be whole.
fn take_part(part: &Path, mode: u32) -> Result<File> {
    let at = || part.display().to_string();
    loop {
        let file = open_beside(part, mode).with_context(at)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                bail!("{} is being written: another copy of that file is under way here", part.display())
            }
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(error).with_context(at),
        }
        // The part that was opened may have become a whole file meanwhile.
        let ours = file.metadata().with_context(at)?;
        let is_there =
            fs::symlink_metadata(part).is_ok_and(|found| (found.dev(), found.ino()) == (ours.dev(), ours.ino()));
        if is_there {
            return Ok(file);
        }
    }
}

/// Makes a folder, or takes the one that is there; whether it was made. A link to one leads
/// where nobody has asked the agent's files to go.
fn make_folder(path: &Path) -> Result<bool> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let is_folder = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
            ensure!(is_folder, "{} is here and is no folder; what it may link to is not written to", path.display());
            Ok(false)
        }
        made => made.map(|()| true).with_context(|| path.display().to_string()),
    }
}

/// Opens what lies beside a copy until that is whole, to write on at its end: its owner may, and
/// others may what the umask and this mode let them.
fn open_beside(path: &Path, mode: u32) -> io::Result<File> {
    let no_link = OFlags::NOFOLLOW.bits().cast_signed();
    let mode = (mode & PERMISSIONS) | OWNERS;
    OpenOptions::new().create(true).append(true).mode(mode).custom_flags(no_link).open(path)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::body::Body;
    use axum::extract::State;
    use axum::response::{IntoResponse, Response};
    use axum::routing::{get, post};
    use axum::{Json, Router};
    use bytes::Bytes;
    use client::GatewayClient;
    use futures_util::stream;
    use http::{HeaderMap, StatusCode};
    use serde_json::{Value, json};
    use tempfile::TempDir;

    use super::*;

    const BOUNDS: DownloadBounds = DownloadBounds { entries: 40, depth: 8, growth: 1 << 20 };

    /// A guest that says what it likes.
    #[derive(Clone, Debug)]
    struct Guest {
        stat: Value,
        list: Value,
        /// What a file has; `None`: bytes without end.
        bytes: Option<&'static str>,
    }

    fn entry(kind: &str, path: &str) -> Value {
        let name = path.rsplit('/').next().unwrap();
        json!({"name": name, "type": format!("FILE_TYPE_{kind}"), "path": path, "size": "5", "mode": 0o666})
    }

    impl Guest {
        fn file(path: &str) -> Self {
            Self { stat: entry("FILE", path), list: json!([]), bytes: Some("hello") }
        }

        fn folder(entries: &[Value]) -> Self {
            Self { stat: entry("DIRECTORY", "/data/work"), list: json!(entries), bytes: Some("hello") }
        }

        async fn files(self) -> RemoteFiles {
            rustls::crypto::ring::default_provider().install_default().ok();
            let body = |State(guest): State<Self>, headers: HeaderMap| async move {
                if headers.contains_key("range") {
                    return (StatusCode::RANGE_NOT_SATISFIABLE, r#"{"code": 416, "message": "no more"}"#)
                        .into_response();
                }
                let body = match guest.bytes {
                    Some(bytes) => Body::from(bytes),
                    None => Body::from_stream(stream::repeat(Ok::<_, Infallible>(Bytes::from_static(&[b'x'; 65_536])))),
                };
                Response::new(body)
            };
            let routes = Router::new()
                .route("/files", get(body))
                .route(
                    "/filesystem.Filesystem/Stat",
                    post(|State(guest): State<Self>| async move { Json(json!({"entry": guest.stat})) }),
                )
                .route(
                    "/filesystem.Filesystem/ListDir",
                    post(|State(guest): State<Self>| async move { Json(json!({"entries": guest.list})) }),
                )
                .with_state(self);
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let client = GatewayClient::new(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
            tokio::spawn(async move { axum::serve(listener, routes).await });
            let access = client.access_by("agent-123".parse().unwrap(), &"plt_x".to_owned().into());
            RemoteFiles::Agent(access.unwrap().files())
        }

        /// Copies from it into a folder, and says what is there.
        async fn into(self, home: &TempDir, source: &str) -> (Result<Copied>, Vec<String>) {
            let copied = fetch(self.files().await, source, home.path(), BOUNDS).await;
            let mut there: Vec<_> =
                fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            there.sort();
            (copied, there.into_iter().map(|name| name.into_string().unwrap()).collect())
        }
    }

    #[tokio::test]
    async fn a_guest_does_not_choose_what_a_copy_is_called_here() {
        for (guest, source) in [
            (Guest::file("/home/user/.bashrc"), "/data/notes.txt"),
            (Guest { stat: entry("DIRECTORY", "/x/.ssh"), ..Guest::folder(&[]) }, "work/notes.txt/"),
        ] {
            let home = tempfile::tempdir().unwrap();
            let (copied, there) = guest.into(&home, source).await;
            copied.unwrap();
            assert_eq!(there, ["notes.txt"]);
        }
        for nameless in ["", "~", "/", "..", "/data/.."] {
            let home = tempfile::tempdir().unwrap();
            let (refused, there) = Guest::file("/x/.bashrc").into(&home, nameless).await;
            assert!(refused.unwrap_err().to_string().contains("say what its copy is called"), "{nameless:?}");
            assert!(there.is_empty());
        }
    }

    #[tokio::test]
    async fn a_link_that_is_here_is_not_followed_and_no_name_leads_out_of_the_folder() {
        let (home, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(home.path().join("work")).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), home.path().join("work/config")).unwrap();
        let refused = Guest::folder(&[entry("DIRECTORY", "/data/work/config")]).into(&home, "/data/work").await.0;
        assert!(refused.unwrap_err().to_string().contains("is no folder"));
        fs::write(elsewhere.path().join("file"), "mine").unwrap();
        std::os::unix::fs::symlink(elsewhere.path().join("file"), home.path().join("work/file")).unwrap();
        Guest::folder(&[entry("FILE", "/data/work/file")]).into(&home, "/data/work").await.0.unwrap();
        assert_eq!(fs::read(elsewhere.path().join("file")).unwrap(), b"mine");
        assert_eq!(fs::read(home.path().join("work/file")).unwrap(), b"hello");
        for name in ["..", "../x", "/etc/passwd", ""] {
            let entry = json!({"name": name, "type": "FILE_TYPE_FILE", "path": name, "size": "5"});
            assert!(Guest::folder(&[entry]).into(&home, "/data/work").await.0.is_err(), "{name}");
        }
    }

    #[tokio::test]
    async fn a_copy_gives_nobody_here_more_than_the_umask_does_and_no_more_than_the_guest() {
        let home = tempfile::tempdir().unwrap();
        Guest::file("/x").into(&home, "/x").await.0.unwrap();
        File::create(home.path().join("made")).unwrap();
        let mode = |name: &str| fs::metadata(home.path().join(name)).unwrap().mode() & PERMISSIONS;
        assert_eq!(mode("x"), mode("made"));
        let mut secret = Guest::file("/secret");
        secret.stat["mode"] = json!(0o400);
        secret.into(&home, "/secret").await.0.unwrap();
        assert_eq!(mode("secret"), 0o400);
    }

    #[tokio::test]
    async fn what_a_guest_sends_has_an_end() {
        let home = tempfile::tempdir().unwrap();
        let said = async |guest: Guest| guest.into(&home, "/data/work").await.0.unwrap_err().to_string();
        let endless = said(Guest { bytes: None, ..Guest::file("/data/work") }).await;
        assert!(endless.contains("more bytes than the 5"), "{endless}");
        let part: u64 = fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
        assert!(part <= BOUNDS.growth + 100);
        let home = tempfile::tempdir().unwrap();
        let said = async |guest: Guest| guest.into(&home, "/data/work").await.0.unwrap_err().to_string();
        let deep = said(Guest::folder(&[entry("DIRECTORY", "/data/work/d")])).await;
        assert!(deep.contains("more than 8 folders deep"), "{deep}");
        let many: Vec<_> = (0..41).map(|n| entry("SYMLINK", &format!("/data/work/{n}"))).collect();
        let many = said(Guest::folder(&many)).await;
        assert!(many.contains("more than 40 files"), "{many}");
    }

    #[tokio::test]
    async fn two_copies_of_one_file_do_not_write_into_each_other() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("x");
        let source: EntryInfo = serde_json::from_value(entry("FILE", "/x")).unwrap();
        let other = take_part(&beside("agent-123", &source, &target, "part"), 0o600).unwrap();
        let refused = fetch(Guest::file("/x").files().await, "/x", &target, BOUNDS).await.unwrap_err().to_string();
        assert!(refused.contains("another copy of that file is under way") && !target.exists(), "{refused}");
        drop(other);
        fetch(Guest::file("/x").files().await, "/x", &target, BOUNDS).await.unwrap();
        assert_eq!(
            (fs::read(&target).unwrap().as_slice(), fs::read_dir(home.path()).unwrap().count()),
            (&b"hello"[..], 1)
        );
    }

    #[tokio::test]
    async fn a_copy_that_was_ended_before_it_had_its_name_is_not_refused_for_ever() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("x");
        let source: EntryInfo = serde_json::from_value(entry("FILE", "/x")).unwrap();
        let [part, tag] = ["part", "tag"].map(|kind| beside("agent-123", &source, &target, kind));
        for here in ["hello", "too much"] {
            fs::write(&part, here).unwrap();
            fs::write(&tag, "\"1\"").unwrap();
            fetch(Guest::file("/x").files().await, "/x", &target, BOUNDS).await.unwrap();
            let left = fs::read_dir(home.path()).unwrap().count();
            assert_eq!((fs::read(&target).unwrap().as_slice(), left), (&b"hello"[..], 1), "{here}");
        }
    }

    #[tokio::test]
    async fn what_is_here_and_no_file_stays_what_it_is() {
        let home = tempfile::tempdir().unwrap();
        let (pipe, link) = (home.path().join("pipe"), home.path().join("link"));
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        for target in [&pipe, &link] {
            let before = fs::symlink_metadata(target).unwrap().file_type();
            let refused = fetch(Guest::file("/x").files().await, "/x", target, BOUNDS).await;
            assert!(refused.unwrap_err().to_string().contains("is no file"), "{target:?}");
            assert_eq!(fs::symlink_metadata(target).unwrap().file_type(), before);
        }
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_name_of_the_guests_leads_nowhere_else() {
        assert_eq!(plain("a.txt").unwrap(), "a.txt");
        for name in ["", ".", "..", "/", "a/b", "../x", "/etc/passwd", "a/"] {
            assert!(plain(name).is_err(), "{name:?}");
        }
    }
}
