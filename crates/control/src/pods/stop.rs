//! Stopping a run, and removing a POD.

use std::sync::Arc;

use domain::{Event, PodId, RunId, State, StopReason};
use store::{RunRecord, StoreError};

use crate::context::Context;
use crate::fleet::node::within;
use crate::pods::error::StopError;

impl Context {
    /// Writes down that the agent is to end, then takes it down. If its node
    /// does not answer, the record stays `stopping`, and reconciliation goes on.
    pub(crate) async fn stop(self: &Arc<Self>, id: RunId, reason: StopReason) -> Result<RunRecord, StopError> {
        let record = self.store.advance(id, Event::Stop(reason), self.clock.now()).await?.record;
        if !record.state.is_live() {
            return Ok(record);
        }
        let ended = match self.tear_down_in_time(id).await {
            // Whoever else took it down has removed its POD with it.
            Err(StoreError::Unknown(_)) => {
                RunRecord { state: State::Stopped(StopReason::Removed), data: None, ..record }
            }
            ended => ended?,
        };
        let outcome = if ended.state.is_live() { "delayed" } else { "done" };
        metrics::counter!("palatine_stops_total", "outcome" => outcome).increment(1);
        Ok(ended)
    }

    /// Removes a POD: its run is taken down, its data erased, and what the store knows of
    /// it forgotten. If the node of a run does not answer, the record stays `stopping`,
    /// and reconciliation goes on.
    pub(crate) async fn remove(self: &Arc<Self>, pod: PodId) -> Result<RunRecord, StopError> {
        let record = self.store.last_run(pod).await?.ok_or(StoreError::NoPod(pod))?;
        if record.state.is_live() {
            let ended = self.stop(record.id, StopReason::Removed).await?;
            if ended.state.is_live() || matches!(ended.state, State::Stopped(StopReason::Removed)) {
                return Ok(ended);
            }
        }
        // It had ended already, or by another word, just before this one came.
        let record = self.store.last_run(pod).await?.ok_or(StoreError::NoPod(pod))?;
        if let (Some(_), Some(name)) = (record.data, &record.data_node) {
            let node = self.fleet.node(name).ok_or(StopError::NodeUnavailable)?;
            let erased = within("erase a POD's data", self.config.node_timeout(), node.erase(pod)).await;
            erased.map_err(|error| {
                tracing::warn!(%pod, node = name, %error, "a POD's data cannot be erased yet");
                StopError::NodeUnavailable
            })?;
        }
        match self.store.remove_pod(pod, self.clock.now()).await? {
            true => Ok(RunRecord { data: None, data_node: None, ..record }),
            false => Err(StopError::Running),
        }
    }
}
