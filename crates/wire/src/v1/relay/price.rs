//! What relaying costs, and how it is paid.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Priority;

/// The body of a 402: what to pay, and where.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PaymentRequired {
    /// `Payment Required`, or the code of what was wrong with the payment.
    pub error: String,
    /// What was wrong with the payment, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The terms.
    pub x402: PaymentOptions,
    /// Where the price comes from.
    pub quote: FeeQuote,
}

/// The terms of a 402.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PaymentOptions {
    /// 1.
    pub version: u64,
    /// One entry.
    pub accepts: Vec<PaymentRequirements>,
}

/// One way to pay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PaymentRequirements {
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
pub struct FeeQuote {
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
pub struct FeePayment {
    /// 1.
    pub version: u64,
    /// `exact`.
    pub scheme: String,
    /// CAIP-2.
    pub network: String,
    /// The authorization, signed.
    pub payload: ExactPayload,
}

/// An authorization with its signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExactPayload {
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
    pub pricing: Option<PriorityPrices>,
}

/// The price at each priority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[expect(missing_docs, reason = "named as the priorities")]
pub struct PriorityPrices {
    pub slow: PriorityPrice,
    pub normal: PriorityPrice,
    pub fast: PriorityPrice,
}

/// The price at one priority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PriorityPrice {
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
