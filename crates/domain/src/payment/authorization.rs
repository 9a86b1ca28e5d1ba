//! EIP-3009 authorizations: what is signed, and how a receipt shows that it paid.

use std::fmt;
use std::sync::LazyLock;

use alloy_primitives::{Log, Signature, keccak256};

use crate::{Address, B256, U256, Usdc};

/// The EIP-712 type that EIP-3009 has payers sign.
static TYPE_HASH: LazyLock<B256> = LazyLock::new(|| {
    keccak256(
        "TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)",
    )
});
/// The first topic of the event by which a token says that a nonce is used.
static USED: LazyLock<B256> = LazyLock::new(|| keccak256("AuthorizationUsed(address,bytes32)"));
/// The first topic of ERC-20's `Transfer`.
static TRANSFER: LazyLock<B256> = LazyLock::new(|| keccak256("Transfer(address,address,uint256)"));

/// What a payer signs, as EIP-3009's `transferWithAuthorization` takes it, and the
/// token that takes it. Times are Unix seconds, of 256 bits as in the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Authorization {
    /// The chain of the token (EIP-155).
    pub chain_id: u64,
    /// The token.
    pub asset: Address,
    /// Who pays.
    pub from: Address,
    /// Who is paid.
    pub to: Address,
    /// How much.
    pub value: Usdc,
    /// Valid only after this second: the token wants `now > valid_after`.
    pub valid_after: U256,
    /// Valid only before this second: the token wants `now < valid_before`.
    pub valid_before: U256,
    /// The payer's number for this payment; a token takes each once per payer.
    pub nonce: B256,
}

impl Authorization {
    /// What no two payments share.
    #[must_use]
    pub const fn key(&self) -> PaymentKey {
        PaymentKey { chain_id: self.chain_id, asset: self.asset, payer: self.from, nonce: self.nonce }
    }

    /// The hash that its payer signs (EIP-712). `separator` is that of the token's
    /// domain, `DOMAIN_SEPARATOR()`.
    #[must_use]
    pub fn digest(&self, separator: B256) -> B256 {
        let words = [
            *TYPE_HASH,
            self.from.into_word(),
            self.to.into_word(),
            self.value.to_u256().into(),
            self.valid_after.into(),
            self.valid_before.into(),
            self.nonce,
        ];
        let message = keccak256(words.map(|word| word.0).as_flattened());
        keccak256([&[0x19, 0x01], separator.as_slice(), message.as_slice()].concat())
    }

    /// Whether a successful transaction's logs, all of them and in their order, hold
    /// exactly this transfer: the token's `AuthorizationUsed` for payer and nonce,
    /// and, as the token's next log, the `Transfer` to the payee.
    ///
    /// The one must follow the other directly: a payer could spend the nonce on a
    /// transfer to himself and put another payment's transfer into the same
    /// transaction.
    #[must_use]
    pub fn is_paid_by<'a>(&self, logs: impl IntoIterator<Item = &'a Log>) -> bool {
        let mut of_token = logs.into_iter().filter(|log| log.address == self.asset);
        of_token.by_ref().any(|log| self.is_used_by(log)) && of_token.next().is_some_and(|log| self.is_made_by(log))
    }

    fn is_used_by(&self, log: &Log) -> bool {
        log.topics() == [*USED, self.from.into_word(), self.nonce] && log.data.data.is_empty()
    }

    fn is_made_by(&self, log: &Log) -> bool {
        let value = self.value.to_u256().to_be_bytes::<32>();
        log.topics() == [*TRANSFER, self.from.into_word(), self.to.into_word()] && log.data.data[..] == value
    }
}

/// An authorization and its signature. The signature is good for exactly one
/// transfer to exactly one payee, so it is no secret; `Debug` leaves it out for
/// brevity.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SignedAuthorization {
    /// What was signed.
    pub authorization: Authorization,
    /// 65 bytes, `s` in the lower half of the order, `v` 27 or 28.
    pub signature: Signature,
}

impl fmt::Debug for SignedAuthorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SignedAuthorization").field(&self.authorization).finish()
    }
}

/// What makes a payment itself and no other: unique in the record, and in the
/// token (`authorizationState(authorizer, nonce)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PaymentKey {
    /// The chain of the token.
    pub chain_id: u64,
    /// The token.
    pub asset: Address,
    /// Who pays.
    pub payer: Address,
    /// The payer's number.
    pub nonce: B256,
}

impl fmt::Display for PaymentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "eip155:{}/{}/{}/{}", self.chain_id, self.asset, self.payer, self.nonce)
    }
}

/// What a token says of an authorization, as of a block that is deep enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorizationState {
    /// Not used up to a block of this time.
    Unused {
        /// The block's time, in Unix seconds.
        as_of: u64,
    },
    /// Used for exactly this transfer, whoever sent it.
    Paid {
        /// The transaction.
        tx: B256,
    },
    /// Its nonce is used up without this transfer: cancelled, or spent on another
    /// one.
    Void,
}

#[cfg(test)]
mod tests {
    use alloy_primitives::LogData;

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
            valid_after: U256::ZERO,
            valid_before: U256::MAX,
            nonce: NONCE,
        }
    }

    fn log(topics: [B256; 3], data: &[u8]) -> Log {
        Log { address: ASSET, data: LogData::new_unchecked(topics.to_vec(), data.to_vec().into()) }
    }

    fn used(nonce: B256) -> Log {
        log([keccak256("AuthorizationUsed(address,bytes32)"), PAYER.into_word(), nonce], &[])
    }

    fn moved(to: Address, value: u64) -> Log {
        let topics = [keccak256("Transfer(address,address,uint256)"), PAYER.into_word(), to.into_word()];
        log(topics, &U256::from(value).to_be_bytes::<32>())
    }

    #[test]
    fn a_transfer_right_after_its_nonce_pays() {
        assert!(authorization().is_paid_by(&[used(NONCE), moved(PAYEE, 10)]));
    }

    #[test]
    fn logs_of_other_contracts_between_them_do_not_matter() {
        let noise = Log { address: Address::repeat_byte(0xbb), ..moved(PAYEE, 10) };
        assert!(authorization().is_paid_by(&[noise.clone(), used(NONCE), noise, moved(PAYEE, 10)]));
    }

    #[test]
    fn a_nonce_spent_on_another_transfer_does_not_pay() {
        for logs in [
            vec![used(NONCE), moved(PAYER, 10)],
            vec![used(NONCE), moved(PAYEE, 9)],
            vec![used(NONCE), used(B256::ZERO), moved(PAYEE, 10)],
            vec![used(NONCE)],
            vec![moved(PAYEE, 10)],
            vec![],
        ] {
            assert!(!authorization().is_paid_by(&logs), "{logs:?}");
        }
    }

    #[test]
    fn another_payments_transfer_in_the_same_transaction_does_not_pay_for_this_one() {
        let logs = [used(NONCE), moved(PAYER, 10), used(B256::repeat_byte(8)), moved(PAYEE, 10)];
        assert!(!authorization().is_paid_by(&logs));
    }

    #[test]
    fn a_false_token_with_the_same_events_does_not_pay() {
        let logs = [used(NONCE), moved(PAYEE, 10)].map(|log| Log { address: Address::repeat_byte(0xcc), ..log });
        assert!(!authorization().is_paid_by(&logs));
    }
}
