//! What a mined transaction means for the request that it carried. Pure.

use alloy_primitives::Log;
use alloy_sol_types::SolEvent;

use crate::abi::ERC2771Forwarder::ExecutedForwardRequest;
use crate::chain::TransactionReceipt;
use domain::relay::{FinalStatus, ForwarderNonce, RelayOutcome};

/// What became of a forward request: a transaction that ran to its end says so
/// itself, in the forwarder's event for this signer and nonce. `None` if the
/// forwarder skipped the request; see [`skipped`].
pub(crate) fn of_request(mined: &TransactionReceipt, used: &ForwarderNonce) -> Option<RelayOutcome> {
    let undone = "the forwarder's transaction was undone; the nonce is not spent";
    if !mined.succeeded {
        return Some(outcome(mined, FinalStatus::Failed, Some(undone)));
    }
    executed(&mined.logs, used).map(|success| match success {
        true => outcome(mined, FinalStatus::Executed, None),
        false => outcome(mined, FinalStatus::Reverted, Some("the called contract reverted; the nonce is spent")),
    })
}

/// A request that the forwarder skipped as no longer valid, by whether its nonce is
/// spent.
pub(crate) fn skipped(mined: &TransactionReceipt, spent: bool) -> RelayOutcome {
    if spent {
        let why = "another transaction used this nonce first; this one had no effect";
        return outcome(mined, FinalStatus::Superseded, Some(why));
    }
    outcome(
        mined,
        FinalStatus::Failed,
        Some("the request was no longer valid when it was mined; the nonce is not spent"),
    )
}

/// What became of a sponsored call.
pub(crate) fn of_call(mined: &TransactionReceipt) -> RelayOutcome {
    let undone = "the called contract reverted";
    let (status, reason) =
        if mined.succeeded { (FinalStatus::Executed, None) } else { (FinalStatus::Failed, Some(undone)) };
    outcome(mined, status, reason)
}

/// Nothing is on the chain, and nothing will be.
pub(crate) fn never(why: &str) -> RelayOutcome {
    let reason = Some(why.to_owned());
    RelayOutcome { status: FinalStatus::Failed, tx: None, block: None, gas_used: None, gas_price: None, reason }
}

fn outcome(mined: &TransactionReceipt, status: FinalStatus, reason: Option<&str>) -> RelayOutcome {
    RelayOutcome {
        status,
        tx: Some(mined.tx),
        block: Some(mined.block),
        gas_used: Some(mined.gas_used),
        gas_price: Some(mined.gas_price),
        reason: reason.map(ToOwned::to_owned),
    }
}

/// Whether the forwarder executed this nonce of this signer here, and how. Other
/// contracts may log the same event: theirs do not count.
fn executed(logs: &[Log], used: &ForwarderNonce) -> Option<bool> {
    let of_ours = logs.iter().filter(|log| log.address == used.forwarder);
    let mut events = of_ours.filter_map(|log| ExecutedForwardRequest::decode_log(log).ok());
    events.find(|event| event.signer == used.from && event.nonce == used.nonce).map(|event| event.success)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::{Address, B256, U256};

    const USED: ForwarderNonce =
        ForwarderNonce { forwarder: Address::repeat_byte(1), from: Address::repeat_byte(2), nonce: U256::ZERO };

    fn mined(address: Address, signer: Address, nonce: u64, success: bool) -> TransactionReceipt {
        let event = ExecutedForwardRequest { signer, nonce: U256::from(nonce), success };
        let logs = vec![Log { address, data: event.encode_log_data() }];
        TransactionReceipt { tx: B256::ZERO, block: 1, gas_used: 2, gas_price: 3, succeeded: true, logs }
    }

    #[test]
    fn only_the_forwarders_own_event_for_this_signer_and_nonce_counts() {
        let status = |mined: &TransactionReceipt| of_request(mined, &USED).map(|outcome| outcome.status);
        assert_eq!(status(&mined(USED.forwarder, USED.from, 0, true)), Some(FinalStatus::Executed));
        assert_eq!(status(&mined(USED.forwarder, USED.from, 0, false)), Some(FinalStatus::Reverted));
        assert_eq!(status(&mined(Address::repeat_byte(9), USED.from, 0, true)), None);
        assert_eq!(status(&mined(USED.forwarder, Address::repeat_byte(9), 0, true)), None);
        assert_eq!(status(&mined(USED.forwarder, USED.from, 1, true)), None);
        let undone = TransactionReceipt { succeeded: false, ..mined(USED.forwarder, USED.from, 0, true) };
        assert_eq!(status(&undone), Some(FinalStatus::Failed));
    }
}
