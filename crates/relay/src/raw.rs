//! Whole transactions of others: checked, passed on, waited for.

use std::time::Duration;

use alloy::consensus::transaction::SignerRecoverable;
use alloy::consensus::{Transaction, TxEnvelope};
use alloy::eips::eip2718::Decodable2718;
use alloy_primitives::{Address, Bytes, TxKind};
use wire::v1::relay::{CallStatus, RawTransactionRequest, RawWaitOptions, RelayAnswer};

use crate::answer::empty;
use crate::chain::{ChainError, EthCall, Simulation, TransactionReceipt};
use crate::error::RelayError;
use crate::prepare::would_revert;
use crate::state::{Inner, RelayResponse};
use crate::text;
use crate::text::printable;

/// Blocks that `confirmations` may ask for.
const MAX_CONFIRMATIONS: u64 = 12;

impl Inner {
    /// Passes a transaction on. The same one again is the same transaction again:
    /// its hash tells it.
    pub(crate) async fn pass_on(
        &self,
        request: &RawTransactionRequest,
    ) -> Result<RelayResponse<RelayAnswer>, RelayError> {
        let raw = text::bytes(&request.signed_tx).map_err(|error| RelayError::Field { field: "signedTx", error })?;
        let (tx, call) = decode(&raw, self.chain.facts().chain_id)?;
        self.allow_broadcast(call.to, &call.data).await?;
        let known = self.chain.mined(*tx.tx_hash(), 1, Duration::ZERO).await?.is_some();
        if !known {
            self.try_raw(&call).await?;
            self.chain.broadcast(&raw).await.map_err(refused)?;
        }
        self.wait_raw(&tx, request.options).await
    }

    async fn try_raw(&self, call: &EthCall) -> Result<(), RelayError> {
        match self.chain.simulate(call).await? {
            Simulation::Done(_) => Ok(()),
            Simulation::Reverted(why) => Err(would_revert(&why)),
        }
    }

    async fn wait_raw(
        &self,
        tx: &TxEnvelope,
        options: RawWaitOptions,
    ) -> Result<RelayResponse<RelayAnswer>, RelayError> {
        let depth = options.confirmations.clamp(1, MAX_CONFIRMATIONS);
        let wait = if options.wait_for_confirmation { self.config.wait_ms } else { 0 };
        let mined = self.chain.mined(*tx.tx_hash(), depth, Duration::from_millis(wait)).await?;
        let Some(mined) = mined else {
            let body = RelayAnswer { tx_hash: Some(tx.tx_hash().to_string()), ..empty(CallStatus::Pending) };
            return Ok(RelayResponse { status: 202, body });
        };
        Ok(RelayResponse { status: 200, body: ended(&mined) })
    }
}

fn ended(mined: &TransactionReceipt) -> RelayAnswer {
    let undone = "the transaction was undone; its signer paid for the gas";
    RelayAnswer {
        tx_hash: Some(mined.tx.to_string()),
        reason: (!mined.succeeded).then(|| undone.to_owned()),
        block_number: Some(mined.block),
        gas_used: Some(mined.gas_used.to_string()),
        effective_gas_price: Some(mined.gas_price.to_string()),
        ..empty(if mined.succeeded { CallStatus::Executed } else { CallStatus::Reverted })
    }
}

/// The transaction and the call that it makes, in its signer's name.
pub(crate) fn decode(raw: &Bytes, chain_id: u64) -> Result<(TxEnvelope, EthCall), RelayError> {
    let tx =
        TxEnvelope::decode_2718_exact(raw).map_err(|error| RelayError::Transaction(printable(&error.to_string())))?;
    if tx.chain_id() != Some(chain_id) {
        return Err(RelayError::WrongChain(chain_id));
    }
    let from = tx.recover_signer().map_err(|error| RelayError::Transaction(printable(&error.to_string())))?;
    let to = target(&tx)?;
    let call = EthCall { from, to, value: tx.value(), data: tx.input().clone(), gas: Some(tx.gas_limit()) };
    Ok((tx, call))
}

fn target(tx: &TxEnvelope) -> Result<Address, RelayError> {
    match tx.kind() {
        TxKind::Call(to) => Ok(to),
        TxKind::Create => Err(RelayError::Creation),
    }
}

fn refused(error: ChainError) -> RelayError {
    match error {
        ChainError::Refused(why) => RelayError::Broadcast(printable(&why)),
        ChainError::Unavailable(_) => RelayError::Chain(error),
    }
}
