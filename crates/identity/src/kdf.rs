//! From a password to 32 bytes, and how much of this machine a file may ask for.

use pbkdf2::pbkdf2_hmac;
use scrypt::Params;
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::error::KeystoreError;

/// The most memory a keystore's scrypt may take, in bytes: twice geth's standard.
pub const MAX_MEMORY: u64 = 512 << 20;
/// The most work a keystore's scrypt may be, as N·r·p: eight times geth's standard.
pub const MAX_WORK: u64 = 1 << 24;
/// The most rounds a keystore's PBKDF2 may take.
pub const MAX_ITERATIONS: u64 = 10_000_000;

/// What opening a keystore costs whoever guesses at its password, and its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KdfCost {
    n: u64,
    r: u32,
    p: u32,
}

impl KdfCost {
    /// scrypt with N = 2¹⁸, r = 8, p = 1, as geth writes: 256 MiB.
    pub const STANDARD: Self = Self { n: 1 << 18, r: 8, p: 1 };
    /// scrypt with N = 2¹², r = 8, p = 6, as `geth --lightkdf` writes: 4 MiB. For keys of
    /// test chains, and for tests.
    pub const LIGHT: Self = Self { n: 1 << 12, r: 8, p: 6 };
    /// No protection at all, for tests that derive by the hundred.
    #[cfg(test)]
    pub(crate) const NONE: Self = Self { n: 2, r: 1, p: 1 };

    /// scrypt at this cost with this salt.
    pub(crate) fn salted(self, salt: &[u8]) -> Kdf {
        Kdf::Scrypt { n: self.n, r: self.r, p: self.p, salt: salt.to_vec() }
    }
}

/// A key derivation as a keystore states it. Nothing here is checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kdf {
    /// RFC 7914.
    Scrypt { n: u64, r: u32, p: u32, salt: Vec<u8> },
    /// RFC 8018 with HMAC-SHA-256.
    Pbkdf2 { iterations: u64, salt: Vec<u8> },
}

impl Kdf {
    /// The 32 bytes that this password makes.
    pub(crate) fn derive(&self, password: &SecretString) -> Result<Zeroizing<[u8; 32]>, KeystoreError> {
        let mut key = Zeroizing::new([0; 32]);
        let password = password.expose_secret().as_bytes();
        match self {
            Self::Scrypt { n, r, p, salt } => {
                let params = scrypt_params(*n, *r, *p)?;
                // It refuses an empty output, and 32 bytes are none.
                scrypt::scrypt(password, salt, &params, &mut *key).map_err(|_| KeystoreError::Malformed("dklen"))?;
            }
            Self::Pbkdf2 { iterations, salt } => {
                pbkdf2_hmac::<Sha256>(password, salt, pbkdf2_rounds(*iterations)?, &mut *key);
            }
        }
        Ok(key)
    }
}

/// The bounds come first: the library multiplies without a check.
fn scrypt_params(n: u64, r: u32, p: u32) -> Result<Params, KeystoreError> {
    if n < 2 || !n.is_power_of_two() {
        return Err(KeystoreError::Malformed("n"));
    }
    let (wide_n, wide_r, wide_p) = (u128::from(n), u128::from(r), u128::from(p));
    // 128 bytes for each of: the table's N blocks, p inputs, two in work.
    within("bytes of memory", 128 * wide_r * (wide_n + wide_p + 2), MAX_MEMORY)?;
    within("blocks of work", wide_n * wide_r * wide_p, MAX_WORK)?;
    let log_n = u8::try_from(n.trailing_zeros()).map_err(|_| KeystoreError::Malformed("n"))?;
    // What is left to refuse is r or p of zero.
    Params::new(log_n, r, p).map_err(|_| KeystoreError::Malformed(if r == 0 { "r" } else { "p" }))
}

fn pbkdf2_rounds(iterations: u64) -> Result<u32, KeystoreError> {
    within("rounds", iterations.into(), MAX_ITERATIONS)?;
    match u32::try_from(iterations) {
        Ok(rounds @ 1..) => Ok(rounds),
        Ok(0) | Err(_) => Err(KeystoreError::Malformed("c")),
    }
}

fn within(what: &'static str, asked: u128, allowed: u64) -> Result<(), KeystoreError> {
    if asked <= u128::from(allowed) { Ok(()) } else { Err(KeystoreError::TooCostly { what, asked, allowed }) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_costs_that_are_written_can_be_read() {
        for KdfCost { n, r, p } in [KdfCost::STANDARD, KdfCost::LIGHT, KdfCost::NONE] {
            assert!(scrypt_params(n, r, p).is_ok());
        }
    }

    #[test]
    fn the_bound_on_memory_is_half_a_gibibyte_and_what_scrypt_needs_beside_its_table() {
        let memory = |asked| KeystoreError::TooCostly { what: "bytes of memory", asked, allowed: MAX_MEMORY };
        assert!(scrypt_params(1 << 18, 8, 8).is_ok());
        assert_eq!(scrypt_params(1 << 19, 8, 1), Err(memory((512 << 20) + 3 * 1024)));
        // Many inputs take memory too, though the table is small.
        assert_eq!(scrypt_params(2, 1, 1 << 23), Err(memory(128 * ((1 << 23) + 4))));
    }

    proptest! {
        #[test]
        fn no_parameters_make_the_check_panic(n: u64, shift in 0_u32..64, r: u32, p: u32, rounds: u64) {
            let _ = scrypt_params(n, r, p);
            let _ = scrypt_params(1 << shift, r, p);
            let _ = scrypt_params(1 << shift, r >> (shift / 2), p >> (shift / 2));
            let _ = pbkdf2_rounds(rounds);
        }
    }
}
