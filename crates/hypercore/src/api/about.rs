//! What the node says of itself.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use sandbox::network::DroppedPackets;
use wire::fault::Fault;
use wire::v1::node::{KeptDisks, NodeInfo, SandboxPhase};

use super::fault::{ApiError, json};
use super::state::Api;

/// The node.
#[utoipa::path(
    get,
    path = "/v1/node",
    responses(
        (status = 200, description = "What it is and what it has left", body = NodeInfo),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    )
)]
pub(crate) async fn node(State(api): State<Api>) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, &api.node.info().await?))
}

/// Disks that outlived their sandbox.
#[utoipa::path(
    get,
    path = "/v1/disks",
    responses(
        (status = 200, description = "Whose they are and until when they are kept", body = KeptDisks),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    )
)]
pub(crate) async fn disks(State(api): State<Api>) -> Result<Response, ApiError> {
    let disks = api.node.disks().await;
    Ok(json(StatusCode::OK, &disks.map_err(|error| ApiError::internal(&error, "the disks cannot be listed"))?))
}

/// Whether the daemon lives.
#[utoipa::path(get, path = "/health", responses((status = 204, description = "It lives")))]
pub(crate) async fn health() -> StatusCode {
    StatusCode::NO_CONTENT
}

/// Prometheus text.
#[utoipa::path(
    get,
    path = "/metrics",
    responses((status = 200, description = "Prometheus text", body = String, content_type = "text/plain"))
)]
pub(crate) async fn metrics(State(api): State<Api>) -> Response {
    measure(&api).await;
    let kind = HeaderValue::from_static("text/plain; version=0.0.4");
    ([(CONTENT_TYPE, kind)], api.metrics.render()).into_response()
}

/// What is only known when somebody asks.
async fn measure(api: &Api) {
    let shared = &api.node.shared;
    let handles = shared.registry.all();
    for phase in ["booting", "ready", "backoff", "waiting", "stopping", "failed"] {
        let count = handles.iter().filter(|handle| named(&handle.sandbox().phase) == phase).count();
        metrics::gauge!("hypercore_sandboxes", "phase" => phase).set(gauge(count as u64));
    }
    let (mut cpu_us, mut memory, mut resident) = (0, 0, 0);
    let mut limited = [("packets_per_second", 0), ("connections_per_second", 0), ("connections", 0)];
    for handle in &handles {
        if let Ok(stats) = shared.runtime.stats(handle.id()).await {
            cpu_us += stats.cpu_us;
            memory += stats.memory_bytes;
            resident += stats.resident_bytes;
            let DroppedPackets { packets, connection_rate, connections } = stats.limited;
            for ((_, sum), dropped) in limited.iter_mut().zip([packets, connection_rate, connections]) {
                *sum += dropped;
            }
        }
    }
    metrics::gauge!("hypercore_guests_cpu_seconds").set(gauge(cpu_us) / 1_000_000.0);
    metrics::gauge!("hypercore_guests_memory_bytes").set(gauge(memory));
    metrics::gauge!("hypercore_guests_resident_bytes").set(gauge(resident));
    for (limit, sum) in limited {
        metrics::gauge!("hypercore_guests_limited_packets", "limit" => limit).set(gauge(sum));
    }
    metrics::gauge!("hypercore_quarantined_sandboxes").set(gauge(shared.registry.quarantine.list().len() as u64));
    if let Ok(disks) = api.node.disks().await {
        metrics::gauge!("hypercore_kept_disks").set(gauge(disks.kept.len() as u64));
        metrics::gauge!("hypercore_kept_disks_bytes").set(gauge(disks.kept.iter().map(|disk| disk.bytes).sum()));
    }
    metrics::gauge!("hypercore_marks_waiting").set(gauge(shared.journal.waiting() as u64));
}

const fn named(phase: &SandboxPhase) -> &'static str {
    match phase {
        SandboxPhase::Booting => "booting",
        SandboxPhase::Ready => "ready",
        SandboxPhase::Backoff { .. } => "backoff",
        SandboxPhase::Waiting { .. } => "waiting",
        SandboxPhase::Stopping => "stopping",
        SandboxPhase::Failed { .. } => "failed",
    }
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a float, and a petabyte still is exact")]
const fn gauge(value: u64) -> f64 {
    value as f64
}
