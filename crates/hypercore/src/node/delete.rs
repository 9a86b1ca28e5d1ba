//! A sandbox's end, and that of what is kept of its POD.

use std::time::Duration;

use domain::{MarkKind, OwnedDisk, PodId, RunId};
use sandbox::{DiskRetention, Slot};
use tokio::task::spawn_blocking;
use wire::v1::node::{DataPolicy, DeleteResponse, KeptCause};

use super::Node;
use crate::error_chain::error_chain;
use crate::retention;
use crate::task::DeleteError;

impl Node {
    /// Takes a sandbox down, and says what is kept of its POD. What is not there is gone
    /// already; which POD it was a run of, only its caller knows then.
    pub(crate) async fn delete(
        &self,
        id: RunId,
        pod: Option<PodId>,
        grace: Duration,
        data: DataPolicy,
    ) -> Result<DeleteResponse, DeleteError> {
        let told = pod.unwrap_or_else(|| PodId::minted(id));
        let pod = match (self.shared.registry.get(id), self.shared.registry.quarantine.get(id)) {
            (Some(handle), _) => {
                self.shared.registry.delete(&handle, grace, data).await?;
                handle.desired.pod
            }
            (None, Some(held)) => {
                let given_up = self.give_up(id, data).await;
                given_up.map_err(|error| DeleteError::StillThere(format!("{error:#}")))?;
                held.presence.pod.unwrap_or(told)
            }
            (None, None) => told,
        };
        if data == DataPolicy::Erase {
            self.erase_data(pod).await?;
        }
        self.shared.disks_changed.notify_one();
        let kept = retention::kept_data(&self.shared, pod).await;
        Ok(DeleteResponse { id, kept: kept.map_err(|error| DeleteError::StillThere(error_chain(&error)))? })
    }

    /// Erases what is kept of a POD that does not run.
    pub(crate) async fn erase_data(&self, pod: PodId) -> Result<(), DeleteError> {
        let _kept = self.shared.kept.lock().await;
        let registry = &self.shared.registry;
        if let Some(run) = registry.run_of(pod).map(|handle| handle.id()) {
            return Err(DeleteError::PodRunning { pod, run });
        }
        if let Some(held) = registry.quarantine.run_of(pod) {
            return Err(DeleteError::StillThere(format!("a run of the POD is quarantined: {}", held.cause)));
        }
        self.shared.helpers.end(OwnedDisk::Data(pod)).await;
        let erased = retention::erase(&self.shared, pod).await;
        self.shared.disks_changed.notify_one();
        erased.map_err(|error| DeleteError::StillThere(error_chain(&error)))
    }

    /// Ends a sandbox that cannot be read: somebody has given it up.
    async fn give_up(&self, id: RunId, data: DataPolicy) -> anyhow::Result<()> {
        let _alone = self.giving_up.lock().await;
        let Some(held) = self.shared.registry.quarantine.get(id) else { return Ok(()) };
        let disks = match data {
            DataPolicy::Keep => {
                DiskRetention::KeepAll(self.shared.config.retention(self.shared.clock.now(), KeptCause::Deleted))
            }
            DataPolicy::Erase => DiskRetention::Erase,
        };
        // Without a number of its own its link goes with its namespace.
        let slot = held.presence.slot.unwrap_or(u16::MAX);
        self.shared.runtime.stop(Slot { run: id, number: slot }, disks).await?;
        anyhow::ensure!(
            self.mark(id, MarkKind::Gone, self.shared.clock.now()).await?,
            "its end is not in the node's records yet: the disk takes nothing"
        );
        let dir = self.ledger.dir_of(id);
        spawn_blocking(move || dir.remove()).await??;
        self.shared.registry.quarantine.release(id);
        tracing::warn!(%id, data = data.as_str(), "a quarantined sandbox was given up");
        Ok(())
    }
}
