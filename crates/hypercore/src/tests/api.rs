//! The API, as its callers see it.

use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, StatusCode};
use axum::response::Response;
use fixtures::PATIENCE;
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::ServiceExt;
use wire::v1::node::{AgentMark, MarksPage, Sandbox, SandboxPhase, SandboxSpec};

use super::node::{Daemon, TestNode, id, spec};
use super::pod::PodBehavior;

async fn call(daemon: &Daemon, method: Method, path: &str, body: impl Into<Body>) -> Response {
    let request = Request::builder().method(method).uri(path).body(body.into()).unwrap();
    daemon.router().oneshot(request).await.unwrap()
}

async fn json(response: Response) -> (StatusCode, Value) {
    let status = response.status();
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

fn put(spec: &SandboxSpec) -> String {
    serde_json::to_string(spec).unwrap()
}

const ONE: &str = "/v1/sandboxes/00000000-0000-0001";

#[tokio::test]
async fn a_put_is_202_the_same_again_200_another_409() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    assert_eq!(json(call(&daemon, Method::PUT, ONE, put(&spec())).await).await.0, StatusCode::ACCEPTED);
    assert_eq!(json(call(&daemon, Method::PUT, ONE, put(&spec())).await).await.0, StatusCode::OK);
    let other = SandboxSpec { cores: 2, ..spec() };
    let (status, fault) = json(call(&daemon, Method::PUT, ONE, put(&other)).await).await;
    assert_eq!((status, fault["code"].as_str()), (StatusCode::CONFLICT, Some("stale_generation")));
}

#[tokio::test]
async fn a_pods_second_run_is_409_as_is_one_whose_data_is_not_there_and_what_is_kept_is_erased_with_204() {
    const TWO: &str = "/v1/sandboxes/00000000-0000-0002";
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    let needs_data = put(&SandboxSpec { data: wire::v1::node::DataDisk::Kept, ..spec() });
    let (status, fault) = json(call(&daemon, Method::PUT, ONE, needs_data.clone()).await).await;
    assert_eq!((status, fault["code"].as_str()), (StatusCode::CONFLICT, Some("no_data")));
    call(&daemon, Method::PUT, ONE, put(&spec())).await;
    daemon.ready(id(1)).await;
    let data = format!("/v1/pods/{}/data", spec().pod);
    for (method, path) in [(Method::PUT, TWO), (Method::DELETE, data.as_str())] {
        let (status, fault) = json(call(&daemon, method, path, put(&spec())).await).await;
        assert_eq!((status, fault["code"].as_str()), (StatusCode::CONFLICT, Some("pod_running")), "{path}");
    }
    let end = format!("{ONE}?pod={}&grace_ms=0&data=keep", spec().pod);
    let (status, gone) = json(call(&daemon, Method::DELETE, &end, "").await).await;
    assert_eq!((status, &gone["kept"]["bytes"]), (StatusCode::OK, &Value::from(1)));
    assert!(gone["kept"]["until"].is_u64(), "{gone}");
    for _ in 0..2 {
        assert_eq!(call(&daemon, Method::DELETE, &data, "").await.status(), StatusCode::NO_CONTENT);
    }
    assert_eq!(json(call(&daemon, Method::DELETE, "/v1/pods/-/data", "").await).await.1["code"], "invalid_request");
    assert_eq!(json(call(&daemon, Method::PUT, TWO, needs_data).await).await.1["code"], "no_data");
}

#[tokio::test]
async fn a_reader_may_wait_for_readiness_and_no_answer_shows_the_environment() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    call(&daemon, Method::PUT, ONE, put(&spec())).await;
    let (status, sandbox) =
        json(call(&daemon, Method::GET, &format!("{ONE}?until=ready&wait_ms=5000"), "").await).await;
    assert_eq!((status, sandbox["phase"]["name"].as_str()), (StatusCode::OK, Some("ready")));
    let (_, all) = json(call(&daemon, Method::GET, "/v1/sandboxes", "").await).await;
    assert_eq!(all["sandboxes"][0], sandbox);
    assert!(!all.to_string().contains("hush"));
    let (_, node) = json(call(&daemon, Method::GET, "/v1/node", "").await).await;
    assert_eq!(node["sandboxes"], 1);
    assert_eq!(node["image_needs"], serde_json::json!({"echo": {"min_memory_mib": 128}}));
    assert_eq!(node["free_memory_mib"], 4_096 - 128 - 2 * 16);
}

#[tokio::test]
async fn an_agent_that_ends_again_and_again_shows_its_ends_and_its_last_words_while_it_boots() {
    let mut host = TestNode::new(PodBehavior::Slow);
    host.config.boot_deadline_ms = 60_000;
    let daemon = host.daemon().await;
    call(&daemon, Method::PUT, ONE, put(&spec())).await;
    host.guests.with(id(1), |guest| guest.lines.push("\u{1b}[31mno key\u{1b}[0m: set OPENAI_API_KEY".to_owned()));
    let ends = |exits: u32| host.guests.with(id(1), |guest| guest.exits = exits);
    let seen = |exits| move |sandbox: &Sandbox| sandbox.guest.as_ref().is_some_and(|guest| guest.exits == exits);
    let told = async || host.guests.with(id(1), |guest| !guest.identities.is_empty()).then_some(());
    fixtures::until("the guest has its identity", told).await;
    ends(2);
    let shown = daemon.until(id(1), seen(2)).await;
    assert_eq!((shown.phase, shown.restarts), (SandboxPhase::Booting, 0));
    let (_, all) = json(call(&daemon, Method::GET, "/v1/sandboxes", "").await).await;
    assert_eq!(all["sandboxes"][0]["guest"]["last_exit"]["how"], "exit status 1");
    let lines = async || {
        let (_, one) = json(call(&daemon, Method::GET, ONE, "").await).await;
        let lines = one["guest"]["last_lines"].clone();
        (!lines.is_null()).then_some(lines)
    };
    let lines = fixtures::until("the agent's words are in the node's log", lines).await;
    assert_eq!(lines, serde_json::json!(["no key: set OPENAI_API_KEY"]));
    // Another boot of the guest forgets none of them.
    host.machine.crash(id(1));
    daemon.until(id(1), |sandbox| sandbox.restarts == 1).await;
    fixtures::until("the agent ends in the next boot", async || {
        ends(1);
        daemon.sandbox(id(1)).is_some_and(|sandbox| seen(3)(&sandbox)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn requests_of_another_shape_are_refused_by_code_and_never_repeated() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    let unknown = SandboxSpec { image: domain::ImageDigest([9; 32]), ..spec() };
    let cases = [
        (Method::PUT, ONE, "{\"env\":{\"KEY\":hush-hush".to_owned(), "invalid_request"),
        (Method::PUT, ONE, put(&unknown), "no_image"),
        (Method::PUT, ONE, put(&SandboxSpec { cores: 0, ..spec() }), "invalid_request"),
        (Method::PUT, ONE, put(&SandboxSpec { cores: 99, ..spec() }), "no_capacity"),
        (Method::PUT, "/v1/sandboxes/x", put(&spec()), "invalid_request"),
        (Method::GET, ONE, String::new(), "not_found"),
        (Method::GET, "/v1/sandboxes/00000000-0000-0001/logs", String::new(), "not_found"),
        (Method::GET, "/v1/marks?after=-1", String::new(), "invalid_request"),
        (Method::POST, ONE, String::new(), "method_not_allowed"),
        (Method::GET, "/v1/else", String::new(), "not_found"),
        (Method::PUT, ONE, "x".repeat(600 * 1024), "body_too_large"),
    ];
    for (method, path, body, code) in cases {
        let (status, fault) = json(call(&daemon, method.clone(), path, body).await).await;
        assert_eq!(fault["code"], code, "{method} {path}: {status} {fault}");
        assert!(!fault.to_string().contains("hush"));
    }
    let (status, _) = json(call(&daemon, Method::DELETE, ONE, "").await).await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn the_journal_is_handed_out_once_it_is_asked_for_and_forgets_what_was_kept() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    call(&daemon, Method::PUT, ONE, put(&spec())).await;
    daemon.ready(id(1)).await;
    let (_, marks) = json(call(&daemon, Method::GET, "/v1/marks", "").await).await;
    let marks: MarksPage = serde_json::from_value(marks).unwrap();
    let numbers: Vec<u64> = marks.marks.iter().map(|AgentMark { mark, .. }| mark.seq).collect();
    assert_eq!(numbers, [1, 2]);
    let (_, rest) = json(call(&daemon, Method::GET, "/v1/marks?after=2", "").await).await;
    assert_eq!(rest["marks"], Value::Array(vec![]));
    assert_eq!(rest["journal"], marks.journal);
}

#[tokio::test]
async fn commands_go_to_pod_with_the_nodes_credential_and_nobody_elses() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    call(&daemon, Method::PUT, ONE, put(&spec())).await;
    daemon.ready(id(1)).await;
    let path = format!("{ONE}/pod/process.Process/Start");
    let request = Request::post(&path).header("authorization", "Bearer mine").header("cookie", "mine");
    let response = daemon.router().oneshot(request.body(Body::from("said")).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "/process.Process/Start false -\nsaid");
    for (method, target) in [("POST", "/filesystem.Filesystem/Stat"), ("GET", "/files?path=%2Fa%20b&username=x")] {
        let request = Request::builder().method(method).uri(format!("{ONE}/pod{target}"));
        let request = request.header("authorization", "Basic dXNlcjo=").header("x-access-token", "mine");
        let response = daemon.router().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, format!("{target} false Basic dXNlcjo=\n"), "the user that is named goes on, no token does");
    }
    for other in ["pod/v1/stop", "pod/process.Process/../v1", "pod/process.Other/Start", "pod/files/../v1/stop"] {
        let response = call(&daemon, Method::POST, &format!("{ONE}/{other}"), "").await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{other}");
    }
}

#[tokio::test]
async fn a_guests_metrics_are_passed_on_as_text_and_a_guest_that_babbles_is_cut_off() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    let path = format!("{ONE}/metrics");
    assert_eq!(json(call(&daemon, Method::GET, &path, "").await).await.1["code"], "not_found");
    call(&daemon, Method::PUT, ONE, put(&spec())).await;
    daemon.ready(id(1)).await;
    let response = call(&daemon, Method::GET, &path, "").await;
    assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
    assert_eq!(to_bytes(response.into_body(), 100).await.unwrap(), "pod_processes 1\n");
    host.guests.behave(PodBehavior::Hostile);
    assert_eq!(json(call(&daemon, Method::GET, &path, "").await).await.1["code"], "agent_unreachable");
}

async fn tunnel(daemon: &Daemon) -> hyper::Response<hyper::body::Incoming> {
    let (client, server) = tokio::io::duplex(4_096);
    let service = hyper_util::service::TowerToHyperService::new(daemon.router());
    let serving = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(server), service);
    tokio::spawn(serving.with_upgrades());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(client)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let request = Request::get(format!("{ONE}/tunnel"))
        .header("host", "node")
        .header("connection", "upgrade")
        .header("upgrade", "palatine-tunnel")
        .body(Body::empty());
    sender.send_request(request.unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_tunnel_carries_bytes_to_the_agents_port_and_back() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    call(&daemon, Method::PUT, ONE, put(&spec())).await;
    daemon.ready(id(1)).await;
    let response = tunnel(&daemon).await;
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    stream.write_all(b"hello").await.unwrap();
    let mut heard = [0; 5];
    stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");
}

#[tokio::test]
async fn what_is_open_to_a_guest_breaks_off_when_the_guest_is_killed() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    call(&daemon, Method::PUT, ONE, put(&spec())).await;
    daemon.ready(id(1)).await;
    // Its body goes on for ever, and so would the answer.
    let endless = Body::from_stream(futures_util::stream::pending::<Result<axum::body::Bytes, std::io::Error>>());
    let command = call(&daemon, Method::POST, &format!("{ONE}/pod/process.Process/Start"), endless).await;
    let mut said = command.into_body();
    assert!(said.frame().await.unwrap().is_ok());
    let mut stream = TokioIo::new(hyper::upgrade::on(tunnel(&daemon).await).await.unwrap());
    host.machine.crash(id(1));
    let broken =
        async { (said.frame().await.unwrap().is_err(), stream.read(&mut [0; 8]).await.is_ok_and(|read| read > 0)) };
    let (is_part, goes_on) = tokio::time::timeout(PATIENCE, broken).await.expect("they hang");
    assert!(is_part && !goes_on);
}

#[tokio::test]
async fn an_agent_that_listens_on_its_loopback_alone_is_reached_and_each_end_ends_its_half_by_itself() {
    let host = TestNode::new(PodBehavior::Loopback);
    let daemon = host.daemon().await;
    call(&daemon, Method::PUT, ONE, put(&spec())).await;
    daemon.ready(id(1)).await;
    let response = tunnel(&daemon).await;
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"hello");
}

#[tokio::test]
async fn a_tunnel_to_an_agent_that_is_not_ready_or_not_there_is_refused_at_once() {
    let host = TestNode::new(PodBehavior::Slow);
    let daemon = host.daemon().await;
    call(&daemon, Method::PUT, ONE, put(&spec())).await;
    assert_eq!(tunnel(&daemon).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    host.guests.with(id(1), |guest| guest.phase = Some(wire::v1::pod::PodPhase::Ready));
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    call(&daemon, Method::PUT, ONE, put(&spec())).await;
    daemon.ready(id(1)).await;
    host.guests.behave(PodBehavior::Mute);
    assert_eq!(tunnel(&daemon).await.status(), StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn streams_are_bounded_for_each_agent() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    call(&daemon, Method::PUT, ONE, put(&spec())).await;
    daemon.ready(id(1)).await;
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(call(&daemon, Method::GET, &format!("{ONE}/logs?follow=true"), "").await);
    }
    let (status, _) = json(call(&daemon, Method::GET, &format!("{ONE}/logs"), "").await).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    drop(open);
    assert_eq!(call(&daemon, Method::GET, &format!("{ONE}/logs"), "").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn fault_2_4_those_who_talk_to_an_agent_leave_its_holders_places_free() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    call(&daemon, Method::PUT, ONE, put(&spec())).await;
    daemon.ready(id(1)).await;
    let mut open = Vec::new();
    for _ in 0..host.config.streams {
        let opened = tunnel(&daemon).await;
        assert_eq!(opened.status(), StatusCode::SWITCHING_PROTOCOLS);
        open.push(hyper::upgrade::on(opened).await.unwrap());
    }
    assert_eq!(tunnel(&daemon).await.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(call(&daemon, Method::GET, &format!("{ONE}/logs"), "").await.status(), StatusCode::OK);
    let command = call(&daemon, Method::POST, &format!("{ONE}/pod/process.Process/Start"), "").await;
    assert_eq!(command.status(), StatusCode::OK);
}

#[test]
fn the_golden_document_is_the_one_that_is_served() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../openapi/node.json");
    let golden = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(golden.trim_end(), crate::openapi().trim_end(), "run ./dev openapi and look at the change");
}

#[test]
fn the_document_tells_parameters_of_the_path_from_those_of_the_query() {
    let document: Value = serde_json::from_str(&crate::openapi()).unwrap();
    let mut seen = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        let calls = methods.as_object().unwrap().values();
        let parameters = calls.filter_map(|call| call["parameters"].as_array()).flatten();
        for parameter in parameters.filter(|parameter| parameter["in"] != "header") {
            let in_path = path.contains(&format!("{{{}}}", parameter["name"].as_str().unwrap()));
            let place = if in_path { "path" } else { "query" };
            // Which file of a disk has to be said.
            let required = in_path || path.ends_with("/{call}") && parameter["name"] == "path";
            assert_eq!((parameter["in"].as_str(), parameter["required"] == true), (Some(place), required), "{path}");
            seen += usize::from(!in_path);
        }
    }
    let names = "after, wait_ms twice, until, pod, grace_ms, data, follow, source, path and username twice, port, from; \
                 path, depth, uid, gid, mode, force of a volume's files and of kept data's";
    assert_eq!(seen, 27, "{names}");
}
