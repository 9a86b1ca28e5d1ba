//! A process's output, shared by those attached to it.
//!
//! Nobody attached misses a byte: the process waits for the slowest of them, as
//! it would for any pipe. That wait has a bound; who takes nothing for that long
//! is cut off, and much sooner where another one waits for output: a connection
//! that died unseen must not hold up who has attached again. With nobody attached
//! the process goes on and the oldest output is forgotten.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use wire::process::{Ended, Output};

use super::backlog::Backlog;

/// Bytes of output that are kept for who attaches late.
const BACKLOG_BYTES: usize = 64 * 1024;
/// How long a process waits for an attached reader that takes nothing.
const SLOW_READER: Duration = Duration::from_mins(5);
/// The same, while another reader is waiting.
const SLOW_AMONG_OTHERS: Duration = Duration::from_secs(5);

/// The output of one process.
#[derive(Debug)]
pub(super) struct Feed {
    state: Mutex<State>,
    /// Changes whenever the state does.
    moved: watch::Sender<()>,
}

#[derive(Debug)]
struct State {
    backlog: Backlog,
    /// Each reader's next piece.
    readers: BTreeMap<u64, u64>,
    next_reader: u64,
    ended: Option<Ended>,
}

/// What a reader gets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Output.
    Piece(Arc<Output>),
    /// The end of the process.
    End(Ended),
    /// It was too slow, and is cut off.
    Lost,
}

impl Feed {
    /// The feed of a process that has said nothing yet.
    pub(super) fn new() -> Arc<Self> {
        Self::of(BACKLOG_BYTES)
    }

    fn of(bytes: usize) -> Arc<Self> {
        let backlog = Backlog::new(bytes);
        let state = State { backlog, readers: BTreeMap::new(), next_reader: 0, ended: None };
        Arc::new(Self { state: Mutex::new(state), moved: watch::Sender::new(()) })
    }

    /// Adds output, once every attached reader has what it displaces.
    pub(super) async fn push(&self, piece: Output) {
        let since = Instant::now();
        let mut moved = self.moved.subscribe();
        loop {
            let Some(patience) = self.state().patience(&piece) else { break };
            let waited = timeout_at(since + patience, moved.changed()).await;
            if waited.is_err() {
                self.state().drop_slow(&piece);
            }
        }
        self.state().backlog.push(piece);
        self.moved.send_replace(());
    }

    /// Says that no more output comes, and why.
    pub(super) fn end(&self, ended: Ended) {
        self.state().ended = Some(ended);
        self.moved.send_replace(());
    }

    /// Attaches a reader; it starts with the backlog.
    pub(super) fn reader(self: &Arc<Self>) -> Reader {
        let mut state = self.state();
        let id = state.next_reader;
        state.next_reader += 1;
        let first = state.backlog.first();
        state.readers.insert(id, first);
        drop(state);
        Reader { feed: Arc::clone(self), moved: self.moved.subscribe(), id }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// How long this output may have to wait for readers; `None` if it need not.
    fn patience(&self, piece: &Output) -> Option<Duration> {
        let first = self.backlog.first_after(piece);
        let slow = self.readers.values().filter(|next| **next < first).count();
        match slow {
            0 => None,
            all if all == self.readers.len() => Some(SLOW_READER),
            _ => Some(SLOW_AMONG_OTHERS),
        }
    }

    fn drop_slow(&mut self, piece: &Output) {
        let first = self.backlog.first_after(piece);
        self.readers.retain(|_, next| *next >= first);
    }

    fn take(&mut self, reader: u64) -> Option<Taken> {
        let Some(next) = self.readers.get_mut(&reader) else { return Some(Taken::Lost) };
        match self.backlog.get(*next) {
            Some(piece) => {
                *next += 1;
                Some(Taken::Piece(piece))
            }
            None => self.ended.clone().map(Taken::End),
        }
    }
}

/// One who is attached; detached when dropped.
#[derive(Debug)]
pub(crate) struct Reader {
    feed: Arc<Feed>,
    moved: watch::Receiver<()>,
    id: u64,
}

impl Reader {
    /// The next of it. Safe to cancel.
    pub(crate) async fn next(&mut self) -> Taken {
        loop {
            self.moved.mark_unchanged();
            let taken = self.feed.state().take(self.id);
            if let Some(taken) = taken {
                self.feed.moved.send_replace(());
                return taken;
            }
            // The sender is part of the feed that this reader holds.
            let _ = self.moved.changed().await;
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.feed.state().readers.remove(&self.id);
        self.feed.moved.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::process::Base64;

    fn piece(byte: u8) -> Output {
        Output::Stdout(Base64(vec![byte; 10]))
    }

    fn ended() -> Ended {
        Ended { exited: true, status: "exit status 0".to_owned(), ..Ended::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_holds_the_process_back_and_misses_nothing() {
        let feed = Feed::of(20);
        let mut reader = feed.reader();
        let writer = Arc::clone(&feed);
        let writing = tokio::spawn(async move {
            for byte in 0..10 {
                writer.push(piece(byte)).await;
            }
            writer.end(ended());
        });
        for byte in 0..10 {
            tokio::time::sleep(Duration::from_secs(200)).await;
            assert_eq!(reader.next().await, Taken::Piece(Arc::new(piece(byte))));
        }
        assert_eq!(reader.next().await, Taken::End(ended()));
        writing.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_nothing_is_cut_off_and_the_process_goes_on() {
        let feed = Feed::of(20);
        let mut stuck = feed.reader();
        let before = Instant::now();
        for byte in 0..5 {
            feed.push(piece(byte)).await;
        }
        assert!(before.elapsed() >= SLOW_READER && before.elapsed() < SLOW_READER * 2);
        assert_eq!(stuck.next().await, Taken::Lost);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_reader_does_not_hold_up_who_attached_again() {
        let feed = Feed::of(20);
        let mut dead = feed.reader();
        let mut again = feed.reader();
        let writer = Arc::clone(&feed);
        tokio::spawn(async move {
            for byte in 0..10 {
                writer.push(piece(byte)).await;
            }
            writer.end(ended());
        });
        let before = Instant::now();
        for byte in 0..10 {
            assert_eq!(again.next().await, Taken::Piece(Arc::new(piece(byte))));
        }
        assert_eq!(again.next().await, Taken::End(ended()));
        assert!(before.elapsed() < SLOW_AMONG_OTHERS * 2, "{:?}", before.elapsed());
        assert_eq!(dead.next().await, Taken::Lost);
    }

    #[tokio::test(start_paused = true)]
    async fn with_nobody_attached_nothing_waits_and_the_newest_output_is_kept() {
        let feed = Feed::of(20);
        drop(feed.reader());
        let before = Instant::now();
        for byte in 0..5 {
            feed.push(piece(byte)).await;
        }
        feed.end(ended());
        assert_eq!(before.elapsed(), Duration::ZERO);
        let mut late = feed.reader();
        assert_eq!(late.next().await, Taken::Piece(Arc::new(piece(3))));
        assert_eq!(late.next().await, Taken::Piece(Arc::new(piece(4))));
        assert_eq!(late.next().await, Taken::End(ended()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_goes_away_lets_the_process_go_on_at_once() {
        let feed = Feed::of(20);
        let reader = feed.reader();
        let writer = Arc::clone(&feed);
        let writing = tokio::spawn(async move {
            for byte in 0..5 {
                writer.push(piece(byte)).await;
            }
            Instant::now()
        });
        let gone = Instant::now() + Duration::from_secs(1);
        tokio::time::sleep_until(gone).await;
        drop(reader);
        assert_eq!(writing.await.unwrap(), gone);
    }
}
