//! Numbers and addresses as x402 writes them: in text, and each in one way only.

use alloy_primitives::{Signature, hex};
use domain::{Address, B256, U256, Usdc};

use crate::InvalidReason;

/// Digits of the largest number, 2⁶⁴ - 1.
const MAX_DIGITS: usize = 20;
/// Half of secp256k1's order: the largest `s` of a signature in its one form
/// (EIP-2).
const HALF_ORDER: U256 = U256::from_limbs([0xdfe9_2f46_681b_20a0, 0x5d57_6e73_57a4_501d, u64::MAX, u64::MAX >> 1]);

/// A number in decimal, without sign or leading zeros.
pub(crate) fn decimal(text: &str) -> Result<u64, InvalidReason> {
    let canonical = text == "0" || !text.starts_with('0');
    let digits = !text.is_empty() && text.len() <= MAX_DIGITS && text.bytes().all(|byte| byte.is_ascii_digit());
    if !canonical || !digits {
        return Err(InvalidReason::Payload);
    }
    text.parse().map_err(|_| InvalidReason::Payload)
}

/// An amount in the token's smallest unit.
pub(crate) fn amount(text: &str) -> Result<Usdc, InvalidReason> {
    decimal(text).map(Usdc)
}

/// 20 bytes in hexadecimal after `0x`.
pub(crate) fn address(text: &str) -> Result<Address, InvalidReason> {
    bytes::<20>(text).map(Address::from)
}

/// 32 bytes in hexadecimal after `0x`.
pub(crate) fn word(text: &str) -> Result<B256, InvalidReason> {
    bytes::<32>(text).map(B256::from)
}

/// 65 bytes in hexadecimal after `0x`: `s` in the lower half, `v` 27 or 28, which is
/// what a token takes, or 0 or 1, as hardware wallets write the same.
pub(crate) fn signature(text: &str) -> Result<Signature, InvalidReason> {
    let raw = bytes::<65>(text).map_err(|_| InvalidReason::Signature)?;
    let (r, s) = (U256::from_be_slice(&raw[..32]), U256::from_be_slice(&raw[32..64]));
    if s > HALF_ORDER {
        return Err(InvalidReason::Signature);
    }
    match raw[64] {
        0 | 27 => Ok(Signature::new(r, s, false)),
        1 | 28 => Ok(Signature::new(r, s, true)),
        _ => Err(InvalidReason::Signature),
    }
}

fn bytes<const N: usize>(text: &str) -> Result<[u8; N], InvalidReason> {
    let digits = text.strip_prefix("0x").ok_or(InvalidReason::Payload)?;
    let mut raw = [0; N];
    if digits.len() != 2 * N || hex::decode_to_slice(digits, &mut raw).is_err() {
        return Err(InvalidReason::Payload);
    }
    Ok(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_one_writing() {
        assert_eq!(decimal("0"), Ok(0));
        assert_eq!(decimal("18446744073709551615"), Ok(u64::MAX));
        for text in ["", "00", "01", "+1", "-1", "1.0", " 1", "1e3", "0x1", "18446744073709551616", "٣"] {
            assert_eq!(decimal(text), Err(InvalidReason::Payload), "{text}");
        }
    }

    #[test]
    fn an_address_is_all_of_it() {
        assert!(address(&format!("0x{}", "ab".repeat(20))).is_ok());
        for text in ["ab".repeat(20), format!("0x{}", "ab".repeat(19)), format!("0x0x{}", "ab".repeat(19))] {
            assert_eq!(address(&text), Err(InvalidReason::Payload), "{text}");
        }
    }

    #[test]
    fn case_v_0_1_a_signature_has_a_low_s_and_a_v_of_27_or_28_or_0_or_1() {
        let text = |s: U256, v: u8| format!("0x{}{}{v:02x}", "11".repeat(32), hex::encode(s.to_be_bytes::<32>()));
        assert!(signature(&text(HALF_ORDER, 27)).is_ok());
        assert_eq!(signature(&text(HALF_ORDER + U256::from(1), 27)), Err(InvalidReason::Signature));
        for (v, same) in [(0, 27), (1, 28)] {
            assert_eq!(signature(&text(HALF_ORDER, v)), signature(&text(HALF_ORDER, same)));
            assert!(signature(&text(HALF_ORDER, v)).is_ok());
        }
        for v in [2, 26, 29, 35] {
            assert_eq!(signature(&text(HALF_ORDER, v)), Err(InvalidReason::Signature), "{v}");
        }
    }
}
