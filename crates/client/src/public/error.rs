//! Why a call to the gateway has no answer that can be used.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use wire::fault::{Code, Fault};
use wire::filesystem::FilesError;
use wire::process::RpcError;

/// A refusal. Its source is the [`Fault`].
#[derive(Debug)]
pub struct ApiError {
    operation: &'static str,
    fault: Box<Fault>,
}

impl ApiError {
    pub(super) fn new(operation: &'static str, fault: Fault) -> Self {
        Self { operation, fault: Box::new(fault) }
    }

    /// What the gateway said.
    #[must_use]
    pub const fn fault(&self) -> &Fault {
        &self.fault
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.operation)
    }
}

impl Error for ApiError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.fault)
    }
}

/// Why a call has no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The gateway's URL cannot be one.
    #[error("{0:?} is not a gateway's URL: it looks like http://127.0.0.1:8080 and has no path")]
    Gateway(String),
    /// No HTTP client could be made.
    #[error("make an HTTP client")]
    Setup(#[source] Box<dyn Error + Send + Sync>),
    /// The call must be signed, and no keypair was given.
    #[error("{0}: needs a keypair to sign with")]
    Unsigned(&'static str),
    /// The gateway refused, for itself or for the agent.
    #[error(transparent)]
    Refused(#[from] ApiError),
    /// The agent itself said no.
    #[error("the agent answered with status {status}: {message}")]
    Agent {
        /// The HTTP status.
        status: u16,
        /// The agent's own words, cut short.
        message: String,
    },
    /// The answer has a price, and was not paid for.
    #[error("pay for the answer")]
    Payment(#[source] Box<dyn Error + Send + Sync>),
    /// The process protocol said no.
    #[error("run the command in the agent")]
    Rpc(#[source] RpcError),
    /// The agent's guest is closed to us, or cannot be reached.
    #[error("{operation}")]
    Guest {
        /// What was asked.
        operation: &'static str,
        /// Why.
        source: FilesError,
    },
    /// A file of the agent's was not worked on.
    #[error("{path}")]
    File {
        /// Which.
        path: String,
        /// Why, in the guest's words.
        source: FilesError,
    },
    /// No connection, or one that broke before the answer was whole.
    #[error("{operation}: no answer from {host}")]
    Unreachable {
        /// What was asked.
        operation: &'static str,
        /// Whom.
        host: String,
        /// What broke.
        source: reqwest::Error,
    },
    /// No whole answer, or no further word of a stream, came in time.
    #[error("{operation}: nothing was heard for {} s", .after.as_secs_f32())]
    TimedOut {
        /// What was asked.
        operation: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// The stream ended before its end was told.
    #[error("{0}: the answer broke off; the agent or the gateway may have died")]
    BrokenOff(&'static str),
    /// The answer is not one of this API.
    #[error("{operation}: the answer cannot be used: {why}")]
    Protocol {
        /// What was asked.
        operation: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// Our own standard input or output failed.
    #[error("{operation}")]
    Local {
        /// What was done.
        operation: &'static str,
        /// What broke.
        source: io::Error,
    },
}

impl ClientError {
    /// What the gateway said, where it refused.
    #[must_use]
    pub const fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Refused(refused) => Some(refused.fault()),
            _ => None,
        }
    }

    /// The gateway's code, where it refused.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        self.fault().map(|fault| fault.code)
    }

    /// The status by which the port of the guest's protocols refused, where it did.
    #[must_use]
    pub const fn guest_status(&self) -> Option<u16> {
        match self {
            Self::Guest { source, .. } | Self::File { source, .. } => Some(source.code),
            _ => None,
        }
    }

    /// Whether it may pass by itself: the gateway is restarted, say.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::BrokenOff(_) => true,
            Self::Refused(refused) => refused.fault().retry_after.is_some() || refused.fault().code.status() == 503,
            Self::Guest { source, .. } | Self::File { source, .. } => matches!(source.code, 408 | 429 | 502..=504),
            Self::Gateway(_)
            | Self::Setup(_)
            | Self::Unsigned(_)
            | Self::Agent { .. }
            | Self::Rpc(_)
            | Self::Payment(_)
            | Self::Protocol { .. }
            | Self::Local { .. } => false,
        }
    }

    pub(super) fn protocol(operation: &'static str, why: impl fmt::Display) -> Self {
        Self::Protocol { operation, why: why.to_string() }
    }

    pub(super) fn transport(operation: &'static str, error: reqwest::Error) -> Self {
        let host = error.url().and_then(reqwest::Url::host_str).unwrap_or("the gateway").to_owned();
        Self::Unreachable { operation, host, source: error.without_url() }
    }
}
