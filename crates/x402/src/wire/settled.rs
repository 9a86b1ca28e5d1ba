//! The result of a settlement, in `PAYMENT-RESPONSE`, `X-PAYMENT-RESPONSE` and a
//! facilitator's answers.
//!
//! `x402-types` 2.0.2 has a type for this, but writes `error_reason` where the
//! specification says `errorReason`, and leaves `transaction` out of failures,
//! which clients refuse.

use domain::{Address, B256};
use serde::{Deserialize, Serialize};

use super::header::from_base64;
use super::number::word;

/// The result of a settlement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SettleResponse {
    pub(crate) success: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error_reason: Option<String>,
    /// Empty if there is none.
    pub(crate) transaction: String,
    pub(crate) network: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) payer: Option<String>,
}

impl SettleResponse {
    pub(crate) fn settled(tx: B256, network: String, payer: Address) -> Self {
        let payer = Some(payer.to_string());
        Self { success: true, error_reason: None, transaction: tx.to_string(), network, payer }
    }

    pub(crate) fn failed(reason: &str, tx: Option<B256>, network: String, payer: Option<Address>) -> Self {
        Self {
            success: false,
            error_reason: Some(reason.to_owned()),
            transaction: tx.map(|tx| tx.to_string()).unwrap_or_default(),
            network,
            payer: payer.map(|payer| payer.to_string()),
        }
    }
}

/// Reads a receipt's header: the transaction that a seller says settled the
/// payment; none if it says it failed, or nothing that can be read.
pub(crate) fn read_receipt(value: &[u8]) -> Option<B256> {
    let answer: SettleResponse = serde_json::from_slice(&from_base64(value).ok()?).ok()?;
    if !answer.success {
        return None;
    }
    word(&answer.transaction).ok()
}
