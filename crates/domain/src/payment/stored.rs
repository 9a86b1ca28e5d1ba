//! The JSON form of a signed authorization, as stores and journals keep it.
//!
//! The last version wrote it without `chain_id`. It is read as chain 0, which no chain
//! has; whoever reads knows the chain and says so ([`Authorization::on_chain`]). That
//! version reads this form too: it skips the field.

use alloy_primitives::Signature;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Authorization, SignedAuthorization};
use crate::{Address, B256, Bytes, U256, Usdc};

#[derive(Serialize, Deserialize)]
struct Stored {
    #[serde(default)]
    chain_id: u64,
    token: Address,
    authorization: Terms,
    /// r, s, v.
    signature: Bytes,
}

#[derive(Serialize, Deserialize)]
struct Terms {
    from: Address,
    to: Address,
    value: Usdc,
    valid_after: U256,
    valid_before: U256,
    nonce: B256,
}

impl From<SignedAuthorization> for Stored {
    fn from(signed: SignedAuthorization) -> Self {
        let Authorization { chain_id, asset, from, to, value, valid_after, valid_before, nonce } = signed.authorization;
        let authorization = Terms { from, to, value, valid_after, valid_before, nonce };
        Self { chain_id, token: asset, authorization, signature: signed.signature.as_bytes().into() }
    }
}

impl TryFrom<Stored> for SignedAuthorization {
    type Error = alloy_primitives::SignatureError;

    fn try_from(stored: Stored) -> Result<Self, Self::Error> {
        let Terms { from, to, value, valid_after, valid_before, nonce } = stored.authorization;
        let (chain_id, asset) = (stored.chain_id, stored.token);
        let authorization = Authorization { chain_id, asset, from, to, value, valid_after, valid_before, nonce };
        Ok(Self { authorization, signature: Signature::from_raw(&stored.signature)? })
    }
}

impl Serialize for SignedAuthorization {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Stored::from(*self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SignedAuthorization {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Stored::deserialize(deserializer)?.try_into().map_err(D::Error::custom)
    }
}

impl Authorization {
    /// The same, if it was written down without its chain, on this one.
    #[must_use]
    pub const fn on_chain(self, chain_id: u64) -> Self {
        Self { chain_id: if self.chain_id == 0 { chain_id } else { self.chain_id }, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the last version wrote it.
    const OLD: &str = r#"{"token":"0x0505050505050505050505050505050505050505","authorization":{"from":"0x0101010101010101010101010101010101010101","to":"0xeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee","value":"18446744073709551615","valid_after":"0x0","valid_before":"0xffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff","nonce":"0x0101010101010101010101010101010101010101010101010101010101010101"},"signature":"0x010101010101010101010101010101010101010101010101010101010101010102020202020202020202020202020202020202020202020202020202020202021b"}"#;

    fn authorization(chain_id: u64) -> Authorization {
        Authorization {
            chain_id,
            asset: Address::repeat_byte(5),
            from: Address::repeat_byte(1),
            to: Address::repeat_byte(0xee),
            value: Usdc(u64::MAX),
            valid_after: U256::ZERO,
            valid_before: U256::MAX,
            nonce: B256::repeat_byte(1),
        }
    }

    fn signature() -> Signature {
        Signature::new(U256::from_be_bytes([1; 32]), U256::from_be_bytes([2; 32]), false)
    }

    #[test]
    fn what_the_last_version_wrote_is_read_and_is_on_the_readers_chain() {
        let read: SignedAuthorization = serde_json::from_str(OLD).unwrap();
        assert_eq!(read, SignedAuthorization { authorization: authorization(0), signature: signature() });
        assert_eq!(read.authorization.on_chain(338), authorization(338));
        assert_eq!(authorization(25).on_chain(338), authorization(25));
    }

    #[test]
    fn what_is_written_has_the_last_versions_fields_and_the_chain() {
        let signed = SignedAuthorization { authorization: authorization(338), signature: signature() };
        let mut written = serde_json::to_value(signed).unwrap();
        assert_eq!(serde_json::from_value::<SignedAuthorization>(written.clone()).unwrap(), signed);
        assert_eq!(written.as_object_mut().unwrap().remove("chain_id"), Some(338.into()));
        assert_eq!(written, serde_json::from_str::<serde_json::Value>(OLD).unwrap());
    }

    #[test]
    fn a_signature_that_is_none_is_not_read() {
        assert!(serde_json::from_str::<SignedAuthorization>(&OLD.replace("0x01010101010101", "0x01")).is_err());
    }
}
