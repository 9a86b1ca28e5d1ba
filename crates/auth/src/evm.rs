//! Signatures of EVM accounts, each with one reading only.
//!
//! Sources: EIP-191 (version `0x45`, the wallets' `personal_sign`), EIP-2 (low `s`).
//! Only accounts with a key can be checked here: that of a contract (EIP-1271) is the
//! contract's to judge, on its chain.

use std::fmt;
use std::str::FromStr;

use alloy_primitives::{Signature, eip191_hash_message};
use domain::{Address, B256};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Characters of a signature's text: `0x` and 65 bytes.
const TEXT: usize = 2 + 2 * 65;

/// Why an EVM signature is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvmSignatureError {
    /// Not `0x` and 130 hex digits.
    #[error("an EVM signature is 0x and the 130 hex digits of r, s and v")]
    Shape,
    /// The last byte.
    #[error("the v of an EVM signature is 27 or 28, or 0 or 1")]
    Parity,
    /// `s` lies in the upper half: somebody turned another signature around.
    #[error("the s of this EVM signature is in the upper half; wallets sign with the lower one")]
    HighS,
    /// `r` or `s` is zero or too large, or no key can have signed so.
    #[error("nobody can have made this EVM signature")]
    Impossible,
}

/// An EVM signature: `r ‖ s ‖ v`, with `s` low, and `v` 27 or 28 in its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvmSignature(Signature);

impl EvmSignature {
    /// Reads `r ‖ s ‖ v`, where `v` is 27 or 28, or 0 or 1.
    ///
    /// # Errors
    /// [`EvmSignatureError`] for whatever a second reading of the same signature would need.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, EvmSignatureError> {
        let bytes: &[u8; 65] = bytes.try_into().map_err(|_| EvmSignatureError::Shape)?;
        let odd = match bytes[64] {
            0 | 27 => false,
            1 | 28 => true,
            _ => return Err(EvmSignatureError::Parity),
        };
        let signature = Signature::from_bytes_and_parity(&bytes[..64], odd);
        signature.to_k256().map_err(|_| EvmSignatureError::Impossible)?;
        if signature.normalize_s().is_some() { Err(EvmSignatureError::HighS) } else { Ok(Self(signature)) }
    }

    /// `r ‖ s ‖ v` with `v` 27 or 28.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 65] {
        self.0.as_bytes()
    }

    /// Whose signature of this text it is, by EIP-191. Somebody's it nearly always is:
    /// compare.
    ///
    /// # Errors
    /// [`EvmSignatureError::Impossible`].
    pub fn signer_of_text(&self, text: &[u8]) -> Result<Address, EvmSignatureError> {
        self.signer_of_digest(&eip191_hash_message(text))
    }

    /// Whose signature of this digest it is: EIP-712's, for example.
    ///
    /// # Errors
    /// [`EvmSignatureError::Impossible`].
    pub fn signer_of_digest(&self, digest: &B256) -> Result<Address, EvmSignatureError> {
        self.0.recover_address_from_prehash(digest).map_err(|_| EvmSignatureError::Impossible)
    }
}

impl TryFrom<Signature> for EvmSignature {
    type Error = EvmSignatureError;

    fn try_from(signature: Signature) -> Result<Self, EvmSignatureError> {
        Self::from_bytes(&signature.as_bytes())
    }
}

impl fmt::Display for EvmSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for EvmSignature {
    type Err = EvmSignatureError;

    fn from_str(text: &str) -> Result<Self, EvmSignatureError> {
        let digits = text.strip_prefix("0x").filter(|_| text.len() == TEXT).ok_or(EvmSignatureError::Shape)?;
        let mut bytes = [0; 65];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| EvmSignatureError::Shape)?;
        Self::from_bytes(&bytes)
    }
}

impl Serialize for EvmSignature {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EvmSignature {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        text.parse().map_err(de::Error::custom)
    }
}
