//! What the gasless relayer took on and what became of it.
//!
//! | file | holds |
//! |---|---|
//! | `entry` | [`RelayEntry`]: one call, its fee, its state, its outcome |
//! | `journal` | [`RelayJournal`], who keeps entries; quotas |

mod entry;
mod journal;

pub use entry::{
    CollectedFee, FeePayment, FinalStatus, ForwarderNonce, RelayEntry, RelayOutcome, RelayState, RelayTransaction,
};
pub use journal::{DailyQuota, RelayAdmission, RelayCounts, RelayJournal, RelayJournalError};
