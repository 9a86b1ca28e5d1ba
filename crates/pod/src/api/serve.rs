//! Accepting connections: bounded in number, in time, and in who may come.

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

/// Connections at the same time.
const MAX_CONNECTIONS: usize = 128;
/// How long a client may take to send its headers, also between two requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a request's headers.
const MAX_HEADERS: usize = 16 * 1024;
/// The pause after a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves the node until told to close; each connection is a task of `connections`.
pub(crate) async fn serve(
    listener: TcpListener,
    node: IpAddr,
    app: Router,
    connections: TaskTracker,
    closing: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let accepting = async {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) if peer.ip() == node => {
                    // Beyond the bound a connection is closed at once, and its client sees so.
                    let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else { continue };
                    connections.spawn(serve_connection(stream, app.clone(), closing.clone(), slot));
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

async fn serve_connection(stream: TcpStream, app: Router, closing: CancellationToken, slot: OwnedSemaphorePermit) {
    // A connection without it is slower, not wrong.
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_header_size(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app))
        .with_upgrades();
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
    // One that was upgraded has a place elsewhere.
    drop(slot);
}
