//! What of an RPC's answers is read. Fields that are not named are ignored:
//! chains differ in what more they say.

use alloy::primitives::Bloom;
use domain::evm::BlockRef;
use domain::{Address, B256, Bytes};
use serde::Deserialize;

/// A block, its transactions by hash.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Block {
    #[serde(with = "alloy::serde::quantity")]
    pub(super) number: u64,
    pub(super) hash: B256,
    pub(super) parent_hash: B256,
    #[serde(with = "alloy::serde::quantity")]
    pub(super) timestamp: u64,
    pub(super) logs_bloom: Bloom,
    #[serde(default, with = "alloy::serde::quantity::opt")]
    pub(super) base_fee_per_gas: Option<u128>,
    pub(super) transactions: Vec<B256>,
}

impl Block {
    pub(super) const fn reference(&self) -> BlockRef {
        BlockRef { number: self.number, hash: self.hash, time: self.timestamp }
    }
}

/// A log in a block.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Log {
    pub(super) address: Address,
    pub(super) topics: Vec<B256>,
    pub(super) data: Bytes,
    #[serde(with = "alloy::serde::quantity")]
    pub(super) block_number: u64,
    pub(super) block_hash: B256,
    pub(super) transaction_hash: B256,
    #[serde(with = "alloy::serde::quantity")]
    pub(super) log_index: u64,
    #[serde(default)]
    pub(super) removed: bool,
}

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Receipt {
    pub(super) transaction_hash: B256,
    pub(super) block_hash: B256,
    #[serde(with = "alloy::serde::quantity")]
    pub(super) block_number: u64,
    #[serde(with = "alloy::serde::quantity")]
    pub(super) status: u64,
    #[serde(with = "alloy::serde::quantity")]
    pub(super) gas_used: u64,
    #[serde(default, with = "alloy::serde::quantity::opt")]
    pub(super) effective_gas_price: Option<u128>,
    pub(super) logs: Vec<Log>,
}
