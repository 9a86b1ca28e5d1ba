//! What the gasless relayer took on and what became of it.
//!
//! | file | holds |
//! |---|---|
//! | `entry` | [`RelayEntry`]: one call, its fee, its state, its outcome |
//! | `journal` | [`Journal`], who keeps entries; quotas |

mod entry;
mod journal;

pub use entry::{
    CollectedFee, FeePayment, ForwarderNonce, RelayEntry, RelayOutcome, RelayState, RelayStatus, RelayTransaction,
};
pub use journal::{DailyQuota, Journal, JournalError, RelayAdmission, RelayCounts};
