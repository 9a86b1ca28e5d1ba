//! Where `palatine up` keeps what it has on disk.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// A folder as the machine knows it: a copy of it is another one, whatever it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FolderId {
    device: u64,
    inode: u64,
}

impl FolderId {
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let found = fs::metadata(path)?;
        Ok(Self { device: found.dev(), inode: found.ino() })
    }
}

/// The folder of a stack. The same one is used again by the next `up`.
#[derive(Clone, Debug)]
pub(crate) struct StateDir {
    root: PathBuf,
}

impl StateDir {
    /// The state at `root`, else at `$XDG_STATE_HOME/palatine`, else at
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
    pub(crate) fn create(&self) -> Result<()> {
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

    /// What this stack calls its own on the machine.
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

    /// What was typed in `palatine chat`.
    pub(crate) fn chat_history(&self) -> PathBuf {
        self.root.join("chat.history")
    }

    /// Where `palatine spawn` keeps the agents' tokens it was shown.
    pub(crate) fn tokens(&self) -> PathBuf {
        self.root.join("tokens")
    }
}

/// What is in a file, if it is there.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}
