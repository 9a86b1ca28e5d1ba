//! Who answers for the files of a disk: the run that has it, or a helper.

use domain::{ContentCall, OwnedDisk, PodId, RunId, VolumeId, VolumeName};
use sandbox::Volumes;
use tokio::task::spawn_blocking;

use super::Node;
use crate::error_chain::error_chain;
use crate::helpers::{HelperCall, HelperError};

/// Who answers for the files of a disk.
pub(crate) enum ContentServer {
    /// The run that has the volume, which is called so in it.
    Run(RunId, VolumeName),
    /// A helper.
    Helper(HelperCall),
}

impl ContentServer {
    /// What its `pod` is asked.
    pub(crate) fn target(&self, call: ContentCall, query: Option<&str>) -> String {
        let path = match self {
            Self::Run(_, name) => format!("/v1/volumes/{name}/{}", call.as_str()),
            Self::Helper(_) => format!("/v1/content/{}", call.as_str()),
        };
        query.map_or_else(|| path.clone(), |query| format!("{path}?{query}"))
    }
}

impl Node {
    /// Who answers for the files of a disk; a helper is begun where nobody does. `holder` is the
    /// disk's, of whose helpers few run at once.
    pub(crate) async fn content_server(&self, disk: OwnedDisk, holder: &str) -> Result<ContentServer, HelperError> {
        if let OwnedDisk::Volume(id) = disk
            && let Some(server) = self.run_with(id)
        {
            return Ok(server);
        }
        let called = self.shared.helpers.call(disk, || self.begin_helper(disk, holder)).await;
        match (called, disk) {
            // It started meanwhile.
            (Err(HelperError::Attached(run)), OwnedDisk::Volume(id)) => {
                self.run_with(id).ok_or(HelperError::Attached(run))
            }
            (called, _) => called.map(ContentServer::Helper),
        }
    }

    fn run_with(&self, id: VolumeId) -> Option<ContentServer> {
        let registry = &self.shared.registry;
        let handle = registry.get(registry.run_with_volume(id)?)?;
        let volume = handle.desired.volumes.iter().find(|volume| volume.id == id)?;
        Some(ContentServer::Run(handle.id(), volume.name.clone()))
    }

    /// Begins the helper of a disk that is here and that no run has; both stay so until it is in the
    /// table, from which whoever wants the disk has it ended.
    async fn begin_helper(&self, disk: OwnedDisk, holder: &str) -> Result<(), HelperError> {
        if self.shared.offers.iter().all(|offered| offered.name.is_container()) {
            return Err(HelperError::NoMachines);
        }
        // No other helper ends for one that cannot be.
        self.must_have(disk).await?;
        let _turn = self.shared.helpers.turn(holder).await?;
        let _stays = match disk {
            OwnedDisk::Volume(_) => self.volumes.lock().await,
            OwnedDisk::Data(_) => self.shared.kept.lock().await,
        };
        self.must_have(disk).await?;
        self.enter_helper(disk, holder)
    }

    async fn must_have(&self, disk: OwnedDisk) -> Result<(), HelperError> {
        match disk {
            OwnedDisk::Volume(id) => self.must_have_volume(id).await,
            OwnedDisk::Data(pod) => self.must_have_data(pod).await,
        }
    }

    fn enter_helper(&self, disk: OwnedDisk, holder: &str) -> Result<(), HelperError> {
        if self.tasks.is_closed() {
            return Err(HelperError::Closing);
        }
        if let Some(new) = self.shared.new_helper(disk, holder)? {
            let (shared, leave) = (self.shared.clone(), self.leave.clone());
            self.tasks.spawn(async move { leave.run_until_cancelled(shared.keep_helper(new)).await });
        }
        Ok(())
    }

    async fn must_have_volume(&self, id: VolumeId) -> Result<(), HelperError> {
        if let Some(run) = self.shared.registry.run_with_volume(id) {
            return Err(HelperError::Attached(run));
        }
        if self.copies.are_of(id) {
            return Err(HelperError::Copied(id));
        }
        let volumes = Volumes::of(&self.shared.config.state);
        let found = spawn_blocking(move || volumes.find(id)).await.map_err(std::io::Error::other);
        match found.and_then(|found| found) {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(HelperError::NoVolume(id)),
            Err(error) => Err(HelperError::Look(error.to_string())),
        }
    }

    async fn must_have_data(&self, pod: PodId) -> Result<(), HelperError> {
        if let Some(handle) = self.shared.registry.run_of(pod) {
            return Err(HelperError::Attached(handle.id()));
        }
        if let Some(held) = self.shared.registry.quarantine.run_of(pod) {
            return Err(HelperError::Quarantined(held.cause));
        }
        match self.shared.runtime.kept_data(pod).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(HelperError::NoData(pod)),
            Err(error) => Err(HelperError::Look(error_chain(&error))),
        }
    }

    /// Ends all helpers, with the daemon.
    pub(crate) async fn end_helpers(&self) {
        self.shared.helpers.end_all().await;
    }
}
