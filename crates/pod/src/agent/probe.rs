//! Asking the agent whether it is ready, and whether it lives.

use std::time::Duration;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::header::{CONNECTION, HOST};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, sleep, timeout};

use super::loopback;

/// How long one probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// The shortest pause between two probes of an agent that is starting.
const MIN_PAUSE: Duration = Duration::from_millis(5);
/// The longest.
const MAX_PAUSE: Duration = Duration::from_millis(100);
/// Between them, a pause is this part of the time waited so far: nobody waits
/// longer than a sixteenth more than needed.
const PAUSE_DIVISOR: u32 = 16;

/// Asks `GET path` and says whether a 2xx came.
pub(super) async fn answers(port: u16, path: &str) -> bool {
    let asked = timeout(PROBE_TIMEOUT, ask(port, path)).await;
    matches!(asked, Ok(Ok(status)) if status.is_success())
}

/// Waits until the agent answers.
pub(super) async fn until_answers(port: u16, path: &str) {
    let since = Instant::now();
    while !answers(port, path).await {
        sleep((since.elapsed() / PAUSE_DIVISOR).clamp(MIN_PAUSE, MAX_PAUSE)).await;
    }
}

async fn ask(port: u16, path: &str) -> anyhow::Result<http::StatusCode> {
    let stream = loopback::connect(port).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = http::Request::get(path)
        .header(HOST, format!("127.0.0.1:{port}"))
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    // Ends with the answer: the sender and the body are gone then.
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?.status())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::routing::get;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    async fn agent(status: u16) -> u16 {
        agent_at(Ipv4Addr::LOCALHOST.into(), status).await
    }

    async fn agent_at(address: IpAddr, status: u16) -> u16 {
        let listener = tokio::net::TcpListener::bind((address, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let code = http::StatusCode::from_u16(status).unwrap();
        let app = Router::new().route("/ready", get(move || async move { code }));
        tokio::spawn(async move { axum::serve(listener, app).await });
        port
    }

    #[tokio::test]
    async fn only_a_2xx_is_an_answer() {
        assert!(answers(agent(204).await, "/ready").await);
        assert!(!answers(agent(503).await, "/ready").await);
        assert!(!answers(agent(200).await, "/other").await);
    }

    #[tokio::test]
    async fn an_agent_that_listens_on_the_loopback_of_ipv6_alone_answers() {
        assert!(answers(agent_at(Ipv6Addr::LOCALHOST.into(), 200).await, "/ready").await);
    }

    #[tokio::test]
    async fn a_port_where_nobody_listens_is_no_answer() {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        assert!(!answers(port, "/ready").await);
    }
}
