//! What is fuzzed of this crate: transactions that others made.

use alloy::eips::eip2718::Encodable2718;
use alloy_primitives::{Bytes, keccak256};

use crate::raw::decode;

/// Cronos' testnet.
const CHAIN_ID: u64 = 338;

/// A raw transaction: one that is taken has this writing alone, and the hash of it.
///
/// # Panics
/// When the bytes break that.
pub fn transaction(bytes: &[u8]) {
    let raw = Bytes::copy_from_slice(bytes);
    let Ok((tx, call)) = decode(&raw, CHAIN_ID) else { return };
    assert_eq!(tx.encoded_2718(), bytes, "a transaction has one writing");
    assert_eq!(*tx.tx_hash(), keccak256(bytes), "and one name");
    assert!(call.gas.is_some());
}
