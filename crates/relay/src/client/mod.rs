//! A relayer elsewhere: ours, or CroGas's own.
//!
//! It is not trusted. Its domain must be the one we expect before anything is
//! signed, its price under our cap and in our token before anything is paid, and
//! its word for what it did is held against the chain.
//!
//! | file | holds |
//! |---|---|
//! | `remote` | [`RelayClient`]: a method for each route |
//! | `http` | one exchange: a deadline, a bound on the body, no redirects |
//! | `terms` | pure: what is expected of a domain and of a 402 |

mod http;
mod remote;
mod terms;

use alloy::signers::SignerSync;
use alloy_primitives::{Address, B256, Bytes, U256};
use domain::Usdc;
use wire::v1::relay::CallStatus;

pub use remote::{RelayClient, RelayClientConfig};
pub use terms::ForwarderKind;

/// Somebody who signs: for the call, and for its price.
#[derive(Clone, Copy)]
pub struct RelayCallSigner<'a> {
    /// The address of the key.
    pub address: Address,
    /// The key.
    pub key: &'a (dyn SignerSync + Send + Sync),
}

impl std::fmt::Debug for RelayCallSigner<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CallSigner({})", self.address)
    }
}

/// A call that is to be relayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayCall {
    /// The contract.
    pub to: Address,
    /// The call.
    pub data: Bytes,
    /// Wei that go with it.
    pub value: U256,
    /// Gas for it.
    pub gas: u64,
    /// Unix seconds until which it is good.
    pub deadline: u64,
}

/// What may be paid for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxFee {
    /// At most.
    pub most: Usdc,
    /// The nonce of the authorization: 32 random bytes, fresh each time.
    pub nonce: B256,
    /// Unix seconds, now.
    pub now_s: u64,
}

/// What a relayer did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayResult {
    /// Whether the call succeeded: as the chain says where `proven`, otherwise as
    /// the relayer says.
    pub success: bool,
    /// What became of it; CroGas's own servers do not say.
    pub status: Option<CallStatus>,
    /// The transaction.
    pub tx: Option<B256>,
    /// What an authorization was signed for. Whether the relayer collected it, its
    /// `payment_tx` and the chain say.
    pub paid: Option<Usdc>,
    /// The transaction that collected it, as the relayer says.
    pub payment_tx: Option<B256>,
    /// Why it did not succeed, in the relayer's words.
    pub reason: Option<String>,
    /// Whether `success` was read from the chain.
    pub proven: bool,
}

/// Why nothing was relayed, or why it is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// No client could be made.
    #[error("make a client of the relayer: {0}")]
    Client(String),
    /// Not a URL.
    #[error("the relayer's address is not a URL like https://host")]
    Url,
    /// No whole answer.
    #[error("the relayer does not answer: {why}{paid}", paid = maybe_paid(*.paid))]
    Unreachable {
        /// What happened.
        why: String,
        /// What an authorization went out for, which the relayer may yet collect.
        /// The same request with the same payment asks again.
        paid: Option<Usdc>,
    },
    /// Not the JSON of this route.
    #[error("the relayer's answer is not what this route answers: {0}")]
    Garbage(String),
    /// Signing for it would be signing for somewhere else.
    #[error("the relayer's domain is not the expected one: {0}; nothing was signed")]
    OtherDomain(&'static str),
    /// The terms are not what we pay by.
    #[error("the relayer's terms are not acceptable: {0}; nothing was paid")]
    OtherTerms(&'static str),
    /// More than we pay.
    #[error("the relayer asks for {asked} USDC; at most {most} USDC were allowed")]
    TooDear {
        /// The price.
        asked: Usdc,
        /// The cap.
        most: Usdc,
    },
    /// It said no.
    #[error("the relayer refuses with {status} {code}: {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Its code.
        code: String,
        /// Its words.
        message: String,
    },
    /// The key does not sign.
    #[error("sign for the relayer: {0}")]
    Signing(String),
    /// The chain says otherwise.
    #[error("the relayer says that the call succeeded in {tx}, and the chain does not")]
    Disproved {
        /// The transaction it named.
        tx: B256,
    },
    /// The chain does not answer, so that nothing is proven.
    #[error("the relayer's word could not be held against the chain")]
    Chain(#[from] crate::chain::ChainError),
}

fn maybe_paid(paid: Option<Usdc>) -> String {
    paid.map_or_else(String::new, |paid| format!("; it may yet collect {paid} USDC"))
}
