//! Payments: what `X-Payment` holds, and whether it is what was asked for. Pure.

use alloy_primitives::{Address, B256, Bytes, Log, Signature, U256, keccak256};
use alloy_sol_types::{Eip712Domain, SolCall, SolEvent, SolStruct};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use domain::Usdc;
use serde::{Deserialize, Serialize};
use wire::relay::{Payment, X402_VERSION};

use crate::abi::{TestUSDC, TransferWithAuthorization};
use crate::chain::Facts;
use crate::text::{self, TextError};

/// Bytes of an `X-Payment` header at most: base64 of some 700 bytes of JSON.
pub const MAX_HEADER: usize = 4096;
/// Seconds that a payment must still be good for: it has to be mined.
pub const MIN_VALIDITY_S: u64 = 30;

/// EIP-3009's `TransferWithAuthorization`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Authorization {
    /// Who pays.
    pub from: Address,
    /// Who is paid.
    pub to: Address,
    /// How much.
    pub value: Usdc,
    /// Unix seconds after which it is good.
    pub valid_after: U256,
    /// Unix seconds before which it is good.
    pub valid_before: U256,
    /// Of the payer's choice.
    pub nonce: B256,
}

/// An authorization, with a signature that was checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedPayment {
    /// The token it is of.
    pub token: Address,
    /// What was signed.
    pub authorization: Authorization,
    /// r, s, v.
    pub signature: Bytes,
}

/// Why a payment is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PaymentError {
    /// Not base64 of the JSON of a payment.
    #[error("X-Payment is not the base64 of a payment's JSON")]
    Shape,
    /// A field of it has the wrong shape.
    #[error("X-Payment: {field} {error}")]
    Field {
        /// Which.
        field: &'static str,
        /// What it should be.
        error: TextError,
    },
    /// Of another protocol.
    #[error("X-Payment is of version {0}; this relayer takes version 1")]
    Version(u64),
    /// Of another scheme.
    #[error("X-Payment is not of the scheme exact")]
    Scheme,
    /// For another chain.
    #[error("X-Payment is not for {0}")]
    Network(String),
    /// To somebody else.
    #[error("the payment is to another wallet than {0}")]
    Payee(Address),
    /// Less than the price.
    #[error("the payment is of {paid} USDC; the price is {price} USDC")]
    TooLittle {
        /// What was offered.
        paid: Usdc,
        /// What was asked.
        price: Usdc,
    },
    /// Not good yet, or not for long enough.
    #[error("the payment must be valid now and for {MIN_VALIDITY_S} more seconds")]
    Window,
    /// Not the payer's signature in this token's domain.
    #[error("the payment's signature is not its payer's in the domain of {name} version {version} at {token}")]
    Signature {
        /// The token's name.
        name: String,
        /// Its version.
        version: String,
        /// Its address.
        token: Address,
    },
    /// Used or cancelled on the chain.
    #[error("the payment's nonce is used or cancelled")]
    Spent,
    /// Presented before, for something else.
    #[error("this payment was presented for another request")]
    Reused,
    /// The token would refuse it.
    #[error("the token would refuse the payment: {0}")]
    Refused(String),
    /// It could not be collected after all.
    #[error("the payment could not be collected: {0}")]
    Failed(String),
}

impl SignedPayment {
    /// Reads a header.
    ///
    /// # Errors
    /// Says which part has the wrong shape.
    pub fn read(header: &str, facts: &Facts) -> Result<Self, PaymentError> {
        let payment = decode(header)?;
        if payment.version != X402_VERSION {
            return Err(PaymentError::Version(payment.version));
        }
        if payment.scheme != SCHEME {
            return Err(PaymentError::Scheme);
        }
        if payment.network != network(facts.chain_id) {
            return Err(PaymentError::Network(network(facts.chain_id)));
        }
        let signature = field("signature", text::signature(&payment.payload.signature))?;
        let authorization = authorization(&payment.payload.authorization)?;
        Ok(Self { token: facts.token, authorization, signature })
    }

    /// Checks everything that can be checked without the chain.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn check(&self, facts: &Facts, payee: Address, price: Usdc, now_s: u64) -> Result<(), PaymentError> {
        let Authorization { to, value, valid_after, valid_before, .. } = &self.authorization;
        if *to != payee {
            return Err(PaymentError::Payee(payee));
        }
        if *value < price {
            return Err(PaymentError::TooLittle { paid: *value, price });
        }
        if *valid_after >= U256::from(now_s) || *valid_before <= U256::from(now_s.saturating_add(MIN_VALIDITY_S)) {
            return Err(PaymentError::Window);
        }
        let signer = recover(&self.signature, self.authorization.digest(facts));
        if signer == Some(self.authorization.from) {
            return Ok(());
        }
        let (name, version) = (facts.token_name.clone(), facts.token_version.clone());
        Err(PaymentError::Signature { name, version, token: facts.token })
    }

    /// What names this payment, for ever: its token, payer and nonce.
    #[must_use]
    pub fn key(&self) -> B256 {
        let Authorization { from, nonce, .. } = &self.authorization;
        keccak256([b"payment".as_slice(), self.token.as_slice(), from.as_slice(), nonce.as_slice()].concat())
    }

    /// The call that collects it.
    #[must_use]
    pub fn call(&self) -> Bytes {
        let Authorization { from, to, value, valid_after, valid_before, nonce } = self.authorization.clone();
        let (r, s, v) = (self.word(0), self.word(32), self.signature.get(64).copied().unwrap_or_default());
        let call = TestUSDC::transferWithAuthorizationCall {
            from,
            to,
            value: value.to_u256(),
            validAfter: valid_after,
            validBefore: valid_before,
            nonce,
            v,
            r,
            s,
        };
        call.abi_encode().into()
    }

    fn word(&self, at: usize) -> B256 {
        self.signature.get(at..at + 32).map(B256::from_slice).unwrap_or_default()
    }
}

impl Authorization {
    /// Whether these logs show that it moved its whole value.
    #[must_use]
    pub fn moved_in(&self, token: Address, logs: &[Log]) -> bool {
        let is_it = |log: &Log| {
            let transfer = TestUSDC::Transfer::decode_log(log).ok();
            transfer.is_some_and(|it| it.from == self.from && it.to == self.to && it.value == self.value.to_u256())
        };
        logs.iter().filter(|log| log.address == token).any(is_it)
    }

    /// As JSON has it.
    #[must_use]
    pub fn to_wire(&self) -> wire::relay::Authorization {
        wire::relay::Authorization {
            from: self.from.to_string(),
            to: self.to.to_string(),
            value: self.value.0.to_string(),
            valid_after: self.valid_after.to_string(),
            valid_before: self.valid_before.to_string(),
            nonce: self.nonce.to_string(),
        }
    }

    /// What its payer signs.
    #[must_use]
    pub fn digest(&self, facts: &Facts) -> B256 {
        let signed = TransferWithAuthorization {
            from: self.from,
            to: self.to,
            value: self.value.to_u256(),
            validAfter: self.valid_after,
            validBefore: self.valid_before,
            nonce: self.nonce,
        };
        signed.eip712_signing_hash(&token_domain(facts))
    }
}

/// x402's scheme of a fixed price.
pub(crate) const SCHEME: &str = "exact";

/// CAIP-2.
pub(crate) fn network(chain_id: u64) -> String {
    format!("eip155:{chain_id}")
}

fn token_domain(facts: &Facts) -> Eip712Domain {
    let Facts { token_name, token_version, chain_id, token, .. } = facts;
    Eip712Domain::new(
        Some(token_name.clone().into()),
        Some(token_version.clone().into()),
        Some(U256::from(*chain_id)),
        Some(*token),
        None,
    )
}

/// Who made this signature: 65 bytes, `v` 27 or 28 (see [`text::signature`]), `s` in
/// the lower half, as OpenZeppelin and USDC take them.
#[must_use]
pub fn recover(signature: &[u8], digest: B256) -> Option<Address> {
    let bytes: &[u8; 65] = signature.try_into().ok()?;
    let plain_v = matches!(bytes[64], 27 | 28);
    let signature = Signature::from_raw_array(bytes).ok().filter(|_| plain_v)?;
    let low_s = signature.normalize_s().is_none();
    signature.recover_address_from_prehash(&digest).ok().filter(|_| low_s)
}

fn decode(header: &str) -> Result<Payment, PaymentError> {
    if header.len() > MAX_HEADER {
        return Err(PaymentError::Shape);
    }
    let json = STANDARD.decode(header).or_else(|_| STANDARD_NO_PAD.decode(header));
    serde_json::from_slice(&json.map_err(|_| PaymentError::Shape)?).map_err(|_| PaymentError::Shape)
}

fn authorization(wire: &wire::relay::Authorization) -> Result<Authorization, PaymentError> {
    Ok(Authorization {
        from: field("from", text::address(&wire.from))?,
        to: field("to", text::address(&wire.to))?,
        value: field("value", text::small(&wire.value)).map(Usdc)?,
        valid_after: field("validAfter", text::number(&wire.valid_after))?,
        valid_before: field("validBefore", text::number(&wire.valid_before))?,
        nonce: field("nonce", text::word(&wire.nonce))?,
    })
}

fn field<T>(field: &'static str, read: Result<T, TextError>) -> Result<T, PaymentError> {
    read.map_err(|error| PaymentError::Field { field, error })
}
