//! What is asked of the relayer, and what became of it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// ERC-2771's `ForwardRequest`, every number a decimal text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ForwardRequest {
    /// Who signs.
    pub from: String,
    /// The contract that is called.
    pub to: String,
    /// Wei that go with the call.
    #[schema(example = "0")]
    pub value: String,
    /// Gas for the call.
    #[schema(example = "200000")]
    pub gas: String,
    /// The forwarder's next nonce of `from`.
    #[schema(example = "0")]
    pub nonce: String,
    /// Unix seconds until which the request is good, 48 bits.
    pub deadline: String,
    /// The call, in hexadecimal.
    pub data: String,
}

/// How much of a hurry the caller is in. The price is the same for all three:
/// this relayer sends everything at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Cheap.
    Slow,
    /// As usual.
    #[default]
    Normal,
    /// Soon.
    Fast,
}

impl Priority {
    /// CroGas's sign for it.
    #[must_use]
    pub const fn emoji(self) -> &'static str {
        match self {
            Self::Slow => "🐢",
            Self::Normal => "🚗",
            Self::Fast => "🚀",
        }
    }

    /// Its name for people.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Slow => "Slow",
            Self::Normal => "Normal",
            Self::Fast => "Fast",
        }
    }
}

/// A request with its EIP-712 signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SignedRequest {
    /// What is asked.
    pub request: ForwardRequest,
    /// 65 bytes, in hexadecimal: r, s, v.
    pub signature: String,
}

/// `POST /meta/relay`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RelayRequest {
    /// What is asked, and its signature.
    #[serde(flatten)]
    pub signed: SignedRequest,
    /// Default `normal`.
    #[serde(default)]
    pub priority: Priority,
}

/// `POST /meta/batch`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BatchRequest {
    /// From 1 to 10. Those of one signer are carried out one after the other, in
    /// the order of their nonces; those of different signers side by side.
    pub requests: Vec<SignedRequest>,
    /// Default `normal`.
    #[serde(default)]
    pub priority: Priority,
}

/// `POST /meta/call`: a call that carries its own signature, or needs none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RelayCallRequest {
    /// The contract that is called.
    pub to: String,
    /// The call, in hexadecimal.
    pub data: String,
}

/// `POST /relay`: a whole transaction, whose signer pays its gas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RawTransactionRequest {
    /// The signed transaction (EIP-2718), in hexadecimal.
    pub signed_tx: String,
    /// How to wait.
    #[serde(default)]
    pub options: RawWaitOptions,
}

/// How long `POST /relay` waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RawWaitOptions {
    /// Whether to wait for a block. Default true.
    pub wait_for_confirmation: bool,
    /// Blocks to wait for, from 1 to 12. Default 1.
    pub confirmations: u64,
}

impl Default for RawWaitOptions {
    fn default() -> Self {
        Self { wait_for_confirmation: true, confirmations: 1 }
    }
}

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CallStatus {
    /// It is on the chain, and did what was asked.
    Executed,
    /// It is on the chain, and the called contract refused. The nonce is spent.
    Reverted,
    /// It had no effect: undone on the chain, given up, or never sent. The nonce is
    /// not spent.
    Failed,
    /// Another transaction used the nonce first; what that one did is not known.
    Superseded,
    /// Not known yet: ask again with the same request.
    Pending,
}

/// The answer to a relayed call: 200, or 202 while it is pending.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RelayAnswer {
    /// Whether the call itself succeeded, as the chain says. Never true before
    /// that is known.
    pub success: bool,
    /// What became of it.
    pub status: CallStatus,
    /// The transaction, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tx_hash: Option<String>,
    /// The transaction that took the fee, where one was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payment_tx_hash: Option<String>,
    /// Micro-USDC that were taken as the fee, whatever became of the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fee_taken: Option<String>,
    /// Why it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The block that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_number: Option<u64>,
    /// Gas of the whole transaction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gas_used: Option<String>,
    /// Wei per gas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_gas_price: Option<String>,
    /// As asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
}

/// The answer of `POST /meta/batch`: 200, or 202 while some of it is pending.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BatchAnswer {
    /// Whether every call succeeded.
    pub success: bool,
    /// How many did.
    pub success_count: usize,
    /// Of how many.
    pub total_count: usize,
    /// The transaction that took the fee, where one was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payment_tx_hash: Option<String>,
    /// Micro-USDC that were taken as the fee.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fee_taken: Option<String>,
    /// One for each request, in the order they came.
    pub results: Vec<BatchResult>,
    /// As asked.
    pub priority: Priority,
}

/// What became of one request of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BatchResult {
    /// Whether the call itself succeeded.
    pub success: bool,
    /// What became of it.
    pub status: CallStatus,
    /// The transaction, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tx_hash: Option<String>,
    /// Why it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The contract that was called.
    pub to: String,
}

/// The answer of `GET /meta/nonce/{address}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NonceAnswer {
    /// As asked.
    pub address: String,
    /// The forwarder's next nonce of it.
    pub nonce: String,
}

/// The answer of `GET /meta/domain`: what to sign a [`ForwardRequest`] with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DomainAnswer {
    /// The EIP-712 domain.
    pub domain: Eip712Domain,
    /// The EIP-712 types.
    pub types: Eip712Types,
    /// The forwarder.
    pub forwarder_address: String,
}

/// An EIP-712 domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Eip712Domain {
    /// The forwarder's name.
    pub name: String,
    /// `1`.
    pub version: String,
    /// EIP-155.
    pub chain_id: u64,
    /// The forwarder.
    pub verifying_contract: String,
}

/// The EIP-712 types of a forwarder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Eip712Types {
    /// The fields, in order.
    #[serde(rename = "ForwardRequest")]
    pub forward_request: Vec<Eip712Field>,
}

/// One field of an EIP-712 type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Eip712Field {
    /// Its name.
    pub name: String,
    /// Its type, as Solidity writes it.
    #[serde(rename = "type")]
    pub kind: String,
}
