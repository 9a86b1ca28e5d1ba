//! From a call to signed bytes.

use std::fmt;
use std::sync::Arc;

use alloy::consensus::{SignableTransaction, TxEip1559, TxEnvelope, TxLegacy};
use alloy::eips::eip2718::Encodable2718;
use alloy::network::TxSignerSync;
use alloy::primitives::{Signature, TxKind};
use domain::Address;
use domain::evm::{Call, SenderAccount, TransactionAttempt};

use super::GasPrice;

/// A key that signs transactions of one account.
#[derive(Clone)]
pub struct SigningKey(Arc<dyn TxSignerSync<Signature> + Send + Sync>);

impl SigningKey {
    /// Any signer of alloy's: a `PrivateKeySigner`, or an identity.
    #[must_use]
    pub fn new(signer: impl TxSignerSync<Signature> + Send + Sync + 'static) -> Self {
        Self(Arc::new(signer))
    }

    /// Its account.
    #[must_use]
    pub fn address(&self) -> Address {
        self.0.address()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.address())
    }
}

/// The signer refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("sign a transaction of {account}: {why}")]
pub struct SignError {
    account: Address,
    why: String,
}

/// What is signed beside the call.
#[derive(Clone, Copy, Debug)]
pub(super) struct TransactionFields {
    pub(super) account: SenderAccount,
    pub(super) nonce: u64,
    pub(super) gas_limit: u64,
    pub(super) price: GasPrice,
}

/// Signs a call as a transaction. The same frame and call give the same bytes: the
/// signature is deterministic (RFC 6979).
pub(super) fn attempt(
    key: &SigningKey,
    frame: &TransactionFields,
    call: &Call,
) -> Result<TransactionAttempt, SignError> {
    let envelope = match frame.price {
        GasPrice::Dynamic { max_fee, tip } => TxEnvelope::from(signed(key, dynamic(frame, call, max_fee, tip))?),
        GasPrice::Legacy { gas_price } => TxEnvelope::from(signed(key, legacy(frame, call, gas_price))?),
    };
    let (max_fee, tip) = (frame.price.max_fee(), frame.price.tip());
    Ok(TransactionAttempt { hash: *envelope.tx_hash(), raw: envelope.encoded_2718().into(), max_fee, tip })
}

fn signed<T: SignableTransaction<Signature> + 'static>(
    key: &SigningKey,
    mut transaction: T,
) -> Result<alloy::consensus::Signed<T>, SignError> {
    let signature = key.0.sign_transaction_sync(&mut transaction);
    let signature = signature.map_err(|error| SignError { account: key.address(), why: error.to_string() })?;
    Ok(transaction.into_signed(signature))
}

fn dynamic(frame: &TransactionFields, call: &Call, max_fee: u128, tip: u128) -> TxEip1559 {
    TxEip1559 {
        chain_id: frame.account.chain_id,
        nonce: frame.nonce,
        gas_limit: frame.gas_limit,
        max_fee_per_gas: max_fee,
        max_priority_fee_per_gas: tip,
        to: TxKind::Call(call.to),
        value: call.value,
        input: call.data.clone(),
        ..TxEip1559::default()
    }
}

fn legacy(frame: &TransactionFields, call: &Call, gas_price: u128) -> TxLegacy {
    TxLegacy {
        chain_id: Some(frame.account.chain_id),
        nonce: frame.nonce,
        gas_price,
        gas_limit: frame.gas_limit,
        to: TxKind::Call(call.to),
        value: call.value,
        input: call.data.clone(),
    }
}
