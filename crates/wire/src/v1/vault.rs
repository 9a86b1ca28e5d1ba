//! The financial layer over HTTP: the chain a gateway works on, links of wallets,
//! agents' vaults and tasks, prices.
//!
//! Amounts are micro-USDC, as decimal strings. Addresses, hashes and signatures
//! are `0x` and hex, as the EVM's tools write them.

use std::collections::BTreeMap;

use domain::vault::TaskTerms;
use domain::{Address, B256, Usdc, Wallet};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The answer of `GET /chain`: what a signature must be made for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChainResponse {
    /// EIP-155 chain id: 25 is Cronos, 338 its testnet.
    #[schema(example = 338)]
    pub chain_id: u64,
    /// The token that tasks and requests are paid in.
    #[schema(value_type = crate::EvmAddress)]
    pub usdc: Address,
    /// The name in its EIP-712 domain.
    pub usdc_name: String,
    /// The version in its EIP-712 domain.
    pub usdc_version: String,
    /// The factory of vaults.
    #[schema(value_type = crate::EvmAddress)]
    pub factory: Address,
    /// The ERC-2771 forwarder that vaults trust.
    #[schema(value_type = crate::EvmAddress)]
    pub forwarder: Address,
    /// The name in its EIP-712 domain; the version is `1`.
    pub forwarder_name: String,
    /// Blocks on top of one before it counts.
    pub confirmations: u64,
    /// Who pays the gas of signed calls; absent where nobody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<crate::EvmAddress>)]
    pub relayer: Option<Address>,
}

/// `POST /links`: the holder and the owner say, each by a signature over the same
/// text, that they belong together. Signed by the holder like every request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LinkRequest {
    /// The text, as `palatine wallet link` writes it.
    pub text: String,
    /// The holder's ed25519 signature of it, base58.
    pub holder_signature: String,
    /// The owner's EIP-191 signature of it, `0x` and 65 bytes of hex.
    pub owner_signature: String,
}

/// The answer of `POST /links` and `GET /links`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LinkResponse {
    /// The Solana wallet.
    pub holder: Wallet,
    /// The EVM address.
    #[schema(value_type = crate::EvmAddress)]
    pub owner: Address,
    /// What both have signed.
    pub text: String,
    /// The holder's signature of it, base58.
    pub holder_signature: String,
    /// The owner's signature of it.
    pub owner_signature: String,
}

/// Where an agent's vault is on its way onto the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VaultState {
    /// Its owner has not signed for it yet.
    Unsigned,
    /// Signed for; on its way.
    Deploying,
    /// On the chain.
    Deployed,
    /// The chain refused it; `reason` says why.
    Failed,
}

impl VaultState {
    /// The state as it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unsigned => "unsigned",
            Self::Deploying => "deploying",
            Self::Deployed => "deployed",
            Self::Failed => "failed",
        }
    }
}

/// An agent's vault, as `/status` and `/agents/{id}/vault` show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AgentVault {
    /// The chain it is on.
    pub chain_id: u64,
    /// Its address, known before it is deployed.
    #[schema(value_type = crate::EvmAddress)]
    pub address: Address,
    /// Who owns it: the holder's linked address.
    #[schema(value_type = crate::EvmAddress)]
    pub owner: Address,
    /// The agent's own address.
    #[schema(value_type = crate::EvmAddress)]
    pub agent_wallet: Address,
    /// How far it is.
    pub state: VaultState,
    /// The transaction that deployed it, where it went through this gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<crate::EvmHash>)]
    pub tx: Option<B256>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `POST /agents/{id}/vault`: the owner's EIP-712 signature of `CreateVault`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeployRequest {
    /// Unix seconds until which the signature is good.
    pub deadline: u64,
    /// The signature, `0x` and hex.
    pub signature: String,
}

/// A task, as the ledger of this gateway has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Task {
    /// Its id: a hash of chain, vault and all its terms.
    #[schema(value_type = crate::EvmHash)]
    pub id: B256,
    /// Where it is in its life: `funded`, `submitted`, `disputed`, `completed`,
    /// `refunded` or `resolved`.
    #[schema(example = "funded")]
    pub state: String,
    /// What was paid in.
    #[schema(value_type = String, example = "5000000")]
    pub amount: Usdc,
    /// Who paid it in.
    #[schema(value_type = crate::EvmAddress)]
    pub creator: Address,
    /// All its terms, as the contract has them: what every later call repeats.
    #[schema(value_type = Object)]
    pub terms: TaskTerms,
    /// What is to be done, as the creator wrote it.
    pub metadata: String,
    /// Hash of what the agent delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<crate::EvmHash>)]
    pub result_hash: Option<B256>,
    /// Unix seconds at which the present state may be left by anyone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<u64>,
}

/// The answer of `GET /vaults/{address}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VaultResponse {
    /// Its address.
    #[schema(value_type = crate::EvmAddress)]
    pub address: Address,
    /// The name it was made for: an agent's id.
    pub pod_id: String,
    /// Who owns it.
    #[schema(value_type = crate::EvmAddress)]
    pub owner: Address,
    /// Who works and submits.
    #[schema(value_type = crate::EvmAddress)]
    pub agent_wallet: Address,
    /// Earned and not withdrawn.
    #[schema(value_type = String)]
    pub available_balance: Usdc,
    /// Earned ever.
    #[schema(value_type = String)]
    pub total_earnings: Usdc,
    /// Tasks that paid the agent.
    pub total_tasks: u64,
    /// In tasks that have not ended.
    #[schema(value_type = String)]
    pub locked: Usdc,
    /// What others may withdraw.
    #[schema(value_type = std::collections::HashMap<String, String>)]
    pub credits: BTreeMap<Address, Usdc>,
    /// Who decides disputes of new tasks.
    #[schema(value_type = crate::EvmAddress)]
    pub arbiter: Address,
    /// Who gets the fee of new tasks.
    #[schema(value_type = crate::EvmAddress)]
    pub fee_recipient: Address,
    /// The fee of new tasks, in hundredths of a percent.
    pub fee_bps: u16,
    /// Whether new tasks are refused.
    pub paused: bool,
    /// The block up to which this is known.
    pub block: u64,
}

/// The answer of `GET /vaults/{address}/tasks`: newest first, at most 500.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TasksResponse {
    /// The tasks.
    pub tasks: Vec<Task>,
}

/// `POST /agents/{id}/tasks/{task}/submit`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SubmitTaskRequest {
    /// Hash of what is delivered.
    #[schema(value_type = crate::EvmHash)]
    pub result_hash: B256,
}

/// What came of a call that went onto the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TxResponse {
    /// Whether the call took effect; `false` while that is not known yet.
    pub success: bool,
    /// The transaction.
    #[schema(value_type = crate::EvmHash)]
    pub tx: B256,
}

/// `PUT /agents/{id}/prices`, and the answer of `GET`: what a request costs, by
/// the beginning of its path. The longest that fits counts; no price, no charge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// Micro-USDC by path, such as `{"/v1/chat/completions": "10000"}`.
    #[schema(value_type = std::collections::HashMap<String, String>)]
    pub prices: BTreeMap<String, Usdc>,
}
