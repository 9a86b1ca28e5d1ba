//! All files of a disk in one answer.

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use wire::content::{ENTRIES, LEFT_OUT};

use super::files::PIECES;
use crate::files::{ArchivePlan, FileError, FileTree};

/// The archive, or what of it follows the bytes that its reader has. Of other parts it is all of it.
pub(super) fn respond(
    tree: &FileTree,
    plan: ArchivePlan,
    headers: &HeaderMap,
    permit: OwnedSemaphorePermit,
) -> Result<Response, FileError> {
    let (length, from) = (plan.length, start(headers, &plan));
    let mut answer = HeaderMap::new();
    let mut say = |name: HeaderName, value: String| {
        if let Ok(value) = HeaderValue::try_from(value) {
            answer.insert(name, value);
        }
    };
    say(CONTENT_TYPE, "application/x-tar".to_owned());
    say(ACCEPT_RANGES, "bytes".to_owned());
    say(ETAG, plan.tag.clone());
    say(CONTENT_LENGTH, (length - from).to_string());
    say(HeaderName::from_static(ENTRIES), plan.entries.to_string());
    say(HeaderName::from_static(LEFT_OUT), plan.left_out.to_string());
    let status = if from == 0 { StatusCode::OK } else { StatusCode::PARTIAL_CONTENT };
    if from > 0 {
        say(CONTENT_RANGE, format!("bytes {from}-{}/{length}", length - 1));
    }
    let (pieces, sent) = mpsc::channel(PIECES);
    tree.send_archive(plan, from, pieces)?;
    let bytes = stream::unfold((sent, permit), |(mut sent, permit)| async move {
        let piece = sent.recv().await?;
        Some((piece, (sent, permit)))
    });
    Ok((status, answer, Body::from_stream(bytes)).into_response())
}

/// The first byte that is asked for, of an archive that is still the same.
fn start(headers: &HeaderMap, plan: &ArchivePlan) -> u64 {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let same = text(IF_RANGE).is_some_and(|tag| tag.trim() == plan.tag);
    let first = text(RANGE).filter(|_| same).and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
    first.and_then(|first| first.parse().ok()).filter(|first| *first < plan.length).unwrap_or(0)
}
