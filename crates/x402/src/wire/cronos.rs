//! The hosted Cronos facilitator's shapes
//! (docs.cronos.org/cronos-x402-facilitator/api-reference): version 1 with a flat
//! payload that names its asset, times as numbers, and answers of its own.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::header::to_base64;
use super::number::{address, amount, signature, word};
use super::payload::{SCHEME, exact};
use crate::unverified::{AcceptedTerms, SignedTransfer};
use crate::{InvalidReason, SignedAuthorization, Token, Tokens};
use domain::{Address, B256};

/// `payload`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CronosPayload {
    from: String,
    to: String,
    value: String,
    valid_after: u64,
    valid_before: u64,
    nonce: String,
    signature: String,
    asset: String,
}

impl CronosPayload {
    pub(super) fn asset(&self) -> Result<Address, InvalidReason> {
        address(&self.asset)
    }

    pub(super) fn transfer(&self) -> Result<SignedTransfer, InvalidReason> {
        Ok(SignedTransfer {
            from: address(&self.from)?,
            to: address(&self.to)?,
            value: amount(&self.value)?,
            valid_after: self.valid_after,
            valid_before: self.valid_before,
            nonce: word(&self.nonce)?,
            signature: signature(&self.signature)?,
        })
    }
}

/// `paymentRequirements`: it has fewer fields than version 1's.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CronosTerms {
    scheme: String,
    network: String,
    pay_to: String,
    asset: String,
    max_amount_required: String,
    max_timeout_seconds: u64,
}

impl CronosTerms {
    pub(super) fn accepted(&self, tokens: &Tokens) -> Result<(u64, AcceptedTerms), InvalidReason> {
        exact(&self.scheme)?;
        let chain_id = tokens.chain_of_name(&self.network).ok_or(InvalidReason::Network)?;
        let accepted = AcceptedTerms {
            asset: address(&self.asset)?,
            pay_to: address(&self.pay_to)?,
            amount: amount(&self.max_amount_required)?,
            max_timeout_s: self.max_timeout_seconds,
            extra: None,
        };
        Ok((chain_id, accepted))
    }
}

/// The body of a call to `/verify` or `/settle`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CronosRequest {
    x402_version: u8,
    payment_header: String,
    payment_requirements: CronosTerms,
}

impl CronosRequest {
    pub(crate) fn new(token: &Token, payment: &SignedAuthorization, max_timeout_s: u64) -> Self {
        let signed = &payment.authorization;
        let payload = CronosPayload {
            from: signed.from.to_string(),
            to: signed.to.to_string(),
            value: signed.value.0.to_string(),
            valid_after: signed.valid_after.saturating_to(),
            valid_before: signed.valid_before.saturating_to(),
            nonce: signed.nonce.to_string(),
            signature: format!("0x{}", alloy_primitives::hex::encode(payment.signature.as_bytes())),
            asset: token.address().to_string(),
        };
        let header = json!({ "x402Version": 1, "scheme": SCHEME, "network": token.network(), "payload": payload });
        Self {
            x402_version: 1,
            payment_header: to_base64(&header),
            payment_requirements: CronosTerms {
                scheme: SCHEME.to_owned(),
                network: token.network().to_owned(),
                pay_to: signed.to.to_string(),
                asset: token.address().to_string(),
                max_amount_required: signed.value.0.to_string(),
                max_timeout_seconds: max_timeout_s,
            },
        }
    }
}

/// What the hosted facilitator says of a settlement.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CronosSettleResult {
    /// It says that it is settled.
    Settled(B256),
    /// It says no.
    Failed(String),
}

/// Characters of the facilitator's own words that are kept.
const MAX_WORDS: usize = 200;

impl CronosSettleResult {
    /// Reads an answer of `/settle`; none if it is of no known shape.
    pub(crate) fn parse(json: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Answer {
            event: Option<String>,
            tx_hash: Option<String>,
            error: Option<Value>,
        }
        let answer: Answer = serde_json::from_slice(json).ok()?;
        match (answer.event.as_deref(), answer.tx_hash, answer.error) {
            (Some("payment.settled"), Some(hash), None | Some(Value::Null)) => word(&hash).ok().map(Self::Settled),
            (Some("payment.failed") | None, _, Some(error)) => {
                let words = error.as_str().map_or_else(|| error.to_string(), str::to_owned);
                Some(Self::Failed(words.chars().take(MAX_WORDS).collect()))
            }
            _ => None,
        }
    }
}

/// The answer of our own `/settle` in this dialect. The block's number and time
/// are not told: nobody here knows them.
pub(crate) fn settled_by_cronos(
    network: &str,
    payment: Option<&SignedTransfer>,
    outcome: Result<B256, (&str, Option<B256>)>,
) -> serde_json::Map<String, Value> {
    let mut answer = serde_json::Map::new();
    let mut put = |key: &str, value: Value| answer.insert(key.to_owned(), value);
    put("x402Version", json!(1));
    put("network", json!(network));
    if let Some(payment) = payment {
        put("from", json!(payment.from));
        put("to", json!(payment.to));
        put("value", json!(payment.value));
    }
    match outcome {
        Ok(tx) => {
            put("event", json!("payment.settled"));
            put("txHash", json!(tx));
        }
        Err((error, tx)) => {
            put("event", json!("payment.failed"));
            put("error", json!(error));
            if let Some(tx) = tx {
                put("txHash", json!(tx));
            }
        }
    }
    answer
}
