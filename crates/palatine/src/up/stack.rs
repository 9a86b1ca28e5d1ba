//! A running stack, as other commands find it: `up.json` in its state folder.

use std::fs;
use std::io;
use std::path::PathBuf;

use anyhow::{Context, Result};
use domain::{Address, Wallet};
use sandbox::ProcessFacts;
use serde::{Deserialize, Serialize};

use super::state::{StateDir, read};

/// What a running stack tells programs: the answer of `palatine status --json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LocalStackInfo {
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
    /// Where the guest programs and image recipes lie; nothing where an older version wrote this.
    #[serde(default)]
    pub(crate) assets: PathBuf,
    /// A keypair file of a second funded holder, who tries the main job.
    pub(crate) visitor_keypair: PathBuf,
    /// The process that keeps the parts; ending it ends them.
    pub(crate) pid: u32,
    /// The same, with when it was started: a process id alone proves nothing.
    pub(crate) process: ProcessFacts,
}

impl LocalStackInfo {
    /// The local chain's token, as payments know it.
    pub(crate) fn token(&self) -> x402::TokenConfig {
        super::evm::token(self.usdc)
    }
}

impl StateDir {
    /// The running stack, if there is one.
    pub(crate) fn running(&self) -> Result<Option<LocalStackInfo>> {
        let (note, supervisor) = (read(&self.published())?, self.recorded_supervisor()?);
        let stack = note.and_then(|text| serde_json::from_slice::<LocalStackInfo>(&text).ok());
        let Some((stack, supervisor)) = stack.zip(supervisor) else { return Ok(None) };
        // A note of another supervisor is an old one, or came with a copy of the folder.
        if stack.process != supervisor.process {
            return Ok(None);
        }
        Ok(self.confirm(&supervisor)?.map(|_| stack))
    }

    /// Leaves a note of the running stack for the other commands.
    pub(crate) fn publish(&self, stack: &LocalStackInfo) -> Result<()> {
        let text = serde_json::to_vec_pretty(stack)?;
        let draft = self.root().join("up.json.new");
        fs::write(&draft, text).and_then(|()| fs::rename(&draft, self.published())).context("write up.json")
    }

    /// Takes the note away.
    pub(crate) fn unpublish(&self) -> io::Result<()> {
        match fs::remove_file(self.published()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    pub(super) fn published(&self) -> PathBuf {
        self.root().join("up.json")
    }
}
