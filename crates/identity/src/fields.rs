//! A JSON object's fields. What they hold is never shown: a file that is no keystore
//! may be something more secret.

use serde_json::{Map, Value};

use crate::error::KeystoreError;

/// An object of the keystore.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    /// The whole text as an object; `None` if it is other JSON.
    pub(crate) const fn of(value: &'a Value) -> Option<Self> {
        match value {
            Value::Object(fields) => Some(Self(fields)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => None,
        }
    }

    pub(crate) fn has(self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(crate) fn value(self, name: &'static str) -> Result<&'a Value, KeystoreError> {
        self.0.get(name).ok_or(KeystoreError::Missing(name))
    }

    pub(crate) fn object(self, name: &'static str) -> Result<Self, KeystoreError> {
        Self::of(self.value(name)?).ok_or(KeystoreError::Malformed(name))
    }

    pub(crate) fn text(self, name: &'static str) -> Result<&'a str, KeystoreError> {
        self.value(name)?.as_str().ok_or(KeystoreError::Malformed(name))
    }

    /// An integer that is not negative.
    pub(crate) fn integer(self, name: &'static str) -> Result<u64, KeystoreError> {
        self.value(name)?.as_u64().ok_or(KeystoreError::Malformed(name))
    }

    pub(crate) fn small(self, name: &'static str) -> Result<u32, KeystoreError> {
        u32::try_from(self.integer(name)?).map_err(|_| KeystoreError::Malformed(name))
    }

    /// Bytes in hex, with or without `0x`.
    pub(crate) fn bytes(self, name: &'static str) -> Result<Vec<u8>, KeystoreError> {
        let text = self.text(name)?;
        hex::decode(text.strip_prefix("0x").unwrap_or(text)).map_err(|_| KeystoreError::Malformed(name))
    }

    /// Exactly so many bytes in hex.
    pub(crate) fn exact<const N: usize>(self, name: &'static str) -> Result<[u8; N], KeystoreError> {
        self.bytes(name)?.try_into().map_err(|_| KeystoreError::Malformed(name))
    }

    /// Refuses a text other than the one we know.
    pub(crate) fn must_say(self, name: &'static str, known: &str) -> Result<(), KeystoreError> {
        let found = self.text(name)?;
        if found == known { Ok(()) } else { Err(unsupported(name, found)) }
    }
}

/// Names what we do not know, if it looks like a name.
pub(crate) fn unsupported(field: &'static str, found: &str) -> KeystoreError {
    const MAX_NAME: usize = 24;
    let named = found.len() <= MAX_NAME && found.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    KeystoreError::Unsupported { field, found: if named { found.to_owned() } else { "something else".to_owned() } }
}
