//! What SQLite said, sorted by what can be done about it.

use std::sync::Arc;

use rusqlite::ErrorCode;

use crate::error::StoreError;

impl StoreError {
    /// A fault of SQLite's.
    pub(crate) fn sql(operation: &'static str, error: rusqlite::Error) -> Self {
        let code = error.sqlite_error_code();
        let source = Arc::new(error);
        match code {
            Some(ErrorCode::DiskFull) => Self::Full { operation, source },
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Corrupt { operation, source },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed) => {
                Self::Locked { operation, source }
            }
            Some(ErrorCode::SystemIoFailure | ErrorCode::ReadOnly | ErrorCode::CannotOpen) => {
                Self::Disk { operation, source }
            }
            _ => Self::Sql { operation, source },
        }
    }
}
