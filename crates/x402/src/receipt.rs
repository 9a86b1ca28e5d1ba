//! Reading a receipt: did this transaction make this transfer?

use alloy_primitives::Log;
use alloy_sol_types::{SolEvent, sol};

use crate::Authorization;

sol! {
    event AuthorizationUsed(address indexed authorizer, bytes32 indexed nonce);
    event Transfer(address indexed from, address indexed to, uint256 value);
}

/// Whether a successful transaction's logs, all of them and in their order, hold
/// exactly this transfer: the token's `AuthorizationUsed` for payer and nonce,
/// and, as the token's next log, the `Transfer` to the payee.
///
/// The one must follow the other directly: a payer could spend the nonce on a
/// transfer to himself and put another payment's transfer into the same
/// transaction.
#[must_use]
pub fn pays<'a>(logs: impl IntoIterator<Item = &'a Log>, authorization: &Authorization) -> bool {
    let mut ours = logs.into_iter().filter(|log| log.address == authorization.asset).peekable();
    while let Some(log) = ours.next() {
        if uses(log, authorization) {
            return ours.peek().is_some_and(|next| transfers(next, authorization));
        }
    }
    false
}

fn uses(log: &Log, authorization: &Authorization) -> bool {
    AuthorizationUsed::decode_log(log)
        .is_ok_and(|used| used.authorizer == authorization.from && used.nonce == authorization.nonce)
}

fn transfers(log: &Log, authorization: &Authorization) -> bool {
    Transfer::decode_log(log).is_ok_and(|transfer| {
        transfer.from == authorization.from
            && transfer.to == authorization.to
            && transfer.value == authorization.value.to_u256()
    })
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{Address, B256, U256};
    use domain::Usdc;

    use super::*;

    const ASSET: Address = Address::repeat_byte(0xaa);
    const PAYER: Address = Address::repeat_byte(1);
    const PAYEE: Address = Address::repeat_byte(2);
    const NONCE: B256 = B256::repeat_byte(7);

    fn authorization() -> Authorization {
        Authorization {
            chain_id: 338,
            asset: ASSET,
            from: PAYER,
            to: PAYEE,
            value: Usdc(10),
            valid_after: 0,
            valid_before: 9,
            nonce: NONCE,
        }
    }

    fn used(nonce: B256) -> Log {
        Log { address: ASSET, data: AuthorizationUsed { authorizer: PAYER, nonce }.encode_log_data() }
    }

    fn moved(to: Address, value: u64) -> Log {
        Log { address: ASSET, data: Transfer { from: PAYER, to, value: U256::from(value) }.encode_log_data() }
    }

    #[test]
    fn a_transfer_right_after_its_nonce_pays() {
        assert!(pays(&[used(NONCE), moved(PAYEE, 10)], &authorization()));
    }

    #[test]
    fn logs_of_other_contracts_between_them_do_not_matter() {
        let mut noise = moved(PAYEE, 10);
        noise.address = Address::repeat_byte(0xbb);
        assert!(pays(&[noise.clone(), used(NONCE), noise, moved(PAYEE, 10)], &authorization()));
    }

    #[test]
    fn a_nonce_spent_on_another_transfer_does_not_pay() {
        for logs in [
            vec![used(NONCE), moved(PAYER, 10)],
            vec![used(NONCE), moved(PAYEE, 9)],
            vec![used(NONCE)],
            vec![moved(PAYEE, 10)],
            vec![],
        ] {
            assert!(!pays(&logs, &authorization()), "{logs:?}");
        }
    }

    #[test]
    fn another_payments_transfer_in_the_same_transaction_does_not_pay_for_this_one() {
        let logs = [used(NONCE), moved(PAYER, 10), used(B256::repeat_byte(8)), moved(PAYEE, 10)];
        assert!(!pays(&logs, &authorization()));
    }

    #[test]
    fn a_false_token_with_the_same_events_does_not_pay() {
        let mut logs = [used(NONCE), moved(PAYEE, 10)];
        logs.iter_mut().for_each(|log| log.address = Address::repeat_byte(0xcc));
        assert!(!pays(&logs, &authorization()));
    }
}
