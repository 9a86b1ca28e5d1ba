//! What PostgreSQL said, sorted by what can be done about it.

use std::sync::Arc;

use crate::error::StoreError;

/// The first two characters of a code are its class: appendix A of PostgreSQL's manual.
const CONNECTION: &str = "08";
const RESOURCES: &str = "53";
const INTERVENTION: &str = "57";

impl StoreError {
    /// A fault of PostgreSQL's, or of the way to it.
    pub(crate) fn postgres(operation: &'static str, error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|said| said.code()).map(|code| code.into_owned());
        let lost = matches!(
            error,
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed
        );
        // A server that goes down in the middle of a message breaks it off.
        let lost = lost || matches!(error, sqlx::Error::Protocol(_));
        if matches!(error, sqlx::Error::PoolTimedOut) {
            return Self::Timeout { operation };
        }
        let source = Arc::new(error);
        match code.as_deref() {
            None if lost => Self::Unreachable { operation, source },
            None => Self::Sql { operation, source },
            Some(code) => Self::of_code(operation, code, source),
        }
    }

    fn of_code(operation: &'static str, code: &str, source: crate::error::Cause) -> Self {
        match code {
            // disk_full
            "53100" => Self::Full { operation, source },
            // io_error
            "58030" => Self::Disk { operation, source },
            // data_corrupted, index_corrupted
            "XX001" | "XX002" => Self::Corrupt { operation, source },
            // serialization_failure, deadlock_detected, lock_not_available
            "40001" | "40P01" | "55P03" => Self::Locked { operation, source },
            // query_canceled: the statement's own bound
            "57014" => Self::Timeout { operation },
            // read_only_sql_transaction: a standby that was asked in its primary's place
            "25006" => Self::Unreachable { operation, source },
            _ => match code.get(..2) {
                Some(CONNECTION | RESOURCES | INTERVENTION) => Self::Unreachable { operation, source },
                _ => Self::Sql { operation, source },
            },
        }
    }

    /// Another transaction was faster, in a way that a second try finds out about.
    pub(crate) fn tie(operation: &'static str) -> Self {
        Self::Locked { operation, source: Arc::new(std::io::Error::other("another transaction was faster")) }
    }

    /// Whether the server undid the transaction to break a tie: the same one may succeed
    /// at once.
    pub(crate) fn is_tie(&self) -> bool {
        matches!(self, Self::Locked { .. })
    }
}
