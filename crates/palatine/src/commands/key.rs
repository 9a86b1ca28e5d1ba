//! `palatine key`: what your wallet lets programs do in its name.

use std::process::ExitCode;

use anyhow::{Context, Result};
use auth::ApiKey;
use client::GatewayClient;
use domain::{KeyForm, KeyId};
use wire::Secret;
use wire::v1::keys::KeyRequest;

use super::{gateway, signer};
use crate::answers::RevokedKeys;
use crate::cli::{CreateKey, KeyCommand, Target};
use crate::output::{self, show};
use crate::up::StateDir;

pub(crate) async fn run(target: &Target, state: &StateDir, command: KeyCommand) -> Result<ExitCode> {
    // No key makes, lists or revokes another: the wallet signs, whatever else is given.
    let client = GatewayClient::new(&gateway(target, state)?)?.signed_by(signer(target, state)?);
    match command {
        KeyCommand::Create(options) => create(target, &client, options).await?,
        KeyCommand::Ls => show(target.json, &client.keys().await?, output::keys)?,
        KeyCommand::Rm { ids } => revoke(target, &client, &ids).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn create(target: &Target, client: &GatewayClient, options: CreateKey) -> Result<()> {
    let request = KeyRequest {
        scope: options.scope,
        name: options.name,
        expires_in_s: Some(options.expires.as_secs()),
        form: options.e2b.then_some(KeyForm::E2b),
    };
    let made = client.create_key(&request, options.idempotency_key.as_deref()).await?;
    Ok(show(target.json, &made, output::key)?)
}

/// Revokes one after the other, once all of them are known to be ids.
async fn revoke(target: &Target, client: &GatewayClient, ids: &[Secret]) -> Result<()> {
    let ids = ids.iter().map(|text| id_of(text.expose())).collect::<Result<Vec<_>>>()?;
    let mut revoked = Vec::new();
    for id in ids {
        client.revoke_key(id).await.with_context(|| format!("revoke {id}"))?;
        revoked.push(id);
    }
    Ok(show(target.json, &RevokedKeys { revoked }, output::revoked)?)
}

/// The id that is meant: itself, behind its prefix, or in the key that it is of. What is none
/// is not repeated: it may be a key.
fn id_of(text: &str) -> Result<KeyId> {
    if let Ok(key) = ApiKey::parse(text) {
        return Ok(key.id());
    }
    let bare = KeyForm::ALL.iter().find_map(|form| text.strip_prefix(form.prefix())).unwrap_or(text);
    Ok(bare.parse()?)
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn a_key_is_named_by_its_id_its_beginning_or_itself_and_what_is_none_is_not_repeated() {
        let key = ApiKey::new(KeyForm::E2b, KeyId::from_bits(0x1a2b), &[7; 32]);
        let whole = key.text().expose_secret();
        for text in ["0000000000001a2b", "e2b_0000000000001a2b", whole] {
            assert_eq!(id_of(text).unwrap(), key.id());
        }
        let said = id_of(&whole[..60]).unwrap_err().to_string();
        assert!(said.contains("16 lower-case hex digits") && !said.contains("0707"), "{said}");
    }
}
