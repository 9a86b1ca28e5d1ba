//! Web3 Secret Storage, version 3: a key in JSON under a password.
//!
//! Source: <https://ethereum.org/developers/docs/data-structures-and-encoding/web3-secret-storage/>.
//! Of it: `aes-128-ctr`, `scrypt` and `pbkdf2` with `hmac-sha256`, 32 derived bytes, a
//! MAC of Keccak-256 over derived\[16..32\] ‖ ciphertext.
//!
//! The MAC does not cover the `iv`: with another one, the right password gives another
//! key. Only `address` tells, so we always write it and a key file must have it.
//!
//! A password is its UTF-8 bytes as they are, as geth takes it; a tool that normalises
//! (ethers: NFKC) derives another key from a password outside ASCII.

use aes::Aes128;
use alloy_primitives::keccak256;
use ctr::Ctr128BE;
use ctr::cipher::{KeyIvInit, StreamCipher};
use domain::Address;
use secrecy::{ExposeSecret, SecretString};
use serde_json::error::Category;
use serde_json::{Value, json};
use subtle::ConstantTimeEq;
use uuid::{Builder, Uuid};
use zeroize::Zeroizing;

use crate::Identity;
use crate::error::{KeystoreError, MAX_TEXT};
use crate::fields::{Fields, unsupported};
use crate::kdf::{Kdf, KdfCost};

const VERSION: u64 = 3;
const CIPHER: &str = "aes-128-ctr";
const PRF: &str = "hmac-sha256";
const DERIVED: u64 = 32;

/// The random bytes of one sealing. For one use: a second one would give the same
/// keystream.
#[derive(Clone, Copy)]
pub struct Randomness {
    /// Salt of the key derivation.
    pub salt: [u8; 32],
    /// First counter block of the cipher.
    pub iv: [u8; 16],
    /// The keystore's `id`, a UUID of version 4 once its fixed bits are set.
    pub id: [u8; 16],
}

/// A key under a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keystore {
    id: Option<Uuid>,
    address: Option<Address>,
    kdf: Kdf,
    iv: [u8; 16],
    ciphertext: [u8; 32],
    mac: [u8; 32],
}

impl Keystore {
    /// Puts this key under this password. As slow as `cost` says.
    ///
    /// # Errors
    /// None that a [`KdfCost`] of this crate causes.
    pub fn seal(
        identity: &Identity,
        password: &SecretString,
        cost: KdfCost,
        randomness: &Randomness,
    ) -> Result<Self, KeystoreError> {
        let kdf = cost.salted(&randomness.salt);
        let derived = kdf.derive(password)?;
        let mut ciphertext = *identity.secret().expose_secret();
        apply_cipher(&derived, &randomness.iv, &mut ciphertext);
        Ok(Self {
            id: Some(Builder::from_random_bytes(randomness.id).into_uuid()),
            address: Some(identity.address()),
            mac: mac(&derived, &ciphertext),
            kdf,
            iv: randomness.iv,
            ciphertext,
        })
    }

    /// Reads a keystore's JSON; does not open it.
    ///
    /// # Errors
    /// [`KeystoreError`], with none of the text but the names of what is not supported.
    pub fn parse(text: &[u8]) -> Result<Self, KeystoreError> {
        if text.len() > MAX_TEXT {
            return Err(KeystoreError::TooLarge);
        }
        let value: Value = serde_json::from_slice(text).map_err(|error| not_json(&error))?;
        let fields = Fields::of(&value).ok_or(KeystoreError::Foreign)?;
        let crypto = if fields.has("Crypto") && !fields.has("crypto") { "Crypto" } else { "crypto" };
        if !fields.has("version") && !fields.has(crypto) {
            return Err(KeystoreError::Foreign);
        }
        check_version(fields.value("version")?)?;
        Self::of(fields, fields.object(crypto)?)
    }

    fn of(fields: Fields<'_>, crypto: Fields<'_>) -> Result<Self, KeystoreError> {
        crypto.must_say("cipher", CIPHER)?;
        Ok(Self {
            id: optional(fields, "id", read_id)?,
            address: optional(fields, "address", |fields, name| fields.exact(name).map(Address::new))?,
            kdf: read_kdf(crypto)?,
            iv: crypto.object("cipherparams")?.exact("iv")?,
            ciphertext: crypto.exact("ciphertext")?,
            mac: crypto.exact("mac")?,
        })
    }

    /// The address it says it holds the key of: a claim, until it is opened.
    #[must_use]
    pub const fn address(&self) -> Option<Address> {
        self.address
    }

    /// Takes the key out. As slow as the keystore says, within this crate's bounds.
    ///
    /// # Errors
    /// [`KeystoreError`] says whether the password, the cost or the content is at fault.
    pub fn open(&self, password: &SecretString) -> Result<Identity, KeystoreError> {
        let derived = self.kdf.derive(password)?;
        if !bool::from(mac(&derived, &self.ciphertext).ct_eq(&self.mac)) {
            return Err(KeystoreError::Password);
        }
        let mut secret = Zeroizing::new(self.ciphertext);
        apply_cipher(&derived, &self.iv, &mut secret);
        let identity = Identity::from_secret(&secret)?;
        match self.address {
            Some(stated) if stated != identity.address() => {
                Err(KeystoreError::Address { stated, actual: identity.address() })
            }
            Some(_) | None => Ok(identity),
        }
    }

    /// The JSON that any Web3 wallet reads.
    #[must_use]
    pub fn to_json(&self) -> String {
        let (kdf, kdfparams) = write_kdf(&self.kdf);
        let mut whole = json!({
            "version": VERSION,
            "crypto": {
                "cipher": CIPHER,
                "cipherparams": { "iv": hex::encode(self.iv) },
                "ciphertext": hex::encode(self.ciphertext),
                "kdf": kdf,
                "kdfparams": kdfparams,
                "mac": hex::encode(self.mac),
            },
        });
        if let Some(id) = self.id {
            whole["id"] = json!(id.hyphenated().to_string());
        }
        if let Some(address) = self.address {
            whole["address"] = json!(hex::encode(address));
        }
        whole.to_string()
    }
}

fn not_json(error: &serde_json::Error) -> KeystoreError {
    match error.classify() {
        Category::Eof => KeystoreError::Truncated,
        Category::Syntax | Category::Data | Category::Io => KeystoreError::NotJson,
    }
}

fn check_version(version: &Value) -> Result<(), KeystoreError> {
    match version {
        Value::Number(number) if number.as_u64() == Some(VERSION) => Ok(()),
        // The first version wrote its number as a text.
        Value::Number(_) => Err(unsupported("version", &version.to_string())),
        Value::String(text) => Err(unsupported("version", text)),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => Err(KeystoreError::Malformed("version")),
    }
}

/// What some tools leave out; there, it must be good.
fn optional<T>(
    fields: Fields<'_>,
    name: &'static str,
    read: impl FnOnce(Fields<'_>, &'static str) -> Result<T, KeystoreError>,
) -> Result<Option<T>, KeystoreError> {
    fields.has(name).then(|| read(fields, name)).transpose()
}

fn read_id(fields: Fields<'_>, name: &'static str) -> Result<Uuid, KeystoreError> {
    Uuid::try_parse(fields.text(name)?).map_err(|_| KeystoreError::Malformed(name))
}

fn read_kdf(crypto: Fields<'_>) -> Result<Kdf, KeystoreError> {
    let name = crypto.text("kdf")?;
    let params = crypto.object("kdfparams");
    match name {
        "scrypt" => read_scrypt(params?),
        "pbkdf2" => read_pbkdf2(params?),
        other => Err(unsupported("kdf", other)),
    }
}

fn read_scrypt(params: Fields<'_>) -> Result<Kdf, KeystoreError> {
    check_length(params)?;
    let (n, r, p) = (params.integer("n")?, params.small("r")?, params.small("p")?);
    Ok(Kdf::Scrypt { n, r, p, salt: params.bytes("salt")? })
}

fn read_pbkdf2(params: Fields<'_>) -> Result<Kdf, KeystoreError> {
    check_length(params)?;
    params.must_say("prf", PRF)?;
    Ok(Kdf::Pbkdf2 { iterations: params.integer("c")?, salt: params.bytes("salt")? })
}

fn check_length(params: Fields<'_>) -> Result<(), KeystoreError> {
    match params.integer("dklen")? {
        DERIVED => Ok(()),
        other => Err(unsupported("dklen", &other.to_string())),
    }
}

fn write_kdf(kdf: &Kdf) -> (&'static str, Value) {
    match kdf {
        Kdf::Scrypt { n, r, p, salt } => {
            ("scrypt", json!({ "dklen": DERIVED, "n": n, "r": r, "p": p, "salt": hex::encode(salt) }))
        }
        Kdf::Pbkdf2 { iterations, salt } => {
            ("pbkdf2", json!({ "dklen": DERIVED, "c": iterations, "prf": PRF, "salt": hex::encode(salt) }))
        }
    }
}

/// Encrypts, and decrypts again, with the first half of what was derived.
fn apply_cipher(derived: &[u8; 32], iv: &[u8; 16], bytes: &mut [u8; 32]) {
    let mut key = Zeroizing::new([0; 16]);
    key.copy_from_slice(&derived[..16]);
    Ctr128BE::<Aes128>::new((&*key).into(), iv.into()).apply_keystream(bytes);
}

/// Over the second half of what was derived, and the ciphertext.
fn mac(derived: &[u8; 32], ciphertext: &[u8; 32]) -> [u8; 32] {
    let mut input = Zeroizing::new([0; 48]);
    input[..16].copy_from_slice(&derived[16..]);
    input[16..].copy_from_slice(ciphertext);
    keccak256(input.as_slice()).0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    const RANDOMNESS: Randomness = Randomness { salt: [1; 32], iv: [2; 16], id: [3; 16] };

    fn identity() -> Identity {
        Identity::from_secret(&[0x46; 32]).unwrap()
    }

    fn password() -> SecretString {
        SecretString::from("correct horse")
    }

    fn sealed() -> Keystore {
        Keystore::seal(&identity(), &password(), KdfCost::NONE, &RANDOMNESS).unwrap()
    }

    /// What a key file's reader does with a text.
    fn opened(text: &[u8]) -> Option<Address> {
        let keystore = Keystore::parse(text).ok()?;
        keystore.address()?;
        keystore.open(&password()).ok().map(|identity| identity.address())
    }

    /// A keystore that opens, and holds this.
    fn holding(secret: [u8; 32]) -> Keystore {
        let keystore = Keystore { address: None, ..sealed() };
        let derived = keystore.kdf.derive(&password()).unwrap();
        let mut ciphertext = secret;
        apply_cipher(&derived, &keystore.iv, &mut ciphertext);
        Keystore { ciphertext, mac: mac(&derived, &ciphertext), ..keystore }
    }

    /// Opened by hand with ethers 6 and eth-account 0.14.
    #[test]
    fn what_is_written_is_what_other_wallets_read() {
        let light = Keystore::seal(&identity(), &password(), KdfCost::LIGHT, &RANDOMNESS).unwrap();
        assert_eq!(light.to_json(), include_str!("../tests/identity/keystores/ours.json").trim_end());
    }

    #[test]
    fn the_id_is_a_random_uuid() {
        let id = sealed().id.unwrap();
        assert_eq!((id.get_version_num(), id.get_variant()), (4, uuid::Variant::RFC4122));
    }

    #[test]
    fn an_altered_iv_would_be_another_key_and_only_the_address_tells() {
        let altered = Keystore { iv: [9; 16], ..sealed() };
        assert!(matches!(altered.open(&password()), Err(KeystoreError::Address { .. })));
        let silent = Keystore { address: None, ..altered };
        assert_ne!(silent.open(&password()).unwrap().address(), identity().address());
    }

    #[test]
    fn a_keystore_of_no_key_is_called_that() {
        for secret in [[0; 32], [255; 32]] {
            assert_eq!(holding(secret).open(&password()).unwrap_err(), KeystoreError::NoKey(crate::InvalidKey));
        }
        assert_eq!(holding([0x46; 32]).open(&password()).unwrap().address(), identity().address());
    }

    #[test]
    fn nothing_that_is_shown_of_a_keystore_is_its_key() {
        let shown = format!("{:?} {}", sealed(), sealed().to_json());
        assert!(!shown.contains("70, 70, 70") && !shown.contains("464646") && !shown.contains("horse"));
    }

    /// One change of a text's bytes.
    #[derive(Clone, Debug)]
    enum Change {
        Put(Index, u8),
        Insert(Index, u8),
        Remove(Index),
        Cut(Index),
        Swap(Index, Index),
        Double(Index, Index),
    }

    impl Change {
        fn apply(&self, text: &mut Vec<u8>) {
            let length = text.len();
            match self {
                _ if length == 0 => {}
                Self::Put(at, byte) => text[at.index(length)] = *byte,
                Self::Insert(at, byte) => text.insert(at.index(length), *byte),
                Self::Remove(at) => drop(text.remove(at.index(length))),
                Self::Cut(at) => text.truncate(at.index(length)),
                Self::Swap(one, two) => text.swap(one.index(length), two.index(length)),
                Self::Double(from, length_of) => {
                    let from = from.index(length);
                    let part = text[from..from + length_of.index(length - from)].to_vec();
                    text.splice(from..from, part);
                }
            }
        }
    }

    fn any_change() -> impl Strategy<Value = Change> {
        let byte = prop_oneof![any::<u8>(), prop::sample::select(b"0123456789abcdef\"{}[],:".to_vec())];
        prop_oneof![
            (any::<Index>(), byte.clone()).prop_map(|(at, byte)| Change::Put(at, byte)),
            (any::<Index>(), byte).prop_map(|(at, byte)| Change::Insert(at, byte)),
            any::<Index>().prop_map(Change::Remove),
            any::<Index>().prop_map(Change::Cut),
            any::<(Index, Index)>().prop_map(|(one, two)| Change::Swap(one, two)),
            any::<(Index, Index)>().prop_map(|(from, length)| Change::Double(from, length)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2048))]

        #[test]
        fn no_change_of_a_keystores_bytes_gives_another_key(changes in prop::collection::vec(any_change(), 1..4)) {
            let mut text = sealed().to_json().into_bytes();
            for change in &changes {
                change.apply(&mut text);
            }
            prop_assert!(opened(&text).is_none_or(|address| address == identity().address()));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(text: Vec<u8>) {
            prop_assert!(Keystore::parse(&text).is_err());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_sealed_opens_with_its_password_alone(
            secret: [u8; 32], salt: [u8; 32], iv: [u8; 16], id: [u8; 16], word in "\\PC{1,40}", other in "\\PC{0,40}",
        ) {
            let Ok(identity) = Identity::from_secret(&secret) else { return Ok(()) };
            let randomness = Randomness { salt, iv, id };
            let keystore = Keystore::seal(&identity, &word.clone().into(), KdfCost::NONE, &randomness).unwrap();
            let back = Keystore::parse(keystore.to_json().as_bytes()).unwrap();
            prop_assert_eq!(&back, &keystore);
            prop_assert_eq!(back.open(&word.clone().into()).unwrap().address(), identity.address());
            if other != word {
                prop_assert_eq!(back.open(&other.into()).unwrap_err(), KeystoreError::Password);
            }
        }
    }
}
