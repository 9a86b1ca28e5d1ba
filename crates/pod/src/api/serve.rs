//! Accepting connections: bounded in number, in patience, and in who may come.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wire::pod::GATEWAY_ADDRESS;

/// Connections at the same time.
const MAX_CONNECTIONS: usize = 128;
/// How long a client may take to send its headers, also between two requests.
const HEADER_PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of a request's headers.
const MAX_HEADERS: usize = 16 * 1024;
/// The pause after a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until told to close; each connection is a task of `tasks`.
pub(crate) async fn serve(listener: TcpListener, app: Router, tasks: TaskTracker, closing: CancellationToken) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let accepting = async {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) if peer.ip() == IpAddr::V4(GATEWAY_ADDRESS) => {
                    // Beyond the bound a connection is closed at once, and its client sees so.
                    let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
                    tasks.spawn(converse(stream, app.clone(), closing.clone(), place));
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    closing.run_until_cancelled(accepting).await;
}

async fn converse(stream: TcpStream, app: Router, closing: CancellationToken, place: OwnedSemaphorePermit) {
    // A connection without it is slower, not wrong.
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_PATIENCE)
        .max_header_size(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
    drop(place);
}
