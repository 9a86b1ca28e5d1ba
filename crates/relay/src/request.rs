//! Forward requests: from JSON to what the forwarder takes. Pure.

use alloy_primitives::aliases::U48;
use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_sol_types::{Eip712Domain, SolCall, SolStruct};
use wire::v1::relay::{ForwardRequest as ForwardRequestText, SignedRequest};

use crate::abi::{ERC2771Forwarder, ForwardRequest};
use crate::chain::{ChainParameters, EthCall};
use crate::payment::recover;
use crate::text::{self, ParseError};
use domain::relay::{ForwarderNonce, RelayEntry};

/// A forward request whose signature was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedRequest {
    /// Who signed.
    pub from: Address,
    /// Who is called.
    pub to: Address,
    /// Wei.
    pub value: U256,
    /// Gas for the call.
    pub gas: u64,
    /// The forwarder's nonce.
    pub nonce: U256,
    /// Unix seconds until which it is good.
    pub deadline: u64,
    /// The call.
    pub data: Bytes,
    /// r, s, v.
    pub signature: Bytes,
    /// What was signed: binds chain, forwarder and every field.
    pub digest: B256,
}

/// What a request may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    /// Gas at most.
    pub max_gas: u64,
    /// Bytes of the call at most.
    pub max_data: usize,
    /// Wei at most.
    pub max_value: U256,
    /// Seconds it must be good for at least.
    pub min_window_s: u64,
    /// Seconds it may be good for at most.
    pub max_window_s: u64,
}

/// Why a request is refused before anything is asked of the chain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// A field has the wrong shape.
    #[error("{field} {error}")]
    Field {
        /// Which.
        field: &'static str,
        /// What it should be.
        error: ParseError,
    },
    /// More gas than is allowed.
    #[error("gas is {0}; at most {1} is relayed")]
    Gas(u64, u64),
    /// More bytes than are allowed.
    #[error("data has {0} bytes; at most {1} are relayed")]
    Data(usize, usize),
    /// It would move CRO of ours.
    #[error("value is {0}; at most {1} is relayed")]
    Value(U256, U256),
    /// In the past, or about to be.
    #[error("the deadline is over, or less than {0} seconds ahead")]
    Late(u64),
    /// Too far ahead.
    #[error("the deadline is more than {0} seconds ahead")]
    Early(u64),
    /// Not a signature of `from` over this request in this domain.
    #[error("the signature is not that of `from` over this request, for this chain and forwarder")]
    Signature,
}

impl VerifiedRequest {
    /// Reads a request and checks its signature.
    ///
    /// # Errors
    /// Says which field is wrong.
    pub fn read(
        signed: &SignedRequest,
        facts: &ChainParameters,
        bounds: &RequestLimits,
        now_s: u64,
    ) -> Result<Self, RequestError> {
        let mut request = parse(signed)?;
        bounds.check(&request, now_s)?;
        request.digest =
            request.digest(facts).ok_or(RequestError::Field { field: "deadline", error: ParseError::TooLarge })?;
        if recover(&request.signature, request.digest) != Some(request.from) {
            return Err(RequestError::Signature);
        }
        Ok(request)
    }

    /// The nonce it uses.
    #[must_use]
    pub const fn forwarder_nonce(&self, facts: &ChainParameters) -> ForwarderNonce {
        ForwarderNonce { forwarder: facts.forwarder, from: self.from, nonce: self.nonce }
    }

    /// The first four bytes of the call.
    #[must_use]
    pub fn selector(&self) -> Option<[u8; 4]> {
        self.data.first_chunk().copied()
    }

    /// The call as the target gets it from the forwarder: the sender's address is
    /// appended (ERC-2771).
    #[must_use]
    pub fn inner(&self, facts: &ChainParameters) -> EthCall {
        let data = [self.data.as_ref(), self.from.as_slice()].concat().into();
        EthCall { from: facts.forwarder, to: self.to, value: self.value, data, gas: None }
    }

    /// `execute`, to try it: it reverts if anything at all is wrong, and says what.
    #[must_use]
    pub fn trial(&self, facts: &ChainParameters) -> EthCall {
        let data = ERC2771Forwarder::executeCall { request: self.data() }.abi_encode().into();
        EthCall { from: facts.relayer, to: facts.forwarder, value: self.value, data, gas: None }
    }

    /// `executeBatch` of this request alone, with the relayer for the leftover
    /// value. Unlike `execute` it does not revert when the called contract does:
    /// the nonce is spent then, so that nobody can execute later what was already
    /// reported as failed; the event says which it was.
    #[must_use]
    pub fn execution(&self, facts: &ChainParameters) -> Bytes {
        let call = ERC2771Forwarder::executeBatchCall { requests: vec![self.data()], refundReceiver: facts.relayer };
        call.abi_encode().into()
    }

    /// The request that an entry carries; `None` if it carries none.
    #[must_use]
    pub fn restore(entry: &RelayEntry) -> Option<Self> {
        let used = entry.nonce?;
        let call = ERC2771Forwarder::executeBatchCall::abi_decode(&entry.transaction.data).ok()?;
        let it = call.requests.into_iter().next()?;
        Some(Self {
            from: it.from,
            to: it.to,
            value: it.value,
            gas: it.gas.saturating_to(),
            nonce: used.nonce,
            deadline: it.deadline.saturating_to(),
            data: it.data,
            signature: it.signature,
            digest: entry.id,
        })
    }

    /// As JSON has it, without the signature.
    #[must_use]
    pub fn to_wire(&self) -> ForwardRequestText {
        ForwardRequestText {
            from: self.from.to_string(),
            to: self.to.to_string(),
            value: self.value.to_string(),
            gas: self.gas.to_string(),
            nonce: self.nonce.to_string(),
            deadline: self.deadline.to_string(),
            data: self.data.to_string(),
        }
    }

    fn data(&self) -> ERC2771Forwarder::ForwardRequestData {
        ERC2771Forwarder::ForwardRequestData {
            from: self.from,
            to: self.to,
            value: self.value,
            gas: U256::from(self.gas),
            deadline: U48::saturating_from(self.deadline),
            data: self.data.clone(),
            signature: self.signature.clone(),
        }
    }

    /// What its signer signs; `None` if the deadline has more than 48 bits.
    #[must_use]
    pub fn digest(&self, facts: &ChainParameters) -> Option<B256> {
        let signed = ForwardRequest {
            from: self.from,
            to: self.to,
            value: self.value,
            gas: U256::from(self.gas),
            nonce: self.nonce,
            deadline: U48::checked_from_limbs_slice(&[self.deadline])?,
            data: self.data.clone(),
        };
        Some(signed.eip712_signing_hash(&forwarder_domain(facts)))
    }
}

impl RequestLimits {
    fn check(&self, request: &VerifiedRequest, now_s: u64) -> Result<(), RequestError> {
        if request.gas > self.max_gas {
            return Err(RequestError::Gas(request.gas, self.max_gas));
        }
        if request.data.len() > self.max_data {
            return Err(RequestError::Data(request.data.len(), self.max_data));
        }
        if request.value > self.max_value {
            return Err(RequestError::Value(request.value, self.max_value));
        }
        if request.deadline < now_s.saturating_add(self.min_window_s) {
            return Err(RequestError::Late(self.min_window_s));
        }
        if request.deadline > now_s.saturating_add(self.max_window_s) {
            return Err(RequestError::Early(self.max_window_s));
        }
        Ok(())
    }
}

/// The version in every OpenZeppelin forwarder's domain.
pub(crate) const DOMAIN_VERSION: &str = "1";

pub(crate) fn forwarder_domain(facts: &ChainParameters) -> Eip712Domain {
    Eip712Domain::new(
        Some(facts.forwarder_name.clone().into()),
        Some(DOMAIN_VERSION.into()),
        Some(U256::from(facts.chain_id)),
        Some(facts.forwarder),
        None,
    )
}

fn parse(signed: &SignedRequest) -> Result<VerifiedRequest, RequestError> {
    let wire = &signed.request;
    Ok(VerifiedRequest {
        from: field("from", text::address(&wire.from))?,
        to: field("to", text::address(&wire.to))?,
        value: field("value", text::number(&wire.value))?,
        gas: field("gas", text::small(&wire.gas))?,
        nonce: field("nonce", text::number(&wire.nonce))?,
        deadline: field("deadline", text::small(&wire.deadline))?,
        data: field("data", text::bytes(&wire.data))?,
        signature: field("signature", text::signature(&signed.signature))?,
        digest: B256::ZERO,
    })
}

fn field<T>(field: &'static str, read: Result<T, ParseError>) -> Result<T, RequestError> {
    read.map_err(|error| RequestError::Field { field, error })
}
