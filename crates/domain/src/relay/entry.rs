//! One call that the relayer took on. The JSON of these types is stored: a field keeps
//! the name that the last version wrote.

use alloy_primitives::keccak256;
use serde::{Deserialize, Serialize};

use crate::payment::SignedAuthorization;
use crate::{Address, B256, Bytes, U256, UnixMillis, Usdc};

/// One call that was taken on. Its name is `id`: for a forward request its
/// EIP-712 digest, for a sponsored call the hash of chain, target and data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayEntry {
    /// Its name; unique.
    pub id: B256,
    /// Forward requests: the forwarder's nonce it uses.
    #[serde(rename = "lane")]
    pub nonce: Option<ForwarderNonce>,
    /// The transaction that carries it out, under [`RelayEntry::key`].
    #[serde(rename = "work")]
    pub transaction: RelayTransaction,
    /// What pays for it, where a fee was asked.
    pub payment: Option<FeePayment>,
    /// Where it is.
    pub state: RelayState,
    /// The entry that must end first and spend its nonce: the one before it of the
    /// same signer in a batch. Otherwise this one is never sent.
    pub after: Option<B256>,
    /// How often an entry of this id was replaceable before (see
    /// [`RelayEntry::is_replaceable`]).
    pub attempt: u32,
    /// When it was taken on.
    pub at: UnixMillis,
}

impl RelayEntry {
    /// Whether a new entry of the same id may take its place. A forward request
    /// that was once sent keeps its answer for ever; a bare call that had no effect
    /// may come again, and so may whatever was not paid for.
    #[must_use]
    pub const fn is_replaceable(&self) -> bool {
        match &self.state {
            RelayState::Paying | RelayState::Sending { .. } => false,
            RelayState::Unpaid { .. } => true,
            RelayState::Done { outcome, .. } => self.nonce.is_none() && !outcome.status.is_final(),
        }
    }

    /// Whether a new entry of the same id is the next attempt at this one.
    #[must_use]
    pub fn is_replaced_by(&self, next: &Self) -> bool {
        self.is_replaceable() && self.attempt.checked_add(1) == Some(next.attempt)
    }

    /// The key under which the chain is given the call: of each attempt another.
    #[must_use]
    pub fn key(&self) -> B256 {
        if self.attempt == 0 {
            return self.id;
        }
        keccak256([self.id.as_slice(), &self.attempt.to_be_bytes()].concat())
    }
}

/// A nonce of a forwarder (ERC-2771). Live entries (see
/// [`RelayState::holds_nonce`]) never share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ForwarderNonce {
    /// The forwarder.
    pub forwarder: Address,
    /// Who signed.
    pub from: Address,
    /// The nonce.
    pub nonce: U256,
}

impl ForwarderNonce {
    /// All of it, for an index: forwarder, signer, nonce.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        [self.forwarder.as_slice(), self.from.as_slice(), &self.nonce.to_be_bytes::<32>()].concat()
    }
}

/// A transaction that is ready to be sent from the relayer's account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayTransaction {
    /// Who is called: the forwarder, or the target itself.
    pub to: Address,
    /// Wei.
    pub value: U256,
    /// The call.
    pub data: Bytes,
    /// Gas it is expected to need. The sender's own estimate, right before it is
    /// sent, is what counts.
    pub gas: u64,
}

/// A payment of the relayer's fee. An authorization belongs to one group for ever: an
/// entry of its own, or the entries of one batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeePayment {
    /// What it buys: the hash over the ids of all entries it pays for.
    pub group: B256,
    /// The authorization, with a signature that was checked.
    #[serde(rename = "payment")]
    pub signed: SignedAuthorization,
    /// Gas that collecting it is expected to need.
    pub gas: u64,
}

impl FeePayment {
    /// The key under which the chain is given its collection.
    #[must_use]
    pub fn key(&self) -> B256 {
        let of = &self.signed.authorization;
        keccak256([b"payment".as_slice(), of.asset.as_slice(), of.from.as_slice(), of.nonce.as_slice()].concat())
    }
}

/// Where an entry is. `Paying → Sending → Done`, or `Paying → Unpaid`; without a
/// fee it begins at `Sending`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RelayState {
    /// The fee is being collected.
    Paying,
    /// The fee is in, or none was asked; the call is being sent.
    Sending {
        /// What was taken, where a fee was.
        fee: Option<CollectedFee>,
    },
    /// It is over.
    Done {
        /// What was taken, where a fee was.
        fee: Option<CollectedFee>,
        /// What became of it.
        #[serde(rename = "verdict")]
        outcome: RelayOutcome,
    },
    /// The fee could not be collected: nothing was sent, and the request may come
    /// again with another payment.
    Unpaid {
        /// Why not.
        why: String,
    },
}

impl RelayState {
    /// Whether something remains to be done.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self, Self::Paying | Self::Sending { .. })
    }

    /// Whether the entry keeps its forwarder nonce: it is open, or it spent the nonce.
    /// One that ended without effect makes room for another request of that nonce.
    #[must_use]
    pub const fn holds_nonce(&self) -> bool {
        match self {
            Self::Paying | Self::Sending { .. } => true,
            Self::Done { outcome, .. } => outcome.status.is_final(),
            Self::Unpaid { .. } => false,
        }
    }

    /// Whether the entry may step from this state to that one.
    #[must_use]
    pub const fn may_become(&self, next: &Self) -> bool {
        matches!(
            (self, next),
            (Self::Paying, Self::Sending { fee: Some(_) } | Self::Unpaid { .. })
                | (Self::Sending { .. }, Self::Done { .. })
        )
    }
}

/// A fee that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectedFee {
    /// How much.
    pub amount: Usdc,
    /// The transaction that moved it.
    pub tx: B256,
}

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayOutcome {
    /// In a word.
    pub status: FinalStatus,
    /// The transaction, if one was mined.
    pub tx: Option<B256>,
    /// Its block.
    pub block: Option<u64>,
    /// Its gas.
    pub gas_used: Option<u64>,
    /// Wei per gas.
    pub gas_price: Option<u128>,
    /// Why it did not succeed.
    pub reason: Option<String>,
}

/// The ends that a call can come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinalStatus {
    /// It did what was asked.
    Executed,
    /// The called contract refused; a forwarder's nonce is spent.
    Reverted,
    /// Without effect; the nonce is not spent.
    Failed,
    /// Another transaction used the nonce first.
    Superseded,
}

impl FinalStatus {
    /// Whether the request can have no effect any more, ever: its nonce is spent.
    #[must_use]
    pub const fn is_final(self) -> bool {
        match self {
            Self::Executed | Self::Reverted | Self::Superseded => true,
            Self::Failed => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the last version wrote an entry that waits for its fee, and one that is over.
    const PAYING: &str = r#"{"id":"0x0101010101010101010101010101010101010101010101010101010101010101","lane":{"forwarder":"0xf0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0","from":"0x0101010101010101010101010101010101010101","nonce":"0x7"},"work":{"to":"0xf0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0","value":"0x7","data":"0x0102","gas":18446744073709551615},"payment":{"group":"0x0202020202020202020202020202020202020202020202020202020202020202","payment":{"token":"0x0505050505050505050505050505050505050505","authorization":{"from":"0x0101010101010101010101010101010101010101","to":"0xeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee","value":"5","valid_after":"0x0","valid_before":"0x77","nonce":"0x0101010101010101010101010101010101010101010101010101010101010101"},"signature":"0x010101010101010101010101010101010101010101010101010101010101010102020202020202020202020202020202020202020202020202020202020202021b"},"gas":90000},"state":"paying","after":null,"attempt":0,"at":1}"#;
    const DONE: &str = r#"{"id":"0x0101010101010101010101010101010101010101010101010101010101010101","lane":null,"work":{"to":"0xf0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0","value":"0x0","data":"0x","gas":1},"payment":null,"state":{"done":{"fee":{"amount":"1","tx":"0x0808080808080808080808080808080808080808080808080808080808080808"},"verdict":{"status":"superseded","tx":null,"block":9,"gas_used":null,"gas_price":5000000000000,"reason":"r"}}},"after":"0x0303030303030303030303030303030303030303030303030303030303030303","attempt":2,"at":1}"#;

    #[test]
    fn what_the_last_version_wrote_is_read() {
        let paying: RelayEntry = serde_json::from_str(PAYING).unwrap();
        assert_eq!(paying.state, RelayState::Paying);
        assert_eq!(paying.nonce.map(|nonce| nonce.nonce), Some(U256::from(7)));
        assert_eq!((paying.transaction.gas, paying.key()), (u64::MAX, paying.id));
        let payment = paying.payment.unwrap();
        assert_eq!((payment.gas, payment.signed.authorization.value), (90_000, Usdc(5)));
        assert_eq!(payment.signed.authorization.valid_before, U256::from(0x77));
        let done: RelayEntry = serde_json::from_str(DONE).unwrap();
        let RelayState::Done { fee: Some(CollectedFee { amount: Usdc(1), .. }), outcome } = &done.state else {
            panic!("{done:?}")
        };
        assert_eq!((outcome.status, outcome.gas_price), (FinalStatus::Superseded, Some(5_000_000_000_000)));
        assert!(done.after.is_some() && !done.is_replaceable() && done.key() != done.id);
    }

    #[test]
    fn what_is_written_is_what_the_last_version_wrote() {
        let same = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        let again = |text: &str| serde_json::to_value(serde_json::from_str::<RelayEntry>(text).unwrap()).unwrap();
        assert_eq!(again(DONE), same(DONE));
        let mut paying = again(PAYING);
        // Besides the chain of the payment, which the last version skips.
        paying["payment"]["payment"].as_object_mut().unwrap().remove("chain_id");
        assert_eq!(paying, same(PAYING));
    }
}
