//! The names of a task's states.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A state's name alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "named as the states")]
pub enum TaskStateName {
    Announced,
    Funded,
    Declined,
    Submitted,
    Disputed,
    Claimed,
    Completed,
    Refunded,
    Resolved,
}

impl TaskStateName {
    /// The name as the wire and the database write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Announced => "announced",
            Self::Funded => "funded",
            Self::Declined => "declined",
            Self::Submitted => "submitted",
            Self::Disputed => "disputed",
            Self::Claimed => "claimed",
            Self::Completed => "completed",
            Self::Refunded => "refunded",
            Self::Resolved => "resolved",
        }
    }
}

impl fmt::Display for TaskStateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
