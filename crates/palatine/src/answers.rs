//! What commands answer that no gateway has: the programs' form of it is JSON, the people's is in `output`.

use std::net::SocketAddr;
use std::path::PathBuf;

use domain::vault::TaskId;
use domain::{B256, ImageDigest, KeyId, PodId, SnapshotId, VolumeId};
use image::ImageSummary;
use serde::Serialize;
use wire::content::ImportedArchive;
use wire::v1::public::StopResponse;
use wire::v1::volumes::Volume;

use crate::commands::changes::Change;
use crate::commands::folder::Skipped;

/// An image, as `--json` shows it.
#[derive(Serialize)]
pub(crate) struct ImageRow {
    pub(crate) digest: ImageDigest,
    pub(crate) names: Vec<String>,
    pub(crate) disk_bytes: u64,
    pub(crate) port: u16,
}

impl From<&ImageSummary> for ImageRow {
    fn from(listed: &ImageSummary) -> Self {
        let image = &listed.image;
        Self { digest: image.digest, names: listed.names.clone(), disk_bytes: image.disk_bytes, port: image.run.port }
    }
}

/// What `image export` wrote.
#[derive(Serialize)]
pub(crate) struct ExportedImage {
    pub(crate) name: String,
    pub(crate) digest: ImageDigest,
    pub(crate) file: PathBuf,
}

/// What `image rm` took out of a store.
#[derive(Serialize)]
pub(crate) struct RemovedStoreImage {
    pub(crate) name: String,
    pub(crate) digest: ImageDigest,
    /// Whether the image went with its name.
    pub(crate) gone: bool,
    pub(crate) freed_bytes: u64,
}

/// What `cp` copied.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Copied {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    /// What is neither a file nor a folder.
    pub(crate) skipped: Vec<String>,
}

/// A shell that goes on without us.
#[derive(Debug, Serialize)]
pub(crate) struct DetachedShell {
    /// Where.
    pub(crate) agent: PodId,
    /// By which it is attached to again.
    pub(crate) shell: String,
}

/// What `port-forward` listens at.
#[derive(Debug, Serialize)]
pub(crate) struct Forwards {
    /// One for each address and port.
    pub(crate) forwards: Vec<Forward>,
}

/// One address here, and the agent's port that it leads to.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Forward {
    /// Where we listen.
    pub(crate) address: SocketAddr,
    /// The agent's port.
    pub(crate) port: u16,
}

/// What an agent answered in a conversation.
#[derive(Debug, Serialize)]
pub(crate) struct ChatTurn {
    pub(crate) model: String,
    pub(crate) question: String,
    pub(crate) answer: String,
}

/// What `run` had an agent do.
#[derive(Debug, Serialize)]
pub(crate) struct TaskDone {
    /// The agent.
    pub(crate) agent: PodId,
    pub(crate) model: String,
    pub(crate) answer: String,
    /// Whether it runs on.
    pub(crate) kept: bool,
}

/// What a coding agent has made of a folder.
#[derive(Debug, Serialize)]
pub(crate) struct CodingDone {
    /// The agent that it was in.
    pub(crate) agent: PodId,
    /// Which.
    pub(crate) coder: &'static str,
    /// By their paths.
    pub(crate) changes: Vec<FileChange>,
    /// The same as a patch.
    pub(crate) diff: String,
    /// Whether they were made here too.
    pub(crate) applied: bool,
    /// What it has and was not brought back.
    pub(crate) skipped: Vec<Skipped>,
    /// Whether the agent runs on.
    pub(crate) kept: bool,
}

/// What became of a file.
#[derive(Debug, Serialize)]
pub(crate) struct FileChange {
    /// Its path in the folder.
    pub(crate) path: String,
    pub(crate) change: FileChangeKind,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FileChangeKind {
    Added,
    Modified,
    Deleted,
}

impl From<&Change> for FileChange {
    fn from(change: &Change) -> Self {
        let kind = match (&change.before, &change.after) {
            (None, _) => FileChangeKind::Added,
            (Some(_), Some(_)) => FileChangeKind::Modified,
            (Some(_), None) => FileChangeKind::Deleted,
        };
        Self { path: change.path.clone(), change: kind }
    }
}

/// What came of a call.
#[derive(Debug, Serialize)]
pub(crate) struct CallOutcome {
    /// What was done.
    pub(crate) what: &'static str,
    /// The task, where it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) task: Option<TaskId>,
    /// The transaction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tx: Option<B256>,
}

/// What `wallet new` and `wallet show` say.
#[derive(Debug, Serialize)]
pub(crate) struct WalletInfo {
    /// The address, with its checksum.
    pub(crate) address: String,
    /// The key file.
    pub(crate) keystore: PathBuf,
}

/// What `pod identity export` has written, or `import` taken.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct PodKeystore {
    /// The POD.
    pub(crate) pod: PodId,
    /// Its key's address, with its checksum.
    pub(crate) address: String,
    /// The key file.
    pub(crate) keystore: PathBuf,
}

/// What `key rm` has done.
#[derive(Debug, Serialize)]
pub(crate) struct RevokedKeys {
    /// The keys that open nothing any more.
    pub(crate) revoked: Vec<KeyId>,
}

/// What `volume export` has written.
#[derive(Debug, Serialize)]
pub(crate) struct ExportedVolume {
    /// Of which volume.
    pub(crate) volume: VolumeId,
    /// Where to.
    pub(crate) file: PathBuf,
    /// Files, folders and links.
    pub(crate) entries: u64,
    /// What is not in it: devices, sockets, and files of `lost+found`.
    pub(crate) left_out: u64,
    /// Bytes of the archive before they were packed.
    pub(crate) bytes: u64,
    /// Bytes that were written.
    pub(crate) written: u64,
}

/// What `volume import` has done.
#[derive(Debug, Serialize)]
pub(crate) struct ImportedVolume {
    /// The volume.
    pub(crate) volume: Volume,
    /// Whether it was made for the archive.
    pub(crate) created: bool,
    /// What the archive held.
    pub(crate) archive: ImportedArchive,
}

/// What `volume rm-snapshot` has done.
#[derive(Debug, Serialize)]
pub(crate) struct RemovedSnapshots {
    /// The snapshots that are gone.
    pub(crate) removed: Vec<SnapshotId>,
}

/// What `volume rm` has done.
#[derive(Debug, Serialize)]
pub(crate) struct RemovedVolumes {
    /// The volumes that are gone.
    pub(crate) removed: Vec<VolumeId>,
}

/// What `rm` has done.
#[derive(Debug, Serialize)]
pub(crate) struct Removed {
    /// The agents that were removed.
    pub(crate) removed: Vec<RemovedAgent>,
}

/// One agent that was removed.
#[derive(Debug, Serialize)]
pub(crate) struct RemovedAgent {
    /// Which.
    pub(crate) id: PodId,
    /// What the gateway says of it.
    #[serde(flatten)]
    pub(crate) answer: StopResponse,
}
