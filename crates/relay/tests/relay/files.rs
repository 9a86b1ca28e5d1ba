//! A journal and an outbox in files: what the killed process leaves behind.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use alloy_primitives::B256;
use async_trait::async_trait;
use domain::evm::{
    BlockRef, IntentKey, MinedTransaction, Outbox, OutboxEntry as Sent, OutboxEntryState, OutboxError, SenderAccount,
    TransactionAttempt, TransactionOutcome,
};
use domain::relay::{DailyQuota, RelayAdmission, RelayCounts, RelayEntry, RelayJournal, RelayJournalError, RelayState};
use palatine_relay::fake::JournalState;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A value in a file: replaced whole, by renaming, after each change.
struct Kept<T> {
    path: PathBuf,
    value: Mutex<T>,
}

impl<T: Serialize + DeserializeOwned + Default> Kept<T> {
    fn open(path: PathBuf) -> Self {
        let value = fs::read(&path).map(|text| serde_json::from_slice(&text).unwrap()).unwrap_or_default();
        Self { path, value: Mutex::new(value) }
    }

    fn read<U>(&self, look: impl FnOnce(&T) -> U) -> U {
        look(&self.value.lock().unwrap())
    }

    fn change<U>(&self, work: impl FnOnce(&mut T) -> U) -> U {
        let mut value = self.value.lock().unwrap();
        let done = work(&mut value);
        let next = self.path.with_extension("next");
        let mut file = File::create(&next).unwrap();
        file.write_all(&serde_json::to_vec(&*value).unwrap()).unwrap();
        file.sync_all().unwrap();
        fs::rename(next, &self.path).unwrap();
        done
    }
}

pub(crate) struct FileJournal(Kept<JournalState>);

impl FileJournal {
    pub(crate) fn open(folder: &Path) -> Self {
        Self(Kept::open(folder.join("journal.json")))
    }
}

#[async_trait]
impl RelayJournal for FileJournal {
    async fn admit(&self, entries: &[RelayEntry], quotas: &[DailyQuota]) -> Result<RelayAdmission, RelayJournalError> {
        Ok(self.0.change(|state| state.admit(entries, quotas)))
    }

    async fn count(&self, once: &str, quotas: &[DailyQuota]) -> Result<Option<String>, RelayJournalError> {
        Ok(self.0.change(|state| state.count_once(once, quotas)))
    }

    async fn find(&self, id: B256) -> Result<Option<RelayEntry>, RelayJournalError> {
        Ok(self.0.read(|state| state.find(id)))
    }

    async fn step(&self, id: B256, next: &RelayState) -> Result<RelayEntry, RelayJournalError> {
        self.0.change(|state| state.step(id, next)).ok_or_else(|| RelayJournalError("no such entry".to_owned()))
    }

    async fn open(&self, limit: usize) -> Result<Vec<RelayEntry>, RelayJournalError> {
        Ok(self.0.read(|state| state.open(limit)))
    }

    async fn counts(&self) -> Result<RelayCounts, RelayJournalError> {
        Ok(self.0.read(JournalState::counts))
    }
}

/// An outbox of one account.
pub(crate) struct FileOutbox(Kept<HashMap<u64, Line>>);

/// An entry, its end kept apart from it.
#[derive(Serialize, Deserialize)]
struct Line {
    pending: Sent,
    end: Option<End>,
}

/// [`TransactionOutcome`] as JSON can hold it: serde's tagged enums know no 128-bit numbers.
#[derive(Serialize, Deserialize)]
enum End {
    Mined(MinedTransaction),
    Lost(BlockRef),
}

impl Line {
    fn entry(&self) -> Sent {
        let state = match &self.end {
            None => OutboxEntryState::Pending,
            Some(End::Mined(mined)) => OutboxEntryState::Settled(TransactionOutcome::Mined(*mined)),
            Some(End::Lost(at)) => OutboxEntryState::Settled(TransactionOutcome::Lost { at: *at }),
        };
        Sent { state, ..self.pending.clone() }
    }
}

impl FileOutbox {
    pub(crate) fn open(folder: &Path) -> Self {
        Self(Kept::open(folder.join("outbox.json")))
    }

    fn change_pending(&self, nonce: u64, work: impl FnOnce(&mut Line)) -> Result<(), OutboxError> {
        self.0.change(|lines| {
            let pending = lines.get_mut(&nonce).filter(|line| line.end.is_none());
            pending.map(work).ok_or(OutboxError::Conflict)
        })
    }
}

#[async_trait]
impl Outbox for FileOutbox {
    async fn find(&self, _account: &SenderAccount, key: &IntentKey) -> Result<Option<Sent>, OutboxError> {
        Ok(self.0.read(|lines| lines.values().find(|line| line.pending.key == *key).map(Line::entry)))
    }

    async fn pending(&self, _account: &SenderAccount) -> Result<Vec<Sent>, OutboxError> {
        let pending = |line: &&Line| line.end.is_none();
        let mut all: Vec<Sent> = self.0.read(|lines| lines.values().filter(pending).map(Line::entry).collect());
        all.sort_by_key(|entry| entry.nonce);
        Ok(all)
    }

    async fn highest_nonce(&self, _account: &SenderAccount) -> Result<Option<u64>, OutboxError> {
        Ok(self.0.read(|lines| lines.keys().max().copied()))
    }

    async fn write(&self, entry: &Sent) -> Result<(), OutboxError> {
        self.0.change(|lines| {
            if lines.values().any(|line| line.pending.key == entry.key || line.pending.nonce == entry.nonce) {
                return Err(OutboxError::Conflict);
            }
            lines.insert(entry.nonce, Line { pending: entry.clone(), end: None });
            Ok(())
        })
    }

    async fn add(&self, _account: &SenderAccount, nonce: u64, attempt: &TransactionAttempt) -> Result<(), OutboxError> {
        self.change_pending(nonce, |line| line.pending.attempts.push(attempt.clone()))
    }

    async fn settle(
        &self,
        _account: &SenderAccount,
        nonce: u64,
        outcome: &TransactionOutcome,
    ) -> Result<(), OutboxError> {
        let end = match outcome {
            TransactionOutcome::Mined(mined) => End::Mined(*mined),
            TransactionOutcome::Lost { at } => End::Lost(*at),
        };
        self.change_pending(nonce, |line| line.end = Some(end))
    }
}

#[tokio::test]
async fn the_journal_in_a_file_keeps_the_rules() {
    let folder = tempfile::tempdir().unwrap();
    palatine_relay::conformance::run(&FileJournal::open(folder.path())).await.unwrap();
}
