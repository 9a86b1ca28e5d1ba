//! `palatine sign`: the headers of a signed request, for cURL and scripts.

use anyhow::Result;

use super::{now, signer};
use crate::cli::{Sign, Target};
use crate::up::Rooms;

pub(crate) fn run(target: &Target, request: &Sign) -> Result<()> {
    let keypair = signer(target, &Rooms::at(target.state.as_deref())?)?;
    let headers = keypair.sign_request(&request.method, &request.path, request.body.as_bytes(), now()?);
    println!("X-Wallet: {}\nX-Signature: {}\nX-Timestamp: {}", headers.wallet, headers.signature, headers.timestamp);
    Ok(())
}
