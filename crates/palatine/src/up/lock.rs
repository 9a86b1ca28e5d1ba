//! The lock of a state folder: who supervises its stack, or clears what is left of it.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};
use sandbox::{ProcessFacts, process};
use serde::{Deserialize, Serialize};

use super::state::{FolderId, StateDir, read};

/// The process that supervises a stack, as its lock says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Supervisor {
    folder: FolderId,
    pub(super) process: ProcessFacts,
}

/// What is in a lock.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum LockFile {
    Supervisor(Supervisor),
    /// The last version named the process alone. In a copy of such a folder nobody has
    /// the lock.
    Process(ProcessFacts),
}

impl StateDir {
    /// Takes the stack for this process, to keep it; `None` if another has it. Who has
    /// it is written in the lock: that process is asked to end by `palatine down`.
    pub(crate) fn try_supervise(&self) -> Result<Option<File>> {
        let Some(mut file) = self.try_lock()? else { return Ok(None) };
        let supervisor = Supervisor { folder: self.folder()?, process: process::facts(std::process::id())? };
        let text = serde_json::to_vec(&supervisor)?;
        file.set_len(0).and_then(|()| file.write_all(&text)).context("write down who has the stack")?;
        Ok(Some(file))
    }

    /// Keeps all others off the stack; `None` if another has it. The lock goes with the
    /// returned file, so no crash leaves it behind.
    pub(crate) fn try_lock(&self) -> Result<Option<File>> {
        let path = self.lock_path();
        let open = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = open.with_context(|| format!("open {}", path.display()))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("lock {}", path.display())),
        }
    }

    /// The process that has the stack, whether it is up, starting or ending.
    pub(crate) fn supervisor(&self) -> Result<Option<OwnedFd>> {
        match self.recorded_supervisor()? {
            Some(supervisor) => self.confirm(&supervisor),
            None => Ok(None),
        }
    }

    /// Who has the stack, as its lock says. In a copy of a folder it says nothing: it
    /// names who keeps the other one. Neither does it while somebody only clears the
    /// stack, or is about to write himself down.
    pub(super) fn recorded_supervisor(&self) -> Result<Option<Supervisor>> {
        let Some(text) = read(&self.lock_path())? else { return Ok(None) };
        let Ok(locked) = serde_json::from_slice(&text) else { return Ok(None) };
        let folder = self.folder()?;
        Ok(match locked {
            LockFile::Supervisor(supervisor) => (supervisor.folder == folder).then_some(supervisor),
            LockFile::Process(process) => Some(Supervisor { folder, process }),
        })
    }

    /// The process of a supervisor that runs and really has the lock.
    pub(super) fn confirm(&self, supervisor: &Supervisor) -> Result<Option<OwnedFd>> {
        let found = process::find(&supervisor.process).with_context(|| {
            let (path, pid) = (self.lock_path().display().to_string(), supervisor.process.pid);
            format!("find out whether process {pid} runs, which has the stack as {path} says")
        })?;
        // Looked at last: who looks has the lock himself for an instant where nobody has it.
        Ok(if found.is_some() && self.is_locked()? { found } else { None })
    }

    fn is_locked(&self) -> Result<bool> {
        let path = self.lock_path();
        let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
            Err(error) => Err(error).with_context(|| format!("look who has locked {}", path.display())),
        }
    }

    fn folder(&self) -> Result<FolderId> {
        FolderId::of(self.root()).with_context(|| format!("look at {}", self.root().display()))
    }

    fn lock_path(&self) -> PathBuf {
        self.root().join("lock")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};

    use domain::{Address, Wallet};

    use super::super::stack::LocalStackInfo;
    use super::*;

    #[test]
    fn a_stack_is_supervised_by_one_process_and_free_again_when_it_goes() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::at(Some(dir.path())).unwrap();
        let lock = state.try_supervise().unwrap();
        assert!(lock.is_some());
        assert!(state.try_supervise().unwrap().is_none());
        drop(lock);
        assert!(state.try_supervise().unwrap().is_some());
    }

    #[test]
    fn fault_1_5_who_only_clears_a_stack_is_not_its_supervisor_and_is_not_asked_to_end() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::at(Some(dir.path())).unwrap();
        let held = state.try_lock().unwrap();
        assert!(held.is_some() && state.supervisor().unwrap().is_none());
        assert!(state.try_supervise().unwrap().is_none() && state.try_lock().unwrap().is_none());
        drop(held);
        let _taken = state.try_supervise().unwrap().unwrap();
        assert!(state.supervisor().unwrap().is_some() && state.try_lock().unwrap().is_none());
    }

    #[test]
    fn fault_1_5_a_lock_of_the_last_version_names_its_supervisor_while_it_is_held_and_in_no_copy() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| StateDir::at(Some(&dir.path().join(name))).unwrap();
        let (state, copy) = (at("kept"), at("copied"));
        fs::create_dir(state.root()).unwrap();
        let mut held = state.try_lock().unwrap().unwrap();
        held.write_all(&serde_json::to_vec(&process::facts(std::process::id()).unwrap()).unwrap()).unwrap();
        assert!(state.supervisor().unwrap().is_some());
        assert!(Command::new("cp").arg("-a").arg(state.root()).arg(copy.root()).status().unwrap().success());
        assert!(copy.supervisor().unwrap().is_none(), "nobody has the lock of the copy");
        drop(held);
        assert!(state.supervisor().unwrap().is_none());
    }

    /// A note of a stack that this process keeps.
    fn stack(state: &StateDir, process: ProcessFacts) -> LocalStackInfo {
        LocalStackInfo {
            gateway: "http://127.0.0.1:1".to_owned(),
            holder_keypair: state.holder(),
            holder: Wallet([1; 32]),
            solana_rpc: String::new(),
            mint: String::new(),
            evm_rpc: String::new(),
            usdc: Address::ZERO,
            factory: Address::ZERO,
            forwarder: Address::ZERO,
            owner_keystore: PathBuf::new(),
            owner_password_file: PathBuf::new(),
            owner: Address::ZERO,
            node_socket: state.socket(),
            config: state.config(),
            logs: state.logs(),
            assets: PathBuf::new(),
            visitor_keypair: state.visitor(),
            pid: process.pid,
            process,
        }
    }

    #[test]
    fn fault_1_5_a_note_of_a_stack_is_believed_by_the_start_time_of_its_supervisor() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::at(Some(dir.path())).unwrap();
        let _held = state.try_lock().unwrap().unwrap();
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = process::facts(child.id()).unwrap();
        let write = |process: &ProcessFacts| {
            state.publish(&stack(&state, process.clone())).unwrap();
            let supervisor = Supervisor { folder: state.folder().unwrap(), process: process.clone() };
            fs::write(state.lock_path(), serde_json::to_vec(&supervisor).unwrap()).unwrap();
        };
        write(&process);
        assert!(state.running().unwrap().is_some() && state.supervisor().unwrap().is_some());
        // Another process that has the same id by now is not the stack.
        write(&ProcessFacts { started: process.started + 1, ..process });
        assert!(state.running().unwrap().is_none() && state.supervisor().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn fault_1_5_nobody_supervises_a_copy_of_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| StateDir::at(Some(&dir.path().join(name))).unwrap();
        let state = at("kept");
        fs::create_dir(state.root()).unwrap();
        let taken = state.try_supervise().unwrap().unwrap();
        state.publish(&stack(&state, process::facts(std::process::id()).unwrap())).unwrap();
        assert!(state.supervisor().unwrap().is_some() && state.running().unwrap().is_some());
        for (how, name) in [("-a", "copied"), ("-al", "linked")] {
            let copy = at(name);
            let done = Command::new("cp").arg(how).arg(state.root()).arg(copy.root()).status();
            assert!(done.unwrap().success());
            let nobody = || copy.supervisor().unwrap().is_none() && copy.running().unwrap().is_none();
            assert!(nobody(), "{name}");
            // Neither does who clears the copy make what it says true.
            let held = copy.try_lock().unwrap();
            assert_eq!(held.is_some(), name == "copied", "a link to the lock is the same lock");
            assert!(nobody(), "{name}");
        }
        // The same folder by another name is kept still.
        fs::rename(state.root(), dir.path().join("moved")).unwrap();
        assert!(at("moved").supervisor().unwrap().is_some());
        drop(taken);
        assert!(at("moved").supervisor().unwrap().is_none(), "what the lock says is no lock");
    }

    #[test]
    fn fault_1_5_what_cannot_be_read_is_no_word_that_nobody_supervises_a_stack() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::at(Some(dir.path())).unwrap();
        fs::create_dir(state.lock_path()).unwrap();
        let said = state.supervisor().unwrap_err().to_string();
        assert_eq!(said, format!("read {}", state.lock_path().display()));
        fs::create_dir(state.published()).unwrap();
        let said = state.running().unwrap_err().to_string();
        assert_eq!(said, format!("read {}", state.published().display()));
    }

    #[test]
    fn fault_1_5_a_machine_that_does_not_tell_what_runs_is_an_error_and_not_a_word_that_nothing_does() {
        needs::needs!(root);
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::at(Some(dir.path())).unwrap();
        let _taken = state.try_supervise().unwrap().unwrap();
        state.publish(&stack(&state, process::facts(std::process::id()).unwrap())).unwrap();
        // A thread that sees no processes.
        let asked = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    #[expect(unsafe_code, reason = "a table of mounts of this thread's own, which ends at once")]
                    // SAFETY: only the mount table is unshared; no file descriptor is.
                    let unshared = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) };
                    unshared.unwrap();
                    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
                    mount("tmpfs", "/proc", "tmpfs", MountFlags::empty(), None).unwrap();
                    [state.supervisor().map(drop), state.running().map(drop)]
                        .map(|asked| asked.unwrap_err().to_string())
                })
                .join()
                .unwrap()
        });
        for said in asked {
            assert!(said.contains("whether process") && said.contains("lock says"), "{said}");
        }
        assert!(state.supervisor().unwrap().is_some() && state.running().unwrap().is_some());
    }
}
