//! API keys: by which name they are known, and what they open.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::text::text_on_the_wire;

/// Not the id of an API key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the id of an API key is 16 lower-case hex digits, such as 1a2b3c4d5e6f7890: those behind its pal_ or e2b_")]
pub struct KeyIdError;

/// The public part of an API key, printed as 16 hex digits, which stand in the key
/// itself. No secret: who knows it can do nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(u64);

impl KeyId {
    /// The digits of an id.
    pub const DIGITS: usize = 16;

    /// The id of these bits.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The bits, for a database that stores integers.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

impl FromStr for KeyId {
    type Err = KeyIdError;

    fn from_str(text: &str) -> Result<Self, KeyIdError> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != Self::DIGITS || !text.bytes().all(is_digit) {
            return Err(KeyIdError);
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| KeyIdError)
    }
}

text_on_the_wire!(KeyId, "^[0-9a-f]{16}$", "1a2b3c4d5e6f7890");

/// What an API key opens. Each opens what those before it do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeyScope {
    /// Looking at one's agents: lists, states, output, prices, vaults, usage.
    Read,
    /// Having agents work, too: spawn, start, stop, commands in them, asking them.
    Run,
}

impl KeyScope {
    /// The scope as it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Run => "run",
        }
    }
}

impl fmt::Display for KeyScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How an API key is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeyForm {
    /// `pal_` and hex digits.
    #[default]
    Palatine,
    /// `e2b_` and hex digits: what E2B's SDKs take.
    E2b,
}

impl KeyForm {
    /// Every form.
    pub const ALL: [Self; 2] = [Self::Palatine, Self::E2b];

    /// What a key of this form begins with.
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Palatine => "pal_",
            Self::E2b => "e2b_",
        }
    }

    /// The form as it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Palatine => "palatine",
            Self::E2b => "e2b",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_its_sixteen_digits_and_nothing_else() {
        let id = KeyId::from_bits(0x0a2b_3c4d_5e6f_7890);
        assert_eq!(id.to_string(), "0a2b3c4d5e6f7890");
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in
            ["", "a2b3c4d5e6f7890", "0A2b3c4d5e6f7890", "+a2b3c4d5e6f7890", "0a2b3c4d5e6f78901", "pal_0a2b3c4d5e6f"]
        {
            assert_eq!(text.parse::<KeyId>(), Err(KeyIdError), "{text}");
        }
    }

    #[test]
    fn who_may_run_may_read() {
        assert!(KeyScope::Run > KeyScope::Read);
        assert_eq!(serde_json::to_value([KeyScope::Read, KeyScope::Run]).unwrap(), serde_json::json!(["read", "run"]));
        let forms = KeyForm::ALL.map(|form| serde_json::to_value(form).unwrap());
        assert_eq!(forms, KeyForm::ALL.map(|form| serde_json::json!(form.as_str())));
    }
}
