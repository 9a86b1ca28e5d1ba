//! EVM wallets: key files, and whose they are.

use std::process::ExitCode;

use alloy_primitives::B128;
use anyhow::{Context, Result};
use auth::{EvmSignature, Form, GatewayName, LinkTerms, MAX_LIFETIME_MS};
use client::Public;
use identity::{Cost, Identity, Keystore, SignerSync};
use serde::Serialize;
use wire::vault::LinkRequest;

use super::{gateway, now, signer as holder};
use crate::cli::{Signer, Target, Wallet};
use crate::output::{self, show};
use crate::signer::{KeyPlace, new_password, open};
use crate::up::Rooms;

/// What `wallet new` and `wallet show` say.
#[derive(Debug, Serialize)]
pub(crate) struct Shown {
    /// The address, with its checksum.
    pub(crate) address: String,
    /// The key file.
    pub(crate) keystore: std::path::PathBuf,
}

pub(crate) async fn run(target: &Target, rooms: &Rooms, signer: &Signer, command: Wallet) -> Result<ExitCode> {
    match command {
        Wallet::New { outfile } => {
            let password = new_password(signer.password_file.as_deref(), &outfile)?;
            let identity = Identity::generate()?;
            identity.save(&outfile, &password, Cost::STANDARD)?;
            let shown = Shown { address: identity.address().to_string(), keystore: outfile };
            show(target.json, &shown, output::wallet)?;
        }
        Wallet::Show => {
            let place = KeyPlace::find(signer, rooms).context("no EVM key: pass --keystore FILE")?;
            let address = Keystore::read(&place.keystore)?.address().context("the key file names no address")?;
            let shown = Shown { address: address.to_string(), keystore: place.keystore };
            show(target.json, &shown, output::wallet)?;
        }
        Wallet::Link => link(target, rooms, signer).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Both sides sign one text, and the gateway keeps it.
async fn link(target: &Target, rooms: &Rooms, signer: &Signer) -> Result<()> {
    let url = gateway(target, rooms);
    let holder = holder(target, rooms)?;
    let client = Public::new(&url)?.signed_by(holder.clone());
    let chain = client.chain().await?;
    let owner = open(signer, rooms)?;
    let issued_at = now()?;
    let terms = LinkTerms {
        gateway: name_of(&url)?,
        holder: holder.wallet(),
        owner: owner.address(),
        chain_id: chain.chain_id,
        nonce: B128::from(random()?),
        issued_at,
        expires_at: issued_at.plus(MAX_LIFETIME_MS),
    };
    let text = terms.text();
    let owners = owner.sign_message_sync(text.as_bytes()).context("sign as the owner")?;
    let request = LinkRequest {
        holder_signature: holder.sign_link(&terms, Form::Raw).to_string(),
        owner_signature: EvmSignature::try_from(owners)?.to_string(),
        text,
    };
    Ok(show(target.json, &client.link(&request).await?, output::link)?)
}

/// What the gateway is called: the host of the URL that we ourselves go to, so that
/// no gateway can have a text signed that is meant for another.
fn name_of(gateway: &str) -> Result<GatewayName> {
    let url = reqwest::Url::parse(gateway).context("read the gateway's URL")?;
    let host = url.host_str().context("the gateway's URL has no host")?;
    let name = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    name.to_ascii_lowercase().parse().context("the gateway's host cannot be named in a link")
}

fn random() -> Result<[u8; 16]> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).context("gather randomness")?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateways_name_is_the_host_we_go_to() {
        assert_eq!(name_of("http://127.0.0.1:8080").unwrap().as_str(), "127.0.0.1:8080");
        assert_eq!(name_of("https://Api.Example/").unwrap().as_str(), "api.example");
        assert_eq!(name_of("http://[::1]:80").unwrap().as_str(), "[::1]");
    }
}
