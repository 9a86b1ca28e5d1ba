//! A watched folder: a thread with the user's rights hears what the kernel says and keeps
//! it until it is taken.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::io::{PipeReader, PipeWriter, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init, remove_watch};
use rustix::fs::statfs;
use rustix::io::Errno;
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};
use tokio::time::timeout;
use wire::filesystem::{EventType, FilesystemEvent};
use wire::process::{RpcCode, RpcError};

use super::entry::EntryReader;
use super::error::FileError;
use super::events::{EventTranslator, has_entry};
use super::paths::{UploadKind, name_of};
use super::rights::{UserRights, spawn};
use crate::process::User;

/// Events that are kept for one who does not take them.
const MAX_EVENTS: usize = 1024;
/// Folders that one watch covers.
const MAX_FOLDERS: usize = 4096;
/// Bytes of events read at once.
const READ_BYTES: usize = 8 * 1024;
/// Reads between two looks at whether the watch is still wanted.
const MAX_READS: usize = 64;
/// How long the thread may take to hear all that has happened.
const CATCH_UP: Duration = Duration::from_secs(5);
/// What is listened to.
const WATCHED: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);
/// Filesystems of other machines: NFS, CIFS, SMB, SMB2, FUSE.
const NETWORK: [i64; 5] = [0x6969, 0xff53_4d42, 0x517b, 0xfe53_4d42, 0x6573_5546];

/// What to watch.
#[derive(Clone, Debug)]
pub(crate) struct WatchSpec {
    /// The folder.
    pub(crate) path: String,
    /// Whether the folders in it are watched too.
    pub(crate) recursive: bool,
    /// Whether events say what is there.
    pub(crate) include_entry: bool,
    /// Whether the folder may lie on another machine.
    pub(crate) allow_network: bool,
}

/// A watched folder; watched until it is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    heard: Arc<Heard>,
    /// A byte in it wakes the thread; closed, it ends it.
    wake: PipeWriter,
    _slot: OwnedSemaphorePermit,
}

/// What the thread has heard.
#[derive(Debug)]
struct Heard {
    state: Mutex<State>,
    /// Changes whenever the state does.
    changes: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    events: VecDeque<FilesystemEvent>,
    /// Why there will be no more.
    ended: Option<RpcError>,
    /// How often the thread was asked to hear all, and up to which of these it has.
    asked: u64,
    answered: u64,
}

impl Watch {
    /// Watches a folder as this user: from here on nothing is missed.
    pub(crate) async fn start(spec: WatchSpec, user: &User, slot: OwnedSemaphorePermit) -> Result<Self, FileError> {
        let heard = Arc::new(Heard { state: Mutex::default(), changes: watch::Sender::new(()) });
        let (woken, wake) = std::io::pipe().map_err(FileError::Thread)?;
        rustix::io::ioctl_fionbio(&wake, true).map_err(|error| FileError::Thread(error.into()))?;
        let (sender, begun) = oneshot::channel();
        let within = Arc::clone(&heard);
        spawn(user, move |rights| {
            match rights.and_then(|rights| Watcher::open(rights, spec, within, woken)) {
                Ok(watcher) => {
                    // Nobody waits for it any more: its pipe is closed, too.
                    let _ = sender.send(Ok(()));
                    watcher.run();
                }
                Err(error) => drop(sender.send(Err(error))),
            }
        })?;
        let begun = begun.await.unwrap_or_else(|_| Err(FileError::Thread(std::io::ErrorKind::Interrupted.into())));
        begun.map(|()| Self { heard, wake, _slot: slot })
    }

    /// What happened next. Safe to cancel.
    pub(crate) async fn next(&self) -> Result<FilesystemEvent, RpcError> {
        let mut changes = self.heard.changes.subscribe();
        loop {
            {
                let mut state = self.heard.state();
                if let Some(event) = state.events.pop_front() {
                    return Ok(event);
                }
                if let Some(ended) = &state.ended {
                    return Err(ended.clone());
                }
            }
            // The sender is part of what this value holds.
            let _ = changes.changed().await;
        }
    }

    /// All that has happened until now, and was not taken yet.
    pub(crate) async fn take(&self) -> Result<Vec<FilesystemEvent>, RpcError> {
        let mut changes = self.heard.changes.subscribe();
        let asked = {
            let mut state = self.heard.state();
            state.asked += 1;
            state.asked
        };
        // Where the pipe is full the thread is awake.
        let _ = (&self.wake).write(&[0]);
        let caught_up = async {
            while self.heard.state().lags(asked) {
                let _ = changes.changed().await;
            }
        };
        // What it has heard so far is true in any case, and the rest comes with the next call.
        let _ = timeout(CATCH_UP, caught_up).await;
        let mut state = self.heard.state();
        match &state.ended {
            Some(ended) if state.events.is_empty() => Err(ended.clone()),
            _ => Ok(state.events.drain(..).collect()),
        }
    }
}

impl Heard {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, event: FilesystemEvent) {
        self.state().push(event);
        self.changes.send_replace(());
    }

    fn end(&self, code: RpcCode, message: &str) {
        self.state().end(code, message);
        self.changes.send_replace(());
    }
}

impl State {
    /// Keeps an event; one that says the same as the one before takes its place.
    fn push(&mut self, event: FilesystemEvent) {
        let full = self.events.len() >= MAX_EVENTS;
        match self.events.back_mut() {
            Some(last) if last.name == event.name && last.kind == event.kind => *last = event,
            _ if full => self
                .end(RpcCode::ResourceExhausted, "events were not taken for too long, and some are lost; watch again"),
            _ => self.events.push_back(event),
        }
    }

    fn end(&mut self, code: RpcCode, message: &str) {
        self.ended.get_or_insert_with(|| RpcError { code, message: message.to_owned() });
    }

    const fn lags(&self, asked: u64) -> bool {
        self.answered < asked && self.ended.is_none()
    }
}

/// What the thread has.
struct Watcher {
    spec: WatchSpec,
    heard: Arc<Heard>,
    inotify: OwnedFd,
    woken: PipeReader,
    /// Each watched folder's path within the watched one, which itself is empty.
    folders: HashMap<i32, String>,
    translator: EventTranslator,
    reader: EntryReader,
}

/// One event of the kernel's.
struct RawEvent {
    folder: i32,
    flags: ReadFlags,
    cookie: u32,
    name: Option<String>,
}

impl Watcher {
    fn open(_: UserRights, spec: WatchSpec, heard: Arc<Heard>, woken: PipeReader) -> Result<Self, FileError> {
        let path = &spec.path;
        if !fs::metadata(path).map_err(FileError::at(path))?.is_dir() {
            return Err(FileError::NoDirectory(path.clone()));
        }
        let refused = |error: Errno| FileError::at(&spec.path)(error.into());
        if !spec.allow_network && NETWORK.contains(&statfs(path).map_err(refused)?.f_type) {
            return Err(FileError::Network(path.clone()));
        }
        let inotify = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).map_err(refused)?;
        let root = add_watch(&inotify, path, WATCHED).map_err(refused)?;
        let mut watcher = Self {
            inotify,
            folders: [(root, String::new())].into(),
            translator: EventTranslator::default(),
            reader: EntryReader::new(),
            spec,
            heard,
            woken,
        };
        if watcher.spec.recursive {
            watcher.enter(String::new(), false);
        }
        let ended = watcher.heard.state().ended.clone();
        ended.map_or(Ok(watcher), |ended| Err(FileError::Watch(ended.message)))
    }

    fn run(mut self) {
        let mut byte = [0; 64];
        loop {
            let mut ready = [PollFd::new(&self.inotify, PollFlags::IN), PollFd::new(&self.woken, PollFlags::IN)];
            match poll(&mut ready, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => {
                    return self.heard.end(RpcCode::Internal, &format!("events cannot be waited for: {error}"));
                }
            }
            let woken = !ready[1].revents().is_empty();
            if woken && !matches!(self.woken.read(&mut byte), Ok(1..)) {
                return;
            }
            let asked = self.heard.state().asked;
            let all = self.hear();
            let mut state = self.heard.state();
            if all {
                state.answered = asked;
            }
            let ended = state.ended.is_some();
            drop(state);
            self.heard.changes.send_replace(());
            if ended {
                return;
            }
        }
    }

    /// Takes what the kernel has to say; whether that is all.
    fn hear(&mut self) -> bool {
        for _ in 0..MAX_READS {
            let events = match self.read() {
                Ok(events) if events.is_empty() => return true,
                Ok(events) => events,
                Err(error) => {
                    self.heard.end(RpcCode::Internal, &format!("events cannot be read: {error}"));
                    return true;
                }
            };
            for event in events {
                self.tell(event);
            }
        }
        false
    }

    fn read(&self) -> rustix::io::Result<Vec<RawEvent>> {
        let mut buffer = [MaybeUninit::uninit(); READ_BYTES];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        let mut events = Vec::new();
        loop {
            match reader.next() {
                Ok(event) => events.push(RawEvent {
                    folder: event.wd(),
                    flags: event.events(),
                    cookie: event.cookie(),
                    name: event.file_name().map(|name| name.to_string_lossy().into_owned()),
                }),
                Err(Errno::AGAIN) => return Ok(events),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error),
            }
            if reader.is_buffer_empty() {
                return Ok(events);
            }
        }
    }

    fn tell(&mut self, event: RawEvent) {
        if event.flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            return self.heard.end(
                RpcCode::ResourceExhausted,
                "events came faster than they were read, and some are lost; watch again",
            );
        }
        let Some(folder) = self.folders.get(&event.folder) else { return };
        let is_root = folder.is_empty();
        if event.flags.contains(ReadFlags::IGNORED) {
            self.folders.remove(&event.folder);
            if is_root {
                self.heard.end(RpcCode::NotFound, "the watched folder is gone");
            }
            return;
        }
        let Some(name) = event.name else {
            // What happens to a folder within is told by the one that it is in.
            if is_root {
                self.push_all(event.flags, event.cookie, ".");
            }
            return;
        };
        let path = if is_root { name } else { format!("{folder}/{name}") };
        let within = self.spec.recursive && event.flags.contains(ReadFlags::ISDIR);
        if within && event.flags.contains(ReadFlags::MOVED_FROM) {
            self.leave(&path);
        }
        self.push_all(event.flags, event.cookie, &path);
        if within && event.flags.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
            self.enter(path, true);
        }
    }

    fn push_all(&mut self, flags: ReadFlags, cookie: u32, path: &str) {
        for kind in self.translator.tell(flags, cookie, &name_of(path)) {
            self.push(path, *kind);
        }
    }

    fn push(&mut self, path: &str, kind: EventType) {
        let wanted = self.spec.include_entry && has_entry(kind);
        // What is gone again has no entry.
        let entry = wanted.then(|| self.reader.read(&self.absolute(path)).ok()).flatten().map(Box::new);
        self.heard.push(FilesystemEvent { name: path.to_owned(), kind, entry });
    }

    fn absolute(&self, path: &str) -> String {
        match path {
            "" | "." => self.spec.path.clone(),
            path => format!("{}/{path}", self.spec.path.trim_end_matches('/')),
        }
    }

    /// Watches a folder and those in it. What came into a new one before it was watched is
    /// told, so that it may be told twice but is not missed.
    fn enter(&mut self, path: String, is_new: bool) {
        let mut waiting = vec![path];
        while let Some(path) = waiting.pop() {
            if !self.add(&path) {
                if self.heard.state().ended.is_some() {
                    return;
                }
                continue;
            }
            let Ok(entries) = fs::read_dir(self.absolute(&path)) else { continue };
            for entry in entries.flatten() {
                let Ok(name) = entry.file_name().into_string() else { continue };
                let Ok(kind) = entry.file_type() else { continue };
                let within = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
                if is_new && UploadKind::of_temporary(&name).is_none() {
                    self.push(&within, EventType::Create);
                    if kind.is_file() && entry.metadata().is_ok_and(|found| found.len() > 0) {
                        self.push(&within, EventType::Write);
                    }
                }
                if kind.is_dir() {
                    waiting.push(within);
                }
                if waiting.len() > MAX_FOLDERS {
                    return self.end_full();
                }
            }
        }
    }

    fn end_full(&self) {
        self.heard
            .end(RpcCode::ResourceExhausted, &format!("more than {MAX_FOLDERS} folders cannot be watched at once"));
    }

    /// Watches one folder; the first one is watched already.
    fn add(&mut self, path: &str) -> bool {
        if path.is_empty() {
            return true;
        }
        if self.folders.len() >= MAX_FOLDERS {
            self.end_full();
            return false;
        }
        match add_watch(&self.inotify, self.absolute(path), WATCHED | WatchFlags::DONT_FOLLOW) {
            Ok(folder) => self.folders.insert(folder, path.to_owned()).is_none(),
            Err(Errno::NOSPC) => {
                self.heard.end(
                    RpcCode::ResourceExhausted,
                    "the kernel watches no more folders (fs.inotify.max_user_watches)",
                );
                false
            }
            // Gone again, or not for this user's eyes.
            Err(_) => false,
        }
    }

    /// Watches a folder that went away no longer, nor those in it.
    fn leave(&mut self, path: &str) {
        let within = format!("{path}/");
        let left = |folder: &String| folder == path || folder.starts_with(&within);
        for (folder, _) in self.folders.extract_if(|_, folder| left(folder)) {
            // Gone in this very moment is as good.
            let _ = remove_watch(&self.inotify, folder);
        }
    }
}
