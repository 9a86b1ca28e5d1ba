//! Disks that outlived their sandbox: set aside until their owner or their retention
//! erases them.
//!
//! ```text
//! <state>/kept/<id>/          a sandbox's disks, as they were
//! <state>/kept/<id>/kept.json since when, until when, why
//! <state>/kept/<id>.1/        those of another sandbox of the same id
//! <state>/kept/erasing-…      being erased
//! ```
//!
//! A folder whose note cannot be read is never erased; one whose note was never
//! written gets one at the next start.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use domain::RunId;
use serde::{Deserialize, Serialize};
use wire::node::{KeptDisk, Retention};

use crate::files;

const NOTE: &str = "kept.json";
pub(crate) const DISK: &str = "ext4";
const ERASING: &str = "erasing-";
/// The form of the note.
const VERSION: u32 = 1;
/// Sandboxes of one id whose disks are kept beside each other.
const SAME: u32 = 1_000;
/// Bytes in a block, as `stat` counts them.
const BLOCK: u64 = 512;

#[derive(Serialize, Deserialize)]
struct Note {
    version: u32,
    #[serde(flatten)]
    retention: Retention,
}

/// The folder of disks that are set aside.
pub(crate) struct Kept(PathBuf);

impl Kept {
    pub(crate) fn of(state: &Path) -> Self {
        Self(state.join("kept"))
    }

    /// Takes a sandbox's folder over, in one step. Without disks in it, it goes.
    pub(crate) fn take(&self, dir: &Path, id: RunId, retention: &Retention) -> io::Result<()> {
        if !holds_disks(dir)? {
            return files::remove_dir(dir);
        }
        durable::make_dir("kept", &self.0)?;
        // On a full disk the folder comes without: it gets its note later.
        if let Err(error) = write_note(dir, retention) {
            tracing::warn!(%id, %error, "the note beside disks that are set aside cannot be written yet");
        }
        let taken = self.0.join(self.free_name(id)?);
        fs::rename(dir, &taken)?;
        durable::failpoint("kept", "taken");
        durable::sync_parent(&taken)?;
        durable::sync_parent(dir)
    }

    /// Writes the notes that were never written, and finishes erasing. What cannot be
    /// done, on a full disk, is left to the next start.
    pub(crate) fn tidy(&self, retention: &Retention) -> io::Result<()> {
        for name in files::names(&self.0)? {
            if let Err(error) = self.tidy_one(&name, retention) {
                tracing::warn!(%name, %error, "disks that are set aside cannot be tidied yet");
            }
        }
        Ok(())
    }

    fn tidy_one(&self, name: &str, retention: &Retention) -> io::Result<()> {
        let dir = self.0.join(name);
        if name.starts_with(ERASING) {
            files::remove_dir(&dir)
        } else if owner(name).is_some() && !dir.join(NOTE).exists() {
            write_note(&dir, retention)
        } else {
            Ok(())
        }
    }

    /// All of them.
    pub(crate) fn list(&self) -> io::Result<Vec<KeptDisk>> {
        let mut names = files::names(&self.0)?;
        names.sort_unstable();
        let found = names.into_iter().filter_map(|name| owner(&name).map(|id| (name, id)));
        found
            .map(|(name, id)| {
                let dir = self.0.join(&name);
                let retention = read_note(&dir);
                Ok(KeptDisk { name, id, bytes: allocated(&dir)?, retention })
            })
            .collect()
    }

    /// Erases one of them. One that is not there is erased already.
    pub(crate) fn erase(&self, name: &str) -> io::Result<()> {
        if owner(name).is_none() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the name of kept disks"));
        }
        let going = self.0.join(format!("{ERASING}{name}"));
        files::remove_dir(&going)?;
        // First out of the list as a whole, so that no half of it is ever found.
        match fs::rename(self.0.join(name), &going) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        }
        durable::failpoint("kept", "erasing");
        files::remove_dir(&going)?;
        durable::sync_parent(&going)
    }

    fn free_name(&self, id: RunId) -> io::Result<String> {
        let names = std::iter::once(id.to_string()).chain((1..SAME).map(|more| format!("{id}.{more}")));
        let mut free = names.filter(|name| !self.0.join(name).exists());
        free.next().ok_or_else(|| io::Error::other("too many disks of one sandbox are kept"))
    }
}

/// Whose disks a folder of this name holds.
fn owner(name: &str) -> Option<RunId> {
    let (id, more) = name.split_once('.').unwrap_or((name, "0"));
    more.parse::<u32>().ok()?;
    id.parse().ok()
}

/// What the files of a folder take of the disk, in bytes.
pub(crate) fn allocated(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for name in files::names(dir)? {
        match fs::symlink_metadata(dir.join(name)) {
            Ok(meta) => bytes += meta.blocks() * BLOCK,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

fn holds_disks(dir: &Path) -> io::Result<bool> {
    Ok(files::names(dir)?.iter().any(|name| Path::new(name).extension().is_some_and(|end| end == DISK)))
}

fn write_note(dir: &Path, retention: &Retention) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(&Note { version: VERSION, retention: *retention })?;
    durable::replace("kept", &dir.join(NOTE), &text)
}

fn read_note(dir: &Path) -> Option<Retention> {
    let path = dir.join(NOTE);
    let read = fs::read(&path).and_then(|text| serde_json::from_slice::<Note>(&text).map_err(io::Error::from));
    match read {
        Ok(note) if note.version <= VERSION => Some(note.retention),
        Ok(note) => {
            tracing::error!(path = %path.display(), form = note.version, "kept disks have the note of a later program");
            None
        }
        Err(error) => {
            tracing::error!(
                path = %path.display(), %error,
                "the note beside kept disks cannot be read: they stay until the folder is removed by hand"
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::UnixMillis;
    use wire::node::KeptCause;

    use super::*;

    const ID: RunId = RunId::from_bits(7);
    const RETENTION: Retention = Retention { since: UnixMillis(5), until: UnixMillis(9), cause: KeptCause::Deleted };

    fn guest(state: &Path) -> PathBuf {
        let dir = state.join("guests").join(ID.to_string());
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("data.ext4"), "what the agent wrote").unwrap();
        dir
    }

    #[test]
    fn fault_1_1_what_is_set_aside_is_whole_and_says_until_when() {
        let state = tempfile::tempdir().unwrap();
        let kept = Kept::of(state.path());
        assert!(kept.list().unwrap().is_empty());
        kept.take(&guest(state.path()), ID, &RETENTION).unwrap();
        let found = kept.list().unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].id, found[0].retention), (ID, Some(RETENTION)));
        let data = state.path().join("kept").join(&found[0].name).join("data.ext4");
        assert_eq!(fs::read(data).unwrap(), b"what the agent wrote");
        // Those of a second sandbox of the same id stand beside them.
        kept.take(&guest(state.path()), ID, &RETENTION).unwrap();
        assert_eq!(kept.list().unwrap().len(), 2);
        kept.take(&state.path().join("guests").join("nothing"), ID, &RETENTION).unwrap();
        kept.erase(&found[0].name).unwrap();
        kept.erase(&found[0].name).unwrap();
        assert_eq!(kept.list().unwrap().iter().map(|disk| disk.name.clone()).collect::<Vec<_>>(), [format!("{ID}.1")]);
    }

    const STATE: &str = "PALATINE_TEST_STATE";
    const OPERATION: &str = "PALATINE_TEST_OPERATION";

    #[test]
    #[ignore = "a child process of the test below"]
    fn the_process_that_is_killed() {
        let Some(state) = std::env::var_os(STATE).map(PathBuf::from) else { return };
        operate(&state, &std::env::var(OPERATION).unwrap());
    }

    fn operate(state: &Path, operation: &str) {
        let (kept, dir) = (Kept::of(state), state.join("guests").join(ID.to_string()));
        match operation {
            "take" => kept.take(&dir, ID, &RETENTION).unwrap(),
            "erase" => kept.erase(&ID.to_string()).unwrap(),
            other => panic!("no operation {other}"),
        }
    }

    /// Runs the operation in a process of its own; says whether it was killed.
    fn run(state: &Path, operation: &str, variable: &str, value: &str) -> bool {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "kept::tests::the_process_that_is_killed"])
            .envs([(STATE, state.to_str().unwrap()), (OPERATION, operation), (variable, value)])
            .output()
            .unwrap()
            .status;
        !status.success()
    }

    #[test]
    fn fault_1_4_disks_are_found_whole_after_a_kill_at_each_step_of_keeping_and_of_erasing() {
        for operation in ["take", "erase"] {
            let start = || {
                let state = tempfile::tempdir().unwrap();
                guest(state.path());
                if operation == "erase" {
                    operate(state.path(), "take");
                }
                state
            };
            let (state, list) = (start(), tempfile::NamedTempFile::new().unwrap());
            assert!(!run(state.path(), operation, durable::SEEN, list.path().to_str().unwrap()));
            let points = fs::read_to_string(list.path()).unwrap();
            assert!(points.contains(if operation == "take" { "kept.taken" } else { "kept.erasing" }), "{points}");
            for point in points.lines() {
                let state = start();
                assert!(run(state.path(), operation, durable::AT, point), "{operation} was not killed at {point}");
                let kept = Kept::of(state.path());
                kept.tidy(&RETENTION).unwrap();
                operate(state.path(), operation);
                let found = kept.list().unwrap();
                if operation == "erase" {
                    assert_eq!(found.len(), 0, "{point}");
                    assert_eq!(fs::read_dir(state.path().join("kept")).unwrap().count(), 0, "{point}");
                } else {
                    assert_eq!(
                        found.iter().map(|disk| disk.retention).collect::<Vec<_>>(),
                        [Some(RETENTION)],
                        "{point}"
                    );
                    let data = state.path().join("kept").join(&found[0].name).join("data.ext4");
                    assert_eq!(fs::read(data).unwrap(), b"what the agent wrote", "{point}");
                }
            }
        }
    }

    #[test]
    fn fault_1_2_an_unreadable_note_has_no_end_and_a_missing_one_is_written_anew() {
        let state = tempfile::tempdir().unwrap();
        let kept = Kept::of(state.path());
        kept.take(&guest(state.path()), ID, &RETENTION).unwrap();
        let note = state.path().join("kept").join(ID.to_string()).join(NOTE);
        fs::write(&note, "{\"version\":1,").unwrap();
        kept.tidy(&RETENTION).unwrap();
        assert_eq!(kept.list().unwrap()[0].retention, None);
        fs::remove_file(&note).unwrap();
        kept.tidy(&RETENTION).unwrap();
        assert_eq!(kept.list().unwrap()[0].retention, Some(RETENTION));
    }

    #[test]
    fn fault_1_6_a_note_that_cannot_be_written_yet_keeps_no_node_from_starting() {
        let state = tempfile::tempdir().unwrap();
        let kept = Kept::of(state.path());
        for id in [ID, RunId::from_bits(8)] {
            let dir = state.path().join("kept").join(id.to_string());
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("data.ext4"), "").unwrap();
        }
        // Where its note is written before it has its name.
        fs::create_dir(state.path().join("kept").join(ID.to_string()).join("kept.half")).unwrap();
        kept.tidy(&RETENTION).unwrap();
        let noted: Vec<_> = kept.list().unwrap().into_iter().map(|disk| (disk.id, disk.retention)).collect();
        assert_eq!(noted, [(ID, None), (RunId::from_bits(8), Some(RETENTION))]);
    }

    #[test]
    fn nothing_but_kept_disks_is_erased_by_name() {
        let state = tempfile::tempdir().unwrap();
        fs::create_dir_all(state.path().join("kept")).unwrap();
        fs::write(state.path().join("precious"), "").unwrap();
        let kept = Kept::of(state.path());
        for name in ["../precious", "", ".", "..", "0/.."] {
            assert!(kept.erase(name).is_err(), "{name}");
        }
        assert!(state.path().join("precious").exists());
    }
}
