//! The files of a disk that no agent has: of a volume, or of what is kept of an agent.

use std::time::Duration;

use bytes::Bytes;
use domain::{ContentCall, OwnedDisk, PodId, VolumeId};
use futures_util::Stream;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, IF_RANGE, RANGE};
use reqwest::{Body, Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use wire::Secret;
use wire::content::{
    ArchiveQuery, ComposeFile, ContentError, ENTRIES, ImportedArchive, LEFT_OUT, VolumeEntryChange, VolumeEntryStat,
};
use wire::filesystem::FilesError;
use wire::v1::content::{ContentAccess, VolumeAndToken};

use super::http::{Call, refused, whole, within, words};
use super::{ClientError, FileDownload, GatewayClient};

const OPERATION: &str = "work on the disk's files";
/// How long an answer may take to begin: a helper may have to be started for it, and the disk checked.
const BEGIN: Duration = Duration::from_secs(180);
/// The same of an archive, which is measured before it is sent: the gateway gives up first.
const BEGIN_ARCHIVE: Duration = Duration::from_secs(660);
/// How long an upload may take: one that stands still is ended much sooner, by the gateway.
const LONGEST_UPLOAD: Duration = Duration::from_hours(24);

/// The files of one disk, opened. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DiskFiles {
    client: GatewayClient,
    disk: OwnedDisk,
    token: Secret,
}

/// All files of a disk on their way here.
pub struct ArchiveDownload {
    /// The archive's bytes.
    pub bytes: FileDownload,
    /// Files, folders and links in it.
    pub entries: u64,
    /// What is not in it: devices, sockets, and files of `lost+found`.
    pub left_out: u64,
}

impl GatewayClient {
    /// Opens the files of one's own volume: by the API key that this client carries, or by one
    /// signature, for a day.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn volume_files(&self, id: VolumeId) -> Result<DiskFiles, ClientError> {
        let token = match self.key() {
            Some(key) => key.clone(),
            None => {
                let call = Call::get("open the volume", format!("/volumes/{id}"), self.limits.stop);
                let opened: VolumeAndToken = self.signed(call).await?;
                opened.token.ok_or_else(|| ClientError::protocol(OPERATION, "the gateway shows no token for it"))?
            }
        };
        Ok(DiskFiles { client: self.clone(), disk: OwnedDisk::Volume(id), token })
    }

    /// Opens the files of what is kept of one's own agent, which does not run.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn data_files(&self, agent: PodId) -> Result<DiskFiles, ClientError> {
        let token = match self.key() {
            Some(key) => key.clone(),
            None => {
                let call = Call::get("open the agent's data", format!("/agents/{agent}/data"), self.limits.read);
                self.signed::<ContentAccess>(call).await?.token
            }
        };
        Ok(DiskFiles { client: self.clone(), disk: OwnedDisk::Data(agent), token })
    }
}

impl DiskFiles {
    /// Whose files they are.
    #[must_use]
    pub const fn disk(&self) -> OwnedDisk {
        self.disk
    }

    /// What is at a path; `None` where nothing is.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn stat(&self, path: &str) -> Result<Option<VolumeEntryStat>, ClientError> {
        let asked = self.request(Method::GET, ContentCall::Path, path, &[])?;
        match self.json(path, asked).await {
            Err(ClientError::File { source, .. }) if source.code == StatusCode::NOT_FOUND.as_u16() => Ok(None),
            found => found.map(Some),
        }
    }

    /// What is in a folder, and in no folder of it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn list(&self, path: &str) -> Result<Vec<VolumeEntryStat>, ClientError> {
        self.json(path, self.request(Method::GET, ContentCall::Dir, path, &[])?).await
    }

    /// Makes a folder and those that it is in, where they are not there.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn make_dir(&self, path: &str) -> Result<(), ClientError> {
        let asked = self.request(Method::POST, ContentCall::Dir, path, &[("force", "true")])?;
        self.json::<VolumeEntryStat>(path, asked).await.map(drop)
    }

    /// Changes whose something is, or its permissions.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn change(&self, path: &str, to: VolumeEntryChange) -> Result<VolumeEntryStat, ClientError> {
        self.json(path, self.request(Method::PATCH, ContentCall::Path, path, &[])?.json(&to)).await
    }

    /// Removes a file, or a folder with all in it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn remove(&self, path: &str) -> Result<(), ClientError> {
        let asked = self.request(Method::DELETE, ContentCall::Path, path, &[])?;
        within(OPERATION, BEGIN, send(path, asked)).await.map(drop)
    }

    /// Reads a file; with `from`, the rest of it from there on, where it is still the one of this
    /// tag.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn read(&self, path: &str, from: Option<(u64, &str)>) -> Result<FileDownload, ClientError> {
        let mut request = self.request(Method::GET, ContentCall::File, path, &[])?;
        if let Some((offset, tag)) = from {
            request = request.header(RANGE, format!("bytes={offset}-")).header(IF_RANGE, tag);
        }
        let response = within(OPERATION, BEGIN, send(path, request)).await?;
        FileDownload::begun(response, from.map(|(offset, _)| offset), self.client.limits.files_idle)
    }

    /// Writes a file of `length` bytes with these permissions: it is there when all of it is, on
    /// disk, in place of the one before.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn write(
        &self,
        path: &str,
        mode: u32,
        length: u64,
        bytes: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<VolumeEntryStat, ClientError> {
        let query = [("mode", &*mode.to_string()), ("force", "true")];
        let request = self
            .request(Method::PUT, ContentCall::File, path, &query)?
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, length)
            .body(Body::wrap_stream(bytes));
        within(OPERATION, LONGEST_UPLOAD, async { answer(send(path, request).await?).await }).await
    }

    /// Makes one file of several, which are gone then, in place of the one before.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn compose(&self, sources: Vec<String>, path: &str, mode: u32) -> Result<VolumeEntryStat, ClientError> {
        let body = ComposeFile { sources, path: path.to_owned(), mode: Some(mode) };
        let request = self.call(Method::POST, ContentCall::Compose, &[])?.json(&body);
        within(OPERATION, LONGEST_UPLOAD, async { answer(send(path, request).await?).await }).await
    }

    /// Reads all files as one tar archive; with `from`, the rest of it from there on, where the disk
    /// is still as it was when the archive had this tag.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn export(&self, from: Option<(u64, &str)>) -> Result<ArchiveDownload, ClientError> {
        let mut request = self.call(Method::GET, ContentCall::Archive, &[])?;
        if let Some((offset, tag)) = from {
            request = request.header(RANGE, format!("bytes={offset}-")).header(IF_RANGE, tag);
        }
        let response = within(OPERATION, BEGIN_ARCHIVE, send("/", request)).await?;
        let number = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()?.parse().ok());
        let (entries, left_out) = (number(ENTRIES).unwrap_or(0), number(LEFT_OUT).unwrap_or(0));
        let silence = self.client.limits.archive_idle;
        let bytes = FileDownload::begun(response, from.map(|(offset, _)| offset), silence)?;
        Ok(ArchiveDownload { bytes, entries, left_out })
    }

    /// Fills the disk from a tar archive of so many bytes, where that is known. Sent once more under
    /// the same name it is found done.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn import(
        &self,
        query: &ArchiveQuery,
        length: Option<u64>,
        bytes: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<ImportedArchive, ClientError> {
        let replace = query.replace.unwrap_or(false).to_string();
        let query = [("replace", &*replace), ("import", query.import.as_deref().unwrap_or_default())];
        let mut request = self.call(Method::PUT, ContentCall::Archive, &query)?;
        request = request.header(CONTENT_TYPE, "application/x-tar");
        if let Some(length) = length {
            request = request.header(CONTENT_LENGTH, length);
        }
        let request = request.body(Body::wrap_stream(bytes));
        within(OPERATION, LONGEST_UPLOAD, async { answer(send("/", request).await?).await }).await
    }

    async fn json<T: DeserializeOwned>(&self, path: &str, request: RequestBuilder) -> Result<T, ClientError> {
        within(OPERATION, BEGIN, async { answer(send(path, request).await?).await }).await
    }

    fn request(
        &self,
        method: Method,
        call: ContentCall,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<RequestBuilder, ClientError> {
        self.call(method, call, &[&[("path", path)], query].concat())
    }

    fn call(&self, method: Method, call: ContentCall, query: &[(&str, &str)]) -> Result<RequestBuilder, ClientError> {
        let base = match self.disk {
            OwnedDisk::Volume(id) => format!("/volumecontent/{id}/{}", call.as_str()),
            OwnedDisk::Data(agent) => format!("/agents/{agent}/data/{}", call.as_str()),
        };
        let mut url = self.client.url(OPERATION, &base)?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(self.client.http.request(method, url).bearer_auth(self.token.expose()))
    }
}

/// Sends a request; the answer if it is a success, the gateway's or the disk's words if it is not.
async fn send(path: &str, request: RequestBuilder) -> Result<Response, ClientError> {
    let response = request.send().await.map_err(|error| ClientError::transport(OPERATION, error))?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = whole(OPERATION, response).await?;
    if let Some(refused) = refused(OPERATION, &body) {
        return Err(refused);
    }
    if let Ok(ContentError { message, .. }) = serde_json::from_slice(&body) {
        let source = FilesError { code: status.as_u16(), message };
        return Err(ClientError::File { path: path.to_owned(), source });
    }
    Err(ClientError::protocol(OPERATION, format!("status {status} and no error, but {:?}", words(&body))))
}

async fn answer<T: DeserializeOwned>(response: Response) -> Result<T, ClientError> {
    let body = whole(OPERATION, response).await?;
    serde_json::from_slice(&body).map_err(|error| ClientError::protocol(OPERATION, error))
}
