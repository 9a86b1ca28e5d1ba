//! Volumes.

use domain::{PodId, VolumeId, VolumeMount, VolumeName};
use wire::v1::volumes::{AgentVolume, AttachRequest, Volume, VolumeRequest, VolumeResize};

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
}
