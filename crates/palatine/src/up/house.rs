//! Where a house on this machine keeps its things, and what is known of a
//! running one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
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
        let facts = serde_json::to_vec(&process::facts(std::process::id())?)?;
        file.set_len(0).and_then(|()| file.write_all(&facts)).context("write down who has the house")?;
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
    pub(crate) fn keeper(&self) -> Option<OwnedFd> {
        let facts: Facts = serde_json::from_slice(&fs::read(self.lock()).ok()?).ok()?;
        process::find(&facts).ok()?
    }

    /// The running house, if there is one.
    pub(crate) fn running(&self) -> Option<House> {
        let note = fs::read(self.note()).ok()?;
        let house: House = serde_json::from_slice(&note).ok()?;
        process::find(&house.process).ok()?.map(|_| house)
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

#[cfg(test)]
mod tests {
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
        assert!(held.is_some() && rooms.keeper().is_none());
        assert!(rooms.take().unwrap().is_none() && rooms.hold().unwrap().is_none());
        drop(held);
        let _taken = rooms.take().unwrap().unwrap();
        assert!(rooms.keeper().is_some() && rooms.hold().unwrap().is_none());
    }

    #[test]
    fn fault_1_5_a_note_of_a_house_is_believed_by_the_start_time_of_its_keeper() {
        let dir = tempfile::tempdir().unwrap();
        let rooms = Rooms::at(Some(dir.path())).unwrap();
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let process = process::facts(child.id()).unwrap();
        let mut house = House {
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
            pid: child.id(),
            process: process.clone(),
        };
        rooms.announce(&house).unwrap();
        assert!(rooms.running().is_some());
        // Another process that has the same id by now is not the house.
        house.process = Facts { started: process.started + 1, ..process };
        rooms.announce(&house).unwrap();
        std::fs::write(rooms.lock(), serde_json::to_vec(&house.process).unwrap()).unwrap();
        assert!(rooms.running().is_none() && rooms.keeper().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
