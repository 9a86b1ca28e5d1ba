//! Starting a VMM so that it outlives us and can do nothing but its work.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::thread::{Gid, UnshareFlags, unshare_unsafe};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::jail::{Jail, JailEntry, JailHandles, before_exec};
use crate::process;
use crate::runtime::GuestExitWatch;

/// Bytes a VMM may say on its standard output and error: the place is full then.
const WORDS_BYTES: u64 = 16 * 1024;
/// How much of them is repeated when it ends.
const LAST_WORDS: usize = 400;

/// A VMM that is about to be started.
pub(super) struct VmmLaunch<'a> {
    pub(super) program: &'a Path,
    pub(super) arguments: &'a [String],
    /// Its user, and its group of the same number.
    pub(super) uid: u32,
    /// Further groups.
    pub(super) groups: &'a [u32],
    pub(super) namespace: Option<&'a Path>,
    pub(super) jail: &'a Jail,
    /// Bytes of its largest disk.
    pub(super) file_bytes: u64,
    /// The `cgroup.procs` it enters.
    pub(super) cgroup: Vec<File>,
    /// What it inherits, under the same numbers.
    pub(super) files: Vec<OwnedFd>,
}

/// A VMM that was started.
pub(super) struct RunningVmm {
    pub(super) pid: u32,
    child: Option<Child>,
    handle: OwnedFd,
    words: File,
}

impl VmmLaunch<'_> {
    /// Starts it. The files that were handed over are closed here.
    pub(super) fn start(self) -> io::Result<RunningVmm> {
        let words = words()?;
        let mut command = Command::new(self.program);
        command.args(self.arguments).env_clear().current_dir("/").stdin(Stdio::null());
        command.stdout(words.try_clone()?).stderr(words.try_clone()?);
        let (cgroup, files) = (self.cgroup, self.files);
        let entry = JailEntry {
            cgroup: cgroup.iter().map(AsRawFd::as_raw_fd).collect(),
            files: files.iter().map(AsRawFd::as_raw_fd).collect(),
            network: self.namespace.map(File::open).transpose()?,
            groups: self.groups.iter().copied().map(Gid::from_raw).collect(),
            file_bytes: self.file_bytes.max(WORDS_BYTES),
            uid: self.uid,
            jail: JailHandles::of(self.jail),
            identity: format!("{0} {0} 1\n", self.uid),
        };
        before_exec(&mut command, entry);
        let child = spawn_as_first(&mut command).map_err(|error| explained(error, &words))?;
        drop(files);
        let handle = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        Ok(RunningVmm { pid: child.id(), child: Some(child), handle, words })
    }
}

/// Starts a process that is number 1 where it lives: of its thread's children the
/// kernel makes the first that of a namespace.
#[expect(unsafe_code, reason = "unsharing files could surprise other code; process ids surprise nobody")]
fn spawn_as_first(command: &mut Command) -> io::Result<Child> {
    let startup = || {
        // SAFETY: touches no file descriptor; the thread ends here.
        unsafe { unshare_unsafe(UnshareFlags::NEWPID) }?;
        command.spawn()
    };
    thread::scope(|scope| scope.spawn(startup).join()).unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
}

/// What it said before it could become the VMM goes into the error.
fn explained(error: io::Error, words: &File) -> io::Error {
    let said = last_words(words);
    if said.is_empty() { error } else { io::Error::new(error.kind(), format!("{error}{said}")) }
}

/// A place of fixed size for what the VMM says: it outlives us and never grows.
fn words() -> io::Result<File> {
    let memory = memfd_create("vmm-words", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&memory, WORDS_BYTES)?;
    fcntl_add_seals(&memory, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(memory.into())
}

impl RunningVmm {
    /// A VMM that another daemon started.
    pub(super) fn adopted(pid: u32, handle: OwnedFd) -> io::Result<Self> {
        let words = fs::File::open(format!("/proc/{pid}/fd/2"))?;
        Ok(Self { pid, child: None, handle, words })
    }

    /// Watches for its end, and buries it if it is our child.
    pub(super) fn watch(self) -> io::Result<GuestExitWatch> {
        let handle = process::watchable(self.handle)?;
        let (announce, exit) = GuestExitWatch::channel();
        tokio::spawn(bury(handle, self.child, self.words, announce));
        Ok(exit)
    }
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
