//! The ledger's folders.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use domain::{Generation, RunId};

use durable::BallastFile;
use sandbox::is_full;
use seal::Sealer;

use super::record::{DesiredState, SandboxRecord};
use super::secrets::Secrets;
use crate::error_chain::error_chain;
use crate::reserve::make_room;

/// What went wrong with the ledger.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LedgerError {
    /// A file of the ledger.
    #[error("{operation} {}", .path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// What stood in the way.
        source: io::Error,
    },
}

impl LedgerError {
    /// Whether it is for want of room on the disk.
    pub(crate) fn is_of_a_full_disk(&self) -> bool {
        let Self::File { source, .. } = self;
        is_full(source)
    }
}

/// All sandboxes on disk.
#[derive(Clone)]
pub(crate) struct Ledger {
    root: PathBuf,
    sealer: Sealer,
    reserve: BallastFile,
}

/// What was found at the start.
#[derive(Default)]
pub(crate) struct LedgerScan {
    pub(crate) records: Vec<SandboxRecord>,
    /// Folders that hold no record: creations or deletions cut off, unless the machine
    /// holds something of them.
    pub(crate) unrecorded: Vec<RunId>,
    /// Sandboxes of which something cannot be read, and what, with its repair.
    pub(crate) unreadable: Vec<(RunId, String)>,
}

impl Ledger {
    /// Opens the ledger under the node's state folder.
    pub(crate) fn open(state: &Path, reserve: BallastFile) -> Result<Self, LedgerError> {
        let root = state.join("sandboxes");
        durable::make_dir("ledger", &root).map_err(|source| failed("make", &root, source))?;
        let key = state.join("node.key");
        if !key.exists() && has_secrets(&root).map_err(|source| failed("list", &root, source))? {
            return Err(failed("open the node's key", &key, io::Error::other(KEY_IS_GONE)));
        }
        close_to_others(&key).map_err(|source| failed("close the node's key to others", &key, source))?;
        let opened = seal::read_or_create("node.key", &key);
        let opened = opened.map_err(|error| failed("open the node's key", &key, error.into()))?;
        Ok(Self { root, sealer: Sealer::new(&opened), reserve })
    }

    /// Reads everything. What cannot be read is told apart, and never an error: it
    /// must not keep the others from their node.
    pub(crate) fn load(&self) -> Result<LedgerScan, LedgerError> {
        let mut found = LedgerScan::default();
        let entries = fs::read_dir(&self.root).map_err(|source| failed("list", &self.root, source))?;
        for entry in entries {
            let name = entry.map_err(|source| failed("list", &self.root, source))?.file_name();
            let Some(id) = name.to_str().and_then(|name| name.parse::<RunId>().ok()) else { continue };
            match self.dir_of(id).read(id) {
                Ok(Some(record)) => found.records.push(record),
                Ok(None) => found.unrecorded.push(id),
                Err(cause) => found.unreadable.push((id, cause)),
            }
        }
        found.records.sort_by_key(|record| record.id);
        Ok(found)
    }

    /// The place of one sandbox, whether anything is there or not.
    pub(crate) fn dir_of(&self, id: RunId) -> SandboxDir {
        SandboxDir { dir: self.root.join(id.to_string()), sealer: self.sealer.clone(), reserve: self.reserve.clone() }
    }
}

/// The place of one sandbox.
#[derive(Clone)]
pub(crate) struct SandboxDir {
    dir: PathBuf,
    sealer: Sealer,
    reserve: BallastFile,
}

impl SandboxDir {
    /// Where it is.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes the sandbox exist. The record comes last.
    pub(crate) fn create(&self, record: &SandboxRecord, secrets: &Secrets) -> Result<(), LedgerError> {
        let path = self.secrets();
        durable::make_dir("sandbox", &self.dir).map_err(|source| failed("make", &self.dir, source))?;
        let sealed = secrets.seal(&self.sealer, record.id, record.desired.generation);
        sealed
            .and_then(|sealed| durable::replace("secrets", &path, &sealed))
            .map_err(|source| failed("write", &path, source))?;
        self.write(record)
    }

    /// Writes the record.
    pub(crate) fn write(&self, record: &SandboxRecord) -> Result<(), LedgerError> {
        let path = self.record();
        let text = serde_json::to_vec_pretty(record).map_err(io::Error::other);
        let written = text.and_then(|text| match durable::replace("record", &path, &text) {
            // A disk that others have filled does not keep the node from its own records.
            Err(error) if make_room(&self.reserve, &error) => durable::replace("record", &path, &text),
            other => other,
        });
        written.map_err(|source| failed("write", &path, source))
    }

    /// Unseals the secrets.
    pub(crate) fn unseal(&self, id: RunId, generation: Generation) -> Result<Secrets, LedgerError> {
        let path = self.secrets();
        let sealed = fs::read(&path);
        sealed
            .and_then(|sealed| Secrets::unseal(&self.sealer, id, generation, &sealed))
            .map_err(|source| failed("unseal", &path, source))
    }

    /// Ends the sandbox: its secrets are overwritten, then the folder goes, the
    /// record with it.
    pub(crate) fn remove(&self) -> Result<(), LedgerError> {
        let path = self.secrets();
        durable::wipe("secrets", &path).map_err(|source| failed("wipe", &path, source))?;
        let removed = match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.and_then(|()| {
                durable::failpoint("sandbox", "removed");
                durable::sync_parent(&self.dir)
            }),
        };
        removed.map_err(|source| failed("remove", &self.dir, source))
    }

    /// The record; `None` where there is none. Everything else is said in words, with
    /// the repair.
    fn read(&self, id: RunId) -> Result<Option<SandboxRecord>, String> {
        let path = self.record();
        let unreadable = |why: String| format!("{} {why}; {REPAIR}", path.display());
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(format!("cannot be read ({error})"))),
        };
        let record = SandboxRecord::parse(&text, id).map_err(unreadable)?;
        if record.wanted == DesiredState::Run && record.failed.is_none() {
            self.unseal(id, record.desired.generation).map_err(|error| format!("{}; {REPAIR}", error_chain(&error)))?;
        }
        Ok(Some(record))
    }

    fn record(&self) -> PathBuf {
        self.dir.join("record.json")
    }

    fn secrets(&self) -> PathBuf {
        self.dir.join("secrets")
    }
}

/// What an operator can do about a sandbox of which something cannot be read.
const REPAIR: &str = "its guest and its disks are left as they are: put the file back from a backup (or start the \
                      version that wrote it) and start hypercore again, or give the sandbox up with DELETE \
                      /v1/sandboxes/{id} on the node's socket, which keeps its disks";
const KEY_IS_GONE: &str = "the key is gone and sandboxes are sealed with it: put it back from a backup, or move the \
                           folder sandboxes away to begin anew";

/// The last version made the node's key for its owner alone and never looked again: one that
/// was put back from a backup may be open. What runs is sealed with it, so it stays.
fn close_to_others(key: &Path) -> io::Result<()> {
    let mode = match fs::metadata(key) {
        Ok(held) => held.permissions().mode(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if mode & 0o077 == 0 {
        return Ok(());
    }
    tracing::warn!(key = %key.display(), mode = format!("{:o}", mode & 0o777), "others could read the node's key; now they cannot");
    fs::set_permissions(key, fs::Permissions::from_mode(0o600))
}

/// Whether anything is sealed with a key.
fn has_secrets(root: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(root)? {
        if entry?.path().join("secrets").exists() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn failed(operation: &'static str, path: &Path, source: io::Error) -> LedgerError {
    LedgerError::File { operation, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use domain::{ImageDigest, PodId, UnixMillis};
    use sandbox::Slot;
    use wire::Environment;
    use wire::v1::node::DataDisk;

    use super::super::record::VERSION;
    use super::*;
    use crate::policy::SpecWithoutEnv;

    fn record(bits: u64) -> SandboxRecord {
        let run = RunId::from_bits(bits);
        let desired = SpecWithoutEnv {
            pod: PodId::minted(run),
            data: DataDisk::KeptOrEmpty,
            generation: Generation(1),
            image: ImageDigest([1; 32]),
            cores: 1,
            memory_mib: 128,
            volumes: Vec::new(),
            runtime: None,
        };
        SandboxRecord::new(Slot { run, number: 3 }, desired, crate::tests::run(), 64, UnixMillis(5))
    }

    fn open(state: &Path) -> Ledger {
        Ledger::open(state, crate::reserve::of(state)).unwrap()
    }

    fn secrets() -> Secrets {
        Secrets::new(Environment([("KEY".to_owned(), "hush-hush".to_owned().into())].into())).unwrap()
    }

    #[test]
    fn what_was_created_is_found_again_by_the_next_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let own = open(dir.path()).dir_of(record(1).id);
        own.create(&record(1), &secrets()).unwrap();
        let next = open(dir.path());
        assert_eq!(next.load().unwrap().records, [record(1)]);
        assert_eq!(
            next.dir_of(record(1).id).unseal(record(1).id, Generation(1)).unwrap().env.0["KEY"].expose(),
            "hush-hush"
        );
    }

    #[test]
    fn a_nodes_key_that_was_open_to_others_is_closed_and_what_it_seals_stays() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path()).dir_of(record(1).id).create(&record(1), &secrets()).unwrap();
        let key = dir.path().join("node.key");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        let own = open(dir.path()).dir_of(record(1).id);
        assert!(own.unseal(record(1).id, Generation(1)).is_ok());
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_creation_that_was_cut_off_is_found_as_remains_at_every_cut() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = open(dir.path());
        let own = ledger.dir_of(record(1).id);
        durable::make_dir("sandbox", &own.dir).unwrap();
        assert_eq!(ledger.load().unwrap().unrecorded, [record(1).id]);
        fs::write(own.dir.join("secrets.half"), b"xx").unwrap();
        assert_eq!(ledger.load().unwrap().unrecorded, [record(1).id]);
        fs::write(own.dir.join("record.half"), b"{").unwrap();
        assert_eq!(ledger.load().unwrap().unrecorded, [record(1).id]);
        own.remove().unwrap();
        own.remove().unwrap();
        assert!(ledger.load().unwrap().unrecorded.is_empty());
    }

    #[test]
    fn fault_1_2_what_cannot_be_read_is_told_apart_and_nothing_of_it_is_touched() {
        let whole = serde_json::to_string_pretty(&record(1)).unwrap();
        let later = whole.replace(&format!("\"version\": {VERSION}"), "\"version\": 99");
        let cuts = (0..whole.len()).step_by(17).map(|cut| whole[..cut].to_owned());
        let foreign = serde_json::to_string_pretty(&record(2)).unwrap();
        let damaged = cuts.chain(["\0".repeat(whole.len()), later, foreign]);
        for text in damaged {
            let dir = tempfile::tempdir().unwrap();
            let ledger = open(dir.path());
            let own = ledger.dir_of(record(1).id);
            own.create(&record(1), &secrets()).unwrap();
            ledger.dir_of(record(3).id).create(&record(3), &secrets()).unwrap();
            fs::write(own.record(), &text).unwrap();
            let found = ledger.load().unwrap();
            assert_eq!(found.records, [record(3)], "{text}");
            assert!(found.unrecorded.is_empty(), "{text}");
            let [(id, cause)] = found.unreadable.as_slice() else { panic!("{text}") };
            assert_eq!(*id, record(1).id);
            assert!(cause.contains("record.json") && cause.contains("backup"), "{cause}");
            assert_eq!(fs::read_to_string(own.record()).unwrap(), text);
        }
    }

    #[test]
    fn fault_1_2_sealed_secrets_that_cannot_be_opened_cost_nobody_a_sandbox() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = open(dir.path());
        let own = ledger.dir_of(record(1).id);
        own.create(&record(1), &secrets()).unwrap();
        fs::write(own.secrets(), "noise").unwrap();
        let found = ledger.load().unwrap();
        assert!(found.records.is_empty() && found.unrecorded.is_empty());
        assert!(found.unreadable[0].1.contains("secrets"), "{:?}", found.unreadable);
        // What is to be gone needs no secrets.
        own.write(&SandboxRecord { wanted: DesiredState::GoneKept, ..record(1) }).unwrap();
        assert_eq!(ledger.load().unwrap().records.len(), 1);
    }

    #[test]
    fn fault_1_2_a_lost_key_is_not_replaced_while_anything_is_sealed_with_it() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path()).dir_of(record(1).id).create(&record(1), &secrets()).unwrap();
        fs::remove_file(dir.path().join("node.key")).unwrap();
        let error = Ledger::open(dir.path(), crate::reserve::of(dir.path())).err().unwrap();
        assert!(error_chain(&error).contains("put it back from a backup"), "{error:?}");
        assert!(!dir.path().join("node.key").exists());
    }

    #[test]
    fn a_field_of_a_later_minor_program_is_read_over() {
        let text = serde_json::to_string(&record(1)).unwrap().replace("{\"version\"", "{\"novelty\":1,\"version\"");
        assert_eq!(serde_json::from_str::<SandboxRecord>(&text).unwrap(), record(1));
    }

    #[test]
    fn no_file_of_the_ledger_holds_the_environment_in_the_clear() {
        let dir = tempfile::tempdir().unwrap();
        let own = open(dir.path()).dir_of(record(1).id);
        own.create(&record(1), &secrets()).unwrap();
        for file in fs::read_dir(own.dir()).unwrap() {
            let bytes = fs::read(file.unwrap().path()).unwrap();
            assert!(!bytes.windows(9).any(|word| word == b"hush-hush"));
        }
    }
}
