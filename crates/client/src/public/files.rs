//! An agent's files, over E2B's file protocols.

use std::time::Duration;

use bytes::Bytes;
use domain::PodId;
use futures_util::Stream;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, IF_RANGE, RANGE};
use reqwest::{Body, Method, RequestBuilder, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use wire::filesystem::{
    ComposeRequest, EntryInfo, EntryResponse, FILES, FilesError, ListDirRequest, ListDirResponse, MoveRequest,
    PathRequest, SERVICE, SetModeRequest, UploadedFile,
};
use wire::process::RpcError;

use super::http::{refused, whole, within, words};
use super::{AgentAccess, ClientError};

const OPERATION: &str = "work on the agent's files";

/// The files of one agent. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AgentFiles {
    access: AgentAccess,
}

/// A file of an agent's or of a disk's on its way here.
pub struct FileDownload {
    /// Where in the file it begins: at what was asked for, or at 0 where the file is
    /// another one than that.
    pub offset: u64,
    /// The bytes from there on; `None` of a file that has no size before it is read.
    pub length: Option<u64>,
    /// By which the same bytes are known again.
    pub tag: Option<String>,
    response: Response,
    silence: Duration,
}

impl AgentAccess {
    /// The files of its guest.
    #[must_use]
    pub fn files(&self) -> AgentFiles {
        AgentFiles { access: self.clone() }
    }
}

impl AgentFiles {
    /// Whose they are.
    #[must_use]
    pub const fn agent(&self) -> PodId {
        self.access.agent
    }

    /// What is at a path; `None` where nothing is.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn stat(&self, path: &str) -> Result<Option<EntryInfo>, ClientError> {
        match self.call::<EntryResponse>("Stat", path, &PathRequest { path: path.to_owned() }).await {
            Ok(answer) => Ok(Some(answer.entry)),
            Err(ClientError::File { source, .. }) if source.code == StatusCode::NOT_FOUND.as_u16() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What is in a folder, and in no folder of it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn list(&self, path: &str) -> Result<Vec<EntryInfo>, ClientError> {
        let request = ListDirRequest { path: path.to_owned(), depth: 1 };
        Ok(self.call::<ListDirResponse>("ListDir", path, &request).await?.entries)
    }

    /// Makes a folder and those that it is in, where they are not there.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn make_dir(&self, path: &str) -> Result<(), ClientError> {
        match self.call::<EntryResponse>("MakeDir", path, &PathRequest { path: path.to_owned() }).await {
            Err(ClientError::File { source, .. }) if source.code == StatusCode::CONFLICT.as_u16() => Ok(()),
            done => done.map(drop),
        }
    }

    /// Gives a file or folder other permissions.
    ///
    /// # Errors
    /// See [`ClientError`]; a guest that runs since before there was this call answers with
    /// status 501.
    pub async fn set_mode(&self, path: &str, mode: u32) -> Result<(), ClientError> {
        let request = SetModeRequest { path: path.to_owned(), mode: format!("{mode:o}") };
        self.call::<EntryResponse>("SetMode", path, &request).await.map(drop)
    }

    /// Gives a file or folder another path.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn rename(&self, source: &str, destination: &str) -> Result<EntryInfo, ClientError> {
        let request = MoveRequest { source: source.to_owned(), destination: destination.to_owned() };
        Ok(self.call::<EntryResponse>("Move", source, &request).await?.entry)
    }

    /// Removes what is at a path.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn remove(&self, path: &str) -> Result<(), ClientError> {
        self.call::<serde_json::Value>("Remove", path, &PathRequest { path: path.to_owned() }).await.map(drop)
    }

    /// Reads a file; with `from`, the rest of it from there on, where it is still the one
    /// of this tag.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn read(&self, path: &str, from: Option<(u64, &str)>) -> Result<FileDownload, ClientError> {
        let mut request = self.request(Method::GET, FILES, &[("path", path)])?;
        if let Some((offset, tag)) = from {
            request = request.header(RANGE, format!("bytes={offset}-")).header(IF_RANGE, tag);
        }
        let read = self.access.client.limits.read;
        let response = within(OPERATION, read, async { done(path, send(request).await?).await }).await?;
        FileDownload::begun(response, from.map(|(offset, _)| offset), self.access.client.limits.files_idle)
    }

    /// Writes a file of `length` bytes with these permissions: it is there when all of it
    /// is, in place of the one before.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn write(
        &self,
        path: &str,
        mode: u32,
        length: u64,
        bytes: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<(), ClientError> {
        let request = self
            .request(Method::POST, FILES, &[("path", path), ("mode", &format!("{mode:o}"))])?
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(reqwest::header::CONTENT_LENGTH, length)
            .body(Body::wrap_stream(bytes));
        let upload = self.access.client.limits.upload;
        let answer = within(OPERATION, upload, async { done(path, send(request).await?).await }).await?;
        json::<Vec<UploadedFile>>(answer).await.map(drop)
    }

    /// Makes one file of several, which are gone then.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn compose(&self, pieces: Vec<String>, path: &str, mode: u32) -> Result<(), ClientError> {
        let request = ComposeRequest {
            source_paths: pieces,
            destination: path.to_owned(),
            username: None,
            mode: Some(format!("{mode:o}")),
        };
        let request = self.request(Method::POST, &format!("{FILES}/compose"), &[])?.json(&request);
        let composed = async { json::<UploadedFile>(done(path, send(request).await?).await?).await };
        within(OPERATION, self.access.client.limits.upload, composed).await.map(drop)
    }

    async fn call<T: DeserializeOwned>(
        &self,
        name: &str,
        path: &str,
        request: &impl Serialize,
    ) -> Result<T, ClientError> {
        let request = self.request(Method::POST, &format!("/{SERVICE}/{name}"), &[])?.json(request);
        let read = self.access.client.limits.read;
        within(OPERATION, read, async { json(done(path, send(request).await?).await?).await }).await
    }

    fn request(&self, method: Method, path: &str, query: &[(&str, &str)]) -> Result<RequestBuilder, ClientError> {
        self.access.request(OPERATION, method, path, query)
    }
}

impl FileDownload {
    /// A file whose answer has begun, of which the rest from `asked` on was asked for.
    pub(super) fn begun(response: Response, asked: Option<u64>, silence: Duration) -> Result<Self, ClientError> {
        let offset = match response.status() {
            StatusCode::PARTIAL_CONTENT => begun_at(response.headers(), asked)?,
            _ => 0,
        };
        let tag = response.headers().get(ETAG).and_then(|tag| tag.to_str().ok()).map(str::to_owned);
        Ok(Self { offset, length: response.content_length(), tag, response, silence })
    }

    /// The next bytes; `None` after the last.
    ///
    /// # Errors
    /// The answer broke off, or nothing came for long.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        let silence = self.silence;
        let next = async { self.response.chunk().await.map_err(|error| ClientError::transport(OPERATION, error)) };
        within(OPERATION, silence, next).await
    }
}

/// Where a part of a file begins. One that begins elsewhere than was asked is not what it is
/// taken for.
fn begun_at(headers: &HeaderMap, asked: Option<u64>) -> Result<u64, ClientError> {
    let said = headers.get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
    let first = said.and_then(|range| range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok());
    let odd = || ClientError::protocol(OPERATION, "a part of the file came that was not asked for");
    first.filter(|first| Some(*first) == asked).ok_or_else(odd)
}

async fn send(request: RequestBuilder) -> Result<Response, ClientError> {
    request.send().await.map_err(|error| ClientError::transport(OPERATION, error))
}

/// The answer if it is a success; the guest's or the gateway's words if it is not.
async fn done(path: &str, response: Response) -> Result<Response, ClientError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = whole(OPERATION, response).await?;
    let file = |source| ClientError::File { path: path.to_owned(), source };
    if let Some(refused) = refused(OPERATION, &body) {
        return Err(refused);
    }
    if let Ok(error) = serde_json::from_slice::<FilesError>(&body) {
        return Err(file(error));
    }
    if let Ok(error) = serde_json::from_slice::<RpcError>(&body) {
        return Err(file(FilesError { code: status.as_u16(), message: error.message }));
    }
    Err(ClientError::protocol(OPERATION, format!("status {status} and no error, but {:?}", words(&body))))
}

async fn json<T: DeserializeOwned>(response: Response) -> Result<T, ClientError> {
    let body = whole(OPERATION, response).await?;
    serde_json::from_slice(&body).map_err(|error| ClientError::protocol(OPERATION, error))
}
