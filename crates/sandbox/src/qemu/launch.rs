//! Starting a VMM so that it outlives us and can do nothing but its work.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, pidfd_open, setrlimit, setsid, umask};
use rustix::thread::{
    Gid, LinkNameSpaceType, Uid, move_into_link_name_space, set_no_new_privs, set_thread_gid, set_thread_groups,
    set_thread_uid,
};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::runtime::Exit;

/// Bytes a VMM may say on its standard output and error: the place is full then.
const WORDS_BYTES: u64 = 16 * 1024;
/// How much of them is repeated when it ends.
const LAST_WORDS: usize = 400;

/// A VMM that is about to be started.
pub(super) struct Launch<'a> {
    pub(super) program: &'a Path,
    pub(super) arguments: &'a [String],
    /// Its user, and its group of the same number.
    pub(super) uid: u32,
    /// Further groups.
    pub(super) groups: &'a [u32],
    pub(super) namespace: Option<&'a Path>,
    /// The `cgroup.procs` it enters.
    pub(super) cgroup: Vec<File>,
    /// What it inherits, under the same numbers.
    pub(super) files: Vec<OwnedFd>,
}

/// A VMM that was started.
pub(super) struct Started {
    pub(super) pid: u32,
    child: Option<Child>,
    handle: OwnedFd,
    words: File,
}

impl Launch<'_> {
    /// Starts it. The files that were handed over are closed here.
    pub(super) fn start(self) -> io::Result<Started> {
        let words = words()?;
        let mut command = Command::new(self.program);
        command.args(self.arguments).env_clear().current_dir("/").stdin(Stdio::null());
        command.stdout(words.try_clone()?).stderr(words.try_clone()?);
        let (cgroup, files) = (self.cgroup, self.files);
        let entry = Entry {
            cgroup: cgroup.iter().map(AsRawFd::as_raw_fd).collect(),
            files: files.iter().map(AsRawFd::as_raw_fd).collect(),
            namespace: self.namespace.map(File::open).transpose()?,
            uid: Uid::from_raw(self.uid),
            gid: Gid::from_raw(self.uid),
            groups: self.groups.iter().copied().map(Gid::from_raw).collect(),
        };
        before_exec(&mut command, entry);
        let child = command.spawn()?;
        drop(files);
        let handle = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        Ok(Started { pid: child.id(), child: Some(child), handle, words })
    }
}

/// What the new process does between its birth and the VMM.
struct Entry {
    cgroup: Vec<RawFd>,
    files: Vec<RawFd>,
    namespace: Option<File>,
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
}

impl Entry {
    /// Only system calls: no allocation, no locks.
    fn enter(&self) -> io::Result<()> {
        for file in &self.cgroup {
            rustix::io::write(borrow(*file), b"0")?;
        }
        if let Some(namespace) = &self.namespace {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        }
        setsid()?;
        umask(rustix::fs::Mode::from_raw_mode(0o077));
        setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
        for file in &self.files {
            fcntl_setfd(borrow(*file), FdFlags::empty())?;
        }
        set_thread_groups(&self.groups)?;
        set_thread_gid(self.gid)?;
        set_thread_uid(self.uid)?;
        set_no_new_privs(true)?;
        Ok(())
    }
}

#[expect(unsafe_code, reason = "the files live in the parent until the child has replaced itself")]
fn borrow(file: RawFd) -> std::os::fd::BorrowedFd<'static> {
    // SAFETY: used only in `enter`, on numbers of files that `start` keeps open past `spawn`.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(file) }
}

#[expect(unsafe_code, reason = "a child cannot be moved into a namespace, a session and a cgroup from outside")]
fn before_exec(command: &mut Command, entry: Entry) {
    // SAFETY: `enter` makes system calls only, on memory that was allocated before the fork.
    unsafe { command.pre_exec(move || entry.enter()) };
}

/// A place of fixed size for what the VMM says: it outlives us and never grows.
fn words() -> io::Result<File> {
    let memory = memfd_create("vmm-words", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&memory, WORDS_BYTES)?;
    fcntl_add_seals(&memory, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(memory.into())
}

impl Started {
    /// A VMM that another daemon started.
    pub(super) fn adopted(pid: u32, handle: OwnedFd) -> io::Result<Self> {
        let words = fs::File::open(format!("/proc/{pid}/fd/2"))?;
        Ok(Self { pid, child: None, handle, words })
    }

    /// Watches for its end, and buries it if it is our child.
    pub(super) fn watch(self) -> io::Result<Exit> {
        let handle = register(self.handle)?;
        let (announce, exit) = Exit::channel();
        tokio::spawn(bury(handle, self.child, self.words, announce));
        Ok(exit)
    }
}

#[expect(unsafe_code, reason = "the runtime wants to be promised that the handle stays what it is")]
fn register(handle: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open as long as it lives, and nobody replaces it.
    Ok(unsafe { AsyncFd::register(handle) }?)
}

async fn bury(handle: AsyncFd<OwnedFd>, child: Option<Child>, words: File, announce: watch::Sender<Option<String>>) {
    if let Err(error) = handle.readable().await {
        tracing::error!(%error, "a VMM cannot be watched");
    }
    let status = match child.map(|mut child| child.wait()) {
        Some(Ok(status)) => status.to_string(),
        Some(Err(_)) | None => "end unseen".to_owned(),
    };
    announce.send_replace(Some(format!("the VMM ended ({status}){}", last_words(&words))));
}

fn last_words(words: &File) -> String {
    let mut bytes = vec![0; usize::try_from(WORDS_BYTES).unwrap_or(0)];
    let read = words.read_at(&mut bytes, 0).unwrap_or(0);
    let said = bytes[..read].split(|byte| *byte == 0).next().unwrap_or_default();
    let said = &said[said.len().saturating_sub(LAST_WORDS)..];
    let said = String::from_utf8_lossy(said).trim().replace('\n', "; ");
    if said.is_empty() { String::new() } else { format!(" and said: {said}") }
}
