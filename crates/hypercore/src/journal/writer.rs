//! The journal's thread, and the handle on it.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use domain::{DiskLevels, MarkKind, RunId, UnixMillis};
use durable::BallastFile;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use wire::v1::node::MarksPage;

use super::file::JournalFile;
use super::state::{JournalMark, JournalState};
use crate::reserve::make_room;

/// Marks that may wait to be written.
const QUEUE: usize = 1024;
/// Marks written with one sync, at most.
const BATCH: usize = 256;
/// Marks in one answer, at most.
const PAGE: usize = 1_000;
/// The file is written anew when so many of its marks were fetched.
const COMPACT_AFTER: u64 = 256;
/// Pause before writing again what the disk has refused.
const RETRY: Duration = Duration::from_millis(500);
/// The longest wait for news.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(60);

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    /// Its file.
    #[error("open the metering journal")]
    Open(#[source] std::io::Error),
    /// Its thread has ended.
    #[error("write the metering journal: its writer is gone")]
    Gone,
}

enum Command {
    Mark {
        agent: RunId,
        kind: MarkKind,
        at: UnixMillis,
        done: oneshot::Sender<()>,
    },
    Disks {
        found: DiskLevels,
        looked: UnixMillis,
        at: UnixMillis,
        done: oneshot::Sender<()>,
    },
    Down {
        since: UnixMillis,
        at: UnixMillis,
        done: oneshot::Sender<()>,
    },
    Fetched(u64),
    /// Nothing is written until the sender is dropped.
    #[cfg(test)]
    Hold(std::sync::mpsc::Receiver<()>),
}

/// A handle on the journal.
#[derive(Clone)]
pub(crate) struct Journal {
    commands: mpsc::Sender<Command>,
    /// What is on the disk.
    state: Arc<Mutex<JournalState>>,
    last: watch::Receiver<u64>,
    most: usize,
}

impl Journal {
    /// Opens it. With `most` marks that nobody has fetched it is full.
    pub(crate) fn open(path: &Path, most: usize, reserve: BallastFile) -> Result<Self, JournalError> {
        let opened = match JournalFile::open(path) {
            Err(error) if make_room(&reserve, &error) => JournalFile::open(path),
            other => other,
        };
        let (file, state) = opened.map_err(JournalError::Open)?;
        let (tell, last) = watch::channel(state.last());
        let (commands, inbox) = mpsc::channel(QUEUE);
        let state = Arc::new(Mutex::new(state));
        let writer = Writer { file, state: Arc::clone(&state), last: tell, stale: 0, reserve };
        let started = thread::Builder::new().name("journal".to_owned()).spawn(move || writer.run(inbox));
        started.map_err(JournalError::Open)?;
        Ok(Self { commands, state, last, most })
    }

    /// Records what was seen; returns when it is on the disk. While the disk refuses,
    /// this waits: nobody is told what is not recorded. Whoever gives up the wait has it
    /// recorded later, but for a readiness: that was never shown.
    pub(crate) async fn mark(&self, agent: RunId, kind: MarkKind, at: UnixMillis) -> Result<(), JournalError> {
        let (done, written) = oneshot::channel();
        let command = Command::Mark { agent, kind, at, done };
        self.commands.send(command).await.map_err(|_| JournalError::Gone)?;
        written.await.map_err(|_| JournalError::Gone)
    }

    /// Records what is held now, which was last looked at then; returns when that is on the disk.
    pub(crate) async fn mark_disks(
        &self,
        found: DiskLevels,
        looked: UnixMillis,
        at: UnixMillis,
    ) -> Result<(), JournalError> {
        let (done, written) = oneshot::channel();
        let command = Command::Disks { found, looked, at, done };
        self.commands.send(command).await.map_err(|_| JournalError::Gone)?;
        written.await.map_err(|_| JournalError::Gone)
    }

    /// Records that the node was down since then: for what it holds nobody pays meanwhile.
    pub(crate) async fn mark_down(&self, since: UnixMillis, at: UnixMillis) -> Result<(), JournalError> {
        let (done, written) = oneshot::channel();
        let command = Command::Down { since, at, done };
        self.commands.send(command).await.map_err(|_| JournalError::Gone)?;
        written.await.map_err(|_| JournalError::Gone)
    }

    /// What comes after this number, waiting for the first. What comes before was
    /// fetched and may be forgotten.
    pub(crate) async fn after(&self, after: u64, wait: Duration) -> MarksPage {
        if after > 0 {
            // A full queue only means that it is forgotten later.
            let _ = self.commands.try_send(Command::Fetched(after));
        }
        let mut last = self.last.clone();
        let _ = timeout(wait.min(MAX_WAIT), last.wait_for(|last| *last > after)).await;
        let state = self.state();
        let mut page = MarksPage { journal: state.journal().to_owned(), marks: Vec::new(), disks: Vec::new() };
        for mark in state.after(after, PAGE) {
            match mark {
                JournalMark::Agent(said) => page.marks.push(said),
                JournalMark::Disk(said) => page.disks.push(said),
            }
        }
        page
    }

    /// How an agent stands.
    pub(crate) fn standing(&self, agent: RunId) -> Option<MarkKind> {
        self.state().standing(agent)
    }

    /// As a disk that takes nothing, until what this gives is dropped.
    #[cfg(test)]
    pub(crate) fn hold(&self) -> std::sync::mpsc::Sender<()> {
        let (release, held) = std::sync::mpsc::channel();
        assert!(self.commands.try_send(Command::Hold(held)).is_ok(), "its queue has room");
        release
    }

    /// Whether it has marked a disk that is held.
    pub(crate) fn holds_disks(&self) -> bool {
        self.state().holds_disks()
    }

    /// Marks that nobody has fetched.
    pub(crate) fn waiting(&self) -> usize {
        self.state().waiting()
    }

    /// Whether so much waits to be fetched that nothing new should begin.
    pub(crate) fn is_full(&self) -> bool {
        self.waiting() >= self.most
    }

    fn state(&self) -> MutexGuard<'_, JournalState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Writer {
    file: JournalFile,
    state: Arc<Mutex<JournalState>>,
    last: watch::Sender<u64>,
    /// Marks in the file that were fetched.
    stale: u64,
    reserve: BallastFile,
}

impl Writer {
    fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        let mut batch = Vec::new();
        while inbox.blocking_recv_many(&mut batch, BATCH) > 0 {
            self.work(std::mem::take(&mut batch));
        }
    }

    fn work(&mut self, batch: Vec<Command>) {
        // The lock is never held while the disk works.
        let mut next = self.state.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (mut marks, mut waiting) = (Vec::new(), Vec::new());
        for command in batch {
            match command {
                Command::Mark { kind: MarkKind::Ready, done, .. } if done.is_closed() => {}
                Command::Mark { agent, kind, at, done } => {
                    marks.extend(take(&mut next, |state| state.next(agent, kind, at).map(JournalMark::Agent)));
                    waiting.push(done);
                }
                Command::Disks { found, looked, at, done } => {
                    let news = |state: &JournalState| state.next_disks(&found, looked, at);
                    marks.extend(take(&mut next, |state| news(state).into_iter().map(JournalMark::Disk)));
                    waiting.push(done);
                }
                Command::Down { since, at, done } => {
                    marks.extend(take(&mut next, |state| state.next_down(since, at).map(JournalMark::Disk)));
                    waiting.push(done);
                }
                Command::Fetched(up_to) => self.fetched(&mut next, up_to),
                #[cfg(test)]
                Command::Hold(held) => drop(held.recv()),
            }
        }
        self.write(&marks);
        let last = next.last();
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = next;
        self.last.send_replace(last);
        for done in waiting {
            // Whoever asked may have gone.
            let _ = done.send(());
        }
        self.compact();
    }

    fn fetched(&mut self, state: &mut JournalState, up_to: u64) {
        let before = state.waiting();
        state.fetched(up_to);
        self.stale += (before - state.waiting()) as u64;
    }

    fn write(&mut self, marks: &[JournalMark]) {
        if marks.is_empty() {
            return;
        }
        while let Err(error) = self.file.append(marks) {
            if make_room(&self.reserve, &error) {
                continue;
            }
            tracing::error!(%error, "the metering journal cannot be written; the node waits for its disk");
            thread::sleep(RETRY);
        }
    }

    fn compact(&mut self) {
        if self.stale < COMPACT_AFTER {
            return;
        }
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match self.file.compact(&state) {
            Ok(()) => self.stale = 0,
            // The old file is still whole and in use.
            Err(error) => tracing::warn!(%error, "the metering journal cannot be shortened"),
        }
    }
}

/// Takes in what is new in a state; what that was.
fn take<News: IntoIterator<Item = JournalMark>>(
    state: &mut JournalState,
    news: impl FnOnce(&JournalState) -> News,
) -> Vec<JournalMark> {
    let news: Vec<_> = news(state).into_iter().collect();
    news.into_iter().filter(|mark| state.take(*mark)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reserve;

    const ONE: RunId = RunId::from_bits(1);

    #[tokio::test]
    async fn a_mark_is_on_the_disk_when_it_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("marks");
        let journal = Journal::open(&path, 10, reserve::of(dir.path())).unwrap();
        journal.mark(ONE, MarkKind::Booting, UnixMillis(1)).await.unwrap();
        let (_, state) = JournalFile::open(&path).unwrap();
        assert_eq!(state.last(), 1);
        assert_eq!(journal.standing(ONE), Some(MarkKind::Booting));
    }

    #[tokio::test]
    async fn who_waits_hears_of_the_next_mark_and_what_was_fetched_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(&dir.path().join("marks"), 1, reserve::of(dir.path())).unwrap();
        let waiting = tokio::spawn({
            let journal = journal.clone();
            async move { journal.after(0, Duration::from_secs(10)).await }
        });
        journal.mark(ONE, MarkKind::Booting, UnixMillis(1)).await.unwrap();
        assert_eq!(waiting.await.unwrap().marks.len(), 1);
        assert!(journal.is_full());
        assert!(journal.after(1, Duration::ZERO).await.marks.is_empty());
        journal.mark(ONE, MarkKind::Ready, UnixMillis(2)).await.unwrap();
        assert_eq!(journal.after(0, Duration::ZERO).await.marks[0].mark.seq, 2);
    }

    #[tokio::test]
    async fn marks_of_disks_have_numbers_between_those_of_agents_and_stand_in_the_next_journal() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("marks");
        let disk = domain::MeteredDisk::Volume(domain::VolumeId::from_bits(7));
        let journal = Journal::open(&path, 10, reserve::of(dir.path())).unwrap();
        journal.mark(ONE, MarkKind::Booting, UnixMillis(1)).await.unwrap();
        for _ in 0..2 {
            journal.mark_disks(DiskLevels::from([(disk, 64)]), UnixMillis(2), UnixMillis(3)).await.unwrap();
        }
        journal.mark(ONE, MarkKind::Ready, UnixMillis(4)).await.unwrap();
        let page = journal.after(0, Duration::ZERO).await;
        let numbers: Vec<_> = page.marks.iter().map(|mark| mark.mark.seq).collect();
        assert_eq!((numbers, page.disks.iter().map(|mark| mark.seq).collect()), (vec![1, 3], vec![2]));
        drop(journal);
        let journal = Journal::open(&path, 10, reserve::of(dir.path())).unwrap();
        journal.mark_down(UnixMillis(5), UnixMillis(9)).await.unwrap();
        let page = journal.after(3, Duration::ZERO).await;
        let down = domain::DiskChange::Down { since: UnixMillis(5) };
        assert_eq!(page.disks, [domain::DiskMark { seq: 4, at: UnixMillis(9), change: down }]);
    }

    #[tokio::test]
    async fn hundreds_of_fetched_marks_leave_a_short_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("marks");
        let journal = Journal::open(&path, 10_000, reserve::of(dir.path())).unwrap();
        for at in 0..300 {
            let kind = if at % 2 == 0 { MarkKind::Booting } else { MarkKind::Ready };
            journal.mark(ONE, kind, UnixMillis(at)).await.unwrap();
        }
        journal.after(299, Duration::ZERO).await;
        journal.mark(ONE, MarkKind::Unready, UnixMillis(300)).await.unwrap();
        let short = || std::fs::metadata(&path).unwrap().len() < 1_000;
        for _ in 0..500 {
            if short() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(short());
        assert_eq!(JournalFile::open(&path).unwrap().1.last(), 301);
    }
}
