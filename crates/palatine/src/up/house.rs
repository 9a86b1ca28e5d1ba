//! Where a house on this machine keeps its things, and what is known of a
//! running one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use domain::{Address, Wallet};
use rustix::fs::{FlockOperation, flock};
use sandbox::{Facts, process};
use serde::{Deserialize, Serialize};

/// What a running house tells programs: the answer of `palatine status --json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct House {
    /// The gateway's URL.
    pub(crate) gateway: String,
    /// A keypair file of a funded development holder.
    pub(crate) holder_keypair: PathBuf,
    /// The wallet in that file.
    pub(crate) holder: Wallet,
    /// The local Solana's JSON-RPC.
    pub(crate) solana_rpc: String,
    /// The token's mint on it.
    pub(crate) mint: String,
    /// The local EVM chain's JSON-RPC.
    pub(crate) evm_rpc: String,
    /// USDC on it: a test token like the real one.
    pub(crate) usdc: Address,
    /// The factory of vaults on it.
    pub(crate) factory: Address,
    /// The forwarder that those vaults trust.
    pub(crate) forwarder: Address,
    /// A key file of a development owner, who has USDC there and no coin for gas.
    pub(crate) owner_keystore: PathBuf,
    /// The file with its password.
    pub(crate) owner_password_file: PathBuf,
    /// The address of that key.
    pub(crate) owner: Address,
    /// The node's socket.
    pub(crate) node_socket: PathBuf,
    /// The configuration the parts run with.
    pub(crate) config: PathBuf,
    /// Where the parts log to.
    pub(crate) logs: PathBuf,
    /// A keypair file of a second funded holder, who tries the main job.
    pub(crate) visitor_keypair: PathBuf,
    /// The process that keeps the parts; ending it ends them.
    pub(crate) pid: u32,
    /// The same, with when it was started: a process id alone proves nothing.
    pub(crate) process: Facts,
}

/// A folder as the machine knows it: a copy of it is another one, whatever it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Folder {
    device: u64,
    inode: u64,
}

impl Folder {
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let found = fs::metadata(path)?;
        Ok(Self { device: found.dev(), inode: found.ino() })
    }
}

/// Who has a house: what its lock says.
#[derive(Debug, Serialize, Deserialize)]
struct Keeper {
    folder: Folder,
    process: Facts,
}

/// What is in a lock.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Locked {
    Keeper(Keeper),
    /// The last version named the process alone. In a copy of such a folder nobody has
    /// the lock.
    Process(Facts),
}

/// The folder of a house. The same one is used again by the next `up`.
#[derive(Clone, Debug)]
pub(crate) struct Rooms {
    root: PathBuf,
}

impl House {
    /// The local chain's token, as payments know it.
    pub(crate) fn token(&self) -> x402::TokenConfig {
        super::evm::token(self.usdc)
    }
}

impl Rooms {
    /// The rooms at `root`, else at `$XDG_STATE_HOME/palatine`, else at
    /// `~/.local/state/palatine`.
    pub(crate) fn at(root: Option<&Path>) -> Result<Self> {
        if let Some(root) = root {
            return Ok(Self { root: std::path::absolute(root)? });
        }
        let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let home = || std::env::home_dir().map(|home| home.join(".local/state"));
        let base = state.or_else(home).context("find a folder for state: set HOME, or pass --state")?;
        Ok(Self { root: base.join("palatine") })
    }

    /// Makes the folders.
    pub(crate) fn build(&self) -> Result<()> {
        for dir in [&self.root, &self.logs(), &self.evm()] {
            fs::create_dir_all(dir).with_context(|| format!("make the folder {}", dir.display()))?;
        }
        Ok(())
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    pub(crate) fn holder(&self) -> PathBuf {
        self.root.join("holder.json")
    }

    pub(crate) fn visitor(&self) -> PathBuf {
        self.root.join("visitor.json")
    }

    /// What set the local Solana up.
    pub(crate) fn solana_journal(&self) -> PathBuf {
        self.root.join("solana.journal")
    }

    /// How the parts are.
    pub(crate) fn parts(&self) -> PathBuf {
        self.root.join("parts.json")
    }

    /// What this house calls its own on the machine.
    pub(crate) fn network(&self) -> PathBuf {
        self.root.join("network.json")
    }

    /// The local EVM chain, and the keys that work on it.
    pub(crate) fn evm(&self) -> PathBuf {
        self.root.join("evm")
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.root.join("palatine.toml")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.root.join("node.sock")
    }

    /// Where `palatine spawn` keeps the agents' tokens it was shown.
    pub(crate) fn tokens(&self) -> PathBuf {
        self.root.join("tokens")
    }

    fn note(&self) -> PathBuf {
        self.root.join("up.json")
    }

    /// Takes the house for this process, to keep it; `None` if another has it. Who has
    /// it is written in the lock: that process is asked to end by `palatine down`.
    pub(crate) fn take(&self) -> Result<Option<File>> {
        let Some(mut file) = self.hold()? else { return Ok(None) };
        let keeper = Keeper { folder: self.folder()?, process: process::facts(std::process::id())? };
        let text = serde_json::to_vec(&keeper)?;
        file.set_len(0).and_then(|()| file.write_all(&text)).context("write down who has the house")?;
        Ok(Some(file))
    }

    /// Keeps all others off the house; `None` if another has it. The lock goes with the
    /// returned file, so no crash leaves it behind.
    pub(crate) fn hold(&self) -> Result<Option<File>> {
        let path = self.lock();
        let open = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = open.with_context(|| format!("open {}", path.display()))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("lock {}", path.display())),
        }
    }

    /// The process that has the house, whether it is up, starting or ending.
    pub(crate) fn keeper(&self) -> Result<Option<OwnedFd>> {
        match self.noted_keeper()? {
            Some(keeper) => self.confirm(&keeper),
            None => Ok(None),
        }
    }

    /// The running house, if there is one.
    pub(crate) fn running(&self) -> Result<Option<House>> {
        let (note, keeper) = (read(&self.note())?, self.noted_keeper()?);
        let house = note.and_then(|text| serde_json::from_slice::<House>(&text).ok());
        let Some((house, keeper)) = house.zip(keeper) else { return Ok(None) };
        // A note of another keeper is an old one, or came with a copy of the folder.
        if house.process != keeper.process {
            return Ok(None);
        }
        Ok(self.confirm(&keeper)?.map(|_| house))
    }

    /// Who has the house, as its lock says. In a copy of a folder it says nothing: it
    /// names who keeps the other one. Neither does it while somebody only clears the
    /// house, or is about to write himself down.
    fn noted_keeper(&self) -> Result<Option<Keeper>> {
        let Some(text) = read(&self.lock())? else { return Ok(None) };
        let Ok(locked) = serde_json::from_slice(&text) else { return Ok(None) };
        let folder = self.folder()?;
        Ok(match locked {
            Locked::Keeper(keeper) => (keeper.folder == folder).then_some(keeper),
            Locked::Process(process) => Some(Keeper { folder, process }),
        })
    }

    /// The process of a keeper that runs and really has the lock.
    fn confirm(&self, keeper: &Keeper) -> Result<Option<OwnedFd>> {
        let found = process::find(&keeper.process).with_context(|| {
            let (path, pid) = (self.lock().display().to_string(), keeper.process.pid);
            format!("find out whether process {pid} runs, which has the house as {path} says")
        })?;
        // Looked at last: who looks has the lock himself for an instant where nobody has it.
        Ok(if found.is_some() && self.is_locked()? { found } else { None })
    }

    fn is_locked(&self) -> Result<bool> {
        let path = self.lock();
        let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
            Err(error) => Err(error).with_context(|| format!("look who has locked {}", path.display())),
        }
    }

    fn folder(&self) -> Result<Folder> {
        Folder::of(&self.root).with_context(|| format!("look at {}", self.root.display()))
    }

    fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// Leaves a note of the running house for the other commands.
    pub(crate) fn announce(&self, house: &House) -> Result<()> {
        let text = serde_json::to_vec_pretty(house)?;
        let draft = self.root.join("up.json.new");
        fs::write(&draft, text).and_then(|()| fs::rename(&draft, self.note())).context("write up.json")
    }

    /// Takes the note away.
    pub(crate) fn forget(&self) -> io::Result<()> {
        match fs::remove_file(self.note()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

/// What is in a file, if it is there.
fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};

    use super::*;

    #[test]
    fn a_house_is_taken_by_one_process_and_free_again_when_it_goes() {
        let dir = tempfile::tempdir().unwrap();
        let rooms = Rooms::at(Some(dir.path())).unwrap();
        let lock = rooms.take().unwrap();
        assert!(lock.is_some());
        assert!(rooms.take().unwrap().is_none());
        drop(lock);
        assert!(rooms.take().unwrap().is_some());
    }

    #[test]
    fn fault_1_5_who_only_clears_a_house_is_not_its_keeper_and_is_not_asked_to_end() {
        let dir = tempfile::tempdir().unwrap();
        let rooms = Rooms::at(Some(dir.path())).unwrap();
        let held = rooms.hold().unwrap();
        assert!(held.is_some() && rooms.keeper().unwrap().is_none());
        assert!(rooms.take().unwrap().is_none() && rooms.hold().unwrap().is_none());
        drop(held);
        let _taken = rooms.take().unwrap().unwrap();
        assert!(rooms.keeper().unwrap().is_some() && rooms.hold().unwrap().is_none());
    }

    #[test]
    fn fault_1_5_a_lock_of_the_last_version_names_its_keeper_while_it_is_held_and_in_no_copy() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| Rooms::at(Some(&dir.path().join(name))).unwrap();
        let (rooms, copy) = (at("kept"), at("copied"));
        fs::create_dir(rooms.root()).unwrap();
        let mut held = rooms.hold().unwrap().unwrap();
        held.write_all(&serde_json::to_vec(&process::facts(std::process::id()).unwrap()).unwrap()).unwrap();
        assert!(rooms.keeper().unwrap().is_some());
        assert!(Command::new("cp").arg("-a").arg(rooms.root()).arg(copy.root()).status().unwrap().success());
        assert!(copy.keeper().unwrap().is_none(), "nobody has the lock of the copy");
        drop(held);
        assert!(rooms.keeper().unwrap().is_none());
    }

    /// A note of a house that this process keeps.
    fn house(rooms: &Rooms, process: Facts) -> House {
        House {
            gateway: "http://127.0.0.1:1".to_owned(),
            holder_keypair: rooms.holder(),
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
            node_socket: rooms.socket(),
            config: rooms.config(),
            logs: rooms.logs(),
            visitor_keypair: rooms.visitor(),
            pid: process.pid,
            process,
        }
    }

    #[test]
    fn fault_1_5_a_note_of_a_house_is_believed_by_the_start_time_of_its_keeper() {
        let dir = tempfile::tempdir().unwrap();
        let rooms = Rooms::at(Some(dir.path())).unwrap();
        let _held = rooms.hold().unwrap().unwrap();
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = process::facts(child.id()).unwrap();
        let write = |process: &Facts| {
            rooms.announce(&house(&rooms, process.clone())).unwrap();
            let keeper = Keeper { folder: rooms.folder().unwrap(), process: process.clone() };
            fs::write(rooms.lock(), serde_json::to_vec(&keeper).unwrap()).unwrap();
        };
        write(&process);
        assert!(rooms.running().unwrap().is_some() && rooms.keeper().unwrap().is_some());
        // Another process that has the same id by now is not the house.
        write(&Facts { started: process.started + 1, ..process });
        assert!(rooms.running().unwrap().is_none() && rooms.keeper().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn fault_1_5_nobody_keeps_a_copy_of_a_folder_that_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| Rooms::at(Some(&dir.path().join(name))).unwrap();
        let rooms = at("kept");
        fs::create_dir(rooms.root()).unwrap();
        let taken = rooms.take().unwrap().unwrap();
        rooms.announce(&house(&rooms, process::facts(std::process::id()).unwrap())).unwrap();
        assert!(rooms.keeper().unwrap().is_some() && rooms.running().unwrap().is_some());
        for (how, name) in [("-a", "copied"), ("-al", "linked")] {
            let copy = at(name);
            let done = Command::new("cp").arg(how).arg(rooms.root()).arg(copy.root()).status();
            assert!(done.unwrap().success());
            let nobody = || copy.keeper().unwrap().is_none() && copy.running().unwrap().is_none();
            assert!(nobody(), "{name}");
            // Neither does who clears the copy make what it says true.
            let held = copy.hold().unwrap();
            assert_eq!(held.is_some(), name == "copied", "a link to the lock is the same lock");
            assert!(nobody(), "{name}");
        }
        // The same folder by another name is kept still.
        fs::rename(rooms.root(), dir.path().join("moved")).unwrap();
        assert!(at("moved").keeper().unwrap().is_some());
        drop(taken);
        assert!(at("moved").keeper().unwrap().is_none(), "what the lock says is no lock");
    }

    #[test]
    fn fault_1_5_what_cannot_be_read_is_no_word_that_nobody_keeps_a_house() {
        let dir = tempfile::tempdir().unwrap();
        let rooms = Rooms::at(Some(dir.path())).unwrap();
        fs::create_dir(rooms.lock()).unwrap();
        let said = rooms.keeper().unwrap_err().to_string();
        assert_eq!(said, format!("read {}", rooms.lock().display()));
        fs::create_dir(rooms.note()).unwrap();
        let said = rooms.running().unwrap_err().to_string();
        assert_eq!(said, format!("read {}", rooms.note().display()));
    }

    #[test]
    fn fault_1_5_a_machine_that_does_not_tell_what_runs_is_an_error_and_not_a_word_that_nothing_does() {
        needs::needs!(root);
        let dir = tempfile::tempdir().unwrap();
        let rooms = Rooms::at(Some(dir.path())).unwrap();
        let _taken = rooms.take().unwrap().unwrap();
        rooms.announce(&house(&rooms, process::facts(std::process::id()).unwrap())).unwrap();
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
                    [rooms.keeper().map(drop), rooms.running().map(drop)].map(|asked| asked.unwrap_err().to_string())
                })
                .join()
                .unwrap()
        });
        for said in asked {
            assert!(said.contains("whether process") && said.contains("lock says"), "{said}");
        }
        assert!(rooms.keeper().unwrap().is_some() && rooms.running().unwrap().is_some());
    }
}
