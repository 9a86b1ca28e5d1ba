//! Taking an agent down.
//!
//! Its disks are erased by its owner's word alone; at any other end its node sets them
//! aside. Its record is ended by the node's word alone. What was sent to the node and
//! may still be under way is waited for, and taken down again.

use std::sync::Arc;
use std::time::Duration;

use domain::{AgentId, End, Event, State, StopReason, UnixMillis};
use store::{Record, StoreError};
use tracing::Instrument;
use wire::node::{Data, Gone};

use crate::error::StopError;
use crate::node::{Node, within};
use crate::service::Inner;

/// How much longer than the grace of a stop its caller waits for the node.
const ANSWER: Duration = Duration::from_secs(5);
/// Agents taken down on reconciliation's behalf at once.
const LEAVING: usize = 64;

impl Inner {
    /// Writes down that the agent is to end, then takes it down. If its node
    /// does not answer, the record stays `stopping`, and reconciliation goes on.
    pub(crate) async fn stop(self: &Arc<Self>, id: AgentId, reason: StopReason) -> Result<Record, StopError> {
        let mut record = self.store.advance(id, Event::Stop(reason), self.clock.now()).await?.record;
        if record.state.is_live() {
            record = self.tear_down_in_time(id).await?;
            let outcome = if record.state.is_live() { "delayed" } else { "done" };
            metrics::counter!("palatine_stops_total", "outcome" => outcome).increment(1);
        }
        let erase = End::Stopped(reason).is_owners_word() && record.data_kept_until.is_some();
        if erase { self.erase_kept(record).await } else { Ok(record) }
    }

    /// Erases the disks of an agent that has ended another way than by its owner's
    /// word, which has come now.
    async fn erase_kept(&self, record: Record) -> Result<Record, StopError> {
        let node = record.node.as_deref().and_then(|name| self.node(name)).ok_or(StopError::NodeUnavailable)?;
        self.delete(node.as_ref(), record.id, Data::Erase).await.ok_or(StopError::NodeUnavailable)?;
        self.store.note_erased(record.id).await?;
        Ok(Record { data_kept_until: None, ..record })
    }

    /// Takes an agent down, and says how it is after a time that a caller can
    /// wait. A node that takes longer is waited for by a task of its own.
    pub(crate) async fn tear_down_in_time(self: &Arc<Self>, id: AgentId) -> Result<Record, StoreError> {
        let inner = Arc::clone(self);
        let work = async move { inner.tear_down(id).await };
        let work = self.tasks.spawn(work.in_current_span());
        match tokio::time::timeout(self.config.stop_grace() + ANSWER, work).await {
            Ok(Ok(done)) => done,
            Ok(Err(_)) | Err(_) => self.store.get(id).await?.ok_or(StoreError::Unknown(id)),
        }
    }

    /// Has this done by a task of its own, unless one is at that agent already or
    /// too many are at others: the next look asks again.
    pub(crate) fn later<F: Future<Output = ()> + Send + 'static>(
        self: &Arc<Self>,
        id: AgentId,
        work: impl FnOnce(Arc<Self>) -> F,
    ) {
        if let Ok(leaving) = self.leaving.enter(id, LEAVING) {
            let work = work(Arc::clone(self));
            self.tasks.spawn(async move {
                work.await;
                drop(leaving);
            });
        }
    }

    /// Takes an agent down, by and by.
    pub(crate) fn tear_down_later(self: &Arc<Self>, id: AgentId) {
        self.later(id, |inner| async move {
            if let Err(error) = inner.tear_down(id).await {
                tracing::error!(agent = %id, %error, "an agent cannot be taken down");
            }
        });
    }

    /// Takes down an agent that is to end, and ends its record if its node says
    /// that nothing is left. Of any other agent, only says how it is.
    pub(crate) async fn tear_down(&self, id: AgentId) -> Result<Record, StoreError> {
        let _turn = self.locks.turn(id).await;
        loop {
            let record = self.store.get(id).await?.ok_or(StoreError::Unknown(id))?;
            let State::Stopping(end) = record.state else { return Ok(record) };
            let data = if end.is_owners_word() { Data::Erase } else { Data::Keep };
            let Some(kept_until) = self.emptied(&record, data).await else { return Ok(record) };
            let ended = self.store.bury(id, kept_until, self.clock.now()).await?;
            // Its owner has said meanwhile that what was just set aside goes.
            if ended.record.state.is_live() {
                continue;
            }
            self.unsettled.forget(id);
            return Ok(ended.record);
        }
    }

    /// Has the agent's node take it down, if one was told of it: until when its disks
    /// are kept; `None` while that node does not say that nothing runs.
    async fn emptied(&self, record: &Record, data: Data) -> Option<Option<UnixMillis>> {
        let Some(name) = &record.node else { return Some(None) };
        let Some(node) = self.node(name) else {
            tracing::warn!(agent = %record.id, node = name, "the agent's node is not configured: it cannot be taken down");
            return None;
        };
        let gone = self.clear(node.as_ref(), record.id, data).await?;
        self.last_marks(name).await;
        Some(match data {
            Data::Keep => gone.kept_until,
            Data::Erase => None,
        })
    }

    /// What is left of the agent on its node, once that says that nothing of it runs and
    /// nothing can come any more.
    async fn clear(&self, node: &dyn Node, id: AgentId, data: Data) -> Option<Gone> {
        let gone = self.delete(node, id, data).await?;
        let Some(rest) = self.unsettled.rest(id, self.config.settle()) else { return Some(gone) };
        tokio::time::sleep(rest).await;
        self.delete(node, id, data).await
    }

    /// Deletes on the node; says what it confirmed.
    pub(crate) async fn delete(&self, node: &dyn Node, id: AgentId, data: Data) -> Option<Gone> {
        let grace = self.config.stop_grace();
        let deadline = grace + self.config.node_timeout();
        match within("delete the sandbox", deadline, node.delete(id, grace, data)).await {
            Ok(gone) => Some(gone),
            Err(error) => {
                tracing::warn!(agent = %id, node = node.name(), %error, "a sandbox cannot be taken down yet");
                None
            }
        }
    }

    /// Brings the marks of the agent's end, so that its bill is exact as soon as
    /// it has ended. Should they not come, they are counted when they do.
    async fn last_marks(&self, node: &str) {
        let Some(journal) = self.journals.iter().find(|journal| journal.name() == node) else { return };
        if let Err(error) = journal.drain().await {
            tracing::warn!(node, %error, "the last marks of an agent are not counted yet");
        }
    }
}
