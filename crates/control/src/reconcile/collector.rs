//! A node's metering journal, on its way into the store.
//!
//! Asking a node for what comes after mark N tells it that 1 to N are kept, and
//! it may forget them. So N is only ever a number that the store has made
//! durable, of the journal that the node has just spoken of: after any break the
//! first question asks for everything, which says nothing about what is kept and
//! shows which journal the node has now.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use client::NodeError;
use domain::Clock;
use store::{MarkCursor, MarksOutcome, RunMark, Store, StoreError};

use crate::fleet::node::{Node, within};

/// Questions asked in a row to catch up, at most.
const MAX_PAGES: usize = 1000;

/// Why marks were not carried.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MarksError {
    #[error("the node's marks cannot be read")]
    Node(#[from] NodeError),
    #[error("the node's marks cannot be counted")]
    Store(#[from] StoreError),
}

/// Brings one node's marks into the store.
pub(crate) struct MarkCollector {
    node: Arc<dyn Node>,
    store: Store,
    clock: Arc<dyn Clock>,
    deadline: Duration,
    /// How far the journal is durable that the node spoke of last.
    kept: Mutex<Option<MarkCursor>>,
}

impl MarkCollector {
    pub(crate) fn new(node: Arc<dyn Node>, store: Store, clock: Arc<dyn Clock>, deadline: Duration) -> Self {
        Self { node, store, clock, deadline, kept: Mutex::default() }
    }

    pub(crate) fn name(&self) -> &str {
        self.node.name()
    }

    /// Carries what there is, until the node has nothing new.
    pub(crate) async fn drain(&self) -> Result<(), MarksError> {
        for _ in 0..MAX_PAGES {
            if self.pull(Duration::ZERO).await?.new_numbers == 0 {
                return Ok(());
            }
        }
        tracing::warn!(node = self.name(), "the node's journal grows faster than it can be read");
        Ok(())
    }

    /// Carries one stretch, waiting for it up to `wait`.
    pub(crate) async fn pull(&self, wait: Duration) -> Result<Pulled, MarksError> {
        let before = self.kept();
        let pulled = self.carry(before, wait).await;
        if pulled.is_err() {
            self.keep(None);
        }
        pulled
    }

    async fn carry(&self, before: Option<MarkCursor>, wait: Duration) -> Result<Pulled, MarksError> {
        // The first question after a break must not wait for news.
        let (after, wait) = before.as_ref().map_or((0, Duration::ZERO), |cursor| (cursor.seq, wait));
        let said = within("read the metering marks", wait + self.deadline, self.node.marks(after, wait)).await?;
        if before.as_ref().is_some_and(|cursor| cursor.journal != said.journal) {
            // Another journal: that answer began in its middle.
            self.keep(None);
            return Ok(Pulled { new_numbers: 1, counted: MarksOutcome::default() });
        }
        let last = said.marks.last().map_or(after, |mark| mark.mark.seq);
        let last = said.disks.last().map_or(last, |mark| mark.seq.max(last));
        let marks = said.marks.iter().map(|said| RunMark { run: said.agent, mark: said.mark }).collect();
        let counted = self.store.count_marks(self.name(), &said.journal, marks, said.disks, self.clock.now()).await?;
        self.keep(Some(MarkCursor { journal: said.journal, seq: counted.seq }));
        self.tell(&counted);
        Ok(Pulled { new_numbers: last.saturating_sub(after), counted })
    }

    fn tell(&self, counted: &MarksOutcome) {
        metrics::counter!("palatine_marks_counted_total").increment(counted.new);
        if counted.missing > 0 {
            metrics::counter!("palatine_marks_missing_total").increment(counted.missing);
            tracing::error!(node = self.name(), missing = counted.missing, "marks of the node's journal never came");
        }
        if counted.foreign > 0 {
            tracing::warn!(
                node = self.name(),
                foreign = counted.foreign,
                "marks of agents and disks that are not of this node"
            );
        }
    }

    fn kept(&self) -> Option<MarkCursor> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep(&self, cursor: Option<MarkCursor>) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = cursor;
    }
}

/// What one question brought.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pulled {
    /// How far the answer led beyond the question: 0 once all is read.
    pub(crate) new_numbers: u64,
    pub(crate) counted: MarksOutcome,
}
