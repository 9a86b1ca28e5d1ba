//! EVM wallets: key files, and whose they are.

use std::process::ExitCode;

use alloy_primitives::B128;
use anyhow::{Context, Result};
use auth::{EvmSignature, LinkTerms, MAX_LIFETIME_MS, MessageEncoding};
use client::{GatewayClient, gateway_name};
use domain::{Clock, SystemClock};
use identity::{Identity, KdfCost, Keystore, SignerSync};
use wire::v1::vault::LinkRequest;

use super::{gateway, signer as holder};
use crate::answers::WalletInfo;
use crate::cli::{Signer, Target, WalletCommand};
use crate::output::{self, show};
use crate::signer::{KeystoreLocation, PASSWORD, new_password, open};
use crate::up::StateDir;

pub(crate) async fn run(
    target: &Target,
    state: &StateDir,
    signer: &Signer,
    command: WalletCommand,
) -> Result<ExitCode> {
    match command {
        WalletCommand::New { outfile } => {
            let password = new_password(PASSWORD, signer.password_file.as_deref(), &outfile)?;
            let identity = Identity::generate()?;
            identity.save(&outfile, &password, KdfCost::STANDARD)?;
            let shown = WalletInfo { address: identity.address().to_string(), keystore: outfile };
            show(target.json, &shown, output::wallet)?;
        }
        WalletCommand::Show => {
            let location = KeystoreLocation::find(signer, state)?.context("no EVM key: pass --keystore FILE")?;
            let address = Keystore::read(&location.keystore)?.address().context("the key file names no address")?;
            let shown = WalletInfo { address: address.to_string(), keystore: location.keystore };
            show(target.json, &shown, output::wallet)?;
        }
        WalletCommand::Link => link(target, state, signer).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Both sides sign one text, and the gateway keeps it.
async fn link(target: &Target, state: &StateDir, signer: &Signer) -> Result<()> {
    let url = gateway(target, state)?;
    let holder = holder(target, state)?;
    let client = GatewayClient::new(&url)?.signed_by(holder.clone());
    let chain = client.chain().await?;
    let owner = open(signer, state)?;
    let issued_at = SystemClock.now();
    let terms = LinkTerms {
        gateway: gateway_name(&url)?,
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
        holder_signature: holder.sign_link(&terms, MessageEncoding::Raw).to_string(),
        owner_signature: EvmSignature::try_from(owners)?.to_string(),
        text,
    };
    Ok(show(target.json, &client.link(&request).await?, output::link)?)
}

fn random() -> Result<[u8; 16]> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).context("gather randomness")?;
    Ok(bytes)
}
