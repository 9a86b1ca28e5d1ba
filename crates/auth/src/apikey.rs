//! API keys: how they are made, written, read and compared.
//!
//! | part of `pal_1a2b3c4d5e6f7890…` | |
//! |---|---|
//! | `pal_`, or `e2b_` for E2B's SDKs | the form |
//! | 16 hex digits | the id: no secret, what a key is called by in lists |
//! | 64 hex digits | 256 random bits |
//! | 8 hex digits | the first bytes of the SHA-256 of all before them: so a mistyped key is told without asking anybody, and scanners for lost secrets can tell a key from a text that looks like one |
//!
//! What is kept of a key is its digest, the SHA-256 of the whole text. It needs no salt and no
//! stretching: what is hashed has 256 bits that nobody can guess.

use std::fmt;

use domain::{KeyForm, KeyId};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

const SECRET_DIGITS: usize = 64;
const CHECKSUM_DIGITS: usize = 8;
const PREFIX: usize = 4;

/// Why a text is no API key. Never shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiKeyError {
    /// Another shape.
    #[error("an API key is pal_ or e2b_ and {DIGITS} lower-case hex digits", DIGITS = ApiKey::DIGITS)]
    Shape,
    /// The last digits are not those of the others.
    #[error("the API key's checksum is wrong: it was not copied whole")]
    Checksum,
}

/// An API key. Wiped from memory when dropped.
#[derive(Clone)]
pub struct ApiKey {
    id: KeyId,
    form: KeyForm,
    text: SecretString,
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({}{}..)", self.form.prefix(), self.id)
    }
}

impl ApiKey {
    /// The hex digits of a key.
    pub const DIGITS: usize = KeyId::DIGITS + SECRET_DIGITS + CHECKSUM_DIGITS;
    /// The length of a key.
    pub const TEXT: usize = PREFIX + Self::DIGITS;

    /// The key of this id and these random bytes.
    #[must_use]
    pub fn new(form: KeyForm, id: KeyId, random: &[u8; 32]) -> Self {
        let mut secret = Zeroizing::new([0; SECRET_DIGITS]);
        // As many digits as there is room for.
        let _ = hex::encode_to_slice(random, secret.as_mut());
        let mut text = Zeroizing::new(String::with_capacity(Self::TEXT));
        text.push_str(form.prefix());
        text.push_str(&id.to_string());
        text.push_str(&String::from_utf8_lossy(secret.as_ref()));
        let checksum = checksum(&text);
        text.push_str(&checksum);
        Self { id, form, text: SecretString::from(text.as_str()) }
    }

    /// Reads a key.
    ///
    /// # Errors
    /// When it has not the shape of one, or was not copied whole.
    pub fn parse(text: &str) -> Result<Self, ApiKeyError> {
        let form = KeyForm::ALL.into_iter().find(|form| text.starts_with(form.prefix())).ok_or(ApiKeyError::Shape)?;
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != Self::TEXT || !text.bytes().skip(PREFIX).all(is_digit) {
            return Err(ApiKeyError::Shape);
        }
        let (body, sum) = text.split_at(Self::TEXT - CHECKSUM_DIGITS);
        if checksum(body) != sum {
            return Err(ApiKeyError::Checksum);
        }
        let id = body[PREFIX..PREFIX + KeyId::DIGITS].parse().map_err(|_| ApiKeyError::Shape)?;
        Ok(Self { id, form, text: SecretString::from(text) })
    }

    /// Whether a text claims to be a key of ours: a text that is none of E2B's own may begin
    /// with `e2b_` too, so of that form only what has our shape does.
    #[must_use]
    pub fn is_claimed(text: &str) -> bool {
        text.starts_with(KeyForm::Palatine.prefix()) || Self::parse(text) != Err(ApiKeyError::Shape)
    }

    /// The key's public part.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// How it is written.
    #[must_use]
    pub const fn form(&self) -> KeyForm {
        self.form
    }

    /// The key itself.
    #[must_use]
    pub const fn text(&self) -> &SecretString {
        &self.text
    }

    /// What is kept of it.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.text.expose_secret()).into()
    }

    /// Whether this is the key of which that was kept, in constant time.
    #[must_use]
    pub fn is_of(&self, digest: &[u8; 32]) -> bool {
        self.digest().ct_eq(digest).into()
    }
}

fn checksum(body: &str) -> String {
    let sum: [u8; 32] = Sha256::digest(body).into();
    hex::encode(&sum[..CHECKSUM_DIGITS / 2])
}

impl PartialEq for ApiKey {
    fn eq(&self, other: &Self) -> bool {
        self.is_of(&other.digest())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_key_is_its_form_its_id_its_secret_and_their_checksum_and_never_prints() {
        let key = ApiKey::new(KeyForm::Palatine, KeyId::from_bits(0x0a2b_3c4d_5e6f_7890), &[0xab; 32]);
        let body = format!("pal_0a2b3c4d5e6f7890{}", "ab".repeat(32));
        let sum = hex::encode(Sha256::digest(&body));
        assert_eq!(key.text().expose_secret(), format!("{body}{}", &sum[..8]));
        assert_eq!(key.text().expose_secret().len(), ApiKey::TEXT);
        let shown = format!("{key:?} {:?}", key.text());
        assert!(shown.contains("pal_0a2b3c4d5e6f7890") && !shown.contains("abab"), "{shown}");
        assert_eq!(key.digest(), <[u8; 32]>::from(Sha256::digest(key.text().expose_secret())));
    }

    #[test]
    fn e2bs_own_keys_and_other_texts_are_none_of_ours() {
        let own = format!("e2b_{}", "0f".repeat(20));
        for (text, claimed) in [(own.as_str(), false), ("plt_x", false), ("", false), ("pal_", true), ("pal_x", true)] {
            assert_eq!(ApiKey::parse(text).unwrap_err(), ApiKeyError::Shape, "{text}");
            assert_eq!(ApiKey::is_claimed(text), claimed, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_key_is_read_as_it_was_written_and_one_wrong_digit_is_noticed(
            id: u64, random: [u8; 32], e2b: bool, at in 0..ApiKey::DIGITS, digit in "[0-9a-f]",
        ) {
            let form = if e2b { KeyForm::E2b } else { KeyForm::Palatine };
            let key = ApiKey::new(form, KeyId::from_bits(id), &random);
            let text = key.text().expose_secret().to_owned();
            let read = ApiKey::parse(&text).unwrap();
            prop_assert_eq!((read.id(), read.form()), (KeyId::from_bits(id), form));
            prop_assert!(read.is_of(&key.digest()) && ApiKey::is_claimed(&text));
            let mut other = text.clone();
            other.replace_range(PREFIX + at..=PREFIX + at, &digit);
            if other != text {
                prop_assert_eq!(ApiKey::parse(&other).unwrap_err(), ApiKeyError::Checksum);
                prop_assert!(ApiKey::is_claimed(&other));
            }
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in ".{0,100}", tail in "[0-9a-fé]{80,90}") {
            let _ = ApiKey::parse(&text);
            let _ = ApiKey::parse(&format!("pal_{tail}"));
        }
    }
}
