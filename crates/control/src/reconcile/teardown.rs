//! Taking a run down, and ending its record.
//!
//! A POD's data is erased by its holder's word alone; at any other end of a run its node
//! sets it aside. A run's record is ended by the node's word alone. What was sent to the
//! node and may still be under way is waited for, and taken down again.

use std::sync::Arc;
use std::time::Duration;

use domain::{PodId, RunId, State};
use store::{KeptData, RunRecord, StoreError};
use tokio::time::timeout;
use tracing::Instrument;
use wire::v1::node::{DataPolicy, DeleteResponse};

use crate::context::Context;
use crate::fleet::node::{Node, within};

/// How much longer than the grace of a stop its caller waits for the node.
const ANSWER: Duration = Duration::from_secs(5);
/// Agents taken down on reconciliation's behalf at once.
const LEAVING: u32 = 64;

impl Context {
    /// Takes an agent down, by a task that runs to its end, and says how it is after a
    /// time that a caller can wait.
    pub(crate) async fn tear_down_in_time(self: &Arc<Self>, id: RunId) -> Result<RunRecord, StoreError> {
        let context = Arc::clone(self);
        let work = async move { context.tear_down(id).await };
        match timeout(self.config.stop_grace() + ANSWER, self.tasks.spawn(work.in_current_span())).await {
            Ok(Ok(done)) => done,
            // It takes longer, or was cut off by a bug: then reconciliation goes on.
            Ok(Err(_)) | Err(_) => self.store.get(id).await?.ok_or(StoreError::Unknown(id)),
        }
    }

    /// Has this done by a task of its own, unless one is at that agent already or
    /// too many are at others: the next round asks again.
    pub(crate) fn later<F: Future<Output = ()> + Send + 'static>(
        self: &Arc<Self>,
        id: RunId,
        work: impl FnOnce(Arc<Self>) -> F,
    ) {
        if let Ok(leaving) = self.leaving.enter(id, id, LEAVING) {
            let work = work(Arc::clone(self));
            self.tasks.spawn(async move {
                work.await;
                drop(leaving);
            });
        }
    }

    /// Takes an agent down, by and by.
    pub(crate) fn tear_down_later(self: &Arc<Self>, id: RunId) {
        self.later(id, |inner| async move {
            match inner.tear_down(id).await {
                // It was removed while this waited for its turn: nothing is left to take down.
                Ok(_) | Err(StoreError::Unknown(_)) => {}
                Err(error) => tracing::error!(agent = %id, %error, "an agent cannot be taken down"),
            }
        });
    }

    /// Takes down an agent that is to end, and ends its record if its node says
    /// that nothing is left. Of any other agent, only says how it is.
    pub(crate) async fn tear_down(&self, id: RunId) -> Result<RunRecord, StoreError> {
        let _guard = self.locks.lock(id).await;
        loop {
            let record = self.store.get(id).await?.ok_or(StoreError::Unknown(id))?;
            let State::Stopping(end) = record.state else { return Ok(record) };
            let data = if end.erases_data() { DataPolicy::Erase } else { DataPolicy::Keep };
            let Some(kept) = self.emptied(&record, data).await else { return Ok(record) };
            let ended = self.store.end(id, kept, self.clock.now()).await?;
            // Its holder has said meanwhile that what was just set aside goes.
            if ended.record.state.is_live() {
                continue;
            }
            self.unanswered.forget(id);
            return Ok(ended.record);
        }
    }

    /// Has the run's node take it down, if one was told of it: what that node keeps of
    /// the POD's data; `None` while it does not say that nothing runs.
    async fn emptied(&self, record: &RunRecord, data: DataPolicy) -> Option<Option<KeptData>> {
        let name = match (&record.node, data) {
            (Some(name), _) => name,
            // No node was told: what was kept before is kept still.
            (None, DataPolicy::Keep) => return Some(record.data),
            (None, DataPolicy::Erase) => match &record.data_node {
                Some(name) => name,
                None => return Some(None),
            },
        };
        let Some(node) = self.fleet.node(name) else {
            tracing::warn!(agent = %record.id, node = name, "the agent's node is not configured: it cannot be taken down");
            return None;
        };
        let gone = self.clear(node.as_ref(), record, data).await?;
        self.last_marks(name).await;
        Some(gone.kept.map(|kept| KeptData { until: kept.until, bytes: kept.bytes }))
    }

    /// What is left of the agent on its node, once that says that nothing of it runs and
    /// nothing can come any more.
    async fn clear(&self, node: &dyn Node, record: &RunRecord, data: DataPolicy) -> Option<DeleteResponse> {
        let gone = self.delete(node, record.id, record.pod, data).await?;
        let Some(rest) = self.unanswered.remaining(record.id, self.config.settle()) else { return Some(gone) };
        tokio::time::sleep(rest).await;
        self.delete(node, record.id, record.pod, data).await
    }

    /// Deletes on the node; says what it confirmed.
    pub(crate) async fn delete(
        &self,
        node: &dyn Node,
        id: RunId,
        pod: PodId,
        data: DataPolicy,
    ) -> Option<DeleteResponse> {
        let grace = self.config.stop_grace();
        let deadline = grace + self.config.node_timeout();
        match within("delete the sandbox", deadline, node.delete(id, pod, grace, data)).await {
            Ok(gone) => {
                self.fleet.changed(node.name());
                Some(gone)
            }
            Err(error) => {
                tracing::warn!(agent = %id, node = node.name(), %error, "a sandbox cannot be taken down yet");
                None
            }
        }
    }

    /// Brings the marks of the agent's end, so that its bill is exact as soon as
    /// it has ended. Should they not come, they are counted when they do.
    async fn last_marks(&self, node: &str) {
        let Some(collector) = self.collectors.iter().find(|collector| collector.name() == node) else { return };
        if let Err(error) = collector.drain().await {
            tracing::warn!(node, %error, "the last marks of an agent are not counted yet");
        }
    }
}
