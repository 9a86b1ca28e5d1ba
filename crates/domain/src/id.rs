//! One type for each kind of name, so that no two can be confused.

use std::fmt;
use std::str::FromStr;

use crate::UnixMillis;
use crate::text::text_on_the_wire;
use serde::{Deserialize, Serialize};

/// Why a text is not the id it claims to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not the shape `xxxxxxxx-xxxx-xxxx` in lower-case hex.
    #[error("a run's id looks like a1b2c3d4-e5f6-7890")]
    Run,
    /// Not the base58 of exactly 32 bytes.
    #[error("a wallet is the base58 of 32 bytes")]
    Wallet,
    /// Not `sha256:` and 64 lower-case hex digits.
    #[error("an image digest looks like sha256:<64 hex digits>")]
    Digest,
}

/// One start of a POD, printed as `a1b2c3d4-e5f6-7890`, the shape of Romulus's ids.
/// Nodes, their ledgers and their metering marks name runs. No secret: who knows it
/// can do nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(u64);

impl RunId {
    /// Where the time in an id begins: 2025-01-01, in Unix milliseconds.
    const EPOCH_MS: u64 = 1_735_689_600_000;
    /// Bits of an id that are random.
    const RANDOM_BITS: u32 = 22;

    /// The id of these bits.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// An id for a run asked for at `now`: 42 bits of time and 22 random ones, so
    /// that ids rise, and what is stored by them lies together.
    #[must_use]
    pub const fn at(now: UnixMillis, random: u64) -> Self {
        let time = now.0.saturating_sub(Self::EPOCH_MS) << Self::RANDOM_BITS;
        Self(time | random >> (u64::BITS - Self::RANDOM_BITS))
    }

    /// The bits, for a database that stores integers.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g, h, i] = self.0.to_be_bytes();
        write!(f, "{a:02x}{b:02x}{c:02x}{d:02x}-{e:02x}{g:02x}-{h:02x}{i:02x}")
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RunId({self})")
    }
}

impl FromStr for RunId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let bytes = text.as_bytes();
        let shaped = bytes.len() == 18
            && bytes.iter().enumerate().all(|(at, byte)| match at {
                8 | 13 => *byte == b'-',
                _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            });
        if !shaped {
            return Err(IdError::Run);
        }
        u64::from_str_radix(&text.replace('-', ""), 16).map(Self).map_err(|_| IdError::Run)
    }
}

/// A Solana wallet: an ed25519 public key, printed in base58.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wallet(pub [u8; 32]);

impl Wallet {
    /// The longest base58 text of 32 bytes.
    pub const MAX_TEXT: usize = 44;
}

impl fmt::Display for Wallet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; Self::MAX_TEXT];
        let length = five8::encode_32(&self.0, &mut text);
        f.write_str(str::from_utf8(&text[..usize::from(length)]).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Wallet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wallet({self})")
    }
}

impl FromStr for Wallet {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if text.len() > Self::MAX_TEXT {
            return Err(IdError::Wallet);
        }
        let mut key = [0; 32];
        five8::decode_32(text, &mut key).map_err(|_| IdError::Wallet)?;
        Ok(Self(key))
    }
}

/// The SHA-256 digest of an image's OCI manifest: the image's only identity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageDigest(pub [u8; 32]);

impl ImageDigest {
    /// The digest without its `sha256:`, as file names use it.
    #[must_use]
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl fmt::Display for ImageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for ImageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ImageDigest({self})")
    }
}

impl FromStr for ImageDigest {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let digits = text.strip_prefix("sha256:").ok_or(IdError::Digest)?;
        if digits.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(IdError::Digest);
        }
        let mut sum = [0; 32];
        hex::decode_to_slice(digits, &mut sum).map_err(|_| IdError::Digest)?;
        Ok(Self(sum))
    }
}

/// How often the desired state of an agent was changed. A node refuses an older
/// generation, and one that differs at the same generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation of a new agent.
    pub const FIRST: Self = Self(1);

    /// The generation after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

text_on_the_wire!(RunId, "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}$", "a1b2c3d4-e5f6-7890");
text_on_the_wire!(Wallet, "^[1-9A-HJ-NP-Za-km-z]{32,44}$", "4Nd1mYk3mVBrXzVtPpVnV6vWzjYwQbQ1tY5rP1u1n5o3");
text_on_the_wire!(
    ImageDigest,
    "^sha256:[0-9a-f]{64}$",
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_runs_id_survives_its_own_text(bits: u64) {
            let id = RunId::from_bits(bits);
            prop_assert_eq!(id.to_string().parse::<RunId>(), Ok(id));
        }

        #[test]
        fn a_wallet_survives_its_own_text(key: [u8; 32]) {
            let wallet = Wallet(key);
            let text = wallet.to_string();
            prop_assert!(text.len() <= Wallet::MAX_TEXT);
            prop_assert_eq!(&text, &bs58::encode(key).into_string());
            prop_assert_eq!(text.parse::<Wallet>(), Ok(wallet));
        }

        #[test]
        fn no_text_makes_a_parser_panic(text in ".{0,80}") {
            let _ = text.parse::<RunId>();
            let _ = text.parse::<Wallet>();
            let _ = text.parse::<ImageDigest>();
        }
    }

    #[test]
    fn an_id_with_upper_case_or_a_sign_is_refused() {
        for text in ["A1b2c3d4-e5f6-7890", "+1b2c3d4-e5f6-7890", "a1b2c3d4-e5f67890-", "", "a1b2c3d4e5f67890"] {
            assert_eq!(text.parse::<RunId>(), Err(IdError::Run), "{text}");
        }
    }

    #[test]
    fn ids_rise_with_the_time_whatever_is_random() {
        let now = UnixMillis(1_795_000_000_000);
        assert!(RunId::at(now, u64::MAX) < RunId::at(now.plus(1), 0));
        assert_ne!(RunId::at(now, u64::MAX), RunId::at(now, 0));
        assert_eq!(RunId::at(UnixMillis(0), 0), RunId::from_bits(0));
    }

    #[test]
    fn zeros_in_front_count() {
        let mut key = [0; 32];
        key[31] = 1;
        for key in [[0; 32], key] {
            assert_eq!(Wallet(key).to_string(), bs58::encode(key).into_string());
            assert_eq!(Wallet(key).to_string().parse(), Ok(Wallet(key)));
            assert_eq!(Wallet(key).to_string()[1..].parse::<Wallet>(), Err(IdError::Wallet));
        }
    }

    #[test]
    fn a_wallet_of_31_or_33_bytes_is_refused() {
        for length in [0, 31, 33] {
            let text = bs58::encode(vec![7; length]).into_string();
            assert_eq!(text.parse::<Wallet>(), Err(IdError::Wallet), "{length}");
        }
    }
}
