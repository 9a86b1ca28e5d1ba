//! Who signed: what the EVM's `ecrecover` says, on k256's arithmetic.
//!
//! k256's own recovery checks the signature against the key it has recovered,
//! which costs as much again and cannot fail: the key `(s·R − z·G)/r` satisfies
//! the equation by construction. A test holds both to the same verdict.

use alloy_primitives::Signature;
use domain::{Address, B256};
use k256::ecdsa::VerifyingKey;
use k256::elliptic_curve::ops::{Invert, LinearCombination, Reduce};
use k256::elliptic_curve::point::DecompressPoint;
use k256::{AffinePoint, ProjectivePoint, Scalar, U256};

/// The signer's address; none if `r` or `s` is out of range, `r` is on no point,
/// or the key is the point at infinity.
pub(crate) fn signer(signature: &Signature, hash: &B256) -> Option<Address> {
    let (r, s) = signature.to_k256().ok()?.split_scalars();
    let z = <Scalar as Reduce<U256>>::reduce_bytes(&hash.0.into());
    let point = AffinePoint::decompress(&r.to_bytes(), u8::from(signature.v()).into()).into_option()?;
    let inverse = *r.invert_vartime();
    let key = ProjectivePoint::lincomb(
        &ProjectivePoint::GENERATOR,
        &-(inverse * z),
        &ProjectivePoint::from(point),
        &(inverse * *s),
    );
    let key = VerifyingKey::from_affine(key.to_affine()).ok()?;
    Some(Address::from_public_key(&key))
}

#[cfg(test)]
mod tests {
    use alloy::signers::SignerSync;
    use alloy::signers::local::PrivateKeySigner;
    use proptest::prelude::*;

    use super::*;

    fn theirs(signature: &Signature, hash: &B256) -> Option<Address> {
        signature.recover_address_from_prehash(hash).ok()
    }

    proptest! {
        #[test]
        fn what_a_key_signed_recovers_to_its_address(secret: [u8; 32], hash: [u8; 32]) {
            let Ok(key) = PrivateKeySigner::from_bytes(&secret.into()) else { return Ok(()) };
            let signature = key.sign_hash_sync(&hash.into()).unwrap();
            prop_assert_eq!(signer(&signature, &hash.into()), Some(key.address()));
            let other = Signature::new(signature.r(), signature.s(), !signature.v());
            prop_assert_eq!(signer(&other, &hash.into()), theirs(&other, &hash.into()));
        }

        #[test]
        fn any_low_s_at_all_recovers_to_what_k256_says(
            r: [u8; 32], s: [u8; 32], odd: bool, hash: [u8; 32], small: bool,
        ) {
            let mut s = s;
            s[0] &= 0x3f;
            let mut r = r;
            if small {
                r[..31].fill(0);
                s[..31].fill(0);
            }
            let signature = Signature::from_scalars_and_parity(r.into(), s.into(), odd);
            prop_assert_eq!(signer(&signature, &hash.into()), theirs(&signature, &hash.into()));
        }
    }
}
