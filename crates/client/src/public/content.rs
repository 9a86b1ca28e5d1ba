//! The files of a disk that no agent has: of a volume, or of what is kept of an agent.

use std::time::Duration;

use bytes::Bytes;
use domain::{ContentCall, OwnedDisk, PodId, VolumeId};
use futures_util::Stream;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, IF_RANGE, RANGE};
use reqwest::{Body, Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use wire::Secret;
use wire::content::{ContentError, VolumeEntryChange, VolumeEntryStat};
use wire::filesystem::FilesError;
use wire::v1::content::{ContentAccess, VolumeAndToken};

use super::http::{Call, refused, whole, within, words};
use super::{ClientError, FileDownload, GatewayClient};

const OPERATION: &str = "work on the disk's files";
/// How long an answer may take to begin: a helper may have to be started for it, and the disk checked.
const BEGIN: Duration = Duration::from_secs(180);
/// How long an upload may take: one that stands still is ended much sooner, by the gateway.
const LONGEST_UPLOAD: Duration = Duration::from_hours(24);

/// The files of one disk, opened. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DiskFiles {
    client: GatewayClient,
    disk: OwnedDisk,
    token: Secret,
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
        let base = match self.disk {
            OwnedDisk::Volume(id) => format!("/volumecontent/{id}/{}", call.as_str()),
            OwnedDisk::Data(agent) => format!("/agents/{agent}/data/{}", call.as_str()),
        };
        let mut url = self.client.url(OPERATION, &base)?;
        url.query_pairs_mut().append_pair("path", path).extend_pairs(query);
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
