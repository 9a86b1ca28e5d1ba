//! `/files`: what is in the files of the guest, by path. Plain HTTP; nothing is held but
//! what is on its way.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Json;
use axum::body::{Body, BodyDataStream};
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use http::header::{
    ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    HeaderName, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, StatusCode};
use multer::{Field, Multipart};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;
use tokio_util::io::ReaderStream;
use wire::filesystem::{ComposeRequest, FilesError, UploadedFile};

use super::error::locate;
use super::rpc::path_base;
use crate::agent::{Plan, Pod};
use crate::files::{self, Download, FileError, FileMode, PathBase, Piece, Upload, metadata_of};
use crate::process::{Accounts, User, UserError};

/// Pieces of an upload on their way to its file.
pub(super) const PIECES: usize = 4;
/// Bytes of a download read at once.
const READ_BYTES: usize = 128 * 1024;
/// How long an upload may stand still.
const UPLOAD_IDLE: Duration = Duration::from_secs(60);
/// How long the rest of a refused upload is still taken: a sender that is cut off in the
/// middle of it does not read why.
pub(super) const LINGER: Duration = Duration::from_secs(10);
/// Files of one form.
const MAX_FILES: usize = 1024;
/// Bytes of a form that may come before, between and within the heads of its parts, and one piece
/// more: they are held until the head is whole.
const MAX_FORM_HEAD: usize = 64 * 1024;
/// Pieces of one file.
const MAX_PIECES: usize = 10_000;

/// `?path=&username=&mode=`. A gateway has looked at a signature before.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct FilesQuery {
    path: Option<String>,
    username: Option<String>,
    /// Of an upload.
    mode: Option<String>,
}

/// The permissions that a call asks for.
fn mode_of(text: Option<&str>) -> FilesResult<Option<FileMode>> {
    Ok(text.map(str::parse).transpose()?)
}

pub(super) type FilesResult<T> = Result<T, FilesFailure>;

/// A [`FilesError`] on its way out.
#[derive(Debug)]
pub(super) struct FilesFailure(pub(super) FilesError);

impl FilesFailure {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self(FilesError { code: status.as_u16(), message: message.into() })
    }
}

impl From<FileError> for FilesFailure {
    fn from(error: FileError) -> Self {
        Self(error.into())
    }
}

impl From<multer::Error> for FilesFailure {
    fn from(error: multer::Error) -> Self {
        match error {
            multer::Error::StreamReadFailed(error) if error.is::<LongHead>() => {
                Self::new(StatusCode::BAD_REQUEST, LongHead.to_string())
            }
            multer::Error::StreamReadFailed(_) => FileError::BrokenOff("the form ended before it was whole").into(),
            error => Self::new(StatusCode::BAD_REQUEST, format!("the form cannot be read: {error}")),
        }
    }
}

impl IntoResponse for FilesFailure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self.0)).into_response()
    }
}

/// Whose files a call is about.
struct Caller {
    plan: Arc<Plan>,
    user: User,
}

impl Caller {
    fn of(pod: &Pod, username: Option<&str>) -> FilesResult<Self> {
        let unready = || FilesFailure::new(StatusCode::SERVICE_UNAVAILABLE, "the pod has no identity yet");
        let plan = pod.plan().ok_or_else(unready)?;
        let user = match username.filter(|name| !name.is_empty()) {
            None => plan.user.clone(),
            Some(name) => Accounts::read(plan.user.privileges).resolve(name).map_err(refused)?,
        };
        Ok(Self { plan, user })
    }

    fn base(&self) -> PathBase<'_> {
        path_base(&self.plan, &self.user)
    }

    fn resolve(&self, path: &str) -> FilesResult<String> {
        Ok(self.base().resolve(path).map_err(FileError::from)?)
    }
}

fn refused(error: UserError) -> FilesFailure {
    let status = match error {
        UserError::Unknown(_) | UserError::Group(_) | UserError::NoId(_) => StatusCode::UNAUTHORIZED,
        UserError::Root(_) | UserError::NotOurs(_) => StatusCode::FORBIDDEN,
    };
    FilesFailure::new(status, error.to_string())
}

fn stream_permit(pod: &Pod) -> FilesResult<OwnedSemaphorePermit> {
    let full = || FilesFailure::new(StatusCode::TOO_MANY_REQUESTS, "too many streams are open");
    pod.stream_permit().ok_or_else(full)
}

/// `GET /files`, and `HEAD`.
pub(super) async fn download(
    State(pod): State<Pod>,
    Query(query): Query<FilesQuery>,
    headers: HeaderMap,
) -> FilesResult<Response> {
    let permit = stream_permit(&pod)?;
    let caller = Caller::of(&pod, query.username.as_deref())?;
    let path = caller.resolve(query.path.as_deref().unwrap_or_default())?;
    let file = path.clone();
    let download = pod.files().run(&caller.user, move || files::open(&file)).await?;
    respond(download, &path, &headers, permit).await
}

/// The whole file, or the part of it that was asked for.
pub(super) async fn respond(
    download: Download,
    path: &str,
    headers: &HeaderMap,
    permit: OwnedSemaphorePermit,
) -> FilesResult<Response> {
    let mut answer = HeaderMap::new();
    let mut say = |name: HeaderName, value: String| {
        if let Ok(value) = HeaderValue::try_from(value) {
            answer.insert(name, value);
        }
    };
    say(CONTENT_TYPE, "application/octet-stream".to_owned());
    say(X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned());
    say(CONTENT_DISPOSITION, disposition(path));
    let Some(size) = download.size else {
        let bytes = ReaderStream::with_capacity(tokio::fs::File::from_std(download.file), READ_BYTES);
        return Ok((answer, Body::from_stream(held(bytes, permit))).into_response());
    };
    say(ACCEPT_RANGES, "bytes".to_owned());
    say(ETAG, download.tag.clone());
    say(LAST_MODIFIED, httpdate::fmt_http_date(download.modified));
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if text(IF_NONE_MATCH).is_some_and(|tags| tags.split(',').any(|tag| tag.trim() == download.tag)) {
        return Ok((StatusCode::NOT_MODIFIED, answer).into_response());
    }
    // A part of a file that has changed is a part of nothing.
    let same = text(IF_RANGE).is_none_or(|tag| tag.trim() == download.tag);
    let part = match text(RANGE).filter(|_| same).map(|range| part_of(range, size)) {
        Some(Part::Unsatisfiable) => {
            say(CONTENT_RANGE, format!("bytes */{size}"));
            let failure = FilesFailure::new(StatusCode::RANGE_NOT_SATISFIABLE, format!("the file has {size} bytes"));
            return Ok((answer, failure).into_response());
        }
        Some(Part::Bytes { first, last }) => Some((first, last)),
        Some(Part::Whole) | None => None,
    };
    let (status, first, length) = match part {
        None => (StatusCode::OK, 0, size),
        Some((first, last)) => {
            say(CONTENT_RANGE, format!("bytes {first}-{last}/{size}"));
            (StatusCode::PARTIAL_CONTENT, first, last - first + 1)
        }
    };
    say(CONTENT_LENGTH, length.to_string());
    let mut file = tokio::fs::File::from_std(download.file);
    file.set_max_buf_size(READ_BYTES);
    if first > 0 {
        file.seek(std::io::SeekFrom::Start(first)).await.map_err(|error| {
            FilesFailure::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the file cannot be read on: {error}"))
        })?;
    }
    let bytes = ReaderStream::with_capacity(file.take(length), READ_BYTES);
    Ok((status, answer, Body::from_stream(held(bytes, permit))).into_response())
}

/// A stream that keeps its permit as long as it lives.
fn held<S: futures_util::Stream>(stream: S, permit: OwnedSemaphorePermit) -> impl futures_util::Stream<Item = S::Item> {
    stream.map(move |piece| {
        let _held = &permit;
        piece
    })
}

/// What of a file is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// All of it: also where several parts are asked for, or what we do not understand.
    Whole,
    /// These, the last one included.
    Bytes { first: u64, last: u64 },
    /// What it does not have.
    Unsatisfiable,
}

fn part_of(range: &str, size: u64) -> Part {
    let Ok(parsed) = http_range_header::parse_range_header(range) else { return Part::Whole };
    match parsed.validate(size) {
        Ok(ranges) => match &ranges[..] {
            [one] => Part::Bytes { first: *one.start(), last: *one.end() },
            _ => Part::Whole,
        },
        Err(_) => Part::Unsatisfiable,
    }
}

/// The file's name for who saves it.
fn disposition(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or_default();
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if plain {
        format!("inline; filename={name}")
    } else {
        format!("inline; filename*=utf-8''{}", utf8_percent_encode(name, NON_ALPHANUMERIC))
    }
}

/// `POST /files`.
pub(super) async fn upload(
    State(pod): State<Pod>,
    Query(query): Query<FilesQuery>,
    headers: HeaderMap,
    body: Body,
) -> FilesResult<Json<Vec<UploadedFile>>> {
    let mut body = UploadBody::new(&headers, body);
    let done = take(&pod, &query, &headers, &mut body).await;
    if done.is_err() {
        tokio::spawn(timeout(LINGER, async move { body.drain().await }));
    }
    done.map(Json)
}

async fn take(
    pod: &Pod,
    query: &FilesQuery,
    headers: &HeaderMap,
    body: &mut UploadBody,
) -> FilesResult<Vec<UploadedFile>> {
    let _permit = stream_permit(pod)?;
    let caller = Caller::of(pod, query.username.as_deref())?;
    let metadata = metadata_of(headers).map_err(FileError::from)?;
    let gzip = is_gzip(headers)?;
    let mode = mode_of(query.mode.as_deref())?;
    let named = query.path.as_deref();
    match body {
        UploadBody::Bytes(bytes) => {
            let absent = || FilesFailure::new(StatusCode::BAD_REQUEST, "the parameter path says where the bytes go");
            let path = caller.resolve(named.ok_or_else(absent)?)?;
            let upload = Upload { path, metadata, gzip, mode, owner: None, sync: false };
            Ok(vec![receive(&caller.user, upload, bytes).await?])
        }
        UploadBody::Form(form) => {
            let mut done: Vec<UploadedFile> = Vec::new();
            let mut paths = BTreeSet::new();
            while let Some(mut part) = within(form.next_part()).await?? {
                if part.field.name() != Some("file") {
                    while within(part.chunk()).await??.is_some() {}
                    continue;
                }
                let absent = || FilesFailure::new(StatusCode::BAD_REQUEST, "a file of the form has no filename");
                let name = named.or(part.field.file_name()).ok_or_else(absent)?;
                let path = caller.resolve(name)?;
                if paths.len() == MAX_FILES || !paths.insert(path.clone()) {
                    return Err(several(&path, &done));
                }
                let metadata = metadata.clone();
                let upload = Upload { path, metadata, gzip: false, mode, owner: None, sync: false };
                done.push(receive(&caller.user, upload, &mut part).await?);
            }
            Ok(done)
        }
        UploadBody::Packed(_) => {
            let said = "the parts of a form are not compressed; send one file as application/octet-stream";
            Err(FilesFailure::new(StatusCode::BAD_REQUEST, said))
        }
        UploadBody::Unknown(_) => {
            let said = "the content type is neither multipart/form-data nor application/octet-stream";
            Err(FilesFailure::new(StatusCode::BAD_REQUEST, said))
        }
    }
}

fn several(path: &str, done: &[UploadedFile]) -> FilesFailure {
    let done: Vec<&str> = done.iter().map(|file| file.path.as_str()).collect();
    let said = format!(
        "one form has {MAX_FILES} files at most, and no two of one path ('{path}'); of this one are there: {}",
        done.join(", ")
    );
    FilesFailure::new(StatusCode::BAD_REQUEST, said)
}

fn is_gzip(headers: &HeaderMap) -> FilesResult<bool> {
    match headers.get(CONTENT_ENCODING).map(HeaderValue::as_bytes) {
        None => Ok(false),
        Some(encoding) if encoding.eq_ignore_ascii_case(b"identity") => Ok(false),
        Some(encoding) if encoding.eq_ignore_ascii_case(b"gzip") => Ok(true),
        Some(_) => Err(FilesFailure::new(StatusCode::BAD_REQUEST, "the content encoding is neither gzip nor identity")),
    }
}

/// Sends an upload to its file as fast as that takes it.
async fn receive(user: &User, upload: Upload, source: &mut impl Chunks) -> FilesResult<UploadedFile> {
    let (pieces, taken) = mpsc::channel(PIECES);
    let (sent, received) = tokio::join!(send(source, pieces), files::receive(upload, user, taken));
    sent?;
    Ok(received?)
}

/// Returns early, and with success, where the file takes no more: it says why.
pub(super) async fn send(source: &mut impl Chunks, pieces: mpsc::Sender<Piece>) -> FilesResult<()> {
    loop {
        let chunk = tokio::select! {
            chunk = within(source.chunk()) => chunk??,
            () = pieces.closed() => return Ok(()),
        };
        let piece = chunk.map_or(Piece::End, Piece::Bytes);
        let ends = matches!(piece, Piece::End);
        if pieces.send(piece).await.is_err() || ends {
            return Ok(());
        }
    }
}

/// Waits for what comes next of an upload, but not for ever.
async fn within<T>(next: impl Future<Output = T>) -> FilesResult<T> {
    timeout(UPLOAD_IDLE, next).await.map_err(|_| FileError::Idle.into())
}

/// Where the bytes of a file come from.
pub(super) trait Chunks {
    /// The next ones; `None` after the last.
    fn chunk(&mut self) -> impl Future<Output = FilesResult<Option<Bytes>>> + Send;
}

impl Chunks for BodyDataStream {
    async fn chunk(&mut self) -> FilesResult<Option<Bytes>> {
        let chunk = self.next().await.transpose();
        chunk.map_err(|_| FileError::BrokenOff("the body ended before it was whole").into())
    }
}

impl Chunks for FormPart<'_> {
    async fn chunk(&mut self) -> FilesResult<Option<Bytes>> {
        let bytes = self.field.chunk().await?;
        self.held.store(0, Ordering::Relaxed);
        Ok(bytes)
    }
}

/// A form, and how much of it was taken and not handed on.
struct Form {
    parts: Multipart<'static>,
    held: Arc<AtomicUsize>,
}

/// A part of a form.
struct FormPart<'a> {
    field: Field<'static>,
    held: &'a AtomicUsize,
}

/// What comes in the place of a part's head has no end.
#[derive(Debug, thiserror::Error)]
#[error("the head of a part of the form is longer than {MAX_FORM_HEAD} bytes")]
struct LongHead;

impl Form {
    fn new(body: BodyDataStream, boundary: String) -> Self {
        let held = Arc::new(AtomicUsize::new(0));
        Self { parts: Multipart::new(paced(body, Arc::clone(&held)), boundary), held }
    }

    async fn next_part(&mut self) -> Result<Option<FormPart<'_>>, multer::Error> {
        let field = self.parts.next_field().await?;
        self.held.store(0, Ordering::Relaxed);
        Ok(field.map(|field| FormPart { field, held: &self.held }))
    }
}

/// A form's bytes, a piece at each look: its reader takes all that is ready before it looks at
/// any of it, and goes on as long as the head of a part is not whole. It may ask again before it
/// has looked at the last piece, which may be larger than any head: that one does not count yet.
fn paced(
    body: BodyDataStream,
    held: Arc<AtomicUsize>,
) -> impl Stream<Item = Result<Bytes, Box<dyn std::error::Error + Send + Sync>>> + Send {
    stream::unfold(Some((body, 0)), move |open| {
        let held = Arc::clone(&held);
        async move {
            let (mut body, last) = open?;
            tokio::task::yield_now().await;
            if held.load(Ordering::Relaxed).saturating_sub(last) > MAX_FORM_HEAD {
                return Some((Err(LongHead.into()), None));
            }
            match body.next().await? {
                Ok(bytes) => {
                    held.fetch_add(bytes.len(), Ordering::Relaxed);
                    let last = bytes.len();
                    Some((Ok(bytes), Some((body, last))))
                }
                Err(error) => Some((Err(error.into()), None)),
            }
        }
    })
}

/// The body of an upload, by what its headers say of it.
enum UploadBody {
    /// One file.
    Bytes(BodyDataStream),
    /// A form.
    Form(Form),
    /// A form that is compressed.
    Packed(BodyDataStream),
    /// Something else.
    Unknown(BodyDataStream),
}

impl UploadBody {
    fn new(headers: &HeaderMap, body: Body) -> Self {
        let body = body.into_data_stream();
        let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let essence = kind.split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case("application/octet-stream") {
            return Self::Bytes(body);
        }
        match multer::parse_boundary(kind) {
            Ok(_) if !matches!(is_gzip(headers), Ok(false)) => Self::Packed(body),
            Ok(boundary) => Self::Form(Form::new(body, boundary)),
            Err(_) => Self::Unknown(body),
        }
    }

    /// Takes what is left of it.
    async fn drain(self) {
        match self {
            Self::Bytes(mut body) | Self::Packed(mut body) | Self::Unknown(mut body) => {
                while let Some(Ok(_)) = body.next().await {}
            }
            Self::Form(mut form) => {
                while let Ok(Some(mut part)) = form.next_part().await {
                    while let Ok(Some(_)) = part.chunk().await {}
                }
            }
        }
    }
}

/// `POST /files/compose`.
pub(super) async fn compose(State(pod): State<Pod>, body: Bytes) -> FilesResult<Json<UploadedFile>> {
    let invalid = |said: String| FilesFailure::new(StatusCode::BAD_REQUEST, said);
    let request: ComposeRequest = serde_json::from_slice(&body).map_err(|error| invalid(locate(&error)))?;
    if request.source_paths.is_empty() || request.source_paths.len() > MAX_PIECES {
        return Err(invalid(format!("source_paths must name 1 to {MAX_PIECES} files")));
    }
    if request.destination.is_empty() {
        return Err(invalid("destination must name a file".to_owned()));
    }
    let permit = stream_permit(&pod)?;
    let caller = Caller::of(&pod, request.username.as_deref())?;
    let sources: FilesResult<Vec<String>> = request.source_paths.iter().map(|path| caller.resolve(path)).collect();
    let (sources, destination) = (sources?, caller.resolve(&request.destination)?);
    let composed = files::compose(sources, destination, mode_of(request.mode.as_deref())?, &caller.user).await;
    drop(permit);
    Ok(Json(composed?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_part_of_a_file_is_understood_and_anything_else_is_all_of_it() {
        let bytes = |first, last| Part::Bytes { first, last };
        for (range, part) in [
            ("bytes=0-4", bytes(0, 4)),
            ("bytes=5-", bytes(5, 9)),
            ("bytes=-3", bytes(7, 9)),
            ("bytes=2-99", bytes(2, 9)),
            ("bytes=10-", Part::Unsatisfiable),
            ("bytes=0-1,3-4", Part::Whole),
            ("lines=1-2", Part::Whole),
            ("", Part::Whole),
        ] {
            assert_eq!(part_of(range, 10), part, "{range}");
        }
    }

    /// A form whose bytes are all there at once, and how many of them were taken.
    fn endless(begins: &'static str) -> (UploadBody, Arc<AtomicUsize>) {
        let taken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&taken);
        let rest = stream::repeat_with(move || {
            count.fetch_add(8192, Ordering::Relaxed);
            Bytes::from_static(&[b'x'; 8192])
        });
        let bytes = stream::iter([Bytes::from(begins)]).chain(rest).map(Ok::<_, std::convert::Infallible>);
        let headers = [(CONTENT_TYPE, HeaderValue::from_static("multipart/form-data; boundary=b"))];
        (UploadBody::new(&headers.into_iter().collect(), Body::from_stream(bytes)), taken)
    }

    #[tokio::test]
    async fn a_form_whose_part_never_begins_is_refused_before_it_fills_the_memory() {
        for begins in ["no boundary ", "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a"] {
            let (UploadBody::Form(mut form), taken) = endless(begins) else { panic!("it is a form") };
            let refused = FilesFailure::from(form.next_part().await.map(drop).unwrap_err());
            assert!(refused.0.code == 400 && refused.0.message.contains("head of a part"), "{refused:?}");
            assert!(taken.load(Ordering::Relaxed) <= MAX_FORM_HEAD + 2 * 8192);
        }
    }

    #[tokio::test]
    async fn the_bytes_of_a_forms_file_are_handed_on_as_they_come_however_fast_that_is() {
        let head = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n";
        let (UploadBody::Form(mut form), taken) = endless(head) else { panic!("it is a form") };
        let mut part = form.next_part().await.unwrap().unwrap();
        let mut handed = 0;
        while handed < 4 * MAX_FORM_HEAD {
            handed += Chunks::chunk(&mut part).await.unwrap().unwrap().len();
            assert!(taken.load(Ordering::Relaxed) <= handed + 3 * 8192, "{handed}");
        }
    }

    /// As a fast client's form comes: one whose first piece is larger than a head may be.
    #[tokio::test]
    async fn a_form_is_taken_however_large_the_pieces_are_in_which_it_comes() {
        let head = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n";
        let whole = [head.as_bytes(), &[b'x'; 3 * MAX_FORM_HEAD], b"\r\n--b--\r\n"].concat();
        for size in [whole.len(), 2 * MAX_FORM_HEAD, MAX_FORM_HEAD + 1, 1000] {
            let pieces: Vec<_> = whole.chunks(size).map(Bytes::copy_from_slice).collect();
            let body = Body::from_stream(stream::iter(pieces).map(Ok::<_, std::convert::Infallible>));
            let headers = [(CONTENT_TYPE, HeaderValue::from_static("multipart/form-data; boundary=b"))];
            let UploadBody::Form(mut form) = UploadBody::new(&headers.into_iter().collect(), body) else {
                panic!("it is a form")
            };
            let mut part = form.next_part().await.unwrap().unwrap();
            let mut handed = 0;
            while let Some(bytes) = Chunks::chunk(&mut part).await.unwrap() {
                handed += bytes.len();
            }
            drop(part);
            assert_eq!(handed, 3 * MAX_FORM_HEAD, "in pieces of {size}");
            assert!(form.next_part().await.unwrap().is_none());
        }
    }

    #[test]
    fn a_files_name_is_one_header_whatever_is_in_it() {
        assert_eq!(disposition("/a/b-1.txt"), "inline; filename=b-1.txt");
        assert_eq!(disposition("/a/x\"; y\n\u{e9}"), "inline; filename*=utf-8''x%22%3B%20y%0A%C3%A9");
    }
}
