//! Routes that give a request back, for tests of whatever stands between.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Query, Request};
use axum::http::{HeaderMap, Method, Uri};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, stream};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::openai::Refusal;

/// Bytes of a WebSocket message at most.
const MAX_MESSAGE: usize = 1 << 20;
/// Events of `/sse` at most.
const MAX_TICKS: u64 = 1_000_000;
const DEFAULT_TICKS: u64 = 10;
const MAX_PAUSE_MS: u64 = 60_000;
const DEFAULT_PAUSE_MS: u64 = 100;
/// Bytes of one piece of `/download`.
const PIECE: usize = 64 << 10;
/// Headers whose values are nobody's business: they are only said to be there.
const SECRET: [&str; 6] =
    ["authorization", "proxy-authorization", "cookie", "x-api-key", "x-access-token", "x-signature"];

/// `/echo`: the request itself.
pub(crate) async fn echo(method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Json<Value> {
    let shown = headers.iter().map(|(name, value)| {
        let secret = SECRET.contains(&name.as_str());
        let value = if secret { "(hidden)".into() } else { String::from_utf8_lossy(value.as_bytes()) };
        (name.as_str().to_owned(), Value::from(value))
    });
    Json(json!({
        "method": method.as_str(),
        "path": uri.path(),
        "query": uri.query(),
        "headers": shown.collect::<serde_json::Map<_, _>>(),
        "body": String::from_utf8_lossy(&body),
        "body_bytes": body.len(),
    }))
}

/// `/ws`: every message back.
pub(crate) async fn ws(upgrade: WebSocketUpgrade) -> Response {
    upgrade.max_message_size(MAX_MESSAGE).on_upgrade(reflect)
}

async fn reflect(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        let sent = match message {
            Message::Text(_) | Message::Binary(_) => socket.send(message).await,
            // The library answers these.
            Message::Ping(_) | Message::Pong(_) => Ok(()),
            Message::Close(_) => return,
        };
        if sent.is_err() {
            return;
        }
    }
}

#[derive(Deserialize)]
pub(crate) struct Ticks {
    count: Option<u64>,
    every_ms: Option<u64>,
}

/// `/sse?count=&every_ms=`: numbered events, one at a time.
pub(crate) async fn sse(Query(ticks): Query<Ticks>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let count = ticks.count.unwrap_or(DEFAULT_TICKS).min(MAX_TICKS);
    let pause = Duration::from_millis(ticks.every_ms.unwrap_or(DEFAULT_PAUSE_MS).clamp(1, MAX_PAUSE_MS));
    let events = stream::iter(0..count).then(move |tick| async move {
        if tick > 0 {
            tokio::time::sleep(pause).await;
        }
        Ok(Event::default().event("tick").id(tick.to_string()).data(tick.to_string()))
    });
    Sse::new(events)
}

/// `/upload`: counts and sums a body of any length, and keeps none of it.
pub(crate) async fn upload(request: Request) -> Result<Json<Value>, Refusal> {
    let mut body = request.into_body().into_data_stream();
    let (mut bytes, mut sum) = (0_u64, Sha256::new());
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(Refusal::invalid)?;
        bytes += piece.len() as u64;
        sum.update(&piece);
    }
    Ok(Json(json!({"bytes": bytes, "sha256": hex::encode(sum.finalize())})))
}

#[derive(Deserialize)]
pub(crate) struct Length {
    bytes: u64,
}

/// `/download?bytes=`: so many zeros.
pub(crate) async fn download(Query(Length { bytes }): Query<Length>) -> Response {
    let pieces = stream::unfold(bytes, |left| async move {
        let length = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        (length > 0)
            .then(|| (Ok::<_, Infallible>(Bytes::from_static(&[0; PIECE]).slice(..length)), left - length as u64))
    });
    Body::from_stream(pieces).into_response()
}
