//! What would reach an agent, or a client, as something else than it was taken for.

use axum::Router;
use axum::routing::any;
use bytes::Bytes;
use fixtures::{ProcessGroup, until_holds};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::edge::{Edge, holder};
use crate::raw;

/// What a server that takes h2c says to it, and what it says otherwise.
fn takes_h2c(head: &str) -> String {
    if head.to_ascii_lowercase().contains("upgrade: h2c") {
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n".to_owned()
    } else {
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nplain".to_owned()
    }
}

fn asks_for(upgrade: &str, host: &str) -> String {
    format!(
        "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: {upgrade}\r\n\
         HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nX-HTTP-Method-Override: DELETE\r\nX-Original-URL: /admin\r\n\
         X-Rewrite-URL: /admin\r\nX_Forwarded_For: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nX-Forwarded-Prefix: /x\r\n\
         X-Wallet: w\r\n\r\n"
    )
}

#[tokio::test]
async fn case_h2c_upgrade_only_web_sockets_pass_to_an_agent() {
    let (edge, holder) = (Edge::start().await, holder());
    let heads = raw::agent(&edge.setup.guests, takes_h2c).await;
    let (id, _) = edge.agent(&holder, true).await;
    for upgrade in ["h2c", "H2C", "foo, h2c", "TLS/1.0"] {
        let answer = raw::exchange(&edge, &asks_for(upgrade, &format!("{id}.localhost"))).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("plain"), "{upgrade}: {answer}");
    }
    let heads = heads.lock().unwrap();
    assert_eq!(heads.len(), 4);
    for head in heads.iter() {
        let head = head.to_ascii_lowercase();
        for gone in
            ["upgrade", "http2-settings", "override", "x-original", "x-rewrite", "6.6.6.6", "prefix", "x-wallet"]
        {
            assert!(!head.contains(gone), "{gone}: {head}");
        }
    }
}

#[tokio::test]
async fn case_h2c_upgrade_an_agent_that_changes_protocols_all_the_same_is_not_joined() {
    let (edge, holder) = (Edge::start().await, holder());
    let to_h2c = |_: &str| takes_h2c("upgrade: h2c");
    raw::agent(&edge.setup.guests, to_h2c).await;
    let (id, _) = edge.agent(&holder, true).await;
    let host = format!("{id}.localhost");
    // Asked for nothing, and asked for a WebSocket.
    for words in ["", "Connection: Upgrade\r\nUpgrade: websocket\r\n"] {
        let text = format!("GET / HTTP/1.1\r\nHost: {host}\r\n{words}\r\n");
        let answer = raw::head(&mut raw::send(&edge, &text).await).await;
        assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    }
}

/// Python's Hypercorn takes h2c from anybody.
#[tokio::test]
async fn case_h2c_upgrade_real_hypercorn_is_reached_in_http_1_alone() {
    let (edge, holder) = (Edge::start().await, holder());
    let python = fixtures::assets().join("python");
    let port = fixtures::free_port();
    let mut server = ProcessGroup::start("python3", |command| {
        command.args(["-m", "hypercorn", "--bind", &format!("127.0.0.1:{port}"), "hello:app"]);
        command.env("PYTHONPATH", &python).current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python"));
    });
    let group = server.id();
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    edge.setup.guests.listens_at(address);
    let deadline = tokio::time::Instant::now() + crate::edge::PATIENCE * 6;
    while TcpStream::connect(address).await.is_err() {
        assert!(!server.has_ended(), "hypercorn ended");
        assert!(tokio::time::Instant::now() < deadline, "hypercorn does not listen");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    // It does take it, where nobody stands before it.
    let asks = asks_for("h2c", "x").replace(", close", "");
    let mut direct = TcpStream::connect(address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut direct, asks.as_bytes()).await.unwrap();
    let said = raw::head(&mut direct).await;
    assert!(said.starts_with("HTTP/1.1 101"), "{said}");
    let (id, _) = edge.agent(&holder, true).await;
    let answer = raw::exchange(&edge, &asks_for("h2c", &format!("{id}.localhost"))).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("http 1.1"), "{answer}");
    // It serves by processes that it starts itself.
    drop(server);
    until_holds("none of its processes is left", || ProcessGroup::members(group).is_empty()).await;
}

#[tokio::test]
async fn case_cl_and_te_a_length_beside_chunks_counts_for_nothing() {
    let edge = Edge::start().await;
    for head in ["Content-Length: 3\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 3"] {
        raw::agent(&edge.setup.guests, move |_| format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n5\r\nhello\r\n0\r\n\r\n"))
            .await;
        let (id, _) = edge.agent(&holder(), true).await;
        let host = format!("{id}.localhost");
        let answer =
            raw::exchange(&edge, &format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("5\r\nhello\r\n0\r\n\r\n"), "{answer}");
        assert!(!answer.to_ascii_lowercase().contains("content-length"), "{answer}");

        let stream = TcpStream::connect(edge.address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::get(format!("http://{host}/")).body(Empty::<Bytes>::new()).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.headers().get("content-length"), None);
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hello");
    }
}

#[tokio::test]
async fn case_cl_and_te_a_request_that_has_both_is_its_chunks_and_the_connections_last() {
    let (edge, holder) = (Edge::start().await, holder());
    edge.setup.guests.serves(Router::new().fallback(any(crate::ingress::mirror))).await;
    let (id, _) = edge.agent(&holder, true).await;
    for both in ["Content-Length: 3\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 3"] {
        let smuggled = format!("GET /smuggled HTTP/1.1\r\nHost: {id}.localhost\r\n\r\n");
        let text =
            format!("POST /first HTTP/1.1\r\nHost: {id}.localhost\r\n{both}\r\n\r\n5\r\nhello\r\n0\r\n\r\n{smuggled}");
        let answer = raw::exchange(&edge, &text).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(r#""body":"hello""#), "{answer}");
        assert!(!answer.contains("content-length\":") && !answer.contains("smuggled"), "{answer}");
    }
}
