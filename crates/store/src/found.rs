//! What a database is before its schema is brought up: whoever opens it may refuse then, and
//! nothing of it is changed.

use domain::UnixMillis;

use crate::error::StoreError;

/// A database of ours, or an empty one.
pub(crate) struct FoundDatabase {
    pub(crate) place: String,
    /// Its schema; 0 of an empty one.
    pub(crate) schema: i64,
    /// The newest schema known here.
    pub(crate) known: i64,
    /// The first schema with sealed keys.
    pub(crate) seals_keys: i64,
    /// [`SecretName::Check`](crate::SecretName::Check), if keys were sealed in it.
    pub(crate) check: Option<Vec<u8>>,
}

/// The text that the sealing key is known by, for a database in which nothing is sealed. It is kept
/// before anybody else looks whether there is one: of gateways that begin at once with files of
/// their own, one makes a key, and the others are told whose they need.
pub(crate) struct FirstCheck {
    pub(crate) sealed: Vec<u8>,
    pub(crate) now: UnixMillis,
}

impl FoundDatabase {
    /// For whoever brings no schema up.
    pub(crate) fn must_be_current(&self) -> Result<(), StoreError> {
        self.must_reach(self.known)
    }

    /// For whoever works on sealed keys alone: a gateway whose sealing key is lost brings no schema up.
    pub(crate) fn must_seal_keys(&self) -> Result<(), StoreError> {
        self.must_reach(self.seals_keys)
    }

    fn must_reach(&self, schema: i64) -> Result<(), StoreError> {
        if self.schema >= schema {
            return Ok(());
        }
        Err(StoreError::Older { place: self.place.clone(), found: self.schema, known: self.known })
    }
}
