//! Tokens that open the files of one disk, a volume or what is kept of an agent, to its holder for a
//! while. As an agent's, they are made of a key, and nothing is stored.
//!
//! `plv_<wallet>_<expiry>_<key>_<mac>`: the wallet in base58, the expiry in hexadecimal Unix
//! milliseconds, the id of the API key that it was shown to (16 digits, `-` where it was the
//! wallet itself), and the base58 of HMAC-SHA256(key, purpose ‖ disk ‖ what stands before).

use domain::{KeyId, OwnedDisk, UnixMillis, Wallet};
use hmac::Mac;
use secrecy::SecretString;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::TokenIssuer;

const PREFIX: &str = "plv_";

/// Whom a token lets work on the files of a disk, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentGrant {
    /// The disk's holder.
    pub wallet: Wallet,
    /// The API key that it was shown to, if one was: the token opens what the key does, as long as
    /// that is good.
    pub key: Option<KeyId>,
    /// When it is over.
    pub expires_at: UnixMillis,
}

impl ContentGrant {
    fn text(&self) -> String {
        let Self { wallet, key, expires_at } = self;
        let key = key.map_or_else(|| "-".to_owned(), |key| key.to_string());
        format!("{PREFIX}{wallet}_{:x}_{key}", expires_at.0)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix(PREFIX)?.split('_');
        let (wallet, expiry, key) = (parts.next()?, parts.next()?, parts.next()?);
        let key = if key == "-" { None } else { Some(key.parse().ok()?) };
        let expires_at = UnixMillis(u64::from_str_radix(expiry, 16).ok()?);
        let grant = Self { wallet: wallet.parse().ok()?, key, expires_at };
        // One text for each grant, and no other.
        (parts.next().is_none() && grant.text() == text).then_some(grant)
    }
}

impl TokenIssuer {
    /// The token of this grant to the files of a disk.
    #[must_use]
    pub fn content_token(&self, disk: OwnedDisk, grant: &ContentGrant) -> SecretString {
        let text = grant.text();
        let sum = self.content_sum(disk, &text);
        format!("{text}_{}", *sum).into()
    }

    /// What `presented` grants to the files of this disk now, where it is a token of ours.
    #[must_use]
    pub fn verify_content(&self, disk: OwnedDisk, presented: &str, now: UnixMillis) -> Option<ContentGrant> {
        let (text, sum) = presented.rsplit_once('_')?;
        let grant = ContentGrant::parse(text)?;
        let is_ours = bool::from(self.content_sum(disk, text).as_bytes().ct_eq(sum.as_bytes()));
        (is_ours && now < grant.expires_at).then_some(grant)
    }

    fn content_sum(&self, disk: OwnedDisk, text: &str) -> Zeroizing<String> {
        // The name of a disk has no NUL.
        let keyed = self.content.clone().chain_update(disk.to_string()).chain_update([0]).chain_update(text);
        let sum = keyed.finalize().into_bytes();
        let sum: &[u8; 32] = sum.as_ref();
        let mut digits = Zeroizing::new([0; 44]);
        let length = five8::encode_32(sum, &mut digits);
        Zeroizing::new(String::from_utf8_lossy(&digits[..usize::from(length)]).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use domain::{PodId, VolumeId};
    use secrecy::{ExposeSecret, SecretBox};

    use super::*;

    fn issuer(byte: u8) -> TokenIssuer {
        TokenIssuer::new(&SecretBox::new(Box::new([byte; 32])))
    }

    const NOW: UnixMillis = UnixMillis(1_000);

    fn grant(key: Option<KeyId>) -> ContentGrant {
        ContentGrant { wallet: Wallet([7; 32]), key, expires_at: UnixMillis(2_000) }
    }

    #[test]
    fn a_token_opens_its_disk_for_its_holder_until_it_is_over_and_nothing_else() {
        let disk = OwnedDisk::Volume(VolumeId::from_bits(7));
        for key in [None, Some(KeyId::from_bits(9))] {
            let token = issuer(1).content_token(disk, &grant(key));
            let token = token.expose_secret();
            assert_eq!(issuer(1).verify_content(disk, token, NOW), Some(grant(key)), "{token}");
            assert_eq!(issuer(2).verify_content(disk, token, NOW), None, "another gateway's");
            assert_eq!(issuer(1).verify_content(disk, token, UnixMillis(2_000)), None, "it is over");
            let others =
                [OwnedDisk::Volume(VolumeId::from_bits(8)), OwnedDisk::Data(PodId::chosen("agent-1").unwrap())];
            for other in others {
                assert_eq!(issuer(1).verify_content(other, token, NOW), None, "{other}");
            }
        }
    }

    #[test]
    fn a_token_that_was_changed_opens_nothing() {
        let disk = OwnedDisk::Volume(VolumeId::from_bits(7));
        let token = issuer(1).content_token(disk, &grant(Some(KeyId::from_bits(9))));
        let token = token.expose_secret();
        let other = grant(None).text();
        let mac = token.rsplit_once('_').unwrap().1;
        for text in [
            format!("{token}1"),
            token.replace("_7d0_", "_7d1_"),
            token.replace("_7d0_", "_07d0_"),
            format!("{other}_{mac}"),
            token.trim_start_matches("plv_").to_owned(),
            "plv_".to_owned(),
            String::new(),
        ] {
            assert_eq!(issuer(1).verify_content(disk, &text, NOW), None, "{text}");
        }
    }
}
