//! What is wrong with a keystore.

use domain::Address;

use crate::identity::InvalidKey;

/// Bytes of a keystore at most.
pub const MAX_TEXT: usize = 16 << 10;

/// Why a keystore does not give its key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeystoreError {
    /// Longer than [`MAX_TEXT`].
    #[error("longer than {MAX_TEXT} bytes, and so no keystore")]
    TooLarge,
    /// Ends before its JSON does.
    #[error("empty, or cut off before the end of its JSON")]
    Truncated,
    /// No JSON.
    #[error("not JSON")]
    NotJson,
    /// JSON, but nothing that a keystore has.
    #[error("JSON, but not a Web3 keystore")]
    Foreign,
    /// A field is absent.
    #[error("a keystore without `{0}`")]
    Missing(&'static str),
    /// A field has another shape than version 3 gives it.
    #[error("a keystore whose `{0}` is not what version 3 has there")]
    Malformed(&'static str),
    /// A kind of keystore that we do not read.
    #[error("a keystore whose `{field}` is {found}, which is not supported")]
    Unsupported {
        /// The field that says so.
        field: &'static str,
        /// What it says.
        found: String,
    },
    /// It asks for more of this machine than any honest keystore.
    #[error("a keystore that asks for {asked} {what}; at most {allowed} are given")]
    TooCostly {
        /// Of what.
        what: &'static str,
        /// How much.
        asked: u128,
        /// How much there may be.
        allowed: u64,
    },
    /// The MAC differs.
    #[error("the password is wrong, or the keystore was altered: its MAC does not match")]
    Password,
    /// It opened, and holds another key than it says.
    #[error("the keystore says that it holds the key of {stated}, and holds that of {actual}: it was altered")]
    Address {
        /// Its `address`.
        stated: Address,
        /// The address of the key inside.
        actual: Address,
    },
    /// It opened, and holds no key.
    #[error("the keystore opened, but what it holds is no secp256k1 key")]
    NoKey(#[from] InvalidKey),
}
