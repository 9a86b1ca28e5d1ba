//! What can go wrong between the control plane and a node.

use std::error::Error;
use std::io;
use std::time::Duration;

use wire::fault::{Code, Fault};

/// Why a call to a node has no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The node's socket takes no connection, or is not there: nothing was asked.
    #[error("{operation}: no connection to the node")]
    NotConnected {
        /// What was to be asked.
        operation: &'static str,
        /// Why there is none.
        source: io::Error,
    },
    /// The connection ended before the answer was whole. The node may or may not
    /// have done what was asked.
    #[error("{operation}: the connection to the node was lost")]
    ConnectionLost {
        /// What was asked.
        operation: &'static str,
        /// What broke.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The node understood, and said no.
    #[error("the node refused: {0}")]
    Refused(Box<Fault>),
    /// The node's answer is not one of this API.
    #[error("{operation}: the node's answer cannot be used: {why}")]
    Protocol {
        /// What was asked.
        operation: &'static str,
        /// What is wrong with the answer.
        why: String,
    },
    /// No whole answer came in time. The node may or may not have done what was
    /// asked.
    #[error("{operation}: no answer from the node within {} ms", .after.as_millis())]
    TimedOut {
        /// What was asked.
        operation: &'static str,
        /// How long was waited.
        after: Duration,
    },
}

impl NodeError {
    /// The node's own code, where it refused.
    #[must_use]
    pub const fn code(&self) -> Option<Code> {
        match self {
            Self::Refused(fault) => Some(fault.code),
            Self::NotConnected { .. } | Self::ConnectionLost { .. } | Self::Protocol { .. } | Self::TimedOut { .. } => {
                None
            }
        }
    }

    /// Whether the node may have done what was asked although this is an error.
    #[must_use]
    pub const fn is_ambiguous(&self) -> bool {
        match self {
            Self::ConnectionLost { .. } | Self::TimedOut { .. } | Self::Protocol { .. } => true,
            Self::NotConnected { .. } | Self::Refused(_) => false,
        }
    }

    pub(super) fn protocol(operation: &'static str, why: impl Into<String>) -> Self {
        Self::Protocol { operation, why: why.into() }
    }

    /// A broken connection is the node's absence; bytes that are not HTTP are
    /// its fault.
    pub(super) fn transport(operation: &'static str, error: hyper::Error) -> Self {
        if error.is_parse() {
            return Self::protocol(operation, error.to_string());
        }
        Self::ConnectionLost { operation, source: Box::new(error) }
    }
}
