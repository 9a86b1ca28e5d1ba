//! What is remembered of a VMM.

use serde::{Deserialize, Serialize};

use crate::process::ProcessFacts;

/// A VMM that was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmmFacts {
    /// Its process.
    #[serde(flatten)]
    pub process: ProcessFacts,
}
