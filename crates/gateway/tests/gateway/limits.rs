//! What one client may take.

use auth::MessageEncoding;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::edge::{Answer, Edge, PATIENCE, Setup, holder, instant};

async fn hasty() -> Edge {
    let mut setup = Setup::default();
    (setup.limits.header_ms, setup.limits.body_ms) = (200, 200);
    setup.start().await
}

/// Writes this and waits until the gateway hangs up; says what it wrote before.
async fn until_hung_up(edge: &Edge, begin: &[u8]) -> String {
    let mut stream = TcpStream::connect(edge.address).await.unwrap();
    stream.write_all(begin).await.unwrap();
    let mut said = Vec::new();
    // A reset is as good as an end.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut said)).await.expect("the gateway never hangs up");
    String::from_utf8_lossy(&said).into_owned()
}

#[tokio::test]
async fn a_client_that_sends_its_headers_too_slowly_is_dropped() {
    let edge = hasty().await;
    for begin in ["", "GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", "P", "PRI * HTTP/2.0\r\n\r\n"] {
        until_hung_up(&edge, begin.as_bytes()).await;
    }
    let idle = until_hung_up(&edge, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(idle.starts_with("HTTP/1.1 200"), "{idle}");
}

#[tokio::test]
async fn a_body_that_arrives_too_slowly_is_refused() {
    let edge = hasty().await;
    let headers = edge.sign(&holder(), "POST", "/spawn", b"");
    let head = format!(
        "POST /spawn HTTP/1.1\r\nHost: localhost\r\nX-Wallet: {}\r\nX-Signature: {}\r\nX-Timestamp: {}\r\nX-Audience: {}\r\n\
         Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{",
        headers.wallet, headers.signature, headers.timestamp, edge.address
    );
    let said = until_hung_up(&edge, head.as_bytes()).await;
    assert!(said.starts_with("HTTP/1.1 400") && said.contains("did not arrive in time"), "{said}");
}

#[tokio::test]
async fn headers_that_are_too_large_are_refused_by_name_and_endless_ones_at_all() {
    let edge = Edge::start().await;
    let large = edge.client.get(edge.url("/health")).header("X-Large", "x".repeat(20_000));
    let answer = Answer::of(large).await;
    assert_eq!((answer.status, answer.code()), (431, "headers_too_large"));
    let endless = format!("GET /health HTTP/1.1\r\nHost: localhost\r\nX-Endless: {}\r\n\r\n", "x".repeat(1_000_000));
    let mut stream = TcpStream::connect(edge.address).await.unwrap();
    // The gateway may hang up before all is written.
    let _ = stream.write_all(endless.as_bytes()).await;
    let mut said = [0; 12];
    if timeout(PATIENCE, stream.read_exact(&mut said)).await.unwrap().is_ok() {
        assert_eq!(&said, b"HTTP/1.1 431");
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_whether_it_says_so_or_not() {
    let (edge, holder) = (Edge::start().await, holder());
    let body = vec![b' '; 300_000];
    let told = Answer::of(edge.signed(&holder, Method::POST, "/spawn", &body)).await;
    assert_eq!((told.status, told.code()), (413, "body_too_large"));
    let headers = edge.sign(&holder, "POST", "/spawn", &body);
    let chunks = futures_util::stream::iter(
        body.chunks(10_000).map(|chunk| Ok::<_, String>(chunk.to_vec())).collect::<Vec<_>>(),
    );
    let request = edge.with(&headers, Method::POST, "/spawn", b"").body(reqwest::Body::wrap_stream(chunks));
    let untold = Answer::of(request).await;
    assert_eq!((untold.status, untold.code()), (413, "body_too_large"));
}

#[tokio::test]
async fn a_wallet_that_asks_too_often_waits_but_can_always_stop() {
    let mut setup = Setup::default();
    setup.limits.wallet_per_minute = 3;
    let (edge, holder) = (setup.start().await, holder());
    let (id, _) = edge.agent(&holder, false).await;
    for _ in 0..2 {
        assert_eq!(edge.get(&holder, "/agents").await.status, 200);
    }
    let refused = edge.get(&holder, "/agents").await;
    assert_eq!((refused.status, refused.code()), (429, "rate_limited"));
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=20).contains(&wait) && refused.body["retry_after"] == json!(wait));
    assert_eq!(edge.post(&holder, &format!("/stop/{id}"), &Value::Null).await.status, 200);
    assert_eq!(edge.get(&crate::edge::holder(), "/agents").await.status, 200);
}

#[tokio::test]
async fn an_address_that_asks_too_often_waits_but_can_stop_and_be_watched() {
    let mut setup = Setup::default();
    setup.limits.address_per_second = 1;
    let (edge, holder) = (setup.start().await, holder());
    let (id, _) = edge.agent(&holder, false).await;
    let asks = (0..20).map(|_| Answer::of(edge.client.get(edge.url("/tiers"))));
    let answers = futures_util::future::join_all(asks).await;
    assert!(answers.iter().any(|answer| answer.code() == "rate_limited"));
    assert_eq!(edge.post(&holder, &format!("/stop/{id}"), &Value::Null).await.status, 200);
    assert_eq!(Answer::of(edge.client.get(edge.url("/health"))).await.status, 200);
}

#[tokio::test]
async fn connections_of_one_address_are_bounded() {
    let mut setup = Setup::default();
    setup.limits.connections_per_address = 2;
    let edge = setup.start().await;
    let first = TcpStream::connect(edge.address).await.unwrap();
    let _second = TcpStream::connect(edge.address).await.unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut third = TcpStream::connect(edge.address).await.unwrap();
    assert_eq!(timeout(PATIENCE, third.read(&mut [0; 1])).await.unwrap().unwrap_or(0), 0, "the third is let in");
    drop(first);
    while edge.client.get(edge.url("/health")).send().await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "the place is never free again");
    }
}

#[tokio::test]
async fn two_host_headers_are_refused() {
    let edge = Edge::start().await;
    let said = until_hung_up(&edge, b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n").await;
    assert!(said.starts_with("HTTP/1.1 400"), "{said}");
}

#[tokio::test]
async fn an_old_connection_is_asked_to_end() {
    let mut setup = Setup::default();
    setup.limits.connection_age_ms = 100;
    let edge = setup.start().await;
    let said =
        timeout(PATIENCE, until_hung_up(&edge, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")).await.unwrap();
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    let limit = Duration::from_millis(edge.setup.limits.header_ms);
    assert!(limit > PATIENCE, "the age ended it, not the idle time");
}

#[tokio::test]
async fn a_replay_takes_nothing_of_its_wallets_share() {
    let mut setup = Setup::default();
    setup.limits.wallet_per_minute = 2;
    let (edge, holder) = (setup.start().await, holder());
    let headers = crate::edge::bare(&holder);
    assert_eq!(Answer::of(edge.with(&headers, Method::GET, "/agents", b"")).await.status, 200);
    for _ in 0..10 {
        let replay = Answer::of(edge.with(&headers, Method::GET, "/agents", b"")).await;
        assert_eq!((replay.status, replay.code()), (401, "replayed_signature"));
    }
    assert_eq!(edge.get(&holder, "/agents").await.status, 200);
}

#[tokio::test]
async fn fault_2_2_who_is_refused_by_the_head_of_a_request_is_not_waited_for() {
    let mut setup = Setup::default();
    setup.limits.ingress_per_second = 2;
    let (edge, holder) = (setup.start().await, holder());
    let (id, _) = edge.agent(&holder, false).await;
    let signed = holder.sign_instant(MessageEncoding::Raw, instant());
    let old = holder.sign_instant(MessageEncoding::Raw, domain::UnixMillis(1_700_000_000_000));
    let signature = |headers: &auth::SignedHeaders, timestamp: &str| {
        format!("X-Wallet: {}\r\nX-Signature: {}\r\nX-Timestamp: {timestamp}\r\n", headers.wallet, headers.signature)
    };
    let json = "Content-Type: application/json\r\n";
    let agent = format!("{id}.localhost");
    for (path, host, words, status) in [
        ("/spawn", "localhost", json.to_owned(), 401),
        ("/spawn", "localhost", format!("{json}{}", signature(&signed, "now")), 401),
        ("/spawn", "localhost", format!("{json}{}", signature(&old, &old.timestamp)), 401),
        ("/spawn", "localhost", signature(&signed, &signed.timestamp), 415),
        ("/nothing", "localhost", json.to_owned(), 404),
        ("/spawn", "evil.example", json.to_owned(), 421),
        ("/v1", agent.as_str(), json.to_owned(), 401),
    ] {
        // What is announced never comes, and nobody says that it may.
        let head = format!("POST {path} HTTP/1.1\r\nHost: {host}\r\n{words}Content-Length: 4000000\r\n");
        let text = format!("{head}Expect: 100-continue\r\n\r\n");
        let answer = crate::raw::head(&mut crate::raw::send(&edge, &text).await).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path} {host} {words}: {answer}");
    }
    let text = format!("POST / HTTP/1.1\r\nHost: {agent}\r\nContent-Length: 4000000\r\n\r\n");
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !crate::raw::head(&mut crate::raw::send(&edge, &text).await).await.starts_with("HTTP/1.1 429 ") {
        assert!(tokio::time::Instant::now() < deadline, "the limit never shows");
    }
}

#[tokio::test]
async fn fault_2_8_who_is_refused_while_he_still_sends_reads_why() {
    let (edge, holder) = (Edge::start().await, holder());
    let signed = holder.sign_instant(MessageEncoding::Raw, instant());
    let signature = format!(
        "X-Wallet: {}\r\nX-Signature: {}\r\nX-Timestamp: {}\r\n",
        signed.wallet, signed.signature, signed.timestamp
    );
    let json = "Content-Type: application/json\r\n";
    for (path, words, status) in [
        ("/spawn", json.to_owned(), 401),
        ("/spawn", signature.clone(), 415),
        ("/spawn", format!("{json}{signature}"), 413),
        ("/nothing", json.to_owned(), 404),
    ] {
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{words}");
        let answer = crate::raw::write_then_read(&edge, &head, 4 * 1024 * 1024).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path} {words}: {answer}");
    }
}

/// A connection over which HTTP/2 is spoken, until it ends.
async fn http_2(
    edge: &Edge,
) -> (hyper::client::conn::http2::SendRequest<Empty<Bytes>>, tokio::task::JoinHandle<hyper::Result<()>>) {
    let stream = TcpStream::connect(edge.address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    (sender, tokio::spawn(connection))
}

fn health(edge: &Edge) -> http::Request<Empty<Bytes>> {
    http::Request::get(edge.url("/health")).body(Empty::new()).unwrap()
}

#[tokio::test]
async fn fault_2_4_an_http_2_connection_on_which_nothing_is_asked_is_ended() {
    let mut setup = Setup::default();
    setup.limits.header_ms = 200;
    let edge = setup.start().await;
    let (mut sender, connection) = http_2(&edge).await;
    assert_eq!(sender.send_request(health(&edge)).await.unwrap().status(), 200);
    let _ = timeout(PATIENCE, connection).await.expect("it stays open for ever").unwrap();
}

#[tokio::test]
async fn fault_2_4_a_connection_that_rests_makes_room_for_a_new_one_and_one_that_works_does_not() {
    let mut setup = Setup::default();
    setup.limits.connections = 3;
    let edge = setup.start().await;
    let inside = std::sync::Arc::new(tokio::sync::Notify::new());
    let (told, gate) = (inside.clone(), std::sync::Arc::new(tokio::sync::Notify::new()));
    let its_gate = gate.clone();
    let app = axum::Router::new().fallback(axum::routing::any(async move || {
        told.notify_one();
        its_gate.notified().await;
        "at last"
    }));
    edge.setup.guests.serves(app).await;
    let (id, _) = edge.agent(&holder(), true).await;
    let (mut busy, _works) = http_2(&edge).await;
    let request = http::Request::get(format!("http://{id}.localhost/")).body(Empty::<Bytes>::new()).unwrap();
    let working = tokio::spawn(async move { busy.send_request(request).await });
    inside.notified().await;
    // Everybody finds a place, whoever came before and rests.
    let mut rests = Vec::new();
    for _ in 0..8 {
        let (mut sender, connection) = http_2(&edge).await;
        let answer = timeout(PATIENCE, sender.send_request(health(&edge))).await.expect("there is no room");
        assert_eq!(answer.unwrap().status(), 200);
        rests.push((sender, connection));
    }
    gate.notify_one();
    assert_eq!(working.await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn fault_2_4_one_connection_is_enough_for_more_listeners() {
    let mut setup = Setup::default();
    setup.limits.connections = 1;
    let edge = setup.start().await;
    for _ in 0..3 {
        assert_eq!(Answer::of(edge.client.get(edge.url("/health"))).await.status, 200);
        let paths = edge.client.get(format!("http://{}/health", edge.paths_address));
        assert_eq!(Answer::of(paths).await.status, 404);
    }
}
