//! Numbers and bytes from the texts of JSON, strictly.

use alloy_primitives::{Address, B256, Bytes, U256};

/// Digits of the largest 256-bit number.
const MAX_DIGITS: usize = 78;
/// Bytes of a signature: r, s, v.
const SIGNATURE: usize = 65;

/// What a text should have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not digits alone, or too many of them.
    #[error("is not a decimal number of at most 256 bits")]
    Number,
    /// A number, but too large for its field.
    #[error("is too large")]
    TooLarge,
    /// Not `0x` and 40 hexadecimal digits.
    #[error("is not an address: 0x and 40 hexadecimal digits")]
    Address,
    /// Not `0x` and pairs of hexadecimal digits.
    #[error("is not bytes: 0x and pairs of hexadecimal digits")]
    Bytes,
    /// Not `0x` and 64 hexadecimal digits.
    #[error("is not 32 bytes: 0x and 64 hexadecimal digits")]
    Word,
}

/// Decimal digits: no sign, no space, no `0x`, no exponent.
pub(crate) fn number(text: &str) -> Result<U256, ParseError> {
    let shaped = (1..=MAX_DIGITS).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    shaped.then(|| U256::from_str_radix(text, 10).ok()).flatten().ok_or(ParseError::Number)
}

/// The same, of at most 64 bits.
pub(crate) fn small(text: &str) -> Result<u64, ParseError> {
    u64::try_from(number(text)?).map_err(|_| ParseError::TooLarge)
}

/// Letters of either case: a checksum is not asked for, as CroGas asks for none.
pub(crate) fn address(text: &str) -> Result<Address, ParseError> {
    let bytes = bytes(text).map_err(|_| ParseError::Address)?;
    Address::try_from(bytes.as_ref()).map_err(|_| ParseError::Address)
}

pub(crate) fn word(text: &str) -> Result<B256, ParseError> {
    let bytes = bytes(text).map_err(|_| ParseError::Word)?;
    B256::try_from(bytes.as_ref()).map_err(|_| ParseError::Word)
}

pub(crate) fn bytes(text: &str) -> Result<Bytes, ParseError> {
    let digits = text.strip_prefix("0x").ok_or(ParseError::Bytes)?;
    // A second 0x would be taken for a prefix.
    if digits.bytes().any(|digit| !digit.is_ascii_hexdigit()) {
        return Err(ParseError::Bytes);
    }
    alloy_primitives::hex::decode(digits).map(Bytes::from).map_err(|_| ParseError::Bytes)
}

/// A signature of 65 bytes ends in 27 or 28, which is what contracts take; 0 and 1, as
/// hardware wallets write the same, are read as these.
pub(crate) fn signature(text: &str) -> Result<Bytes, ParseError> {
    let mut bytes = bytes(text)?.to_vec();
    if bytes.len() == SIGNATURE
        && let Some(v @ (0 | 1)) = bytes.last_mut()
    {
        *v += 27;
    }
    Ok(bytes.into())
}

/// Characters of others' words that are kept.
pub const MAX_WORDS: usize = 300;

/// Others' words: no control characters, bounded.
pub(crate) fn printable(words: &str) -> String {
    words.chars().filter(|c| !c.is_control()).take(MAX_WORDS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_not_digits_alone_is_no_number() {
        for text in ["", "-1", "+1", " 1", "1 ", "0x1", "1e3", "1.0", "1_0", "½", "١"] {
            assert_eq!(number(text), Err(ParseError::Number), "{text:?}");
        }
        assert_eq!(number(&U256::MAX.to_string()), Ok(U256::MAX));
        assert_eq!(number(&format!("{}0", U256::MAX)), Err(ParseError::Number));
        assert_eq!(number(&"9".repeat(78)), Err(ParseError::Number));
        assert_eq!(small("18446744073709551616"), Err(ParseError::TooLarge));
    }

    #[test]
    fn what_is_not_hexadecimal_is_no_bytes() {
        for text in ["", "0X00", "00", "0x0", "0x0x00", "0xzz", "0x 00"] {
            assert_eq!(bytes(text), Err(ParseError::Bytes), "{text:?}");
        }
        assert_eq!(bytes("0x"), Ok(Bytes::new()));
        assert_eq!(address(&format!("0x{}", "0".repeat(39))), Err(ParseError::Address));
        assert_eq!(word("0x00"), Err(ParseError::Word));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,90}") {
            let _ = (number(&text), bytes(&text), address(&text), word(&text));
        }
    }
}
