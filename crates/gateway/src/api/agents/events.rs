//! `GET /agents/{id}/events`: every change of an agent's state, as server-sent
//! events. A reader that comes back with `Last-Event-ID` misses none.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use domain::PodId;
use futures_util::stream::{Stream, unfold};
use http::header::HeaderMap;
use store::{RunChange, Store, StoreError};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use wire::fault::Fault;
use wire::v1::public::StateChange;

use crate::api::extract::PodPath;
use crate::auth::caller::ReadOnlyHolder;
use crate::edge::streams::{GOES_DOWN, StreamPermit, broken_off};
use crate::error::ApiError;
use crate::state::Gateway;

/// Silence after which a comment is sent, so that proxies keep the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Streams an agent's changes to its holder.
#[utoipa::path(
    get,
    operation_id = "events",
    tag = "agents",
    path = "/agents/{id}/events",
    params(("id" = PodId, Path, description = "The agent"), ("Last-Event-ID" = Option<u64>, Header, description = "Go on after this event")),
    responses(
        (status = 200, description = "One event `state` for each change; its data is a StateChange", body = StateChange,
            content_type = "text/event-stream"),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    ),
    security(
        ("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []),
        ("wallet" = [], "signature" = [], "timestamp" = []),
        ("bearer" = []),
        ("api_key" = [])
    )
)]
pub(crate) async fn events(
    State(gateway): State<Arc<Gateway>>,
    PodPath(id): PodPath,
    headers: HeaderMap,
    ReadOnlyHolder(holder): ReadOnlyHolder,
) -> Result<Response, ApiError> {
    let after = last_seen(&headers)?;
    gateway.owned(id, holder.wallet).await?;
    let permit = gateway.streams.for_wallet(holder.wallet)?;
    let store = gateway.parts.store.clone();
    // Listening begins before reading: what happens in between is heard.
    let news = store.subscribe();
    let feed = Feed { store, news, id, after, pending: VecDeque::new(), ended: false, _permit: permit };
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    let response = Sse::new(feed.stream()).keep_alive(keep_alive).into_response();
    let over = gateway.draining.clone().cancelled_owned();
    Ok(response.map(|body| gateway.while_good(holder.key(), broken_off(body, over, GOES_DOWN))))
}

fn last_seen(headers: &HeaderMap) -> Result<u64, ApiError> {
    let Some(value) = headers.get("last-event-id") else { return Ok(0) };
    let seen = value.to_str().ok().and_then(|text| text.parse().ok());
    seen.ok_or_else(|| ApiError::invalid("Last-Event-ID is not the id of an event of this stream"))
}

/// One reader of one agent's changes.
struct Feed {
    store: Store,
    news: Receiver<(PodId, RunChange)>,
    id: PodId,
    after: u64,
    pending: VecDeque<RunChange>,
    ended: bool,
    _permit: StreamPermit,
}

impl Feed {
    /// Ends after the last change. Where the changes cannot be read it breaks off: its reader comes
    /// back with the last id that it saw.
    fn stream(self) -> impl Stream<Item = Result<Event, StoreError>> {
        unfold(Some((self, true)), |open| async move {
            let (mut feed, first) = open?;
            match feed.change(first).await {
                Ok(change) => change.map(|change| (Ok(event(&change)), Some((feed, false)))),
                Err(error) => {
                    tracing::error!(agent = %feed.id, %error, "an agent's changes cannot be read; the stream breaks off");
                    Some((Err(error), None))
                }
            }
        })
    }

    async fn change(&mut self, first: bool) -> Result<Option<RunChange>, StoreError> {
        if first {
            self.read().await?;
        }
        self.next().await
    }

    /// The next change; `None` after the last.
    async fn next(&mut self) -> Result<Option<RunChange>, StoreError> {
        loop {
            if let Some(change) = self.pending.pop_front() {
                self.after = change.seq;
                self.ended = !change.state.is_live();
                return Ok(Some(change));
            }
            if self.ended {
                return Ok(None);
            }
            match self.news.recv().await {
                Ok((id, change)) if id == self.id && change.seq == self.after + 1 => self.pending.push_back(change),
                Ok((id, change)) if id == self.id && change.seq > self.after => self.read().await?,
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => self.read().await?,
                Err(RecvError::Closed) => return Ok(None),
            }
        }
    }

    async fn read(&mut self) -> Result<(), StoreError> {
        self.pending = match self.store.changes(self.id, self.after).await {
            // It was removed, and its history with it.
            Err(StoreError::NoPod(_)) => VecDeque::new(),
            changes => changes?.into(),
        };
        if self.pending.is_empty() {
            let record = self.store.last_run(self.id).await?;
            self.ended = record.is_none_or(|record| !record.state.is_live());
        }
        Ok(())
    }
}

fn event(change: &RunChange) -> Event {
    let shown = StateChange::new(change.seq, change.at, change.state);
    let data = serde_json::to_string(&shown).unwrap_or_default();
    Event::default().event("state").id(change.seq.to_string()).data(data)
}
