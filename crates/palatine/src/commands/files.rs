//! Files that are not here: in an agent, or on a disk that no agent has. What is copied is copied
//! alike from both.

use anyhow::{Result, bail};
use bytes::Bytes;
use client::{AgentFiles, ClientError, DiskFiles, FileDownload};
use futures_util::Stream;
use wire::content::{VolumeEntryChange, VolumeEntryStat, VolumeEntryType};
use wire::filesystem::{EntryInfo, FileType};

/// Where `/data` of an agent is.
const DATA: &str = "/data";

/// Files in an agent, or on a disk.
#[derive(Clone, Debug)]
pub(crate) enum RemoteFiles {
    /// Of an agent that runs.
    Agent(AgentFiles),
    /// Of a volume, or of what is kept of an agent.
    Disk(DiskFiles),
}

impl RemoteFiles {
    /// By which their copies here are told from others'.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Agent(files) => files.agent().to_string(),
            Self::Disk(files) => files.disk().to_string(),
        }
    }

    /// The folder that a path is in which names none.
    pub(crate) const fn home(&self) -> &'static str {
        match self {
            Self::Agent(_) => "~",
            Self::Disk(_) => "/",
        }
    }

    /// What is at a path.
    pub(crate) async fn stat(&self, path: &str) -> Result<Option<EntryInfo>, ClientError> {
        match self {
            Self::Agent(files) => files.stat(path).await,
            Self::Disk(files) => Ok(files.stat(path).await?.map(entry)),
        }
    }

    /// What is in a folder.
    pub(crate) async fn list(&self, path: &str) -> Result<Vec<EntryInfo>, ClientError> {
        match self {
            Self::Agent(files) => files.list(path).await,
            Self::Disk(files) => Ok(files.list(path).await?.into_iter().map(entry).collect()),
        }
    }

    /// Makes a folder and those that it is in, where they are not there.
    pub(crate) async fn make_dir(&self, path: &str) -> Result<(), ClientError> {
        match self {
            Self::Agent(files) => files.make_dir(path).await,
            Self::Disk(files) => files.make_dir(path).await,
        }
    }

    /// Gives a file or folder other permissions.
    pub(crate) async fn set_mode(&self, path: &str, mode: u32) -> Result<(), ClientError> {
        match self {
            Self::Agent(files) => files.set_mode(path, mode).await,
            Self::Disk(files) => {
                let change = VolumeEntryChange { mode: Some(mode), ..VolumeEntryChange::default() };
                files.change(path, change).await.map(drop)
            }
        }
    }

    /// Reads a file.
    pub(crate) async fn read(&self, path: &str, from: Option<(u64, &str)>) -> Result<FileDownload, ClientError> {
        match self {
            Self::Agent(files) => files.read(path, from).await,
            Self::Disk(files) => files.read(path, from).await,
        }
    }

    /// Writes a file.
    pub(crate) async fn write(
        &self,
        path: &str,
        mode: u32,
        length: u64,
        bytes: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<(), ClientError> {
        match self {
            Self::Agent(files) => files.write(path, mode, length, bytes).await,
            Self::Disk(files) => files.write(path, mode, length, bytes).await.map(drop),
        }
    }

    /// Makes one file of several, which are gone then.
    pub(crate) async fn compose(&self, pieces: Vec<String>, path: &str, mode: u32) -> Result<(), ClientError> {
        match self {
            Self::Agent(files) => files.compose(pieces, path, mode).await,
            Self::Disk(files) => files.compose(pieces, path, mode).await.map(drop),
        }
    }
}

/// The same in the words of the other protocol. A link is one, wherever it leads.
fn entry(found: VolumeEntryStat) -> EntryInfo {
    let kind = match found.kind {
        VolumeEntryType::File => FileType::File,
        VolumeEntryType::Directory => FileType::Directory,
        VolumeEntryType::Symlink => FileType::Symlink,
        VolumeEntryType::Unknown => FileType::Unspecified,
    };
    EntryInfo {
        name: found.name,
        kind,
        path: found.path,
        size: found.size,
        mode: found.mode & 0o777,
        permissions: String::new(),
        owner: found.uid.to_string(),
        group: found.gid.to_string(),
        modified_time: Some(found.mtime),
        symlink_target: found.target,
        metadata: [].into(),
    }
}

/// The path of something in `/data` of an agent, on the disk that is kept of it.
pub(crate) fn in_data(path: &str) -> Result<String> {
    match path.strip_prefix(DATA) {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => Ok(format!("/{}", rest.trim_start_matches('/'))),
        _ => bail!("the agent does not run, and what is kept of it is in {DATA}: name a path in there, or start it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_agent_that_does_not_run_there_is_its_data_alone() {
        for (path, is) in [("/data", "/"), ("/data/", "/"), ("/data/a/b", "/a/b"), ("/data//a/.", "/a/.")] {
            assert_eq!(in_data(path).unwrap(), is);
        }
        for path in ["", "a", "/", "/datax", "/workspace/a", "~"] {
            assert!(in_data(path).is_err(), "{path}");
        }
    }
}
