//! What the commands do.

pub(crate) mod apply;
pub(crate) mod asked;
pub(crate) mod build;
pub(crate) mod changes;
pub(crate) mod chat;
pub(crate) mod coder;
pub(crate) mod conversation;
pub(crate) mod copy;
pub(crate) mod download;
pub(crate) mod editor;
pub(crate) mod environment;
pub(crate) mod escape;
pub(crate) mod export;
pub(crate) mod files;
pub(crate) mod folder;
pub(crate) mod forward;
pub(crate) mod held;
pub(crate) mod image;
pub(crate) mod import;
pub(crate) mod key;
pub(crate) mod markdown;
pub(crate) mod patch;
pub(crate) mod pay;
pub(crate) mod piped;
pub(crate) mod pod;
pub(crate) mod push;
pub(crate) mod remote;
pub(crate) mod shell;
pub(crate) mod sign;
pub(crate) mod starting;
pub(crate) mod store;
pub(crate) mod task;
pub(crate) mod typing;
pub(crate) mod upload;
pub(crate) mod vault;
pub(crate) mod volume;
pub(crate) mod wallet;

use std::path::PathBuf;

use anyhow::{Context, Result};
use auth::{ApiKey, Keypair};
use client::GatewayClient;

use crate::cli::Target;
use crate::keypair;
use crate::up::StateDir;

/// The gateway if nothing else is known.
const DEFAULT_GATEWAY: &str = "http://127.0.0.1:8080";

/// The gateway that is meant: named, or the one that runs here, or the usual one.
pub(crate) fn gateway(target: &Target, state: &StateDir) -> Result<String> {
    if let Some(named) = &target.gateway {
        return Ok(named.clone());
    }
    Ok(state.running()?.map_or_else(|| DEFAULT_GATEWAY.to_owned(), |stack| stack.gateway))
}

/// A client of that gateway, with the API key that is given, or else signing.
pub(crate) fn client(target: &Target, state: &StateDir) -> Result<GatewayClient> {
    let client = GatewayClient::new(&gateway(target, state)?)?;
    let Some(key) = &target.key else { return Ok(client.signed_by(signer(target, state)?)) };
    ApiKey::parse(key.expose()).context("read --key (PALATINE_KEY)")?;
    Ok(client.with_key(key.clone()))
}

/// The keypair that is meant: named, or the development holder of the stack that
/// runs here, or the Solana command line's own.
pub(crate) fn signer(target: &Target, state: &StateDir) -> Result<Keypair> {
    if let Some(named) = &target.keypair {
        return keypair::read(named);
    }
    let solana = || Some(std::env::home_dir()?.join(".config/solana/id.json"));
    let here = state.running()?.map(|stack| stack.holder_keypair);
    let path: Option<PathBuf> = here.or_else(|| solana().filter(|path| path.is_file()));
    let path = path.context("no keypair: pass --keypair FILE, or make one with: palatine keygen FILE")?;
    keypair::read(&path)
}
