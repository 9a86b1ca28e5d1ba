//! Identity, status, logs, stop.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream::unfold;
use http::header::CONTENT_TYPE;
use serde::Deserialize;
use tokio::time::timeout;
use wire::fault::{Code, Fault};
use wire::v1::pod::{GuestBoot, GuestConfig, LogLine, PodPhase, PodStatus, StopRequest};

use super::error::{ApiError, read};
use crate::agent::Pod;
use crate::identity::{IdentityError, IdentityRefused, Platform, accept};

/// The longest a call may wait for the agent.
const MAX_WAIT: Duration = Duration::from_mins(1);
/// The longest an agent may take to end.
const MAX_GRACE: Duration = Duration::from_mins(10);

/// `POST /v1/identity`: may come before the agent's files are there, and waits for them.
pub(super) async fn identity(pod: Pod, platform: Arc<dyn Platform>, body: Bytes) -> Result<Json<PodStatus>, ApiError> {
    pod.wait_for_set_up().await;
    if pod.has_identity() {
        return Err(ApiError::new(Code::WrongState, "this pod has its identity"));
    }
    let identity: GuestConfig = read(&body)?;
    // Since the look for an identity nothing else could run: no await between.
    let (token, plan) = accept(identity, &*platform).map_err(refusal)?;
    pod.assign(token, plan);
    Ok(Json(pod.status()))
}

/// `GET /v1/boot`: how far a guest is that has no identity yet, for whoever waits to tell it.
pub(super) async fn boot(State(pod): State<Pod>) -> Json<GuestBoot> {
    Json(GuestBoot { checked: pod.check().percent() })
}

fn refusal(error: IdentityRefused) -> ApiError {
    match error {
        IdentityRefused::Invalid(error) => {
            let code = match error {
                IdentityError::Environment(_) => Code::InvalidEnvironment,
                IdentityError::Field { .. } | IdentityError::User(_) => Code::InvalidRequest,
            };
            Fault::new(code, error.to_string()).field(error.field()).into()
        }
        IdentityRefused::Apply(error) => {
            tracing::error!(
                error = format!("{:#}", anyhow::Error::from(error)),
                "the identity was not taken: a step was refused"
            );
            ApiError::new(Code::Internal, "the pod cannot take its identity; its console says why")
        }
    }
}

/// `?wait_ms=&until=`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct WaitQuery {
    wait_ms: u64,
    until: Option<Until>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Until {
    Ready,
}

/// `GET /v1/status`.
pub(super) async fn status(
    State(pod): State<Pod>,
    wait: Result<Query<WaitQuery>, QueryRejection>,
) -> Result<Json<PodStatus>, ApiError> {
    let Query(wait) = wait.map_err(|error| ApiError::new(Code::InvalidRequest, error.body_text()))?;
    if let Some(Until::Ready) = wait.until {
        let patience = Duration::from_millis(wait.wait_ms).min(MAX_WAIT);
        let mut changes = pod.watch();
        let seen = pod.status().exits;
        // Not settled in time is an answer, too. So is an end of the agent that is news.
        let news = |status: &PodStatus| settled(status.phase) || status.exits != seen;
        let _ = timeout(patience, changes.wait_for(news)).await;
    }
    Ok(Json(pod.status()))
}

/// Whether waiting longer for `ready` makes no sense.
const fn settled(phase: PodPhase) -> bool {
    match phase {
        PodPhase::Ready | PodPhase::Failed | PodPhase::Stopping => true,
        PodPhase::Waiting | PodPhase::Starting | PodPhase::Backoff => false,
    }
}

/// `?after=&follow=`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LogsQuery {
    after: u64,
    follow: bool,
}

/// `GET /v1/logs`: one JSON a line.
pub(super) async fn logs(
    State(pod): State<Pod>,
    lines: Result<Query<LogsQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(lines) = lines.map_err(|error| ApiError::new(Code::InvalidRequest, error.body_text()))?;
    let permit = pod.stream_permit().ok_or_else(|| ApiError::new(Code::RateLimited, "too many streams are open"))?;
    let reader = pod.logs().reader(lines.after, lines.follow);
    let stream = unfold((reader, permit), |(mut reader, permit)| async move {
        let lines = reader.next().await?;
        Some((Ok::<_, Infallible>(text(&lines)), (reader, permit)))
    });
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(stream)).into_response())
}

fn text(lines: &[LogLine]) -> Bytes {
    let mut text = Vec::new();
    for line in lines {
        // A line is numbers and texts: it always serialises.
        text.extend(serde_json::to_vec(line).unwrap_or_default());
        text.push(b'\n');
    }
    text.into()
}

/// `POST /v1/stop`: answers at once; the pod has ended when its machine or process has.
pub(super) async fn stop(State(pod): State<Pod>, body: Bytes) -> Result<Json<PodStatus>, ApiError> {
    let stop: StopRequest = read(&body)?;
    pod.stop(Duration::from_millis(stop.grace_ms).min(MAX_GRACE));
    Ok(Json(pod.status()))
}
