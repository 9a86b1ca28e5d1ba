//! How a relayer is.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The answer of `GET /health`: 200 when healthy, 503 otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RelayerHealth {
    /// `healthy`; `degraded`, short of CRO; `unhealthy`, without a chain.
    pub status: HealthStatus,
    /// Who sends.
    pub relayer_address: String,
    /// What it has, in whole units.
    pub relayer_balance: RelayerBalance,
    /// What it did, since its journal began.
    pub stats: RelayerStats,
    /// What it reckons with.
    pub pricing: PricingInputs,
    /// What is wrong.
    pub warnings: Vec<String>,
    /// This relayer swaps nothing by itself.
    pub auto_rebalance: RebalanceStatus,
    /// Its one sender.
    pub relayer_pool: SenderPool,
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
pub struct RelayerBalance {
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
pub struct RelayerStats {
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
pub struct PricingInputs {
    /// Dollars per CRO; for people.
    pub cro_usd_price: f64,
    /// Whole gwei per gas.
    pub current_gas_price_gwei: String,
}

/// Whether the relayer swaps USDC for CRO by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RebalanceStatus {
    /// Whether it would.
    pub enabled: bool,
    /// Whether it does just now.
    pub is_rebalancing: bool,
}

/// The relayer's senders.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SenderPool {
    /// How many.
    pub total_relayers: usize,
    /// Each of them.
    pub relayers: Vec<SenderInfo>,
}

/// One sender.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SenderInfo {
    /// Its address.
    pub address: String,
    /// Its calls under way.
    pub pending_tx_count: u64,
}
