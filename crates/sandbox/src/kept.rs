//! Disks that outlived their run: kept under their POD's name until the POD's next run
//! takes its data back, or their owner or their retention erases them.
//!
//! ```text
//! <state>/kept/<pod>/           the disks of a run of this POD, as they were
//! <state>/kept/<pod>/kept.json  since when, until when, why
//! <state>/kept/<pod>/owner.json its POD once more, where that is not named as the run was
//! <state>/kept/<pod>.1/         those of another run of it
//! <state>/kept/.erasing-…       being erased
//! ```
//!
//! A folder whose note cannot be read is never erased; one whose note was never
//! written gets one at the next start. A data disk is moved back by one rename: whenever
//! that is cut off it lies here or in the run's folder, and nowhere else.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use domain::{PodId, UnixMillis};
use serde::{Deserialize, Serialize};
use wire::v1::node::{KeptDisk, Retention};

use crate::disk::{self, DATA, HOST_DATA};
use crate::{DriverFailure, files, owner};

const NOTE: &str = "kept.json";
/// How the name of a folder begins that is being erased: as no POD's does.
const ERASING: &str = ".erasing-";
/// The same, of programs that knew no PODs. One may be called so by now.
const ERASING_BEFORE: &str = "erasing-";
/// The form of the note.
const VERSION: u32 = 1;
/// Runs of one POD whose disks are kept beside each other.
const SAME: u32 = 1_000;
/// Bytes in a block, as `stat` counts them.
const BLOCK: u64 = 512;

#[derive(Serialize, Deserialize)]
struct Note {
    version: u32,
    #[serde(flatten)]
    retention: Retention,
}

/// The folder of disks that are kept.
pub(crate) struct KeptDisks(PathBuf);

/// A data disk that is kept.
#[derive(Debug)]
pub(crate) struct KeptData {
    path: PathBuf,
    /// When it was set aside.
    since: UnixMillis,
    /// What it takes of the node's disk.
    pub(crate) bytes: u64,
    /// Whether no machine of a tenant ever wrote to it: see [`disk::HOST_DATA`].
    pub(crate) host_made: bool,
}

impl KeptDisks {
    pub(crate) fn of(state: &Path) -> Self {
        Self(state.join("kept"))
    }

    /// Takes a run's folder over, in one step. Without disks in it, it goes.
    pub(crate) fn set_aside(&self, dir: &Path, pod: PodId, retention: &Retention) -> io::Result<()> {
        if disk::names(dir)?.is_empty() {
            return files::remove_dir(dir);
        }
        durable::make_dir("kept", &self.0)?;
        // On a full disk the folder comes without: it gets its note later.
        if let Err(error) = write_note(dir, retention) {
            tracing::warn!(%pod, %error, "the note beside disks that are kept cannot be written yet");
        }
        let taken = self.0.join(self.free_name(pod)?);
        fs::rename(dir, &taken)?;
        durable::failpoint("kept", "taken");
        durable::sync_parent(&taken)?;
        durable::sync_parent(dir)
    }

    /// The newest data disk of a POD, if any is kept.
    pub(crate) fn newest_data(&self, pod: PodId) -> io::Result<Option<KeptData>> {
        let mut newest: Option<KeptData> = None;
        for (name, _) in self.owned(Some(pod))? {
            let dir = self.0.join(name);
            let found = data_in(&dir)?;
            newest = newest.into_iter().chain(found).max_by_key(|data| data.since);
        }
        Ok(newest)
    }

    /// Opens the newest data disk of a POD, where it is, for one VMM, which holds it as long as the
    /// file is open anywhere; with it, whether it is open for writing. One that only a container had is
    /// not: no machine ever writes to it, so that it stays the containers'.
    pub(crate) fn open_data(&self, pod: PodId) -> Result<(File, bool), DriverFailure> {
        let newest = self.newest_data(pod)?;
        let data =
            newest.ok_or_else(|| DriverFailure::Missing(format!("nothing is kept of the POD {pod} on this node")))?;
        disk::must_be_there(&data.path)?;
        let writes = !data.host_made;
        let file = OpenOptions::new().read(true).write(writes).open(&data.path)?;
        disk::claim(&file, &data.path)?;
        Ok((file, writes))
    }

    /// Moves the newest data disk of a POD to where its next run has it; whether there
    /// was one. What was kept beside it stays under its retention.
    pub(crate) fn take_back(&self, pod: PodId, to: &Path) -> Result<bool, DriverFailure> {
        let Some(data) = self.newest_data(pod)? else { return Ok(false) };
        disk::must_be_there(&data.path)?;
        fs::rename(&data.path, to)?;
        durable::failpoint("kept", "moved back");
        durable::sync_parent(to)?;
        durable::sync_parent(&data.path)?;
        if let Err(error) = forget_if_bare(durable::parent(&data.path)) {
            tracing::warn!(%pod, %error, "the folder of data that was taken back stays until the next start");
        }
        Ok(true)
    }

    /// Writes the notes that were never written, and finishes erasing. What cannot be
    /// done, on a full disk, is left to the next start.
    pub(crate) fn tidy(&self, retention: &Retention) -> io::Result<()> {
        for name in files::names(&self.0)? {
            if let Err(error) = self.tidy_one(&name, retention) {
                tracing::warn!(%name, %error, "disks that are kept cannot be tidied yet");
            }
        }
        Ok(())
    }

    fn tidy_one(&self, name: &str, retention: &Retention) -> io::Result<()> {
        let dir = self.0.join(name);
        if name.starts_with(ERASING) || is_erasing_of_before(name, &dir) {
            files::remove_dir(&dir)
        } else if self.owner(name).is_none() {
            Ok(())
        } else if disk::names(&dir)?.is_empty() {
            forget_if_bare(&dir)
        } else if !dir.join(NOTE).exists() {
            write_note(&dir, retention)
        } else {
            Ok(())
        }
    }

    /// All of them, or those of one POD.
    pub(crate) fn list(&self, of: Option<PodId>) -> io::Result<Vec<KeptDisk>> {
        let mut kept = Vec::new();
        for (name, pod) in self.owned(of)? {
            let dir = self.0.join(&name);
            if !disk::names(&dir)?.is_empty() {
                kept.push(KeptDisk { name, pod, bytes: allocated(&dir)?, retention: read_note(&dir) });
            }
        }
        Ok(kept)
    }

    /// Erases one of them. One that is not there is erased already.
    pub(crate) fn erase(&self, name: &str) -> io::Result<()> {
        if self.owner(name).is_none() {
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

    /// The folders, in the order of their names, and whose disks they hold.
    fn owned(&self, of: Option<PodId>) -> io::Result<Vec<(String, PodId)>> {
        let mut names = files::names(&self.0)?;
        names.sort_unstable();
        let owned = names.into_iter().filter_map(|name| self.owner(&name).map(|pod| (name, pod)));
        Ok(owned.filter(|(_, pod)| of.is_none_or(|of| of == *pod)).collect())
    }

    /// Whose disks a folder of this name holds.
    fn owner(&self, name: &str) -> Option<PodId> {
        let (pod, more) = name.split_once('.').unwrap_or((name, "0"));
        more.parse::<u32>().ok()?;
        pod.parse().ok().filter(|_| !is_erasing_of_before(name, &self.0.join(name)))
    }

    fn free_name(&self, pod: PodId) -> io::Result<String> {
        let names = std::iter::once(pod.to_string()).chain((1..SAME).map(|more| format!("{pod}.{more}")));
        let mut free = names.filter(|name| !self.0.join(name).exists());
        free.next().ok_or_else(|| io::Error::other("the disks of too many runs of one POD are kept"))
    }
}

/// Whether a folder was being erased when an earlier program ended. One that is kept of a
/// POD with such a name says so in a file of its own, which those programs did not write.
fn is_erasing_of_before(name: &str, dir: &Path) -> bool {
    name.starts_with(ERASING_BEFORE) && !dir.join(owner::FILE).exists()
}

/// The data disk in a folder. Where its note cannot be read it is as old as the last
/// write to it.
fn data_in(dir: &Path) -> io::Result<Option<KeptData>> {
    for name in [DATA, HOST_DATA] {
        let path = dir.join(name);
        let meta = match fs::symlink_metadata(&path) {
            Ok(meta) => meta,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let written = UnixMillis::from_system(meta.modified()?).unwrap_or(UnixMillis(0));
        let since = read_note(dir).map_or(written, |retention| retention.since);
        let host_made = name == HOST_DATA;
        return Ok(Some(KeptData { path, since, bytes: meta.blocks() * BLOCK, host_made }));
    }
    Ok(None)
}

/// Removes a folder in which nothing is left but what is written beside disks.
fn forget_if_bare(dir: &Path) -> io::Result<()> {
    if !disk::names(dir)?.is_empty() {
        return Ok(());
    }
    for name in [NOTE, owner::FILE] {
        files::remove(&dir.join(name))?;
    }
    match fs::remove_dir(dir) {
        // Somebody has put something there.
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        other => other,
    }
}

/// What the files of a folder take of the disk, in bytes.
pub(crate) fn allocated(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for name in files::names(dir)? {
        match fs::symlink_metadata(dir.join(name)) {
            Ok(meta) => bytes += allocated_file(&meta),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

/// What a file takes of the disk, in bytes.
pub(crate) fn allocated_file(meta: &fs::Metadata) -> u64 {
    meta.blocks() * BLOCK
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
    use domain::RunId;
    use wire::v1::node::KeptCause;

    use super::*;

    const RUN: RunId = RunId::from_bits(7);

    fn pod() -> PodId {
        PodId::chosen("agent-123").unwrap()
    }

    const RETENTION: Retention = Retention { since: UnixMillis(5), until: UnixMillis(9), cause: KeptCause::Deleted };

    fn guest(state: &Path) -> PathBuf {
        let dir = state.join("guests").join(RUN.to_string());
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("data.ext4"), "what the agent wrote").unwrap();
        dir
    }

    #[test]
    fn fault_1_1_what_is_set_aside_is_whole_and_says_until_when() {
        let state = tempfile::tempdir().unwrap();
        let kept = KeptDisks::of(state.path());
        assert!(kept.list(None).unwrap().is_empty());
        kept.set_aside(&guest(state.path()), pod(), &RETENTION).unwrap();
        let found = kept.list(None).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].pod, found[0].retention), (pod(), Some(RETENTION)));
        let data = state.path().join("kept").join(&found[0].name).join("data.ext4");
        assert_eq!(fs::read(data).unwrap(), b"what the agent wrote");
        // Those of a second run of the same POD stand beside them.
        kept.set_aside(&guest(state.path()), pod(), &RETENTION).unwrap();
        assert_eq!(kept.list(None).unwrap().len(), 2);
        kept.set_aside(&state.path().join("guests").join("nothing"), pod(), &RETENTION).unwrap();
        kept.erase(&found[0].name).unwrap();
        kept.erase(&found[0].name).unwrap();
        assert_eq!(kept.list(None).unwrap().iter().map(|disk| disk.name.clone()).collect::<Vec<_>>(), ["agent-123.1"]);
    }

    #[test]
    fn data_that_is_kept_is_opened_by_one_and_a_containers_is_not_written_to() {
        let state = tempfile::tempdir().unwrap();
        let kept = KeptDisks::of(state.path());
        assert!(matches!(kept.open_data(pod()), Err(DriverFailure::Missing(_))));
        kept.set_aside(&guest(state.path()), pod(), &RETENTION).unwrap();
        let (held, writes) = kept.open_data(pod()).unwrap();
        assert!(writes);
        assert!(matches!(kept.open_data(pod()), Err(DriverFailure::Taken(_))));
        drop(held);
        kept.open_data(pod()).unwrap();
        let dir = state.path().join("kept").join(pod().as_str());
        fs::rename(dir.join(DATA), dir.join(HOST_DATA)).unwrap();
        let (mut held, writes) = kept.open_data(pod()).unwrap();
        assert!(!writes && io::Write::write_all(&mut held, b"x").is_err(), "the kernel takes no byte of it");
        assert!(matches!(kept.open_data(pod()), Err(DriverFailure::Taken(_))));
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
        let (kept, dir) = (KeptDisks::of(state), state.join("guests").join(RUN.to_string()));
        match operation {
            "take" => kept.set_aside(&dir, pod(), &RETENTION).unwrap(),
            "take back" => {
                durable::make_dir("guest", &dir).unwrap();
                kept.take_back(pod(), &dir.join(DATA)).unwrap();
            }
            "erase" => kept.erase(pod().as_str()).unwrap(),
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

    /// Where an operation on these disks may be cut off.
    fn points(operation: &str, start: impl Fn() -> tempfile::TempDir) -> String {
        let (state, list) = (start(), tempfile::NamedTempFile::new().unwrap());
        assert!(!run(state.path(), operation, durable::SEEN, list.path().to_str().unwrap()));
        fs::read_to_string(list.path()).unwrap()
    }

    /// A run that has ended, and the disks that are kept of it.
    fn one_kept() -> tempfile::TempDir {
        let state = one_running();
        operate(state.path(), "take");
        state
    }

    fn one_running() -> tempfile::TempDir {
        let state = tempfile::tempdir().unwrap();
        guest(state.path());
        state
    }

    #[test]
    fn fault_1_4_disks_are_found_whole_after_a_kill_at_each_step_of_keeping() {
        let points = points("take", one_running);
        assert!(points.contains("kept.taken"), "{points}");
        for point in points.lines() {
            let state = one_running();
            assert!(run(state.path(), "take", durable::AT, point), "not killed at {point}");
            let kept = KeptDisks::of(state.path());
            kept.tidy(&RETENTION).unwrap();
            operate(state.path(), "take");
            let found = kept.list(None).unwrap();
            let noted: Vec<_> = found.iter().map(|disk| disk.retention).collect();
            assert_eq!(noted, [Some(RETENTION)], "{point}");
            let data = state.path().join("kept").join(&found[0].name).join("data.ext4");
            assert_eq!(fs::read(data).unwrap(), b"what the agent wrote", "{point}");
        }
    }

    #[test]
    fn fault_1_4_no_half_of_what_is_erased_is_found_after_a_kill_at_each_step() {
        let points = points("erase", one_kept);
        assert!(points.contains("kept.erasing"), "{points}");
        for point in points.lines() {
            let state = one_kept();
            assert!(run(state.path(), "erase", durable::AT, point), "not killed at {point}");
            let kept = KeptDisks::of(state.path());
            kept.tidy(&RETENTION).unwrap();
            operate(state.path(), "erase");
            assert_eq!(kept.list(None).unwrap(), [], "{point}");
            assert_eq!(fs::read_dir(state.path().join("kept")).unwrap().count(), 0, "{point}");
        }
    }

    #[test]
    fn a_data_disk_is_in_exactly_one_place_after_a_kill_at_each_step_of_taking_it_back() {
        // As a run that failed leaves it: its layer is kept beside its data.
        let start = || {
            let state = one_running();
            fs::write(state.path().join("guests").join(RUN.to_string()).join("layer.ext4"), "its layer").unwrap();
            operate(state.path(), "take");
            state
        };
        let points = points("take back", start);
        assert!(points.contains("kept.moved back"), "{points}");
        for point in points.lines() {
            let state = start();
            assert!(run(state.path(), "take back", durable::AT, point), "not killed at {point}");
            let (kept, here) =
                (KeptDisks::of(state.path()), state.path().join("guests").join(RUN.to_string()).join(DATA));
            assert_ne!(here.exists(), kept.newest_data(pod()).unwrap().is_some(), "{point}");
            kept.tidy(&RETENTION).unwrap();
            // The run's next start looks for it in its own folder first.
            assert_ne!(here.exists(), kept.take_back(pod(), &here).unwrap(), "{point}");
            assert_eq!(fs::read(&here).unwrap(), b"what the agent wrote", "{point}");
            let left = kept.list(Some(pod())).unwrap();
            assert_eq!((left.len(), left[0].retention), (1, Some(RETENTION)), "{point}: its layer stays");
        }
    }

    #[test]
    fn the_newest_data_of_a_pod_is_taken_back_and_nobody_elses() {
        let state = tempfile::tempdir().unwrap();
        let kept = KeptDisks::of(state.path());
        for (since, text) in [(3, "newer"), (2, "older")] {
            let dir = guest(state.path());
            fs::write(dir.join(DATA), text).unwrap();
            kept.set_aside(&dir, pod(), &Retention { since: UnixMillis(since), ..RETENTION }).unwrap();
        }
        let to = state.path().join(DATA);
        assert!(!kept.take_back(PodId::chosen("agent-1234").unwrap(), &to).unwrap());
        assert!(kept.take_back(pod(), &to).unwrap());
        assert_eq!(fs::read_to_string(&to).unwrap(), "newer");
        assert!(!state.path().join("kept/agent-123").exists(), "nothing was left in its folder");
        assert_eq!(kept.list(None).unwrap().len(), 1);
        // What cannot be had is no reason for an empty disk.
        fs::write(state.path().join("kept/agent-123.1").join(DATA), "").unwrap();
        assert!(matches!(kept.take_back(pod(), &to), Err(DriverFailure::Missing(why)) if why.contains("backup")));
    }

    #[test]
    fn a_pod_may_be_called_as_what_earlier_programs_were_erasing() {
        let state = tempfile::tempdir().unwrap();
        let (kept, dir) = (KeptDisks::of(state.path()), guest(state.path()));
        let named = PodId::chosen("erasing-a1b2c3d4-e5f6-7890").unwrap();
        owner::write(&dir, RUN, named).unwrap();
        kept.set_aside(&dir, named, &RETENTION).unwrap();
        let before = state.path().join("kept/erasing-00000000-0000-0001");
        fs::create_dir(&before).unwrap();
        fs::write(before.join(DATA), "half of it").unwrap();
        assert_eq!(kept.list(None).unwrap().len(), 1);
        kept.tidy(&RETENTION).unwrap();
        assert!(!before.exists());
        assert_eq!(kept.list(Some(named)).unwrap().len(), 1);
    }

    /// What the last program wrote, before there were PODs.
    const BEFORE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/formats/kept-1.json");

    #[test]
    fn what_the_last_program_kept_is_kept_of_the_pod_that_was_minted_for_it() {
        let state = tempfile::tempdir().unwrap();
        let dir = state.path().join("kept/a1b2c3d4-e5f6-7890");
        fs::create_dir_all(&dir).unwrap();
        fs::copy(BEFORE, dir.join(NOTE)).unwrap();
        fs::write(dir.join(DATA), "what the agent wrote").unwrap();
        let kept = KeptDisks::of(state.path());
        let pod = PodId::minted("a1b2c3d4-e5f6-7890".parse().unwrap());
        let [found] = kept.list(Some(pod)).unwrap().try_into().unwrap();
        assert_eq!(found.retention, Some(RETENTION));
        assert!(kept.take_back(pod, &state.path().join(DATA)).unwrap());
        // A note of a later program has no end.
        let note = fs::read_to_string(BEFORE).unwrap().replace("\"version\": 1", "\"version\": 2");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(NOTE), note).unwrap();
        fs::write(dir.join(DATA), "what the agent wrote").unwrap();
        assert_eq!(kept.list(None).unwrap()[0].retention, None);
    }

    #[test]
    fn fault_1_2_an_unreadable_note_has_no_end_and_a_missing_one_is_written_anew() {
        let state = tempfile::tempdir().unwrap();
        let kept = KeptDisks::of(state.path());
        kept.set_aside(&guest(state.path()), pod(), &RETENTION).unwrap();
        let note = state.path().join("kept").join("agent-123").join(NOTE);
        fs::write(&note, "{\"version\":1,").unwrap();
        kept.tidy(&RETENTION).unwrap();
        assert_eq!(kept.list(None).unwrap()[0].retention, None);
        fs::remove_file(&note).unwrap();
        kept.tidy(&RETENTION).unwrap();
        assert_eq!(kept.list(None).unwrap()[0].retention, Some(RETENTION));
    }

    #[test]
    fn fault_1_6_a_note_that_cannot_be_written_yet_keeps_no_node_from_starting() {
        let state = tempfile::tempdir().unwrap();
        let kept = KeptDisks::of(state.path());
        let other = PodId::minted(RunId::from_bits(8));
        for pod in [pod(), other] {
            let dir = state.path().join("kept").join(pod.as_str());
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("data.ext4"), "").unwrap();
        }
        // Where its note is written before it has its name.
        fs::create_dir(state.path().join("kept").join("agent-123").join("kept.half")).unwrap();
        kept.tidy(&RETENTION).unwrap();
        let noted: Vec<_> = kept.list(None).unwrap().into_iter().map(|disk| (disk.pod, disk.retention)).collect();
        assert_eq!(noted, [(other, Some(RETENTION)), (pod(), None)]);
    }

    #[test]
    fn nothing_but_kept_disks_is_erased_by_name() {
        let state = tempfile::tempdir().unwrap();
        fs::create_dir_all(state.path().join("kept")).unwrap();
        fs::write(state.path().join("precious"), "").unwrap();
        let kept = KeptDisks::of(state.path());
        for name in ["../precious", "", ".", "..", "0/.."] {
            assert!(kept.erase(name).is_err(), "{name}");
        }
        assert!(state.path().join("precious").exists());
    }
}
