//! `GET /metrics`.

use std::sync::atomic::AtomicU64;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::header::CONTENT_TYPE;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use wire::fault::Code;
use wire::v1::pod::PodPhase;

use super::error::ApiError;
use crate::agent::Pod;

const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PAGE_BYTES: u64 = 4096;

/// The pod's figures, read when they are asked for.
pub(super) async fn metrics(State(pod): State<Pod>) -> Result<Response, ApiError> {
    let mut registry = Registry::with_prefix("pod");
    let status = pod.status();
    let ready = u64::from(status.phase == PodPhase::Ready);
    counter(&mut registry, "agent_restarts", "Times the agent's process was started again", status.restarts.into());
    counter(&mut registry, "log_lines_dropped", "Lines that made room for newer ones", pod.logs().dropped());
    gauge(&mut registry, "agent_ready", "Whether the agent answers", ready);
    gauge(&mut registry, "processes", "Commands that run beside the agent", pod.processes().running());
    gauge(&mut registry, "uptime_seconds", "Seconds since the pod started", pod.started().elapsed().as_secs());
    gauge(&mut registry, "resident_bytes", "Memory of the pod itself", resident_bytes());
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|_| ApiError::new(Code::Internal, "the metrics cannot be written"))?;
    Ok(([(CONTENT_TYPE, TEXT)], text).into_response())
}

fn counter(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let counter = Counter::<u64, AtomicU64>::default();
    counter.inc_by(value);
    registry.register(name, help, counter);
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let gauge = Gauge::<u64, AtomicU64>::default();
    gauge.set(value);
    registry.register(name, help, gauge);
}

/// What the kernel counts as this program's; 0 where it does not say.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * PAGE_BYTES
}
