//! The public API.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use domain::{StateName, Wallet};
use futures_util::StreamExt;
use palatine_client::{ClientError, GatewayClient, LogSource, SpawnOptions};
use serde_json::{Value, json};
use wire::fault::{Code, Fault};
use wire::v1::public::SpawnRequest;

use crate::gateway::{ID, SOON, Then, body, client, fault, keypair, start};

fn agent() -> Value {
    json!({
        "id": ID, "run": ID, "created_at": 0, "ephemeral": false, "url": format!("http://{ID}.localhost:8080"), "wallet": keypair().wallet(), "tier": "pro",
        "spawned_at": 1_707_022_560_000_u64, "state": "ready", "agent_type": "echo",
        "image": format!("sha256:{}", "0".repeat(64)), "runtime": "qemu-tcg", "public": false, "restarts": 0,
    })
}

fn spawn_request() -> SpawnRequest {
    SpawnRequest { agent_type: Some("echo".into()), ..SpawnRequest::default() }
}

fn spawned(token: &str) -> Value {
    let mut agent = agent();
    agent["token"] = json!(token);
    json!({"success": true, "agent": agent, "tier_config": {"min": 1_000_000, "cores": 4, "memory": 4096}})
}

#[tokio::test]
async fn every_call_is_signed_for_itself_and_its_answer_is_read() {
    async fn usage(Path(wallet): Path<Wallet>) -> Json<Value> {
        let stats = json!({"total_uptime_ms": 5, "spawns": 1, "core_seconds": 0, "gib_seconds": 0});
        Json(json!({"wallet": wallet, "stats": stats, "active_agent": agent()}))
    }
    let app = Router::new()
        .route("/tiers", get(|| async { Json(json!({"tiers": {}, "mint": "m", "agent_types": ["echo"]})) }))
        .route("/health", get(|| async { Json(json!({"status": "ok", "version": "0.1.0"})) }))
        .route("/spawn", post(|| async { Json(spawned("plt_hush")) }))
        .route("/stop/{id}", post(|| async { Json(json!({"success": true, "uptime_ms": 5, "state": "stopped"})) }))
        .route("/status/{id}", get(|| async { Json(json!({"agent": agent(), "uptime_ms": 5})) }))
        .route("/agents", get(|| async { Json(json!({"agents": [agent()]})) }))
        .route("/usage/{wallet}", get(usage));
    let client = start(app).await.client;
    assert_eq!(client.tiers().await.unwrap().agent_types, ["echo"]);
    assert_eq!(client.health().await.unwrap().status, "ok");
    let spawned = client.spawn(&spawn_request(), &SpawnOptions::default()).await.unwrap();
    assert_eq!(spawned.agent.token.as_ref().unwrap().expose(), "plt_hush");
    assert!(!format!("{spawned:?}").contains("plt_hush"));
    assert_eq!(client.stop(ID.into()).await.unwrap().state, StateName::Stopped);
    // Many equal requests in a row: none is taken for a replay.
    for _ in 0..20 {
        assert_eq!(client.status(ID.into()).await.unwrap().uptime_ms, 5);
    }
    assert_eq!(client.agents().await.unwrap()[0].id, ID.into());
    assert_eq!(client.usage().await.unwrap().wallet, keypair().wallet());
}

#[tokio::test]
async fn a_detached_spawn_says_so_and_carries_its_idempotency_key() {
    async fn spawn(request: Request) -> Response {
        assert_eq!(request.uri().query(), Some("wait=false"));
        assert_eq!(request.headers()["idempotency-key"], "k-1");
        assert_eq!(request.headers()["content-type"], "application/json");
        (StatusCode::ACCEPTED, Json(spawned("t"))).into_response()
    }
    let client = start(Router::new().route("/spawn", post(spawn))).await.client;
    let options = SpawnOptions { detached: true, idempotency_key: Some("k-1".into()) };
    client.spawn(&spawn_request(), &options).await.unwrap();
    let options = SpawnOptions { idempotency_key: Some("line\nbreak".into()), ..options };
    assert!(matches!(client.spawn(&spawn_request(), &options).await, Err(ClientError::Protocol { .. })));
}

#[tokio::test]
async fn a_refusal_keeps_the_gateways_fault_as_its_source() {
    let said = Fault { agent_id: Some(ID.into()), ..Fault::new(Code::AgentExists, "you have an agent") };
    let answer = said.clone();
    let app = Router::new().route("/spawn", post(|| async { fault(answer) }));
    let error = start(app).await.client.spawn(&spawn_request(), &SpawnOptions::default()).await.unwrap_err();
    assert_eq!((error.code(), error.fault()), (Some(Code::AgentExists), Some(&said)));
    let source = error.source().unwrap().downcast_ref::<Fault>();
    assert_eq!(source, Some(&said));
    assert_eq!(error.to_string(), "spawn an agent");
}

#[tokio::test]
async fn an_answer_of_something_else_than_a_gateway_is_said_to_be_that() {
    let app = Router::new()
        .route("/agents", get(|| async { (StatusCode::BAD_GATEWAY, "<html>\u{1b}[31mproxy") }))
        .route("/tiers", get(|| async { "hello" }))
        .route("/health", get(|| async { (StatusCode::FOUND, [("location", "http://127.0.0.1:1/")], "") }));
    let client = start(app).await.client;
    let said = client.agents().await.unwrap_err().to_string();
    assert!(said.contains("502") && said.contains("proxy") && !said.contains('\u{1b}'), "{said}");
    assert!(matches!(client.tiers().await, Err(ClientError::Protocol { .. })));
    // A redirect would carry the signature elsewhere.
    assert!(matches!(client.health().await, Err(ClientError::Protocol { .. })));
}

#[tokio::test]
async fn an_endless_answer_is_cut_at_its_bound() {
    let endless = || async {
        let chunk = Bytes::from(vec![b' '; 1024 * 1024]);
        let chunks = futures_util::stream::repeat_with(move || Ok::<_, std::io::Error>(chunk.clone()));
        Body::from_stream(chunks)
    };
    let gateway = start(Router::new().route("/tiers", get(endless))).await;
    let patient = GatewayClient::new(&format!("http://127.0.0.1:{}", gateway.port)).unwrap();
    assert!(matches!(patient.tiers().await, Err(ClientError::Protocol { .. })));
}

#[tokio::test]
async fn a_gateway_that_hangs_or_is_not_there_is_said_to_be_that() {
    let hang = || async { std::future::pending::<()>().await };
    let client = start(Router::new().route("/agents", get(hang))).await.hasty;
    assert!(matches!(client.agents().await, Err(ClientError::TimedOut { operation: "list the agents", .. })));
    let nobody = self::client("http://127.0.0.1:1");
    let error = nobody.agents().await.unwrap_err();
    assert_eq!(error.to_string(), "list the agents: no answer from 127.0.0.1");
}

#[tokio::test]
async fn without_a_keypair_only_open_calls_are_made() {
    let gateway = start(Router::new().route("/tiers", get(|| async { StatusCode::IM_A_TEAPOT }))).await;
    let client = GatewayClient::new(&format!("http://127.0.0.1:{}", gateway.port)).unwrap();
    assert!(matches!(client.agents().await, Err(ClientError::Unsigned("list the agents"))));
    assert!(matches!(client.usage().await, Err(ClientError::Unsigned(_))));
    assert!(matches!(client.tiers().await, Err(ClientError::Protocol { .. })));
    assert!(matches!(GatewayClient::new("127.0.0.1:8080"), Err(ClientError::Gateway(_))));
}

#[tokio::test]
async fn followed_output_comes_as_it_is_written() {
    async fn logs(request: Request) -> Body {
        assert_eq!(request.uri().query(), Some("follow=true&source=agent"));
        body(&["one\n", "two\n"], Then::Hangs)
    }
    let client = start(Router::new().route("/agents/{id}/logs", get(logs))).await.hasty;
    let mut lines = client.logs(ID.into(), LogSource::Agent, true).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 8 {
        seen.extend_from_slice(&tokio::time::timeout(SOON, lines.next()).await.unwrap().unwrap().unwrap());
    }
    assert_eq!(seen, b"one\ntwo\n");
    // Followed output may be silent for longer than the rest may.
    assert!(tokio::time::timeout(Duration::from_millis(800), lines.next()).await.is_err());
}

#[tokio::test]
async fn output_that_breaks_off_or_falls_silent_is_an_error() {
    for then in [Then::Breaks, Then::Hangs] {
        let app = Router::new().route("/agents/{id}/logs", get(move || async move { body(&["one\n"], then) }));
        let client = start(app).await.hasty;
        let lines: Vec<_> = client.logs(ID.into(), LogSource::Console, false).await.unwrap().collect().await;
        let error = lines.last().unwrap().as_ref().unwrap_err();
        let fits = match then {
            Then::Breaks => matches!(error, ClientError::Unreachable { .. }),
            Then::Hangs | Then::Ends => matches!(error, ClientError::TimedOut { .. }),
        };
        assert!(fits, "{then:?}: {error:?}");
    }
}

#[tokio::test]
async fn changes_are_read_however_they_are_cut_and_what_is_not_one_is_passed_over() {
    async fn events(headers: HeaderMap) -> Response {
        assert_eq!(headers["last-event-id"], "3");
        let pieces = [
            ":\n\nevent: sta",
            "te\nid: 4\nda",
            "ta: {\"seq\":4,\"at\":7,\"state\":\"booting\"}\n",
            "\nevent: other\ndata: {}\n\n",
            "event: state\r\nid: 5\r\ndata: {\"seq\":5,\"at\":8,\"state\":\"failed\",\"reason\":\"crash_loop\"}\r\n\r\n",
        ];
        ([("content-type", "text/event-stream")], body(&pieces, Then::Ends)).into_response()
    }
    let client = start(Router::new().route("/agents/{id}/events", get(events))).await.client;
    let changes: Vec<_> = client.events(ID.into(), 3).await.unwrap().map(Result::unwrap).collect().await;
    let seen: Vec<_> = changes.iter().map(|change| (change.seq, change.state)).collect();
    assert_eq!(seen, [(4, StateName::Booting), (5, StateName::Failed)]);
}

#[tokio::test]
async fn changes_that_hang_flood_or_are_none_are_errors() {
    let flood = "event: state\ndata: ".to_owned() + &"x".repeat(3 * 1024 * 1024);
    let cases = [
        (":\n\n".to_owned(), Then::Hangs, "nothing was heard"),
        (flood, Then::Hangs, "larger than"),
        ("event: state\ndata: {}\n\n".to_owned(), Then::Ends, "cannot be used"),
        (":\n\n".to_owned(), Then::Breaks, "no answer from"),
    ];
    for (text, then, said) in cases {
        let events = move || async move { ([("content-type", "text/event-stream")], body(&[text.as_str()], then)) };
        let client = start(Router::new().route("/agents/{id}/events", get(events))).await.hasty;
        let changes: Vec<_> = client.events(ID.into(), 0).await.unwrap().collect().await;
        let error = changes.last().unwrap().as_ref().unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

#[tokio::test]
async fn following_goes_on_where_it_was_when_the_gateway_comes_back() {
    async fn events(State(before): State<Arc<AtomicU64>>, headers: HeaderMap) -> Response {
        let after: u64 = headers["last-event-id"].to_str().unwrap().parse().unwrap();
        match before.fetch_add(1, Ordering::SeqCst) {
            // A deployment in between.
            1 => return fault(Fault::new(Code::ShuttingDown, "draining")),
            2 => return change("", Then::Breaks),
            _ => {}
        }
        let state = ["reserved", "placed", "booting", "stopped"][usize::try_from(after).unwrap()];
        let text = format!("event: state\ndata: {{\"seq\":{},\"at\":7,\"state\":\"{state}\"}}\n\n", after + 1);
        change(&text, Then::Ends)
    }
    fn change(text: &str, then: Then) -> Response {
        ([("content-type", "text/event-stream")], body(&[text], then)).into_response()
    }
    let app = Router::new().route("/agents/{id}/events", get(events)).with_state(Arc::default());
    let client = start(app).await.client;
    let changes: Vec<_> = client.follow(ID.into(), 0).map(|change| change.unwrap().seq).collect().await;
    assert_eq!(changes, [1, 2, 3, 4]);
}

#[tokio::test]
async fn following_an_agent_of_somebody_else_ends_at_once() {
    let app =
        Router::new().route("/agents/{id}/events", get(|| async { fault(Fault::new(Code::NotFound, "not yours")) }));
    let changes: Vec<_> = start(app).await.client.follow(ID.into(), 0).collect().await;
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].as_ref().unwrap_err().code(), Some(Code::NotFound));
}
