//! The gasless relayer: CroGas's routes and JSON, and what we add to them.
//!
//! CroGas's fields keep their names and types; what we add stands beside them.
//! Numbers of the chain travel as decimal texts, addresses and bytes as `0x` and
//! hexadecimal digits: the relayer parses them, strictly.
//!
//! | route | takes | answers |
//! |---|---|---|
//! | `POST /meta/relay` | [`RelayRequest`] | [`RelayAnswer`] |
//! | `POST /meta/batch` | [`BatchRequest`] | [`BatchAnswer`] |
//! | `POST /meta/call` (ours) | [`CallRequest`] | [`RelayAnswer`] |
//! | `POST /relay` | [`RawRequest`] | [`RelayAnswer`] |
//! | `GET /meta/nonce/{address}` | – | [`NonceAnswer`] |
//! | `GET /meta/domain` | – | [`DomainAnswer`] |
//! | `GET /estimate` | [`EstimateQuery`] | [`EstimateAnswer`] |
//! | `GET /health` | – | [`Health`] |
//!
//! A 402 is a [`PaymentRequired`]; every other refusal is a [`Refusal`]. A call
//! that was relayed and failed on the chain is a 200 whose `success` is `false`,
//! as CroGas has it; one whose fate is not known yet is a 202.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// The header that carries a payment: base64 of the JSON of a [`Payment`].
pub const X_PAYMENT: &str = "x-payment";
/// The version of x402 that CroGas speaks.
pub const X402_VERSION: u64 = 1;
/// Requests of one batch at most.
pub const MAX_BATCH: usize = 10;

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
pub struct CallRequest {
    /// The contract that is called.
    pub to: String,
    /// The call, in hexadecimal.
    pub data: String,
}

/// `POST /relay`: a whole transaction, whose signer pays its gas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RawRequest {
    /// The signed transaction (EIP-2718), in hexadecimal.
    pub signed_tx: String,
    /// How to wait.
    #[serde(default)]
    pub options: RawOptions,
}

/// How long `POST /relay` waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RawOptions {
    /// Whether to wait for a block. Default true.
    pub wait_for_confirmation: bool,
    /// Blocks to wait for, from 1 to 12. Default 1.
    pub confirmations: u64,
}

impl Default for RawOptions {
    fn default() -> Self {
        Self { wait_for_confirmation: true, confirmations: 1 }
    }
}

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
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
    pub status: Status,
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
    pub status: Status,
    /// The transaction, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tx_hash: Option<String>,
    /// Why it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The contract that was called.
    pub to: String,
}

/// The body of a 402: what to pay, and where.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PaymentRequired {
    /// `Payment Required`, or the code of what was wrong with the payment.
    pub error: String,
    /// What was wrong with the payment, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The terms.
    pub x402: Offer,
    /// Where the price comes from.
    pub quote: Quote,
}

/// The terms of a 402.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Offer {
    /// 1.
    pub version: u64,
    /// One entry.
    pub accepts: Vec<Terms>,
}

/// One way to pay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Terms {
    /// `exact`.
    pub scheme: String,
    /// CAIP-2.
    #[schema(example = "eip155:338")]
    pub network: String,
    /// The token's address.
    pub asset: String,
    /// Whom to pay.
    pub pay_to: String,
    /// Micro-USDC.
    pub max_amount_required: String,
    /// What for.
    #[serde(default)]
    pub description: String,
    /// The token's EIP-712 domain, to sign the payment in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra: Option<TokenDomain>,
}

/// Name and version of a token's EIP-712 domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenDomain {
    /// The name.
    pub name: String,
    /// The version.
    pub version: String,
}

/// Where a price comes from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Quote {
    /// Gas that is paid for; of a batch, `totalGas` says it too.
    pub gas_estimate: String,
    /// Gwei per gas.
    pub gas_price_gwei: String,
    /// Dollars per CRO; for people, nothing is computed with it.
    pub cro_price: f64,
    /// The price in whole USDC.
    #[serde(rename = "priceUSDC")]
    pub price_usdc: String,
    /// As asked.
    pub priority: Priority,
    /// Its sign.
    pub priority_emoji: String,
    /// How long the relayer's last calls took.
    pub estimated_time: String,
    /// Until when the price is kept, RFC 3339.
    pub valid_until: String,
    /// Of a batch: how many requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transaction_count: Option<usize>,
    /// Of a batch: gas of all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_gas: Option<String>,
    /// Of a batch: what the requests would cost one by one, in whole USDC.
    #[serde(default, rename = "originalPriceUSDC", skip_serializing_if = "Option::is_none")]
    pub original_price_usdc: Option<String>,
    /// Of a batch: how much less that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discount_percent: Option<u64>,
}

/// What `X-Payment` holds, in base64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Payment {
    /// 1.
    pub version: u64,
    /// `exact`.
    pub scheme: String,
    /// CAIP-2.
    pub network: String,
    /// The authorization, signed.
    pub payload: PaymentPayload,
}

/// An authorization with its signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PaymentPayload {
    /// 65 bytes, in hexadecimal: r, s, v.
    pub signature: String,
    /// EIP-3009's `TransferWithAuthorization`.
    pub authorization: Authorization,
}

/// EIP-3009's `TransferWithAuthorization`, every number a decimal text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Authorization {
    /// Who pays.
    pub from: String,
    /// Who is paid.
    pub to: String,
    /// Micro-USDC.
    pub value: String,
    /// Unix seconds after which it is good.
    pub valid_after: String,
    /// Unix seconds before which it is good.
    pub valid_before: String,
    /// 32 bytes of the payer's choice.
    pub nonce: String,
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
    pub domain: Domain,
    /// The EIP-712 types.
    pub types: Types,
    /// The forwarder.
    pub forwarder_address: String,
}

/// An EIP-712 domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Domain {
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
pub struct Types {
    /// The fields, in order.
    #[serde(rename = "ForwardRequest")]
    pub forward_request: Vec<Member>,
}

/// One field of an EIP-712 type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its type, as Solidity writes it.
    #[serde(rename = "type")]
    pub kind: String,
}

/// The query of `GET /estimate`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EstimateQuery {
    /// The contract that would be called.
    pub to: String,
    /// The call, in hexadecimal. Default `0x`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// Wei that would go with it. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Default: all three are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
}

/// The answer of `GET /estimate`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EstimateAnswer {
    /// Gas of the whole transaction.
    pub gas_estimate: String,
    /// Whether that was measured by a trial. A call that asks who sends it reverts in
    /// the relayer's own name: then it is what a request of 100,000 gas costs at most.
    #[serde(default)]
    pub simulated: bool,
    /// Gwei per gas.
    #[serde(default)]
    pub gas_price_gwei: String,
    /// Dollars per CRO; for people.
    pub cro_price: f64,
    /// The price in whole USDC.
    #[serde(default, rename = "priceUSDC")]
    pub price_usdc: String,
    /// Until when the price is kept, RFC 3339.
    #[serde(default)]
    pub valid_until: String,
    /// Seconds for which it is kept.
    pub valid_for: u64,
    /// As asked, where one was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// How long the relayer's last calls took.
    #[serde(default)]
    pub estimated_time: String,
    /// Where no priority was named: what to take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recommended: Option<Priority>,
    /// Where no priority was named: all three.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pricing: Option<Pricing>,
}

/// The price at each priority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[expect(missing_docs, reason = "named as the priorities")]
pub struct Pricing {
    pub slow: PriceAt,
    pub normal: PriceAt,
    pub fast: PriceAt,
}

/// The price at one priority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PriceAt {
    /// CroGas's sign for it.
    pub emoji: String,
    /// Its name.
    pub label: String,
    /// In whole USDC.
    #[serde(rename = "priceUSDC")]
    pub price_usdc: String,
    /// How long the relayer's last calls took.
    pub estimated_time: String,
}

/// The answer of `GET /health`: 200 when healthy, 503 otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// `healthy`; `degraded`, short of CRO; `unhealthy`, without a chain.
    pub status: HealthStatus,
    /// Who sends.
    pub relayer_address: String,
    /// What it has, in whole units.
    pub relayer_balance: Balance,
    /// What it did, since its journal began.
    pub stats: Stats,
    /// What it reckons with.
    pub pricing: PricingFacts,
    /// What is wrong.
    pub warnings: Vec<String>,
    /// This relayer swaps nothing by itself.
    pub auto_rebalance: Rebalance,
    /// Its one sender.
    pub relayer_pool: Pool,
}

/// How a relayer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "said on the field")]
pub enum HealthStatus {
    Healthy,
    Degraded,
    Unhealthy,
}

/// What the relayer has, in whole units.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Balance {
    /// For gas.
    #[serde(rename = "CRO")]
    pub cro: String,
    /// In its receiving wallet.
    #[serde(rename = "USDC")]
    pub usdc: String,
}

/// What the relayer did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// Calls it took on.
    pub total_relayed: u64,
    /// Calls under way.
    pub pending: u64,
    /// Calls that succeeded.
    pub confirmed: u64,
    /// Calls that did not.
    pub failed: u64,
    /// Of those that ended, the share that succeeded.
    #[schema(example = "1.000")]
    pub success_rate: String,
}

/// What the relayer reckons with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PricingFacts {
    /// Dollars per CRO; for people.
    pub cro_usd_price: f64,
    /// Whole gwei per gas.
    pub current_gas_price_gwei: String,
}

/// Whether the relayer swaps USDC for CRO by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rebalance {
    /// Whether it would.
    pub enabled: bool,
    /// Whether it does just now.
    pub is_rebalancing: bool,
}

/// The relayer's senders.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pool {
    /// How many.
    pub total_relayers: usize,
    /// Each of them.
    pub relayers: Vec<Sender>,
}

/// One sender.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sender {
    /// Its address.
    pub address: String,
    /// Its calls under way.
    pub pending_tx_count: u64,
}

/// The body of every refusal that is not a 402 with terms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// A stable code for programs.
    #[schema(example = "INVALID_SIGNATURE")]
    pub error: String,
    /// One sentence for people.
    pub message: String,
    /// Of a batch: which request is at fault, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    /// Whole seconds after which to try again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
}
