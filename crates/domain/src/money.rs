//! Money: an integer of micro-USDC, everywhere.

use std::fmt;
use std::iter::Sum;
use std::str::FromStr;

use alloy_primitives::U256;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Decimals of USDC.
const DECIMALS: usize = 6;
/// Micro-USDC in one USDC.
const UNIT: u64 = 1_000_000;

/// An amount of USDC, in its smallest unit (10⁻⁶). Never a float: text is parsed
/// digit by digit, and more digits than USDC has are refused, not rounded.
///
/// As text it is a decimal number of whole USDC (`0.50`); in JSON it is the
/// integer of micro-USDC as a string, as x402 and the EVM's tools write amounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Usdc(pub u64);

/// Why a text or a number is no amount of USDC.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// Not a plain decimal number.
    #[error("an amount of USDC looks like 0.50, not {0:?}")]
    Shape(String),
    /// More digits than USDC has.
    #[error("USDC has six decimals; {0:?} has more")]
    Precision(String),
    /// More than 2⁶⁴ - 1 micro-USDC.
    #[error("the amount is larger than any amount of USDC")]
    TooLarge,
}

impl Usdc {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// The sum, unless it is too large.
    #[must_use]
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// The difference, unless it would be negative.
    #[must_use]
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(rest) => Some(Self(rest)),
            None => None,
        }
    }

    /// The amount as contracts have it.
    #[must_use]
    pub fn to_u256(self) -> U256 {
        U256::from(self.0)
    }

    /// From a text of micro-USDC, as JSON has it.
    ///
    /// # Errors
    /// [`MoneyError`] says what is wrong with it.
    pub fn from_micros(text: &str) -> Result<Self, MoneyError> {
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(MoneyError::Shape(text.to_owned()));
        }
        text.parse().map(Self).map_err(|_| MoneyError::TooLarge)
    }
}

impl fmt::Display for Usdc {
    /// At least two decimals, and no more than are needed: `0.50`, `0.000001`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = format!("{:06}", self.0 % UNIT);
        let kept = decimals.trim_end_matches('0').len().max(2);
        write!(f, "{}.{}", self.0 / UNIT, &decimals[..kept])
    }
}

impl FromStr for Usdc {
    type Err = MoneyError;

    fn from_str(text: &str) -> Result<Self, MoneyError> {
        let shape = || MoneyError::Shape(text.to_owned());
        let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(decimals) {
            return Err(shape());
        }
        if decimals.len() > DECIMALS {
            return Err(MoneyError::Precision(text.to_owned()));
        }
        let whole: u64 = whole.parse().map_err(|_| MoneyError::TooLarge)?;
        let micros: u64 = format!("{decimals:0<DECIMALS$}").parse().map_err(|_| shape())?;
        let whole = whole.checked_mul(UNIT).and_then(|whole| whole.checked_add(micros));
        whole.map(Self).ok_or(MoneyError::TooLarge)
    }
}

impl TryFrom<U256> for Usdc {
    type Error = MoneyError;

    fn try_from(amount: U256) -> Result<Self, MoneyError> {
        u64::try_from(amount).map(Self).map_err(|_| MoneyError::TooLarge)
    }
}

impl Sum for Usdc {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        Self(amounts.fold(0, |sum, amount| sum.saturating_add(amount.0)))
    }
}

impl Serialize for Usdc {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Usdc {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::from_micros(&text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_is_parsed_digit_by_digit() {
        for (text, micros) in [("0.50", 500_000), ("2.01", 2_010_000), ("7", 7_000_000), ("0.000001", 1)] {
            assert_eq!(text.parse(), Ok(Usdc(micros)), "{text}");
        }
    }

    #[test]
    fn what_is_not_exact_is_refused() {
        for text in ["", ".5", "5.", "1e3", "-1", "+1", " 1", "1,5", "0x1", "1.2.3", "½"] {
            assert_eq!(text.parse::<Usdc>(), Err(MoneyError::Shape(text.to_owned())), "{text}");
        }
        assert!(matches!("0.0000001".parse::<Usdc>(), Err(MoneyError::Precision(_))));
        for text in ["18446744073709.551616", "99999999999999999999"] {
            assert_eq!(text.parse::<Usdc>(), Err(MoneyError::TooLarge), "{text}");
        }
        assert_eq!(Usdc::from_micros("18446744073709551616"), Err(MoneyError::TooLarge));
        assert!(Usdc::from_micros("1.0").is_err());
        assert_eq!(Usdc::try_from(U256::from(u64::MAX) + U256::from(1)), Err(MoneyError::TooLarge));
    }

    #[test]
    fn json_holds_micros_as_a_string() {
        assert_eq!(serde_json::to_string(&Usdc(2_010_000)).unwrap(), "\"2010000\"");
        assert!(serde_json::from_str::<Usdc>("2010000").is_err());
    }

    proptest! {
        #[test]
        fn every_amount_survives_text_and_json(micros: u64) {
            let amount = Usdc(micros);
            prop_assert_eq!(amount.to_string().parse(), Ok(amount));
            prop_assert_eq!(serde_json::from_str::<Usdc>(&serde_json::to_string(&amount).unwrap()).unwrap(), amount);
            prop_assert_eq!(Usdc::try_from(amount.to_u256()), Ok(amount));
        }
    }
}
