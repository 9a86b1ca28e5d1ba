//! Following the agent's output into the node's own log.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};
use wire::v1::pod::LogLine;

use super::connection::{PodError, request};
use super::pod::PodClient;
use super::splitter::{LineSplitter, RateLimiter};
use crate::logs::AgentLog;

/// Bytes of one line as JSON, at most: 16 KiB of text, each byte escaped.
const MAX_LINE: usize = 128 * 1024;
/// Bytes per second that are followed; an agent that prints more loses lines.
const BYTES_PER_SECOND: u32 = 1024 * 1024;
/// Bytes that may come at once.
const BURST_BYTES: u32 = 4 * 1024 * 1024;
/// How long the stream may take to begin.
const BEGIN: Duration = Duration::from_secs(5);
/// Pause before it is opened again.
const PAUSE: Duration = Duration::from_millis(500);

/// Follows for ever: whoever started it ends it.
pub(crate) async fn follow(pod: PodClient, log: Arc<Mutex<AgentLog>>, boot: u32) {
    let mut log = log.lock().await;
    let mut limiter = RateLimiter::new(BYTES_PER_SECOND, BURST_BYTES);
    loop {
        if let Err(error) = once(&pod, &mut log, boot, &mut limiter).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "the agent's output is not followed");
        }
        sleep(PAUSE).await;
    }
}

async fn once(pod: &PodClient, log: &mut AgentLog, boot: u32, limiter: &mut RateLimiter) -> Result<(), PodError> {
    let mut line = pod.open().await?;
    let path = format!("/v1/logs?follow=true&after={}", log.after(boot));
    let answer = line.send(request(Method::GET, &path, Some(pod.token()), Bytes::new())?, BEGIN).await?;
    let status = answer.status();
    if !status.is_success() {
        return Err(PodError::Refused { status, said: String::new() });
    }
    let mut body = answer.into_body();
    let mut lines = LineSplitter::default();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(PodError::Broken)?.into_data() else { continue };
        lines.push(&data);
        while let Some(line) = lines.next() {
            take(&line, log, boot)?;
        }
        if lines.unfinished() > MAX_LINE {
            return Err(PodError::Unclear("a line without an end".to_owned()));
        }
        let bytes = u32::try_from(data.len()).unwrap_or(u32::MAX);
        sleep(limiter.take(bytes, Instant::now())).await;
    }
    Ok(())
}

fn take(text: &[u8], log: &mut AgentLog, boot: u32) -> Result<(), PodError> {
    let line: LogLine = serde_json::from_slice(text).map_err(|error| PodError::Unclear(error.to_string()))?;
    log.add(boot, &line).map_err(|error| PodError::Unclear(format!("the log cannot be written: {error}")))
}
