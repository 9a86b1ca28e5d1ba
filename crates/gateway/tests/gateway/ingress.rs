//! The way to an agent.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::{any, get, post};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use wire::fault::Code;

use crate::edge::{Answer, Edge, PATIENCE, Setup, holder};

/// An agent that says what it was asked.
pub(crate) async fn mirror(request: Request) -> axum::Json<Value> {
    let (head, body) = request.into_parts();
    let headers: serde_json::Map<String, Value> =
        head.headers.iter().map(|(name, value)| (name.to_string(), json!(value.to_str().unwrap()))).collect();
    let body = body.collect().await.unwrap().to_bytes();
    axum::Json(json!({
        "method": head.method.as_str(), "path": head.uri.to_string(), "headers": headers,
        "body": String::from_utf8_lossy(&body), "version": format!("{:?}", head.version),
    }))
}

async fn with_mirror() -> Edge {
    let edge = Edge::start().await;
    edge.setup.guests.serves(Router::new().fallback(any(mirror))).await;
    edge
}

#[tokio::test]
async fn an_agent_is_reached_with_its_token_which_goes_no_further() {
    let (edge, holder) = (with_mirror().await, holder());
    let (id, token) = edge.agent(&holder, false).await;
    let request = edge.to_agent(id, Method::POST, "/v1/chat/completions?x=1").bearer_auth(&token);
    let request = request.header("Connection", "X-Hop").header("X-Hop", "1").header("X-Forwarded-For", "6.6.6.6");
    let answer = Answer::of(request.body("hello")).await;
    assert_eq!(answer.status, 200);
    let asked = &answer.body;
    assert_eq!((&asked["method"], &asked["path"]), (&json!("POST"), &json!("/v1/chat/completions?x=1")));
    assert_eq!(asked["body"], "hello");
    let headers = asked["headers"].as_object().unwrap();
    for gone in ["authorization", "x-hop", "connection"] {
        assert!(!headers.contains_key(gone), "{gone}");
    }
    let host = format!("{id}.localhost:{}", edge.address.port());
    assert_eq!((&headers["host"], &headers["x-forwarded-host"]), (&json!(host), &json!(host)));
    assert_eq!((&headers["x-forwarded-for"], &headers["x-forwarded-proto"]), (&json!("127.0.0.1"), &json!("http")));
    let trace = headers["traceparent"].as_str().unwrap();
    assert_eq!(&trace[3..35], answer.header("x-trace-id"));
}

#[tokio::test]
async fn without_its_token_nobody_learns_whether_an_agent_exists() {
    let (edge, holder) = (with_mirror().await, holder());
    let (id, token) = edge.agent(&holder, false).await;
    let nobody = "00000000-0000-0001".parse().unwrap();
    let private = Answer::of(edge.to_agent(id, Method::GET, "/")).await;
    let unknown = Answer::of(edge.to_agent(nobody, Method::GET, "/")).await;
    assert_eq!((private.status, private.code()), (401, "invalid_token"));
    assert_eq!(private.header("www-authenticate"), "Bearer");
    assert_eq!((private.status, &private.body), (unknown.status, &unknown.body));
    let others = Answer::of(edge.to_agent(nobody, Method::GET, "/").bearer_auth(&token)).await;
    assert_eq!(others.code(), "invalid_token");
    insta::assert_json_snapshot!("invalid_token", private.body);
}

#[tokio::test]
async fn a_public_agent_answers_anyone_and_gets_credentials_that_are_not_ours() {
    let (edge, holder) = (with_mirror().await, holder());
    let (id, token) = edge.agent(&holder, true).await;
    let answer = Answer::of(edge.to_agent(id, Method::GET, "/").bearer_auth("its-own")).await;
    assert_eq!(answer.body["headers"]["authorization"], "Bearer its-own");
    let answer = Answer::of(edge.to_agent(id, Method::GET, "/").bearer_auth(&token)).await;
    assert_eq!((answer.status, answer.body["headers"].get("authorization")), (200, None));
}

#[tokio::test]
async fn a_dead_guest_is_502_at_once() {
    let (edge, holder) = (Edge::start().await, holder());
    let (id, token) = edge.agent(&holder, false).await;
    let began = Instant::now();
    let nobody = Answer::of(edge.to_agent(id, Method::GET, "/").bearer_auth(&token)).await;
    assert_eq!((nobody.status, nobody.code()), (502, "agent_unreachable"));
    insta::assert_json_snapshot!("agent_unreachable", nobody.body);
    // One that takes the connection and drops it.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    edge.setup.guests.listens_at(listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            drop(listener.accept().await);
        }
    });
    let dropped = Answer::of(edge.to_agent(id, Method::GET, "/").bearer_auth(&token)).await;
    assert_eq!((dropped.status, dropped.code()), (502, "agent_unreachable"));
    assert!(began.elapsed() < PATIENCE / 2);
}

#[tokio::test]
async fn a_guest_that_never_answers_is_502_within_the_bound() {
    let mut setup = Setup::default();
    setup.limits.agent_answer_ms = 100;
    let (edge, holder) = (setup.start().await, holder());
    edge.setup.guests.serves(Router::new().fallback(any(std::future::pending::<Response>))).await;
    let (id, token) = edge.agent(&holder, false).await;
    let answer = Answer::of(edge.to_agent(id, Method::GET, "/").bearer_auth(&token)).await;
    assert_eq!((answer.status, answer.code()), (502, "agent_unreachable"));
}

#[tokio::test]
async fn an_agent_that_has_ended_is_not_found_and_one_that_starts_says_so() {
    let (edge, holder) = (with_mirror().await, holder());
    let (id, token) = edge.agent(&holder, false).await;
    edge.post(&holder, &format!("/stop/{id}"), &Value::Null).await;
    let ended = Answer::of(edge.to_agent(id, Method::GET, "/").bearer_auth(&token)).await;
    assert_eq!((ended.status, ended.code()), (404, "not_found"));
    let (early, token) = reserved(&edge).await;
    let starting = Answer::of(edge.to_agent(early, Method::GET, "/").bearer_auth(&token)).await;
    assert_eq!((starting.status, starting.code(), starting.header("retry-after")), (503, "agent_not_ready", "1"));
}

/// An agent that nobody starts.
async fn reserved(edge: &Edge) -> (domain::RunId, String) {
    use secrecy::ExposeSecret;
    let id = domain::RunId::from_bits(42);
    let tiers = domain::Tiers::romulus();
    let (tier, tier_config) = tiers.lowest();
    let reservation = store::RunReservation {
        volumes: Vec::new(),
        replay_key: Some(store::ReplayKey { key: [1; 32], expires_at: domain::UnixMillis(u64::from(u32::MAX) * 1000) }),
        id,
        pod: store::RunPod::New { name: None, ephemeral: false },
        brought: false,
        wallet: holder().wallet(),
        agent_type: "echo".to_owned(),
        image: crate::guest::ECHO,
        tier: tier.clone(),
        tier_config: *tier_config,
        allowance: tier_config.into(),
        public: false,
        expiry: None,
        idempotency: None,
        may_start: true,
        now: crate::edge::instant(),
    };
    edge.store.reserve(reservation).await.unwrap();
    (id, crate::edge::tokens().token(id).expose_secret().to_owned())
}

#[tokio::test]
async fn server_sent_events_pass_as_they_come() {
    let (edge, holder) = (Edge::start().await, holder());
    let seen = Arc::new(Notify::new());
    let told = Arc::clone(&seen);
    let app = Router::new().route(
        "/stream",
        get(move || {
            let told = Arc::clone(&told);
            async move {
                let first = futures_util::stream::once(async { Ok::<_, Infallible>("data: 1\n\n") });
                // The second event exists only once the first has arrived.
                let second = futures_util::stream::once(async move {
                    told.notified().await;
                    Ok("data: 2\n\n")
                });
                let body = Body::from_stream(first.chain(second));
                Response::builder().header("Content-Type", "text/event-stream").body(body).unwrap()
            }
        }),
    );
    edge.setup.guests.serves(app).await;
    let (id, token) = edge.agent(&holder, false).await;
    let response = edge.to_agent(id, Method::GET, "/stream").bearer_auth(&token).send().await.unwrap();
    let mut stream = response.bytes_stream();
    assert_eq!(stream.next().await.unwrap().unwrap(), "data: 1\n\n");
    seen.notify_one();
    assert_eq!(stream.next().await.unwrap().unwrap(), "data: 2\n\n");
}

#[tokio::test]
async fn a_large_body_streams_through_in_both_directions() {
    const CHUNK: usize = 1 << 20;
    const CHUNKS: usize = 32;
    let (edge, holder) = (Edge::start().await, holder());
    let app = Router::new().route("/", post(|request: Request| async { Response::new(request.into_body()) }));
    edge.setup.guests.serves(app).await;
    let (id, token) = edge.agent(&holder, false).await;
    let (sender, body) = mpsc::channel::<Result<Bytes, Infallible>>(1);
    let request = edge.to_agent(id, Method::POST, "/").bearer_auth(&token);
    let sending = request.body(reqwest::Body::wrap_stream(ReceiverStream::new(body))).send();
    let sending = tokio::spawn(sending);
    let chunk = Bytes::from(vec![7; CHUNK]);
    sender.send(Ok(chunk.clone())).await.unwrap();
    // The answer begins while the request goes on: nothing waits for the whole.
    let mut stream = sending.await.unwrap().unwrap().bytes_stream();
    let mut back = stream.next().await.unwrap().unwrap().len();
    let rest = tokio::spawn(async move {
        for _ in 1..CHUNKS {
            sender.send(Ok(chunk.clone())).await.unwrap();
        }
    });
    while let Some(part) = stream.next().await {
        back += part.unwrap().len();
    }
    rest.await.unwrap();
    assert_eq!(back, CHUNK * CHUNKS);
}

#[tokio::test]
async fn a_web_socket_speaks_through_the_gateway() {
    let (edge, holder) = (Edge::start().await, holder());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    edge.setup.guests.listens_at(listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let (mut to, mut from) = tokio_tungstenite::accept_async(stream).await.unwrap().split();
        while let Some(Ok(message)) = from.next().await {
            if to.send(message).await.is_err() {
                break;
            }
        }
    });
    let (id, token) = edge.agent(&holder, false).await;
    let mut request = format!("ws://{}/socket", edge.address).into_client_request().unwrap();
    request.headers_mut().insert("host", format!("{id}.localhost").parse().unwrap());
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    let stream = TcpStream::connect(edge.address).await.unwrap();
    let (mut socket, answer) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    assert_eq!(answer.status(), 101);
    for text in ["one", "two"] {
        socket.send(Message::text(text)).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(text));
    }
    socket.close(None).await.unwrap();
}

#[tokio::test]
async fn an_upgrade_without_the_token_is_refused() {
    let (edge, holder) = (with_mirror().await, holder());
    let (id, _) = edge.agent(&holder, false).await;
    let mut request = format!("ws://{}/socket", edge.address).into_client_request().unwrap();
    request.headers_mut().insert("host", format!("{id}.localhost").parse().unwrap());
    let stream = TcpStream::connect(edge.address).await.unwrap();
    let refused = tokio_tungstenite::client_async(request, stream).await.unwrap_err();
    assert!(refused.to_string().contains("401"), "{refused}");
}

#[tokio::test]
async fn http_2_with_prior_knowledge_reaches_the_api_and_agents() {
    let (edge, holder) = (with_mirror().await, holder());
    let (id, token) = edge.agent(&holder, false).await;
    let stream = TcpStream::connect(edge.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let ask = |uri: String, cookies: bool| {
        let mut request = http::Request::get(uri).header("Authorization", format!("Bearer {token}"));
        if cookies {
            request = request.header("Cookie", "a=1").header("Cookie", "b=2");
        }
        request.body(Empty::<Bytes>::new()).unwrap()
    };
    let health = sender.send_request(ask(format!("http://{}/health", edge.address), false)).await.unwrap();
    assert_eq!((health.status(), health.version()), (http::StatusCode::OK, http::Version::HTTP_2));
    let answer = sender.send_request(ask(format!("http://{id}.localhost/x"), true)).await.unwrap();
    let body: Value = serde_json::from_slice(&answer.into_body().collect().await.unwrap().to_bytes()).unwrap();
    assert_eq!((&body["version"], &body["path"]), (&json!("HTTP/1.1"), &json!("/x")));
    assert_eq!(body["headers"]["host"], format!("{id}.localhost"));
    assert_eq!(body["headers"]["cookie"], "a=1; b=2");
}

#[tokio::test]
async fn requests_of_one_address_to_agents_are_bounded() {
    let mut setup = Setup::default();
    setup.limits.ingress_per_second = 1;
    let (edge, holder) = (setup.start().await, holder());
    edge.setup.guests.serves(Router::new().fallback(any(mirror))).await;
    let (id, _) = edge.agent(&holder, true).await;
    let asks = (0..20).map(|_| Answer::of(edge.to_agent(id, Method::GET, "/")));
    let answers = futures_util::future::join_all(asks).await;
    assert!(answers.iter().any(|answer| answer.status == 200));
    let refused = answers.iter().find(|answer| answer.status == 429).unwrap();
    assert_eq!((refused.code(), refused.header("retry-after")), ("rate_limited", "1"));
}

#[tokio::test]
async fn what_a_node_says_of_a_guest_is_said_in_our_words() {
    let (edge, holder) = (Edge::start().await, holder());
    let (id, token) = edge.agent(&holder, false).await;
    let cases = [
        (Code::AgentNotReady, 502, "agent_unreachable"),
        (Code::NotFound, 502, "agent_unreachable"),
        (Code::RateLimited, 429, "rate_limited"),
        (Code::Internal, 503, "node_unavailable"),
    ];
    for (said, status, code) in cases {
        *edge.setup.guests.refusal.lock().unwrap() = Some(said);
        let answer = Answer::of(edge.to_agent(id, Method::GET, "/").bearer_auth(&token)).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{said:?}");
        assert!(!answer.body.to_string().contains("internal words"), "{answer:?}");
    }
}

#[tokio::test]
async fn fault_2_1_a_token_reaches_no_agent_whoevers_it_is_and_wherever_it_stands() {
    let (edge, holder) = (with_mirror().await, holder());
    let (id, _) = edge.agent(&holder, true).await;
    let (_, others) = edge.agent(&crate::edge::holder(), false).await;
    let ask = || edge.to_agent(id, Method::GET, "/");
    let subprotocol = format!("chat, palatine.token.{others}");
    for request in [
        ask().bearer_auth(&others),
        ask().header("X-Api-Key", &others),
        ask().header("Sec-WebSocket-Protocol", &subprotocol),
    ] {
        let answer = Answer::of(request).await;
        assert_eq!(answer.status, 200);
        assert!(!answer.body.to_string().contains(&others), "{answer:?}");
    }
    let twice = ask().header("Authorization", "Bearer its-own").header("Authorization", format!("Bearer {others}"));
    let twice = Answer::of(twice).await;
    assert_eq!((twice.status, twice.code(), &twice.body["field"]), (400, "invalid_request", &json!("Authorization")));
}

#[tokio::test]
async fn fault_2_11_a_request_that_names_no_host_has_its_agents_own() {
    let (edge, holder) = (with_mirror().await, holder());
    let (id, _) = edge.agent(&holder, true).await;
    let answer = crate::raw::exchange(&edge, &format!("GET /x HTTP/1.0\r\nE2b-Sandbox-Id: {id}\r\n\r\n")).await;
    let host = format!(r#""host":"{id}.localhost:{}""#, edge.address.port());
    assert!(answer.starts_with("HTTP/1.0 200") && answer.contains(&host), "{answer}");
}
