//! What is fuzzed of this crate: what other sellers, their facilitators and their buyers send.

use crate::wire::{CronosSettleResult, FacilitatorRequest, parse_request, read_receipt, read_terms};
use crate::{Dialect, Tokens};

/// Seconds of a time-out that no terms state.
const TIMEOUT_S: u64 = 60;
/// Characters of a facilitator's own words that are kept at most.
const MAX_WORDS: usize = 200;

/// What a facilitator is asked and answers, in each dialect, and the terms of other
/// sellers: nothing is taken for money on a chain that is not ours.
///
/// # Panics
/// When the bytes break that.
pub fn facilitator(bytes: &[u8], tokens: &Tokens) {
    let ours = |chain_id| tokens.iter().any(|token| token.chain_id() == chain_id);
    if let Ok(FacilitatorRequest { presented, terms }) = parse_request(bytes, tokens) {
        assert!(ours(presented.chain_id));
        assert!(presented.transfer.signature.normalize_s().is_none(), "a signature has one writing");
        assert!(presented.dialect != Dialect::V2 || presented.accepted.is_some(), "who pays in V2 says for what");
        assert!(terms.max_timeout_s <= i64::MAX.unsigned_abs(), "{}", terms.max_timeout_s);
    }
    for stated in [read_terms(None, bytes, tokens, TIMEOUT_S), read_terms(Some(bytes), b"", tokens, TIMEOUT_S)] {
        assert!(stated.into_iter().flatten().all(|terms| ours(terms.chain_id)));
    }
    if let Some(CronosSettleResult::Failed(words)) = CronosSettleResult::parse(bytes) {
        assert!(words.chars().count() <= MAX_WORDS);
    }
    let _ = read_receipt(bytes);
}
