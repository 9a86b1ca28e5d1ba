//! One sandbox, as it is written down.

use domain::{RunId, FailReason, UnixMillis};
use sandbox::{Facts, Seat};
use serde::{Deserialize, Serialize};
use wire::node::{Data, Phase};
use wire::pod::Run;

use crate::policy::Desired;

/// The form of a record that this program writes. It reads the
/// earlier ones too; a record of a later program is left alone, and its sandbox with it.
pub(crate) const VERSION: u32 = 2;

/// What is to become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Wanted {
    /// It shall run.
    Run,
    /// It shall be gone, and its disks erased: its owner's word.
    Gone,
    /// It shall be gone, and its disks set aside.
    GoneKept,
}

impl From<Data> for Wanted {
    fn from(data: Data) -> Self {
        match data {
            Data::Keep => Self::GoneKept,
            Data::Erase => Self::Gone,
        }
    }
}

/// All that is known of a sandbox but its secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) version: u32,
    pub(crate) id: RunId,
    pub(crate) slot: u16,
    pub(crate) desired: Desired,
    /// What the image said when the sandbox was made.
    pub(crate) run: Run,
    pub(crate) wanted: Wanted,
    pub(crate) created_at: UnixMillis,
    /// How often it was started, the first time included. Numbers its boots.
    pub(crate) starts: u32,
    /// Whether a guest of it ever ran: then its disks may hold what nobody else has.
    #[serde(default = "yes")]
    pub(crate) ran: bool,
    /// What its disks were promised, in MiB, where it was written down.
    #[serde(default)]
    pub(crate) disk_mib: Option<u64>,
    /// The deaths that still count.
    pub(crate) deaths: Vec<UnixMillis>,
    /// Why it was given up, if it was.
    pub(crate) failed: Option<FailReason>,
    pub(crate) ready_after_ms: Option<u64>,
    /// The guest that runs, or ran last.
    pub(crate) facts: Option<Facts>,
}

/// Of a record that does not say.
const fn yes() -> bool {
    true
}

impl Record {
    /// A sandbox that was just asked for.
    pub(crate) const fn new(seat: Seat, desired: Desired, run: Run, disk_mib: u64, now: UnixMillis) -> Self {
        Self {
            version: VERSION,
            id: seat.id,
            slot: seat.slot,
            desired,
            run,
            wanted: Wanted::Run,
            created_at: now,
            starts: 0,
            ran: false,
            disk_mib: Some(disk_mib),
            deaths: Vec::new(),
            failed: None,
            ready_after_ms: None,
            facts: None,
        }
    }

    /// Reads a record of this sandbox, of this form or an earlier one. What is wrong
    /// with it is said in words.
    pub(crate) fn parse(text: &[u8], id: RunId) -> Result<Self, String> {
        let version = serde_json::from_slice::<serde_json::Value>(text).ok().and_then(|it| it.get("version")?.as_u64());
        if let Some(found) = version.filter(|found| *found > u64::from(VERSION)) {
            return Err(format!(
                "was written by a later version of this program (its form is {found}, ours is {VERSION})"
            ));
        }
        let mut record: Self = serde_json::from_slice(text).map_err(|error| format!("is damaged ({error})"))?;
        if record.id != id {
            return Err(format!("is of another sandbox ({})", record.id));
        }
        record.version = VERSION;
        // Earlier programs took what the node lacks for a failure of the agent.
        record.failed = record.failed.filter(|reason| *reason != FailReason::NodeRefused);
        Ok(record)
    }

    pub(crate) const fn seat(&self) -> Seat {
        Seat { id: self.id, slot: self.slot }
    }

    /// What it is shown as before anybody has looked at its guest.
    pub(crate) const fn phase(&self) -> Phase {
        match (self.wanted, self.failed) {
            (Wanted::Gone | Wanted::GoneKept, _) => Phase::Stopping,
            (Wanted::Run, Some(reason)) => Phase::Failed { reason },
            (Wanted::Run, None) => Phase::Booting,
        }
    }

    pub(crate) const fn restarts(&self) -> u32 {
        self.starts.saturating_sub(1)
    }
}
