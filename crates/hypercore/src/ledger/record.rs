//! One sandbox, as it is written down.

use domain::{FailReason, PodId, RunId, UnixMillis};
use sandbox::{GuestFacts, Slot};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use wire::v1::node::{DataDisk, DataPolicy, SandboxPhase};
use wire::v1::pod::ImageRunConfig;

use crate::policy::SpecWithoutEnv;

/// The form of a record that this program writes. It reads the earlier ones too; a
/// record of a later program is left alone, and its sandbox with it.
///
/// | form | new in it |
/// |---|---|
/// | 1 | |
/// | 2 | `ran`, `disk_mib`; what is wanted may be `gone_kept` |
/// | 3 | the run's POD and whether there must be data of it; the facts name their driver |
/// | 4 | the run's volumes |
/// | 5 | what isolates it, where that was said; the facts of containers |
pub(crate) const VERSION: u32 = 5;

/// What is to become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DesiredState {
    /// It shall run.
    Run,
    /// It shall be gone, and its disks erased: its owner's word.
    Gone,
    /// It shall be gone, and its disks set aside.
    GoneKept,
}

impl From<DataPolicy> for DesiredState {
    fn from(data: DataPolicy) -> Self {
        match data {
            DataPolicy::Keep => Self::GoneKept,
            DataPolicy::Erase => Self::Gone,
        }
    }
}

/// All that is known of a sandbox but its secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    pub(crate) version: u32,
    pub(crate) id: RunId,
    pub(crate) slot: u16,
    pub(crate) desired: SpecWithoutEnv,
    /// What the image said when the sandbox was made.
    pub(crate) run: ImageRunConfig,
    pub(crate) wanted: DesiredState,
    pub(crate) created_at: UnixMillis,
    /// How often it was started, the first time included. Numbers its boots.
    pub(crate) starts: u32,
    /// Whether a guest of it ever ran: then its disks may hold what nobody else has.
    pub(crate) ran: bool,
    /// What its disks were promised, in MiB, where it was written down.
    pub(crate) disk_mib: Option<u64>,
    /// The deaths that still count.
    pub(crate) deaths: Vec<UnixMillis>,
    /// Why it was given up, if it was.
    pub(crate) failed: Option<FailReason>,
    pub(crate) ready_after_ms: Option<u64>,
    /// The guest that runs, or ran last.
    pub(crate) facts: Option<GuestFacts>,
}

impl SandboxRecord {
    /// A sandbox that was just asked for.
    pub(crate) const fn new(
        slot: Slot,
        desired: SpecWithoutEnv,
        run: ImageRunConfig,
        disk_mib: u64,
        now: UnixMillis,
    ) -> Self {
        Self {
            version: VERSION,
            id: slot.run,
            slot: slot.number,
            desired,
            run,
            wanted: DesiredState::Run,
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
        let damaged = |error: serde_json::Error| format!("is damaged ({error})");
        let mut fields: Map<String, Value> = serde_json::from_slice(text).map_err(damaged)?;
        let version = version_of(&fields)?;
        migrate(&mut fields, version, id);
        let mut record: Self = serde_json::from_value(Value::Object(fields)).map_err(damaged)?;
        if record.id != id {
            return Err(format!("is of another sandbox ({})", record.id));
        }
        // Earlier programs took what the node lacks for a failure of the agent.
        record.failed = record.failed.filter(|reason| *reason != FailReason::NodeRefused);
        Ok(record)
    }

    pub(crate) const fn slot(&self) -> Slot {
        Slot { run: self.id, number: self.slot }
    }

    /// What it is shown as before anybody has looked at its guest.
    pub(crate) const fn phase(&self) -> SandboxPhase {
        match (self.wanted, self.failed) {
            (DesiredState::Gone | DesiredState::GoneKept, _) => SandboxPhase::Stopping,
            (DesiredState::Run, Some(reason)) => SandboxPhase::Failed { reason },
            (DesiredState::Run, None) => SandboxPhase::Booting,
        }
    }

    pub(crate) const fn restarts(&self) -> u32 {
        self.starts.saturating_sub(1)
    }
}

/// The form of a record, if this program reads it.
fn version_of(fields: &Map<String, Value>) -> Result<u64, String> {
    let ours = u64::from(VERSION);
    match fields.get("version").and_then(Value::as_u64) {
        Some(found) if found > ours => {
            Err(format!("was written by a later version of this program (its form is {found}, ours is {ours})"))
        }
        Some(found @ 1..) => Ok(found),
        Some(0) | None => Err("is damaged (it does not say which form it has)".to_owned()),
    }
}

/// Makes a record of an earlier form one of this form.
fn migrate(fields: &mut Map<String, Value>, version: u64, id: RunId) {
    if version < 2 {
        // It may have run: its disks are taken for the only ones.
        fields.insert("ran".to_owned(), true.into());
        fields.insert("disk_mib".to_owned(), Value::Null);
    }
    if version < 3 {
        if let Some(desired) = fields.get_mut("desired").and_then(Value::as_object_mut) {
            desired.insert("pod".to_owned(), json!(PodId::minted(id)));
            desired.insert("data".to_owned(), json!(DataDisk::KeptOrEmpty));
        }
        if let Some(facts) = fields.get_mut("facts").and_then(Value::as_object_mut) {
            facts.insert("driver".to_owned(), "qemu".into());
        }
    }
    fields.insert("version".to_owned(), VERSION.into());
}

#[cfg(test)]
mod tests {
    use sandbox::{ProcessFacts, VmmFacts};
    use wire::v1::node::RuntimeName;

    use super::*;

    /// What the programs before this one wrote, each by itself.
    const RUNNING_2: &[u8] = include_bytes!("../../tests/formats/record-2-running.json");
    const FAILED_2: &[u8] = include_bytes!("../../tests/formats/record-2-failed.json");
    const ENDING_2: &[u8] = include_bytes!("../../tests/formats/record-2-ending.json");
    const RUNNING_3: &[u8] = include_bytes!("../../tests/formats/record-3-running.json");
    const RUNNING_4: &[u8] = include_bytes!("../../tests/formats/record-4-running.json");
    /// What this one writes.
    const RUNNING_5: &[u8] = include_bytes!("../../tests/formats/record-5-running.json");
    const RUNNING_1: &[u8] = include_bytes!("../../tests/formats/record-1-running.json");

    fn id() -> RunId {
        "a1b2c3d4-e5f6-7890".parse().unwrap()
    }

    #[test]
    fn a_record_of_each_earlier_form_is_a_run_of_the_pod_that_was_minted_for_it() {
        for text in [RUNNING_1, RUNNING_2, FAILED_2, ENDING_2] {
            let record = SandboxRecord::parse(text, id()).unwrap();
            assert_eq!((record.version, record.id, record.desired.pod), (VERSION, id(), PodId::minted(id())));
            assert_eq!(record.desired.data, DataDisk::KeptOrEmpty);
            assert!(record.ran);
            let written = serde_json::to_vec(&record).unwrap();
            assert_eq!(SandboxRecord::parse(&written, id()), Ok(record));
        }
        for text in [RUNNING_1, RUNNING_2] {
            let process = ProcessFacts { pid: 1, started: 7, boot: "fake".to_owned() };
            let facts = SandboxRecord::parse(text, id()).unwrap().facts;
            assert_eq!(facts, Some(GuestFacts::Qemu(VmmFacts { process })), "its guest is found by these");
        }
        assert_eq!(SandboxRecord::parse(FAILED_2, id()).unwrap().failed, Some(FailReason::CrashLoop));
        assert_eq!(SandboxRecord::parse(ENDING_2, id()).unwrap().wanted, DesiredState::GoneKept);
        assert_eq!(SandboxRecord::parse(RUNNING_1, id()).unwrap().disk_mib, None);
    }

    #[test]
    fn a_record_of_a_later_form_and_one_of_none_are_refused() {
        let ours = serde_json::to_value(SandboxRecord::parse(RUNNING_2, id()).unwrap()).unwrap();
        for (version, why) in
            [(json!(VERSION + 1), "later version"), (json!(0), "which form"), (Value::Null, "which form")]
        {
            let mut record = ours.clone();
            record["version"] = version;
            let refused = SandboxRecord::parse(record.to_string().as_bytes(), id()).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }

    #[test]
    fn a_record_of_form_3_or_4_is_of_a_machine_with_the_volumes_that_it_names() {
        let process = || ProcessFacts { pid: 1, started: 7, boot: "fake".to_owned() };
        for (text, volumes) in [(RUNNING_3, vec![]), (RUNNING_4, vec!["work"])] {
            let record = SandboxRecord::parse(text, id()).unwrap();
            assert_eq!((record.version, record.desired.data), (VERSION, DataDisk::Kept));
            assert_eq!(record.desired.pod.to_string(), "notes");
            assert_eq!(record.desired.volumes.iter().map(|volume| volume.name.as_str()).collect::<Vec<_>>(), volumes);
            assert_eq!(record.desired.runtime, None, "of a machine nothing was said");
            assert_eq!(record.facts, Some(GuestFacts::Qemu(VmmFacts { process: process() })));
            let written = serde_json::to_vec(&record).unwrap();
            assert_eq!(SandboxRecord::parse(&written, id()), Ok(record));
        }
    }

    #[test]
    fn what_isolates_a_run_stands_in_its_record_in_the_form_that_is_kept_here() {
        let record = SandboxRecord::parse(RUNNING_5, id()).unwrap();
        assert_eq!(record.desired.runtime, Some(RuntimeName::ContainerRunc));
        let Some(GuestFacts::Container(facts)) = &record.facts else { panic!("{:?}", record.facts) };
        assert_eq!((facts.runtime, facts.process.pid), (RuntimeName::ContainerRunc, 1));
        let kept: Value = serde_json::from_slice(RUNNING_5).unwrap();
        assert_eq!(serde_json::to_value(&record).unwrap(), kept);
    }

    /// The part of the last program's record by which it knew a later one.
    #[derive(Deserialize)]
    struct Form2 {
        version: u32,
    }

    #[test]
    fn the_last_program_leaves_a_record_of_this_form_alone() {
        let ours = serde_json::to_vec(&SandboxRecord::parse(RUNNING_2, id()).unwrap()).unwrap();
        let its: Form2 = serde_json::from_slice(&ours).unwrap();
        assert!(its.version > 2);
    }
}
