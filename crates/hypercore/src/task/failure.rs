//! What keeps a task from going on: the node lacks something, its guest died, its records
//! cannot be written.

use std::time::Duration;

use domain::{FailReason, NodeShortage};
use sandbox::{RuntimeError, is_full};

use crate::error_chain::error_chain;
use crate::journal::JournalError;
use crate::ledger::LedgerError;
use crate::policy::ReadinessHistory;

/// What the node lacks, and how that was noticed.
pub(super) struct Shortage {
    pub(super) lacks: NodeShortage,
    pub(super) cause: String,
}

impl From<RuntimeError> for Shortage {
    fn from(error: RuntimeError) -> Self {
        Self { lacks: error.wait_reason(), cause: error_chain(&error) }
    }
}

/// Why a guest is no more.
#[derive(Debug, thiserror::Error)]
pub(super) enum GuestFailure {
    /// It, or its agent, was not ready in time.
    #[error("it was not ready within {0:?}")]
    Boot(Duration),
    /// Its `pod` has not spoken: the guest hangs on its way there.
    #[error("its pod said nothing within {0:?}")]
    Silent(Duration),
    /// The check of its volumes goes on and on.
    #[error("its volumes were not checked within {0:?}")]
    Check(Duration),
    /// The VMM ended.
    #[error("{0}")]
    Guest(String),
    /// `pod` said so, or said nothing.
    #[error("{0}")]
    Pod(String),
    /// It was ready, and then not, too often.
    #[error("it became ready and unready more than {most} times in a while", most = ReadinessHistory::MOST)]
    Flaps,
}

impl GuestFailure {
    pub(super) const fn reason(&self) -> FailReason {
        match self {
            Self::Boot(_) | Self::Silent(_) | Self::Check(_) => FailReason::BootTimeout,
            Self::Guest(_) | Self::Pod(_) | Self::Flaps => FailReason::CrashLoop,
        }
    }

    pub(super) const fn label(&self) -> &'static str {
        match self {
            Self::Boot(_) => "boot_timeout",
            Self::Silent(_) => "silent",
            Self::Check(_) => "check",
            Self::Guest(_) => "guest",
            Self::Pod(_) => "pod",
            Self::Flaps => "flaps",
        }
    }
}

/// What stops a task from going on: its own records.
#[derive(Debug, thiserror::Error)]
pub(super) enum BookkeepingError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("open a log")]
    Log(#[source] std::io::Error),
    #[error("work on the disk")]
    Blocking(#[source] tokio::task::JoinError),
    #[error("its logs and its token are not open")]
    Closed,
}

impl BookkeepingError {
    pub(super) fn wait_reason(&self) -> NodeShortage {
        match self {
            Self::Ledger(error) if error.is_of_a_full_disk() => NodeShortage::Disk,
            Self::Log(error) if is_full(error) => NodeShortage::Disk,
            Self::Ledger(_) | Self::Journal(_) | Self::Log(_) | Self::Blocking(_) | Self::Closed => {
                NodeShortage::Ledger
            }
        }
    }
}
