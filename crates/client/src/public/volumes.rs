//! Volumes.

use domain::{PodId, SnapshotId, VolumeId, VolumeMount, VolumeName};
use wire::v1::volumes::{AgentVolume, AttachRequest, RestoreRequest, Snapshot, Volume, VolumeRequest, VolumeResize};

use super::http::Call;
use super::{ClientError, GatewayClient};

const JSON: &str = "application/json";

impl GatewayClient {
    /// Makes a volume.
    ///
    /// # Errors
    /// See [`ClientError`]; a name that one's own volume has is refused with `volume_exists`.
    pub async fn create_volume(&self, request: &VolumeRequest) -> Result<Volume, ClientError> {
        let operation = "make a volume";
        let body = serde_json::to_vec(request).map_err(|error| ClientError::protocol(operation, error))?;
        self.signed(Call::post(operation, "/volumes", self.limits.stop).body(JSON, body)).await
    }

    /// One's own volumes, in the order of their names.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn volumes(&self) -> Result<Vec<Volume>, ClientError> {
        self.signed(Call::get("list the volumes", "/volumes", self.limits.read)).await
    }

    /// One of them, with what it takes of its node's disk.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn volume(&self, id: VolumeId) -> Result<Volume, ClientError> {
        self.signed(Call::get("read the volume", format!("/volumes/{id}"), self.limits.stop)).await
    }

    /// Grows a volume that no live agent has.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn resize_volume(&self, id: VolumeId, size_mib: u64) -> Result<Volume, ClientError> {
        let operation = "grow the volume";
        let body =
            serde_json::to_vec(&VolumeResize { size_mib }).map_err(|error| ClientError::protocol(operation, error))?;
        self.signed(Call::put(operation, format!("/volumes/{id}"), self.limits.stop).body(JSON, body)).await
    }

    /// Removes a volume that no live agent has, with all that is on it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn remove_volume(&self, id: VolumeId) -> Result<(), ClientError> {
        self.streamed(Call::delete("remove the volume", format!("/volumes/{id}"), self.limits.stop)).await.map(drop)
    }

    /// The volumes that each start of an agent has.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn agent_volumes(&self, agent: PodId) -> Result<Vec<AgentVolume>, ClientError> {
        let path = format!("/agents/{agent}/volumes");
        self.signed(Call::get("list the agent's volumes", path, self.limits.read)).await
    }

    /// Has an agent that does not run find a volume at each of its next starts.
    ///
    /// # Errors
    /// See [`ClientError`]; of an agent that runs it is refused with `wrong_state`.
    pub async fn attach_volume(&self, agent: PodId, mount: &VolumeMount) -> Result<Vec<AgentVolume>, ClientError> {
        let operation = "attach the volume";
        let request = AttachRequest { path: mount.path.to_string() };
        let body = serde_json::to_vec(&request).map_err(|error| ClientError::protocol(operation, error))?;
        let path = format!("/agents/{agent}/volumes/{}", mount.name);
        self.signed(Call::put(operation, path, self.limits.stop).body(JSON, body)).await
    }

    /// Has its next starts do without a volume, which stays.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn detach_volume(&self, agent: PodId, name: &VolumeName) -> Result<Vec<AgentVolume>, ClientError> {
        let path = format!("/agents/{agent}/volumes/{name}");
        self.signed(Call::delete("detach the volume", path, self.limits.stop)).await
    }

    /// Has a volume copied that no live agent has; what comes back may still be made.
    ///
    /// # Errors
    /// See [`ClientError`]; of a volume that an agent has it is refused with `volume_attached`.
    pub async fn create_snapshot(&self, volume: VolumeId) -> Result<Snapshot, ClientError> {
        self.signed(Call::post("make the snapshot", format!("/volumes/{volume}/snapshots"), self.limits.stop)).await
    }

    /// The snapshots of a volume, the oldest first.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn snapshots(&self, volume: VolumeId) -> Result<Vec<Snapshot>, ClientError> {
        self.signed(Call::get("list the snapshots", format!("/volumes/{volume}/snapshots"), self.limits.read)).await
    }

    /// Puts a volume back to what a snapshot of it holds; what comes back may still be underway.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn restore_volume(&self, volume: VolumeId, snapshot: SnapshotId) -> Result<Snapshot, ClientError> {
        let operation = "put the volume back";
        let request = RestoreRequest { snapshot_id: snapshot.to_string() };
        let body = serde_json::to_vec(&request).map_err(|error| ClientError::protocol(operation, error))?;
        let path = format!("/volumes/{volume}/restore");
        self.signed(Call::post(operation, path, self.limits.stop).body(JSON, body)).await
    }

    /// Removes a snapshot.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn remove_snapshot(&self, volume: VolumeId, snapshot: SnapshotId) -> Result<(), ClientError> {
        let path = format!("/volumes/{volume}/snapshots/{snapshot}");
        self.streamed(Call::delete("remove the snapshot", path, self.limits.stop)).await.map(drop)
    }
}
