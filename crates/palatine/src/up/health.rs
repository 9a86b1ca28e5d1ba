//! How the parts are. A change is said on the terminal; `palatine status` reads it
//! all from a file.

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use domain::{Clock, SystemClock, UnixMillis};
use sandbox::ProcessFacts;
use serde::{Deserialize, Serialize};

use super::state::FolderId;

/// How often it is written down that nothing has changed.
const LOOKED_EVERY: Duration = Duration::from_secs(10);

/// A part of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PartName {
    /// The local Solana.
    Solana,
    /// The local EVM chain.
    Evm,
    /// The node.
    Hypercore,
    /// The gateway.
    Gateway,
}

impl PartName {
    /// As it is written, also in the name of its log.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Solana => "solana",
            Self::Evm => "evm",
            Self::Hypercore => "hypercore",
            Self::Gateway => "gateway",
        }
    }
}

/// How a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PartState {
    /// It is being started.
    Starting,
    /// It does what it is for.
    Ok,
    /// It runs, and does not do what it is for.
    Sick,
    /// It does not run; it is started again.
    Down,
}

/// One part, as it was last seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartHealth {
    pub(crate) part: PartName,
    pub(crate) state: PartState,
    /// Since when it is so.
    pub(crate) since: UnixMillis,
    /// What it does not do, or how it ended and what it said last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
    /// How often it was started again.
    pub(crate) restarts: u32,
    /// Its process: an id and the time it was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) process: Option<ProcessFacts>,
}

/// All parts, as they were last seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Health {
    /// When they were last looked at.
    pub(crate) looked_at: UnixMillis,
    pub(crate) parts: Vec<PartHealth>,
}

/// The same, on disk.
#[derive(Serialize, Deserialize)]
struct StoredHealth<H> {
    /// The folder of the stack that has the parts.
    folder: FolderId,
    #[serde(flatten)]
    health: H,
}

impl Health {
    /// Reads what was last seen; nothing if nobody ever looked. What a copy of a folder
    /// says is of another stack's parts.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let read = || format!("read {}", path.display());
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error).with_context(read),
        };
        let seen: StoredHealth<Self> = serde_json::from_slice(&text).with_context(read)?;
        let here = FolderId::of(durable::parent(path)).with_context(read)?;
        Ok(if seen.folder == here { seen.health } else { Self::default() })
    }

    /// Whether all parts did what they are for.
    pub(crate) fn is_ok(&self) -> bool {
        self.parts.iter().all(|report| report.state == PartState::Ok)
    }

    /// The parts that do not, a line each and what they said last below it.
    pub(crate) fn unhealthy(&self) -> impl Iterator<Item = String> {
        self.parts.iter().filter(|report| report.state != PartState::Ok).map(sentence)
    }
}

/// Records how the parts are, in memory and on disk.
#[derive(Debug)]
pub(crate) struct HealthRecorder {
    path: PathBuf,
    health: RefCell<Health>,
    /// When it was last written down that somebody looked.
    told: Cell<UnixMillis>,
}

impl HealthRecorder {
    /// Starts anew: what was seen before is of other processes.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, health: RefCell::default(), told: Cell::default() }
    }

    /// Notes how a part is.
    pub(crate) fn note(&self, part: PartName, state: PartState, why: Option<String>) {
        let now = SystemClock.now();
        let changed = self.change(part, |report| {
            if report.state != state {
                report.since = now;
                let (before, restarts) = (report.state, report.restarts);
                (report.state, report.why) = (state, why);
                say(report, before, restarts);
                true
            } else {
                let other = why.is_some() && report.why != why;
                if other {
                    report.why = why;
                }
                other
            }
        });
        self.health.borrow_mut().looked_at = now;
        let late = u128::from(now.0.saturating_sub(self.told.get().0)) >= LOOKED_EVERY.as_millis();
        if changed || late {
            self.write();
        }
    }

    /// Notes a part's new process.
    pub(crate) fn spawned(&self, part: PartName, process: Option<ProcessFacts>) {
        self.change(part, |report| {
            if report.process.is_some() {
                report.restarts = report.restarts.saturating_add(1);
            }
            report.process = process;
        });
        self.write();
    }

    fn change<T>(&self, part: PartName, change: impl FnOnce(&mut PartHealth) -> T) -> T {
        let mut health = self.health.borrow_mut();
        let at = health.parts.iter().position(|report| report.part == part);
        let (state, since) = (PartState::Starting, SystemClock.now());
        let mut report = match at {
            Some(at) => health.parts.remove(at),
            None => PartHealth { part, state, since, why: None, restarts: 0, process: None },
        };
        let changed = change(&mut report);
        let at = at.unwrap_or(health.parts.len());
        health.parts.insert(at, report);
        changed
    }

    /// A file that cannot be written is said, and the parts go on: `palatine status`
    /// tells how old what it reads is.
    fn write(&self) {
        self.told.set(self.health.borrow().looked_at);
        if let Err(error) = self.replace() {
            eprintln!("! {} cannot be written: {error}", self.path.display());
        }
    }

    /// Whole or not at all, and for everybody to read.
    fn replace(&self) -> std::io::Result<()> {
        let seen = StoredHealth { folder: FolderId::of(durable::parent(&self.path))?, health: &*self.health.borrow() };
        let text = serde_json::to_vec_pretty(&seen)?;
        let draft = self.path.with_extension("json.new");
        let mut file = File::create(&draft)?;
        file.write_all(&text)?;
        file.sync_all()?;
        durable::move_to("parts", &draft, &self.path)
    }
}

/// The start is said elsewhere: here is only what goes wrong later, and its end.
fn say(report: &PartHealth, before: PartState, restarts: u32) {
    match (before, report.state) {
        (_, PartState::Sick | PartState::Down) => eprintln!("✗ {}", sentence(report)),
        (PartState::Sick, PartState::Ok) => eprintln!("✓ {} does what it is for again", report.part.as_str()),
        (PartState::Starting | PartState::Down, PartState::Ok) if restarts > 0 => {
            eprintln!("✓ {} runs again", report.part.as_str());
        }
        (_, PartState::Ok | PartState::Starting) => {}
    }
}

fn sentence(report: &PartHealth) -> String {
    let how = match report.state {
        PartState::Starting => "is starting",
        PartState::Ok => "is ok",
        PartState::Sick => "is sick",
        PartState::Down => "is down",
    };
    let why = report.why.as_ref().map(|why| format!(": {}", why.trim_end())).unwrap_or_default();
    format!("{} {how} since {}{why}", report.part.as_str(), clock(report.since))
}

/// The time of day, in UTC.
pub(crate) fn clock(at: UnixMillis) -> String {
    let seconds = at.0 / 1000 % 86_400;
    format!("{:02}:{:02}:{:02} UTC", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_keeps_its_first_instant_and_ends_when_the_part_is_ok_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("parts.json");
        let recorder = HealthRecorder::new(path.clone());
        let seen = || Health::read(&path).unwrap();
        assert_eq!(seen(), Health::default());
        recorder.spawned(PartName::Solana, None);
        recorder.note(PartName::Solana, PartState::Ok, None);
        assert!(seen().is_ok());
        recorder.note(PartName::Solana, PartState::Sick, Some("silence".to_owned()));
        let since = seen().parts[0].since;
        recorder.note(PartName::Solana, PartState::Sick, Some("still silence".to_owned()));
        assert_eq!((seen().parts[0].since, seen().parts[0].why.as_deref()), (since, Some("still silence")));
        assert!(seen().unhealthy().next().unwrap().starts_with("solana is sick since "));
        recorder.note(PartName::Solana, PartState::Ok, None);
        assert_eq!((seen().is_ok(), seen().parts[0].why.as_deref()), (true, None));
    }

    #[test]
    fn the_time_of_day_is_utc() {
        assert_eq!(clock(UnixMillis(1_707_022_560_000)), "04:56:00 UTC");
    }
}
