//! Secrets on the wire: they can be sent, and never printed.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;

/// A secret text. `Debug` hides it; only serialisation shows it.
#[derive(Clone, Debug)]
pub struct Secret(pub SecretString);

impl Secret {
    /// The secret itself. Callers look at it, and do not keep it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.expose())
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from).map(Self::from)
    }
}

impl utoipa::PartialSchema for Secret {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new().schema_type(utoipa::openapi::schema::Type::String).into()
    }
}

impl ToSchema for Secret {}

/// The environment a holder hands its agent: names and secret values, bounded.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = std::collections::HashMap<String, String>)]
pub struct Environment(pub BTreeMap<String, Secret>);

/// Why an environment is refused. Names at most the variable, never its value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvironmentError {
    /// Too many variables.
    #[error("env has {0} variables; at most {max} are allowed", max = Environment::MAX_VARIABLES)]
    TooMany(usize),
    /// A name that no shell would take, or that the platform keeps for itself.
    #[error("env: {0:?} is not a name of A-Z, a-z, 0-9 and '_' (at most 128, no digit first, not PALATINE_*)")]
    Name(String),
    /// A value with a NUL, or too long.
    #[error("env: the value of {0} is longer than {max} bytes or holds a NUL", max = Environment::MAX_VALUE)]
    Value(String),
    /// All together too long.
    #[error("env is larger than {max} bytes", max = Environment::MAX_BYTES)]
    TooLarge,
}

impl Environment {
    /// Variables at most.
    pub const MAX_VARIABLES: usize = 64;
    /// Bytes of a name at most.
    pub const MAX_NAME: usize = 128;
    /// Bytes of a value at most.
    pub const MAX_VALUE: usize = 16 * 1024;
    /// Bytes of all names and values at most.
    pub const MAX_BYTES: usize = 64 * 1024;

    /// Checks the bounds.
    ///
    /// # Errors
    /// Names the first variable out of bounds.
    pub fn check(&self) -> Result<(), EnvironmentError> {
        if self.0.len() > Self::MAX_VARIABLES {
            return Err(EnvironmentError::TooMany(self.0.len()));
        }
        let mut bytes = 0;
        for (name, value) in &self.0 {
            let shaped = !name.is_empty()
                && name.len() <= Self::MAX_NAME
                && !name.as_bytes()[0].is_ascii_digit()
                && !name.starts_with("PALATINE_")
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            if !shaped {
                return Err(EnvironmentError::Name(name.chars().take(Self::MAX_NAME).collect()));
            }
            if value.expose().len() > Self::MAX_VALUE || value.expose().contains('\0') {
                return Err(EnvironmentError::Value(name.clone()));
            }
            bytes += name.len() + value.expose().len();
        }
        if bytes > Self::MAX_BYTES { Err(EnvironmentError::TooLarge) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &str, value: &str) -> Environment {
        Environment(BTreeMap::from([(name.to_owned(), Secret::from(value.to_owned()))]))
    }

    #[test]
    fn names_and_values_out_of_bounds_are_refused_without_showing_the_value() {
        for (name, value) in [("1A", "hush"), ("A-B", "hush"), ("", "hush"), ("PALATINE_X", "hush"), ("A", "hush\0")] {
            let said = with(name, value).check().unwrap_err().to_string();
            assert!(!said.contains("hush"), "{said}");
        }
        assert_eq!(with("OPENAI_API_KEY", "sk-1").check(), Ok(()));
        assert!(with("A", &"x".repeat(Environment::MAX_VALUE + 1)).check().is_err());
    }

    #[test]
    fn an_environment_does_not_print_its_values() {
        assert!(!format!("{:?}", with("KEY", "hush-hush")).contains("hush-hush"));
    }
}
