//! `GET /tunnel?port=` at the port of E2B's daemon: one connection to any port of the guest,
//! its bytes carried in a WebSocket (`client::carry`).
//!
//! A byte tunnel could carry requests past the paywall and the limits, so it is for those
//! alone who are let in free: whoever has the agent's token, or its holder's API key.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use client::{Role, carry};
use control::NodeError;
use domain::KeyId;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use store::RunRecord;
use wire::fault::{Code, Fault};
use wire::v1::pod::PORT;

use crate::api::extract::query;
use crate::edge::eviction::ActiveRequest;
use crate::edge::idle::IdleTimer;
use crate::edge::requester::Requester;
use crate::error::ApiError;
use crate::ingress::upgrade::WebSocketHandshake;
use crate::state::Gateway;

/// The path, beside those of E2B's.
pub(crate) const PATH: &str = "/tunnel";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TunnelQuery {
    port: u16,
}

/// Opens a tunnel for one who may: the connection to the port stands before the WebSocket is
/// granted, so that a port where nothing listens is told by a status.
pub(crate) async fn open(
    gateway: &Arc<Gateway>,
    record: &RunRecord,
    key: Option<KeyId>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let TunnelQuery { port } = query(request.uri())?;
    if matches!(port, 0 | PORT) {
        return Err(Fault::new(Code::InvalidRequest, format!("no tunnel leads to port {port}")).field("port").into());
    }
    let lacks = || ApiError::invalid("a tunnel is a WebSocket of version 13: ask for one with Upgrade: websocket");
    let handshake = WebSocketHandshake::wanted(&mut request).ok_or_else(lacks)?;
    let granted = handshake.serve(request.headers()).ok_or_else(lacks)?;
    let permit = gateway.streams.for_agent(record.pod, Requester::Holder)?;
    let mut guest = match gateway.parts.control.node_of(record)?.tunnel(record.id, Some(port)).await {
        Err(NodeError::Refused(fault)) if fault.code == Code::AgentUnreachable => {
            let said = format!("nothing listens on the agent's port {port}");
            return Err(ApiError::new(Code::AgentUnreachable, said));
        }
        tunnel => tunnel?,
    };
    let active = request.extensions().get::<Arc<ActiveRequest>>().cloned();
    let client = hyper::upgrade::on(request);
    let over = Arc::clone(gateway).withdrawn(key);
    let draining = gateway.draining.clone();
    let silence = Duration::from_millis(gateway.limits.stream_idle_ms);
    gateway.tasks.spawn(async move {
        let timer = IdleTimer::new();
        let carried = async {
            let client = timer.wrap(TokioIo::new(client.await?));
            // How it ended is for those who speak through it to say.
            let _ = carry(client, Role::Server, &mut guest).await;
            Ok::<_, hyper::Error>(())
        };
        tokio::select! {
            () = draining.cancelled() => {}
            () = over => tracing::debug!("a tunnel is closed: the API key that opened it is good no more"),
            () = timer.expired(silence) => tracing::debug!("a tunnel was idle for too long and is closed"),
            carried = carried => {
                if let Err(error) = carried {
                    tracing::debug!(%error, "an upgrade broke off");
                }
            }
        }
        drop((permit, active));
    });
    Ok(granted)
}
