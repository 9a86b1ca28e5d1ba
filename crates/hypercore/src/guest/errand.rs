//! What the node has a guest of its own do: take a file, run a command, give a file back. What it answers is as
//! hostile as any guest's: bounded, and taken at the node's pace.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;
use tokio::time::{Instant, sleep};
use tokio_util::io::ReaderStream;
use wire::connect::Envelope;
use wire::process::{
    EndOfStream, Ended, Output, ProcessConfig, ProcessEvent, ProcessEventFrame, STREAM_TYPE, StartRequest,
};

use super::connection::{PodConnection, PodError, request};
use super::pod::PodClient;
use super::splitter::RateLimiter;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long an answer may take to begin. Whoever asks has a deadline for all of it.
const BEGIN: Duration = Duration::from_secs(60);
/// The same for an upload, whose answer begins when all of it was taken.
const BEGIN_AFTER_UPLOAD: Duration = Duration::from_hours(1);
/// Bytes of a file that are read at once.
const PIECE: usize = 256 * 1024;
/// Bytes per second that a command may say; one that says more waits.
const BYTES_PER_SECOND: u32 = 1024 * 1024;
/// Bytes that may come at once.
const BURST_BYTES: u32 = 4 * 1024 * 1024;

/// Why an errand was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ErrandError {
    #[error(transparent)]
    Pod(#[from] PodError),
    #[error("the guest's file has more than {0} bytes")]
    TooLarge(u64),
    #[error("work on a file of the node's")]
    File(#[from] std::io::Error),
}

impl PodClient {
    /// Has the guest take a file, at this path.
    pub(crate) async fn put(&self, path: &str, file: File) -> Result<(), ErrandError> {
        self.send(path, Body::from_stream(ReaderStream::with_capacity(file, PIECE))).await
    }

    /// The same with what is in memory.
    pub(crate) async fn put_text(&self, path: &str, text: String) -> Result<(), ErrandError> {
        self.send(path, Body::from(text)).await
    }

    async fn send(&self, path: &str, body: Body) -> Result<(), ErrandError> {
        let mut line: PodConnection<Body> = self.connect(CONNECT).await?;
        let asked = self.asked(Method::POST, &format!("/files?path={path}"), "application/octet-stream", body)?;
        let answer = refused(line.send(asked, BEGIN_AFTER_UPLOAD).await?).await?;
        // What it says is of no use; that it has said all of it is.
        drained(answer.into_body()).await
    }

    /// Has the guest run these words, and hands on what they say, until they have ended.
    pub(crate) async fn run(
        &self,
        words: &[String],
        envs: BTreeMap<String, String>,
        mut hear: impl FnMut(&[u8]) + Send,
    ) -> Result<Ended, ErrandError> {
        let mut line: PodConnection<Body> = self.connect(CONNECT).await?;
        let (cmd, args) = words.split_first().ok_or_else(|| PodError::Unclear("no command".to_owned()))?;
        let process = ProcessConfig { cmd: cmd.clone(), args: args.to_vec(), envs, cwd: Some("/".to_owned()) };
        let start = StartRequest { process, pty: None, tag: None, stdin: Some(false) };
        let message = serde_json::to_vec(&start).map_err(|error| PodError::Unclear(error.to_string()))?;
        let mut body = BytesMut::new();
        Envelope { end: false, message: message.into() }.encode(&mut body);
        let asked = self.asked(Method::POST, "/process.Process/Start", STREAM_TYPE, Body::from(body.freeze()))?;
        let mut answer = refused(line.send(asked, BEGIN).await?).await?.into_body();
        let (mut held, mut limiter) = (BytesMut::new(), RateLimiter::new(BYTES_PER_SECOND, BURST_BYTES));
        while let Some(frame) = answer.frame().await {
            let Ok(data) = frame.map_err(PodError::Broken)?.into_data() else { continue };
            held.extend_from_slice(&data);
            while let Some(envelope) = next(&mut held)? {
                if let Some(ended) = heard(&envelope, &mut hear)? {
                    return Ok(ended);
                }
            }
            let bytes = u32::try_from(data.len()).unwrap_or(u32::MAX);
            sleep(limiter.take(bytes, Instant::now())).await;
        }
        Err(PodError::Unclear("the command's end was not told".to_owned()).into())
    }

    /// Has the guest give a file back, of `most` bytes at most.
    pub(crate) async fn fetch(&self, path: &str, into: &Path, most: u64) -> Result<(), ErrandError> {
        let mut line: PodConnection<Body> = self.connect(CONNECT).await?;
        let asked = self.asked(Method::GET, &format!("/files?path={path}"), "", Body::empty())?;
        let mut answer = refused(line.send(asked, BEGIN).await?).await?.into_body();
        let (mut file, mut taken) = (File::create(into).await?, 0_u64);
        while let Some(frame) = answer.frame().await {
            let Ok(data) = frame.map_err(PodError::Broken)?.into_data() else { continue };
            taken = taken.saturating_add(data.len() as u64);
            if taken > most {
                return Err(ErrandError::TooLarge(most));
            }
            file.write_all(&data).await?;
        }
        Ok(file.flush().await?)
    }

    fn asked(&self, method: Method, target: &str, kind: &str, body: Body) -> Result<Request<Body>, PodError> {
        let mut asked = request(method, target, Some(self.token()), Bytes::new())?.map(|_| body);
        if let Some(kind) = HeaderValue::from_str(kind).ok().filter(|kind| !kind.is_empty()) {
            asked.headers_mut().insert(CONTENT_TYPE, kind);
        }
        Ok(asked)
    }
}

async fn refused(answer: Response<Incoming>) -> Result<Response<Incoming>, PodError> {
    let status = answer.status();
    if status.is_success() { Ok(answer) } else { Err(PodError::Refused { status, said: String::new() }) }
}

async fn drained(mut body: Incoming) -> Result<(), ErrandError> {
    while let Some(frame) = body.frame().await {
        frame.map_err(PodError::Broken)?;
    }
    Ok(())
}

fn next(held: &mut BytesMut) -> Result<Option<Envelope>, PodError> {
    Envelope::decode(held).map_err(|error| PodError::Unclear(error.to_string()))
}

/// Hands on what an envelope says; how the command has ended, where it tells that.
fn heard(envelope: &Envelope, hear: &mut impl FnMut(&[u8])) -> Result<Option<Ended>, PodError> {
    let unclear = |error: serde_json::Error| PodError::Unclear(error.to_string());
    if envelope.end {
        let end: EndOfStream = serde_json::from_slice(&envelope.message).map_err(unclear)?;
        let why = end.error.map_or_else(|| "the command's end was not told".to_owned(), |error| error.message);
        return Err(PodError::Unclear(why));
    }
    let frame: ProcessEventFrame = serde_json::from_slice(&envelope.message).map_err(unclear)?;
    match frame.event {
        ProcessEvent::Data(Output::Stdout(bytes) | Output::Stderr(bytes) | Output::Pty(bytes)) => hear(&bytes.0),
        ProcessEvent::End(ended) => return Ok(Some(ended)),
        ProcessEvent::Start(_) | ProcessEvent::Keepalive(_) => {}
    }
    Ok(None)
}
