//! Payments onto the chain, and what became of them there.

use std::sync::Arc;

use alloy_primitives::keccak256;
use async_trait::async_trait;
use chain::evm::typed::{Window, transfer};
use chain::evm::{At, AuthorizationUse, Chain, EvmError, SendError, Sender, Sighting, calls};
use domain::evm::{IntentKey, Outcome};
use domain::{Address, B256, Usdc};
use relay::{Class, Relayer};
use x402::{Authorization, Authorizations, SettleError, Settled, Settlement, Signed, Spent, Unread, pays};

/// Our own account makes the transfers.
#[derive(Clone, Debug)]
pub(crate) struct OwnSettlement {
    pub(crate) chain: Arc<Chain>,
    pub(crate) sender: Sender,
    /// Who counts what it costs.
    pub(crate) relayer: Relayer,
}

/// Gas of a transfer, as it is counted.
const TRANSFER_GAS: u64 = 120_000;

#[async_trait]
impl Settlement for OwnSettlement {
    async fn settle(&self, payment: &Signed) -> Result<Settled, SettleError> {
        let authorization = &payment.authorization;
        let token = self.chain.evm.config().usdc;
        if authorization.asset != token {
            return Err(SettleError::Unavailable(format!("transfers of {token} alone are made here")));
        }
        let window = Window { after: authorization.valid_after, before: authorization.valid_before };
        let Authorization { from, to, value, nonce, .. } = *authorization;
        let message = transfer(from, to, value, window, nonce);
        let call = calls::transfer_with_authorization(token, &message, &payment.signature.as_bytes());
        let key = key(authorization)?;
        if self.sender.find(&key).await.map_err(send_error)?.is_none() {
            self.count(to).await?;
        }
        let outcome = self.sender.execute(&key, &call).await.map_err(send_error)?;
        match outcome {
            Outcome::Mined(mined) if mined.success => self.receipt(authorization, mined.hash).await,
            Outcome::Mined(_) => Err(SettleError::Refused("the transfer was reverted".to_owned())),
            Outcome::Lost { .. } => Err(SettleError::Unknown("our transaction was replaced by another".to_owned())),
        }
    }

    async fn sent(&self, payment: &Signed) -> Option<B256> {
        let key = key(&payment.authorization).ok()?;
        let entry = self.sender.find(&key).await.ok().flatten()?;
        entry.attempts.last().map(|attempt| attempt.hash)
    }
}

impl OwnSettlement {
    /// Counts one more transfer, before it is sent first.
    async fn count(&self, payee: Address) -> Result<(), SettleError> {
        let counted = self.relayer.spend(Class::Settle, payee, None, TRANSFER_GAS).await;
        counted.map_err(|error| SettleError::Unavailable(error.to_string()))
    }

    /// The transfer, as its own receipt tells it.
    async fn receipt(&self, authorization: &Authorization, tx: B256) -> Result<Settled, SettleError> {
        match self.chain.evm.sighting(tx).await {
            Ok(Sighting::Deep(landed)) if pays(&landed.logs, authorization) => Ok(Settled { tx }),
            Ok(Sighting::Deep(_)) => Err(SettleError::Unknown("the receipt shows another transfer".to_owned())),
            Ok(Sighting::Absent | Sighting::Shallow { .. }) => {
                Err(SettleError::Unknown("the receipt is not deep enough any more".to_owned()))
            }
            Err(error) => Err(SettleError::Unknown(error.to_string())),
        }
    }
}

/// One intent a payment, whoever asks for it.
fn key(authorization: &Authorization) -> Result<IntentKey, SettleError> {
    let name = keccak256(authorization.key().to_string());
    format!("x402:{name}").parse().map_err(|error| SettleError::Unavailable(format!("{error}")))
}

fn send_error(error: SendError) -> SettleError {
    match error {
        SendError::Evm(EvmError::Reverted(revert)) => SettleError::Refused(revert.to_string()),
        SendError::Evm(
            error @ (EvmError::GasTooDear { .. } | EvmError::GasTooMuch { .. } | EvmError::Unfunded { .. }),
        ) => SettleError::Unavailable(error.to_string()),
        SendError::Busy => SettleError::Unavailable(SendError::Busy.to_string()),
        error => SettleError::Unknown(error.to_string()),
    }
}

/// What the token says.
#[derive(Clone, Debug)]
pub(crate) struct TokenReader(pub(crate) Arc<Chain>);

#[async_trait]
impl Authorizations for TokenReader {
    async fn state(&self, authorization: &Authorization) -> Result<Spent, Unread> {
        self.ours(authorization.chain_id, authorization.asset)?;
        let used = self.0.authorization_use(authorization.from, authorization.nonce).await.map_err(unread)?;
        match used {
            AuthorizationUse::Unused { as_of } => Ok(Spent::Unused { as_of }),
            AuthorizationUse::Used { tx: None } => Ok(Spent::Elsewhere),
            AuthorizationUse::Used { tx: Some(tx) } => match self.0.evm.sighting(tx).await.map_err(unread)? {
                Sighting::Deep(landed) if pays(&landed.logs, authorization) => Ok(Spent::Paid { tx }),
                Sighting::Deep(_) => Ok(Spent::Elsewhere),
                Sighting::Absent | Sighting::Shallow { .. } => Err(Unread("its receipt is not deep enough".to_owned())),
            },
        }
    }

    async fn balance(&self, chain_id: u64, asset: Address, owner: Address) -> Result<Usdc, Unread> {
        self.ours(chain_id, asset)?;
        self.0.usdc_of(owner, At::Latest).await.map_err(unread)
    }
}

impl TokenReader {
    fn ours(&self, chain_id: u64, asset: Address) -> Result<(), Unread> {
        let config = self.0.evm.config();
        let ours = (chain_id, asset) == (config.chain_id, config.usdc);
        if ours { Ok(()) } else { Err(Unread(format!("eip155:{chain_id}/{asset} is not read here"))) }
    }
}

fn unread(error: EvmError) -> Unread {
    Unread(error.to_string())
}
