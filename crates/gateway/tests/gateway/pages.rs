//! What pages of browsers can do to a gateway that their browser reaches.

use axum::Router;
use axum::routing::any;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper::ext::Protocol;
use hyper_util::rt::{TokioExecutor, TokioIo};
use metrics_exporter_prometheus::PrometheusBuilder;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::edge::{Answer, Edge, Setup, holder};
use crate::ingress::mirror;
use crate::raw;

#[tokio::test]
async fn fault_2_7_a_name_that_was_led_here_opens_nothing() {
    let setup = Setup { metrics: Some(PrometheusBuilder::new().build_recorder().handle()), ..Setup::default() };
    let edge = setup.start().await;
    for path in ["/metrics", "/health", "/tiers", "/openapi.json"] {
        for host in ["evil.example", "evil.example:8080", "localhost.evil.example", "a1b2c3d4-e5f6-7890.evil.example"] {
            let answer = Answer::of(edge.client.get(edge.url(path)).header("Host", host)).await;
            assert_eq!((answer.status, answer.code()), (421, "unknown_host"), "{host}{path}");
        }
        for host in ["localhost", "127.0.0.1:1", "[::1]:8080"] {
            let answer = Answer::of(edge.client.get(edge.url(path)).header("Host", host)).await;
            assert_eq!(answer.status, 200, "{host}{path}");
        }
    }
    let mut setup = Setup::default();
    setup.config.hosts = serde_json::from_value(json!(["api.example.com"])).unwrap();
    setup.config.agent_url = Some("http://{id}.agents.example.com".to_owned());
    let edge = setup.start().await;
    for host in ["api.example.com", "API.example.com:8080", "agents.example.com"] {
        assert_eq!(Answer::of(edge.client.get(edge.url("/health")).header("Host", host)).await.status, 200, "{host}");
    }
}

#[tokio::test]
async fn fault_2_7_a_target_and_a_host_that_disagree_are_refused() {
    let edge = Edge::start().await;
    let ask = |target: &str, host: &str| {
        let text = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let edge = &edge;
        async move { raw::exchange(edge, &text).await }
    };
    assert!(ask("http://localhost/health", "localhost").await.starts_with("HTTP/1.1 200"));
    assert!(ask("http://localhost/health", "evil.example").await.starts_with("HTTP/1.1 400"));
    assert!(ask("http://evil.example/health", "localhost").await.starts_with("HTTP/1.1 400"));
    assert!(ask("http://evil.example/health", "evil.example").await.starts_with("HTTP/1.1 421"));
}

/// Every call of the API.
fn calls() -> Vec<(String, Method)> {
    let document: Value = serde_json::from_str(&palatine_gateway::openapi()).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let calls = paths.iter().flat_map(|(path, calls)| {
        let path =
            path.replace("{id}", "a1b2c3d4-e5f6-7890").replace("{method}", "StreamInput").replace("{image}", "mine");
        let path = path.replace("{task}", &format!("0x{}", "5e".repeat(32))).replace("{wallet}", "mine");
        let path = path.replace("{name}", "work").replace("{snapshot}", "0000000000000001");
        let methods = calls.as_object().unwrap().keys().filter_map(|name| name.to_uppercase().parse().ok());
        let methods: Vec<Method> = methods.filter(|method| METHODS.contains(method)).collect();
        methods.into_iter().map(move |method| (path.clone(), method))
    });
    let calls: Vec<_> = calls.collect();
    assert!(calls.len() > 20, "{calls:?}");
    calls
}

/// Those that the API has.
const METHODS: [Method; 5] = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

/// Every call of the API that takes a body.
fn writing() -> Vec<(Method, String)> {
    let written = calls().into_iter().filter(|(_, method)| matches!(*method, Method::POST | Method::PUT));
    // An upload is opened by its own token, in a header that no page can send unasked.
    let written = written.filter(|(path, _)| !path.starts_with("/images/uploads/"));
    let calls: Vec<_> = written.map(|(path, method)| (method, path)).collect();
    assert!(calls.len() > 10 && calls.iter().all(|(_, path)| !path.contains('{')), "{calls:?}");
    calls
}

#[tokio::test]
async fn fault_2_7_a_body_that_a_page_can_send_unasked_is_refused() {
    let (edge, holder) = (Edge::start().await, holder());
    let body = json!({"agent_type": "echo"}).to_string();
    for (method, path) in writing() {
        for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/json"]
        {
            let headers = edge.sign(&holder, method.as_str(), &path, body.as_bytes());
            let request = edge.with(&headers, method.clone(), &path, b"").body(body.clone());
            let mut request = request.build().unwrap();
            request.headers_mut().insert("content-type", kind.parse().unwrap());
            let answer = Answer::read(edge.client.execute(request).await.unwrap()).await;
            assert_eq!((answer.status, answer.code()), (415, "unsupported_media_type"), "{path} {kind}");
        }
        let untold = edge.client.request(method, edge.url(&path)).body(body.clone());
        assert_eq!(Answer::of(untold).await.status, 415, "{path}");
    }
    assert_eq!(edge.spawn(&holder).await.status, 200);
}

#[tokio::test]
async fn fault_2_7_pages_of_the_configured_origins_alone_may_call() {
    let preflight = |edge: &Edge, origin: &'static str| {
        let request = edge.client.request(Method::OPTIONS, edge.url("/spawn")).header("Origin", origin);
        let request = request.header("Access-Control-Request-Method", "POST");
        Answer::of(
            request
                .header("Access-Control-Request-Headers", "content-type,x-wallet,x-signature,x-timestamp,x-audience"),
        )
    };
    let closed = Edge::start().await;
    assert_eq!(preflight(&closed, "https://app.example").await.header("access-control-allow-origin"), "");
    let mut setup = Setup::default();
    setup.config.cors_origins = serde_json::from_value(json!(["https://app.example"])).unwrap();
    let edge = setup.start().await;
    let granted = preflight(&edge, "https://app.example").await;
    assert_eq!((granted.status, granted.header("access-control-allow-origin")), (200, "https://app.example"));
    assert!(granted.header("access-control-allow-headers").contains("x-wallet"), "{granted:?}");
    // Whatever the API has, such a page may ask for it.
    for (path, method) in calls() {
        let request = edge.client.request(Method::OPTIONS, edge.url(&path)).header("Origin", "https://app.example");
        let request = request.header("Access-Control-Request-Method", method.as_str());
        let granted = Answer::of(request.header("Access-Control-Request-Headers", "upload-offset")).await;
        let methods = granted.header("access-control-allow-methods");
        assert!(methods.split(',').any(|one| one.trim() == method.as_str()), "{method} {path}: {granted:?}");
        assert!(granted.header("access-control-allow-headers").contains("upload-offset"), "{granted:?}");
    }
    assert_eq!(preflight(&edge, "https://evil.example").await.header("access-control-allow-origin"), "");
    let read = Answer::of(edge.client.get(edge.url("/tiers")).header("Origin", "https://app.example")).await;
    assert_eq!(read.header("access-control-allow-origin"), "https://app.example");
    assert!(read.header("access-control-expose-headers").contains("upload-offset"), "{read:?}");
    assert_eq!(read.header("access-control-allow-credentials"), "");
}

#[tokio::test]
async fn fault_2_10_metrics_are_not_for_a_proxy_that_nobody_listed() {
    let with_metrics =
        || Setup { metrics: Some(PrometheusBuilder::new().build_recorder().handle()), ..Setup::default() };
    let edge = with_metrics().start().await;
    assert_eq!(Answer::of(edge.client.get(edge.url("/metrics"))).await.status, 200);
    for (name, value) in [
        ("X-Forwarded-For", "127.0.0.1"),
        ("X-Forwarded-Host", "localhost"),
        ("X-Forwarded-Proto", "https"),
        ("Forwarded", "for=127.0.0.1"),
        ("X-Real-IP", "127.0.0.1"),
        ("Via", "1.1 proxy"),
    ] {
        let answer = Answer::of(edge.client.get(edge.url("/metrics")).header(name, value)).await;
        assert_eq!((answer.status, answer.code()), (404, "not_found"), "{name}");
    }
    // A listed one says for whom it asks.
    let mut setup = with_metrics();
    setup.config.trusted_proxies = ["127.0.0.1".parse().unwrap()].into();
    setup.config.metrics_addresses = Some(["127.0.0.1".parse().unwrap()].into());
    let edge = setup.start().await;
    for (client, status) in [("127.0.0.1", 200), ("192.0.2.1", 404)] {
        let answer = Answer::of(edge.client.get(edge.url("/metrics")).header("X-Forwarded-For", client)).await;
        assert_eq!(answer.status, status, "{client}");
    }
    // In public, a proxy on this machine need say nothing: addresses are to be named.
    let mut setup = with_metrics();
    setup.config.agent_url = Some("https://{id}.agents.example.com".to_owned());
    let edge = setup.start().await;
    assert_eq!(Answer::of(edge.client.get(edge.url("/metrics"))).await.status, 404);
}

/// A page's `new WebSocket(url, ["palatine.token.…"])`, through the gateway to an
/// agent that chooses `chosen`; the answer, and the subprotocols that the agent saw.
async fn page(edge: &Edge, url: &str, offered: &str, chosen: Option<&'static str>) -> (Option<String>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    edge.setup.guests.listens_at(listener.local_addr().unwrap());
    let agent = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut seen = String::new();
        #[expect(clippy::result_large_err, reason = "the library's own shape of a callback")]
        let look = |request: &Request, mut response: Response| {
            seen = format!("{:?}", request.headers());
            if let Some(chosen) = chosen {
                response.headers_mut().insert("sec-websocket-protocol", chosen.parse().unwrap());
            }
            Ok(response)
        };
        let mut socket = tokio_tungstenite::accept_hdr_async(stream, look).await.unwrap();
        let message = socket.next().await.unwrap().unwrap();
        socket.send(message).await.unwrap();
        seen
    });
    let mut request = url.into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", offered.parse().unwrap());
    let address = request.uri().authority().unwrap().to_string();
    let address = if address.contains("localhost") { edge.address.to_string() } else { address };
    let stream = TcpStream::connect(address).await.unwrap();
    // As a browser does, this client fails where nothing of what it offers is chosen.
    let (mut socket, answer) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("hello"));
    let chosen = answer.headers().get("sec-websocket-protocol").map(|value| value.to_str().unwrap().to_owned());
    (chosen, agent.await.unwrap())
}

#[tokio::test]
async fn case_ws_browser_a_page_brings_the_token_as_a_subprotocol() {
    let (edge, holder) = (Edge::start().await, holder());
    let (id, token) = edge.agent(&holder, false).await;
    let bearing = format!("palatine.token.{token}");
    let by_host = format!("ws://{id}.localhost:{}/socket", edge.address.port());
    let by_path = format!("ws://{}/{id}/socket", edge.paths_address);
    for url in [by_host, by_path] {
        let (chosen, seen) = page(&edge, &url, &bearing, None).await;
        assert_eq!(chosen.as_deref(), Some(bearing.as_str()));
        assert!(!seen.contains(&token) && !seen.contains("sec-websocket-protocol"), "{seen}");
        let (chosen, seen) = page(&edge, &url, &format!("chat.v2, {bearing}"), Some("chat.v2")).await;
        assert_eq!(chosen.as_deref(), Some("chat.v2"));
        assert!(!seen.contains(&token) && seen.contains("chat.v2"), "{seen}");
    }
}

#[tokio::test]
async fn case_ws_browser_a_subprotocol_opens_no_other_agent_and_nothing_but_a_web_socket() {
    let (edge, holder) = (Edge::start().await, holder());
    edge.setup.guests.serves(Router::new().fallback(any(mirror))).await;
    let (id, token) = edge.agent(&holder, false).await;
    let (other, _) = edge.agent(&crate::edge::holder(), false).await;
    let ask = |id: domain::RunId, upgrade: &'static str, token: &str| {
        let text = format!(
            "GET / HTTP/1.1\r\nHost: {id}.localhost\r\n{upgrade}Sec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: palatine.token.{token}\r\n\r\n"
        );
        let edge = &edge;
        async move { raw::head(&mut raw::send(edge, &text).await).await }
    };
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    for (id, upgrade, token) in [(other, upgrade, token.as_str()), (id, upgrade, "plt_x"), (id, "", token.as_str())] {
        let head = ask(id, upgrade, token).await;
        assert!(head.starts_with("HTTP/1.1 401"), "{head}");
    }
}

#[tokio::test]
async fn case_ws_browser_a_web_socket_is_opened_over_http_2() {
    let (edge, holder) = (Edge::start().await, holder());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    edge.setup.guests.listens_at(listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { continue };
            while let Some(Ok(message)) = socket.next().await {
                let _ = socket.send(message).await;
            }
        }
    });
    let (id, token) = edge.agent(&holder, false).await;
    let stream = TcpStream::connect(edge.address).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    // The first answer has brought the gateway's settings: it takes extended CONNECT.
    let health = http::Request::get("http://localhost/health").body(Empty::<Bytes>::new()).unwrap();
    assert_eq!(sender.send_request(health).await.unwrap().status(), 200);
    let ask = |protocol: &'static str, token: &str| {
        http::Request::connect(format!("http://{id}.localhost/socket"))
            .extension(Protocol::from_static(protocol))
            .header("sec-websocket-version", "13")
            .header("sec-websocket-protocol", format!("palatine.token.{token}"))
            .body(Empty::<Bytes>::new())
            .unwrap()
    };
    let refused = sender.send_request(ask("websocket", "plt_x")).await.unwrap();
    assert_eq!(refused.status(), 401);
    let other = sender.send_request(ask("connect-udp", &token)).await.unwrap();
    assert!(other.status().is_client_error(), "{other:?}");
    let granted = sender.send_request(ask("websocket", &token)).await.unwrap();
    assert_eq!(granted.status(), 200, "{granted:?}");
    assert_eq!(granted.headers()["sec-websocket-protocol"], format!("palatine.token.{token}"));
    let io = TokioIo::new(hyper::upgrade::on(granted).await.unwrap());
    let mut socket = tokio_tungstenite::WebSocketStream::from_raw_socket(io, Role::Client, None).await;
    socket.send(Message::text("over streams")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("over streams"));
}
