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

use super::buffer::OutputBuffer;

/// Bytes of output that are kept for who attaches late.
const BUFFER_BYTES: usize = 64 * 1024;
/// How long a process waits for an attached reader that takes nothing.
const SLOW_TIMEOUT: Duration = Duration::from_mins(5);
/// The same, while another reader is waiting.
const SLOW_TIMEOUT_AMONG_OTHERS: Duration = Duration::from_secs(5);

/// The output of one process.
#[derive(Debug)]
pub(super) struct OutputBroadcast {
    state: Mutex<State>,
    /// Changes whenever the state does.
    changes: watch::Sender<()>,
}

#[derive(Debug)]
struct State {
    buffer: OutputBuffer,
    /// Each reader's next piece.
    readers: BTreeMap<u64, u64>,
    next_reader: u64,
    ended: Option<Ended>,
}

/// What a reader gets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum OutputReceived {
    /// Output.
    Output(Arc<Output>),
    /// The end of the process.
    Exited(Ended),
    /// It was too slow, and is cut off.
    Lagged,
}

impl OutputBroadcast {
    /// The output of a process that has written nothing yet.
    pub(super) fn new() -> Arc<Self> {
        Self::with_bound(BUFFER_BYTES)
    }

    fn with_bound(bytes: usize) -> Arc<Self> {
        let buffer = OutputBuffer::new(bytes);
        let state = State { buffer, readers: BTreeMap::new(), next_reader: 0, ended: None };
        Arc::new(Self { state: Mutex::new(state), changes: watch::Sender::new(()) })
    }

    /// Adds output, once every attached reader has what it displaces.
    pub(super) async fn push(&self, piece: Output) {
        let since = Instant::now();
        let mut changes = self.changes.subscribe();
        loop {
            let Some(patience) = self.state().patience(&piece) else { break };
            let waited = timeout_at(since + patience, changes.changed()).await;
            if waited.is_err() {
                self.state().drop_slow(&piece);
            }
        }
        self.state().buffer.push(piece);
        self.changes.send_replace(());
    }

    /// Says that no more output comes, and why.
    pub(super) fn end(&self, ended: Ended) {
        self.state().ended = Some(ended);
        self.changes.send_replace(());
    }

    /// Attaches a reader; it starts with the buffer.
    pub(super) fn subscribe(self: &Arc<Self>) -> Subscriber {
        let mut state = self.state();
        let id = state.next_reader;
        state.next_reader += 1;
        let (first, offset) = (state.buffer.first(), state.buffer.forgotten());
        state.readers.insert(id, first);
        drop(state);
        Subscriber { broadcast: Arc::clone(self), changes: self.changes.subscribe(), id, offset }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// How long this output may have to wait for readers; `None` if it need not.
    fn patience(&self, piece: &Output) -> Option<Duration> {
        let first = self.buffer.first_after(piece);
        let slow = self.readers.values().filter(|next| **next < first).count();
        match slow {
            0 => None,
            all if all == self.readers.len() => Some(SLOW_TIMEOUT),
            _ => Some(SLOW_TIMEOUT_AMONG_OTHERS),
        }
    }

    fn drop_slow(&mut self, piece: &Output) {
        let first = self.buffer.first_after(piece);
        self.readers.retain(|_, next| *next >= first);
    }

    fn take(&mut self, reader: u64) -> Option<OutputReceived> {
        let Some(next) = self.readers.get_mut(&reader) else { return Some(OutputReceived::Lagged) };
        match self.buffer.get(*next) {
            Some(piece) => {
                *next += 1;
                Some(OutputReceived::Output(piece))
            }
            None => self.ended.clone().map(OutputReceived::Exited),
        }
    }
}

/// One who is attached; detached when dropped.
#[derive(Debug)]
pub(crate) struct Subscriber {
    broadcast: Arc<OutputBroadcast>,
    changes: watch::Receiver<()>,
    id: u64,
    offset: u64,
}

impl Subscriber {
    /// How many bytes of output there were before the first that it gets.
    pub(crate) const fn offset(&self) -> u64 {
        self.offset
    }

    /// The next of it. Safe to cancel.
    pub(crate) async fn next(&mut self) -> OutputReceived {
        loop {
            self.changes.mark_unchanged();
            let taken = self.broadcast.state().take(self.id);
            if let Some(taken) = taken {
                self.broadcast.changes.send_replace(());
                return taken;
            }
            // The sender is part of the broadcast that this reader holds.
            let _ = self.changes.changed().await;
        }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.broadcast.state().readers.remove(&self.id);
        self.broadcast.changes.send_replace(());
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
        let broadcast = OutputBroadcast::with_bound(20);
        let mut reader = broadcast.subscribe();
        let writer = Arc::clone(&broadcast);
        let writing = tokio::spawn(async move {
            for byte in 0..10 {
                writer.push(piece(byte)).await;
            }
            writer.end(ended());
        });
        for byte in 0..10 {
            tokio::time::sleep(Duration::from_secs(200)).await;
            assert_eq!(reader.next().await, OutputReceived::Output(Arc::new(piece(byte))));
        }
        assert_eq!(reader.next().await, OutputReceived::Exited(ended()));
        writing.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_nothing_is_cut_off_and_the_process_goes_on() {
        let broadcast = OutputBroadcast::with_bound(20);
        let mut stuck = broadcast.subscribe();
        let before = Instant::now();
        for byte in 0..5 {
            broadcast.push(piece(byte)).await;
        }
        assert!(before.elapsed() >= SLOW_TIMEOUT && before.elapsed() < SLOW_TIMEOUT * 2);
        assert_eq!(stuck.next().await, OutputReceived::Lagged);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_reader_does_not_hold_up_who_attached_again() {
        let broadcast = OutputBroadcast::with_bound(20);
        let mut dead = broadcast.subscribe();
        let mut again = broadcast.subscribe();
        let writer = Arc::clone(&broadcast);
        tokio::spawn(async move {
            for byte in 0..10 {
                writer.push(piece(byte)).await;
            }
            writer.end(ended());
        });
        let before = Instant::now();
        for byte in 0..10 {
            assert_eq!(again.next().await, OutputReceived::Output(Arc::new(piece(byte))));
        }
        assert_eq!(again.next().await, OutputReceived::Exited(ended()));
        assert!(before.elapsed() < SLOW_TIMEOUT_AMONG_OTHERS * 2, "{:?}", before.elapsed());
        assert_eq!(dead.next().await, OutputReceived::Lagged);
    }

    #[tokio::test(start_paused = true)]
    async fn with_nobody_attached_nothing_waits_and_the_newest_output_is_kept() {
        let broadcast = OutputBroadcast::with_bound(20);
        drop(broadcast.subscribe());
        let before = Instant::now();
        for byte in 0..5 {
            broadcast.push(piece(byte)).await;
        }
        broadcast.end(ended());
        assert_eq!(before.elapsed(), Duration::ZERO);
        let mut late = broadcast.subscribe();
        assert_eq!(late.offset(), 30);
        assert_eq!(late.next().await, OutputReceived::Output(Arc::new(piece(3))));
        assert_eq!(late.next().await, OutputReceived::Output(Arc::new(piece(4))));
        assert_eq!(late.next().await, OutputReceived::Exited(ended()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_goes_away_lets_the_process_go_on_at_once() {
        let broadcast = OutputBroadcast::with_bound(20);
        let reader = broadcast.subscribe();
        let writer = Arc::clone(&broadcast);
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
