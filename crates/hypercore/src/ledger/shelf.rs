//! The ledger's folders.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use domain::{AgentId, Generation};

use super::record::{Record, VERSION};
use super::{Secrets, Vault};

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
    /// A record of a later program.
    #[error("{} was written by a later version of this program (its form is {found}, ours is {VERSION}); start that one", .path.display())]
    Later {
        /// The record.
        path: PathBuf,
        /// Its form.
        found: u64,
    },
}

/// All sandboxes on disk.
#[derive(Clone)]
pub(crate) struct Ledger {
    root: PathBuf,
    vault: Vault,
}

/// What was found at the start.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) records: Vec<Record>,
    /// Folders that no record stands for: creations cut off, or broken disks.
    pub(crate) remains: Vec<AgentId>,
}

impl Ledger {
    /// Opens the ledger under the node's state folder.
    pub(crate) fn open(state: &Path) -> Result<Self, LedgerError> {
        let root = state.join("sandboxes");
        durable::make_dir("ledger", &root).map_err(|source| failed("make", &root, source))?;
        let key = state.join("node.key");
        let vault = Vault::open(&key).map_err(|source| failed("open the node's key", &key, source))?;
        Ok(Self { root, vault })
    }

    /// Reads everything.
    pub(crate) fn load(&self) -> Result<Found, LedgerError> {
        let mut found = Found::default();
        let entries = fs::read_dir(&self.root).map_err(|source| failed("list", &self.root, source))?;
        for entry in entries {
            let name = entry.map_err(|source| failed("list", &self.root, source))?.file_name();
            let Some(id) = name.to_str().and_then(|name| name.parse::<AgentId>().ok()) else { continue };
            match self.shelf(id).read()? {
                Some(record) => found.records.push(record),
                None => found.remains.push(id),
            }
        }
        found.records.sort_by_key(|record| record.id);
        Ok(found)
    }

    /// The place of one sandbox, whether anything is there or not.
    pub(crate) fn shelf(&self, id: AgentId) -> Shelf {
        Shelf { dir: self.root.join(id.to_string()), vault: self.vault.clone() }
    }
}

/// The place of one sandbox.
#[derive(Clone)]
pub(crate) struct Shelf {
    dir: PathBuf,
    vault: Vault,
}

impl Shelf {
    /// Where it is.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes the sandbox exist. The record comes last.
    pub(crate) fn create(&self, record: &Record, secrets: &Secrets) -> Result<(), LedgerError> {
        let path = self.secrets();
        durable::make_dir("sandbox", &self.dir).map_err(|source| failed("make", &self.dir, source))?;
        let sealed = self.vault.seal(record.id, record.desired.generation, secrets);
        sealed
            .and_then(|sealed| durable::replace("secrets", &path, &sealed))
            .map_err(|source| failed("write", &path, source))?;
        self.write(record)
    }

    /// Writes the record.
    pub(crate) fn write(&self, record: &Record) -> Result<(), LedgerError> {
        let path = self.record();
        let text = serde_json::to_vec_pretty(record).map_err(io::Error::other);
        text.and_then(|text| durable::replace("record", &path, &text)).map_err(|source| failed("write", &path, source))
    }

    /// Unseals the secrets.
    pub(crate) fn unseal(&self, id: AgentId, generation: Generation) -> Result<Secrets, LedgerError> {
        let path = self.secrets();
        let sealed = fs::read(&path);
        sealed
            .and_then(|sealed| self.vault.unseal(id, generation, &sealed))
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

    fn read(&self) -> Result<Option<Record>, LedgerError> {
        let path = self.record();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(source) => return Err(failed("read", &path, source)),
        };
        let version =
            serde_json::from_slice::<serde_json::Value>(&text).ok().and_then(|it| it.get("version")?.as_u64());
        match (version, serde_json::from_slice(&text)) {
            (Some(found), _) if found > u64::from(VERSION) => Err(LedgerError::Later { path, found }),
            (_, Ok(record)) => Ok(Some(record)),
            (_, Err(error)) => {
                tracing::error!(path = %path.display(), %error, "a record cannot be read; its sandbox is removed");
                Ok(None)
            }
        }
    }

    fn record(&self) -> PathBuf {
        self.dir.join("record.json")
    }

    fn secrets(&self) -> PathBuf {
        self.dir.join("secrets")
    }
}

fn failed(operation: &'static str, path: &Path, source: io::Error) -> LedgerError {
    LedgerError::File { operation, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use domain::{ImageDigest, UnixMillis};
    use sandbox::Seat;
    use wire::Environment;

    use super::*;
    use crate::policy::Desired;

    fn record(bits: u64) -> Record {
        let desired = Desired { generation: Generation(1), image: ImageDigest([1; 32]), cores: 1, memory_mib: 128 };
        Record::new(Seat { id: AgentId::from_bits(bits), slot: 3 }, desired, crate::tests::run(), UnixMillis(5))
    }

    fn secrets() -> Secrets {
        Secrets::new(Environment([("KEY".to_owned(), "hush-hush".to_owned().into())].into())).unwrap()
    }

    #[test]
    fn what_was_created_is_found_again_by_the_next_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Ledger::open(dir.path()).unwrap().shelf(record(1).id);
        shelf.create(&record(1), &secrets()).unwrap();
        let next = Ledger::open(dir.path()).unwrap();
        assert_eq!(next.load().unwrap().records, [record(1)]);
        assert_eq!(
            next.shelf(record(1).id).unseal(record(1).id, Generation(1)).unwrap().env.0["KEY"].expose(),
            "hush-hush"
        );
    }

    #[test]
    fn a_creation_that_was_cut_off_is_found_as_remains_at_every_cut() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path()).unwrap();
        let shelf = ledger.shelf(record(1).id);
        durable::make_dir("sandbox", &shelf.dir).unwrap();
        assert_eq!(ledger.load().unwrap().remains, [record(1).id]);
        fs::write(shelf.dir.join("secrets.half"), b"xx").unwrap();
        assert_eq!(ledger.load().unwrap().remains, [record(1).id]);
        fs::write(shelf.dir.join("record.half"), b"{").unwrap();
        assert_eq!(ledger.load().unwrap().remains, [record(1).id]);
        shelf.remove().unwrap();
        shelf.remove().unwrap();
        assert!(ledger.load().unwrap().remains.is_empty());
    }

    #[test]
    fn a_record_of_a_later_program_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path()).unwrap();
        let shelf = ledger.shelf(record(1).id);
        shelf.create(&record(1), &secrets()).unwrap();
        let text = fs::read_to_string(shelf.record()).unwrap().replace("\"version\": 1", "\"version\": 2");
        fs::write(shelf.record(), text).unwrap();
        assert!(matches!(ledger.load(), Err(LedgerError::Later { found: 2, .. })));
    }

    #[test]
    fn a_field_of_a_later_minor_program_is_read_over() {
        let text = serde_json::to_string(&record(1)).unwrap().replace("{\"version\"", "{\"novelty\":1,\"version\"");
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record(1));
    }

    #[test]
    fn no_file_of_the_ledger_holds_the_environment_in_the_clear() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Ledger::open(dir.path()).unwrap().shelf(record(1).id);
        shelf.create(&record(1), &secrets()).unwrap();
        for file in fs::read_dir(shelf.dir()).unwrap() {
            let bytes = fs::read(file.unwrap().path()).unwrap();
            assert!(!bytes.windows(9).any(|word| word == b"hush-hush"));
        }
    }
}
