//! The node's client against servers that answer, refuse, hang and die.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use bytes::Bytes;
use domain::{FailReason, Generation, ImageDigest, Mark, MarkKind, RunId, UnixMillis};
use futures_util::StreamExt;
use http_body_util::{BodyExt, Full};
use palatine_client::{CallDeadlines, LogSource, NodeClient, NodeError};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use wire::fault::{Code, Fault};
use wire::v1::node::{
    AgentMark, DataDisk, DataPolicy, DeleteResponse, MarksPage, RuntimeName, Sandbox, SandboxPhase, SandboxSpec, TUNNEL,
};
use wire::{Environment, Secret};

const ID: RunId = RunId::from_bits(0xa1b2_c3d4_e5f6_7890);
/// Longer than any test may take.
const SOON: Duration = Duration::from_secs(10);

/// A server on a socket in a directory of its own.
struct Server {
    _dir: TempDir,
    socket: PathBuf,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    fn raw<F, W>(serve: F) -> Self
    where
        F: Fn(UnixStream) -> W + Send + 'static,
        W: Future<Output = ()> + Send + 'static,
    {
        let (dir, socket, listener) = bind();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream));
            }
        });
        Self { _dir: dir, socket, task }
    }

    fn http(app: Router) -> Self {
        let (dir, socket, listener) = bind();
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { _dir: dir, socket, task }
    }

    fn client(&self) -> NodeClient {
        NodeClient::new(&self.socket)
    }

    /// A client that a hung server costs little time.
    fn hasty(&self) -> NodeClient {
        self.client().with_deadlines(short())
    }
}

fn bind() -> (TempDir, PathBuf, UnixListener) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("node.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    (dir, socket, listener)
}

fn short() -> CallDeadlines {
    let soon = Duration::from_millis(400);
    CallDeadlines { read: soon, create: soon, tunnel: soon, stream: soon, forward: soon, idle: soon, margin: soon }
}

fn one(phase: SandboxPhase) -> Sandbox {
    Sandbox {
        id: ID,
        pod: ID.into(),
        generation: Generation::FIRST,
        image: ImageDigest([7; 32]),
        cores: 2,
        memory_mib: 2048,
        port: 8080,
        phase,
        runtime: RuntimeName::QemuTcg,
        restarts: 0,
        created_at: UnixMillis(1_707_022_560_000),
        ready_after_ms: None,
        pid: Some(4242),
        cause: None,
        guest: None,
    }
}

fn spec() -> SandboxSpec {
    SandboxSpec {
        pod: ID.into(),
        data: DataDisk::KeptOrEmpty,
        generation: Generation::FIRST,
        image: ImageDigest([7; 32]),
        cores: 2,
        memory_mib: 2048,
        volumes: Vec::new(),
        runtime: None,
        env: Environment(BTreeMap::from([("OPENAI_API_KEY".to_owned(), Secret::from("hush-hush".to_owned()))])),
    }
}

fn refuse(code: Code) -> Response {
    (StatusCode::from_u16(code.status()).unwrap(), Json(Fault::new(code, "no"))).into_response()
}

#[tokio::test]
async fn a_spec_arrives_whole_with_its_secrets_and_its_trace() {
    type Seen = Arc<Mutex<Option<(String, Option<String>, Value)>>>;
    async fn create(
        State(seen): State<Seen>,
        Path(id): Path<String>,
        headers: HeaderMap,
        Json(body): Json<Value>,
    ) -> Response {
        let trace = headers.get("traceparent").map(|value| value.to_str().unwrap().to_owned());
        *seen.lock().unwrap() = Some((id, trace, body));
        (StatusCode::ACCEPTED, Json(one(SandboxPhase::Booting))).into_response()
    }
    let seen = Seen::default();
    let server = Server::http(Router::new().route("/v1/sandboxes/{id}", put(create)).with_state(Arc::clone(&seen)));
    let made = server.client().create(ID, &spec(), Some("00-aa-bb-01")).await.unwrap();
    assert_eq!(made, one(SandboxPhase::Booting));
    let (id, trace, body) = seen.lock().unwrap().take().unwrap();
    assert_eq!((id.as_str(), trace.as_deref()), ("a1b2c3d4-e5f6-7890", Some("00-aa-bb-01")));
    assert_eq!(body["env"]["OPENAI_API_KEY"], "hush-hush");
}

#[tokio::test]
async fn what_the_node_refuses_keeps_its_code() {
    let app = Router::new().route(
        "/v1/sandboxes/{id}",
        put(|| async { refuse(Code::StaleGeneration) }).get(|| async { refuse(Code::NotFound) }),
    );
    let server = Server::http(app);
    let error = server.client().create(ID, &spec(), None).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::StaleGeneration));
    assert!(!error.is_ambiguous());
    assert_eq!(server.client().get(ID).await.unwrap(), None);
    assert_eq!(server.client().wait_ready(ID, SOON).await.unwrap(), None);
}

#[tokio::test]
async fn a_deletion_hands_its_grace_to_the_node() {
    async fn delete(Query(query): Query<BTreeMap<String, String>>) -> Json<DeleteResponse> {
        assert_eq!((query["grace_ms"].as_str(), query["data"].as_str()), ("1500", "erase"));
        Json(DeleteResponse { id: ID, kept: None })
    }
    let server = Server::http(Router::new().route("/v1/sandboxes/{id}", axum::routing::delete(delete)));
    assert_eq!(
        server.client().delete(ID, ID.into(), Duration::from_millis(1500), DataPolicy::Erase).await.unwrap().id,
        ID
    );
}

#[tokio::test]
async fn the_list_the_node_itself_and_its_marks_are_read() {
    let mark = AgentMark { agent: ID, mark: Mark { seq: 8, at: UnixMillis(5), kind: MarkKind::Ready } };
    async fn marks(State(mark): State<AgentMark>, Query(query): Query<BTreeMap<String, u64>>) -> Json<MarksPage> {
        assert_eq!((query["after"], query["wait_ms"]), (7, 20));
        Json(MarksPage { journal: "j1".into(), marks: vec![mark], disks: Vec::new() })
    }
    let node = json!({
        "name": "n1", "version": "0.1.0", "runtime": "qemu-tcg", "runtime_reason": "no /dev/kvm", "cores": 2,
        "free_cores": 2, "memory_mib": 8192, "free_memory_mib": 8192, "sandboxes": 0, "images": {},
    });
    let app = Router::new()
        .route("/v1/sandboxes", get(|| async { Json(json!({"sandboxes": [one(SandboxPhase::Ready)]})) }))
        .route("/v1/node", get(|| async move { Json(node) }))
        .route("/v1/marks", get(marks))
        .route("/metrics", get(|| async { "guests 3\n" }))
        .route("/v1/sandboxes/{id}/metrics", get(|| async { "pod_processes 1\n" }))
        .route("/openapi.json", get(|| async { Json(json!({"openapi": "3.1.0"})) }))
        .route("/health", get(|| async { StatusCode::NO_CONTENT }))
        .with_state(mark);
    let server = Server::http(app);
    let client = server.client();
    assert_eq!(client.list().await.unwrap().sandboxes, [one(SandboxPhase::Ready)]);
    assert_eq!(client.info().await.unwrap().runtime, RuntimeName::QemuTcg);
    assert_eq!(client.marks(7, Duration::from_millis(20)).await.unwrap().marks, [mark]);
    assert_eq!(client.metrics().await.unwrap(), "guests 3\n");
    assert_eq!(client.guest_metrics(ID).await.unwrap(), "pod_processes 1\n");
    assert_eq!(client.openapi().await.unwrap()["openapi"], "3.1.0");
    client.health().await.unwrap();
}

#[tokio::test]
async fn waiting_goes_on_over_early_answers_until_the_sandbox_is_ready() {
    async fn wait(State(asked): State<Arc<AtomicU32>>, Query(query): Query<BTreeMap<String, String>>) -> Json<Sandbox> {
        assert_eq!(query["until"], "ready");
        let phase = if asked.fetch_add(1, Ordering::SeqCst) < 2 { SandboxPhase::Booting } else { SandboxPhase::Ready };
        Json(one(phase))
    }
    let asked = Arc::new(AtomicU32::new(0));
    let server = Server::http(Router::new().route("/v1/sandboxes/{id}", get(wait)).with_state(Arc::clone(&asked)));
    let ready = server.client().wait_ready(ID, SOON).await.unwrap().unwrap();
    assert_eq!(ready.phase, SandboxPhase::Ready);
    assert_eq!(asked.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn waiting_ends_at_a_failure_and_at_its_own_deadline() {
    let failed = SandboxPhase::Failed { reason: FailReason::CrashLoop };
    for (phase, timeout) in [(failed, SOON), (SandboxPhase::Booting, Duration::from_millis(120))] {
        let app = Router::new().route("/v1/sandboxes/{id}", get(move || async move { Json(one(phase)) }));
        let server = Server::http(app);
        let begun = Instant::now();
        let seen = server.client().wait_ready(ID, timeout).await.unwrap().unwrap();
        assert_eq!(seen.phase, phase);
        assert!(begun.elapsed() < Duration::from_secs(3));
    }
}

#[tokio::test]
async fn nothing_was_asked_of_a_node_whose_socket_nobody_listens_on() {
    let dir = tempfile::tempdir().unwrap();
    let absent = dir.path().join("none.sock");
    let stale = dir.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    for socket in [absent, stale] {
        let error = NodeClient::new(socket).create(ID, &spec(), None).await.unwrap_err();
        assert!(matches!(error, NodeError::NotConnected { operation: "create the sandbox", .. }), "{error:?}");
        assert!(!error.is_ambiguous());
    }
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_runs_into_every_deadline() {
    let server = Server::raw(|stream| async move {
        let _held = stream;
        std::future::pending::<()>().await;
    });
    let client = server.hasty();
    let spec = spec();
    let empty = || Request::post("/").body(Full::<Bytes>::default()).unwrap();
    let (read, create, wait, delete, marks, logs, tunnel, forward) = tokio::join!(
        client.info(),
        client.create(ID, &spec, None),
        client.wait_ready(ID, Duration::from_millis(10)),
        client.delete(ID, ID.into(), Duration::from_millis(10), DataPolicy::Keep),
        client.marks(0, Duration::from_millis(10)),
        client.logs(ID, LogSource::Console, true),
        client.tunnel(ID, None),
        client.forward(ID, "/process.Process/Start", empty()),
    );
    let errors = [
        read.map(drop),
        create.map(drop),
        wait.map(drop),
        delete.map(drop),
        marks.map(drop),
        logs.map(drop),
        tunnel.map(drop),
        forward.map(drop),
    ];
    for error in errors {
        assert!(matches!(error, Err(NodeError::TimedOut { .. })), "{error:?}");
    }
}

#[tokio::test]
async fn a_call_that_timed_out_lets_go_of_its_connection() {
    let (told, mut closed) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::raw(move |mut stream| {
        let told = told.clone();
        async move {
            let mut sink = Vec::new();
            let _ = stream.read_to_end(&mut sink).await;
            let _ = told.send(());
        }
    });
    server.hasty().info().await.unwrap_err();
    tokio::time::timeout(SOON, closed.recv()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_server_that_dies_in_its_answer_may_have_done_what_was_asked() {
    for dying in ["", "HTTP/1.1 200 OK\r\ncontent-le", "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"sandboxes\":["]
    {
        let server = Server::raw(move |mut stream| async move {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(dying.as_bytes()).await;
        });
        let error = server.client().list().await.unwrap_err();
        assert!(matches!(error, NodeError::ConnectionLost { .. }), "{dying:?}: {error:?}");
        assert!(error.is_ambiguous());
    }
}

#[tokio::test]
async fn an_answer_of_another_api_is_a_protocol_error() {
    let answers = [
        "SSH-2.0-OpenSSH_9.2\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello".to_owned(),
        "HTTP/1.1 500 Oh\r\ncontent-length: 2\r\n\r\noh".to_owned(),
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n".to_owned(),
    ];
    for answer in answers {
        let said = answer.clone();
        let server = Server::raw(move |mut stream| {
            let said = said.clone();
            async move {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(said.as_bytes()).await;
                let _ = stream.read(&mut request).await;
            }
        });
        let (listed, tunnel) =
            (server.client().list().await.map(drop), server.client().tunnel(ID, None).await.map(drop));
        let error = if answer.contains("101") { tunnel } else { listed }.unwrap_err();
        assert!(matches!(error, NodeError::Protocol { .. }), "{answer:?}: {error:?}");
    }
}

#[tokio::test]
async fn an_endless_answer_is_cut_at_its_bound() {
    let endless = || async {
        let chunk = Bytes::from(vec![b' '; 1024 * 1024]);
        Body::from_stream(futures_util::stream::repeat_with(move || Ok::<_, std::io::Error>(chunk.clone())))
    };
    let server = Server::http(Router::new().route("/v1/sandboxes", get(endless)));
    let error = server.client().list().await.unwrap_err();
    assert!(matches!(error, NodeError::Protocol { .. }), "{error:?}");
}

#[tokio::test]
async fn followed_logs_flow_line_by_line_and_end_when_dropped() {
    async fn logs(State(ended): State<Arc<tokio::sync::Notify>>, request: Request) -> Response {
        assert_eq!(request.uri().query(), Some("follow=true&source=console"));
        let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(1);
        tokio::spawn(async move {
            for line in ["one\n", "two\n"] {
                sender.send(Ok(line.into())).await.unwrap();
            }
            sender.closed().await;
            ended.notify_one();
        });
        let lines = futures_util::stream::unfold(receiver, |mut from| async { Some((from.recv().await?, from)) });
        Body::from_stream(lines).into_response()
    }
    let ended = Arc::new(tokio::sync::Notify::new());
    let app = Router::new().route("/v1/sandboxes/{id}/logs", get(logs)).with_state(Arc::clone(&ended));
    let server = Server::http(app);
    let mut lines = server.client().logs(ID, LogSource::Console, true).await.unwrap().into_data_stream();
    let mut seen = Vec::new();
    while seen.len() < 8 {
        seen.extend_from_slice(&tokio::time::timeout(SOON, lines.next()).await.unwrap().unwrap().unwrap());
    }
    assert_eq!(seen, b"one\ntwo\n");
    drop(lines);
    tokio::time::timeout(SOON, ended.notified()).await.unwrap();
}

#[tokio::test]
async fn logs_that_are_not_followed_may_not_fall_silent() {
    let silent = || async {
        let first = futures_util::stream::iter([Ok::<_, std::io::Error>(Bytes::from("one\n"))]);
        Body::from_stream(first.chain(futures_util::stream::pending()))
    };
    let server = Server::http(Router::new().route("/v1/sandboxes/{id}/logs", get(silent)));
    let body = server.hasty().logs(ID, LogSource::Agent, false).await.unwrap();
    let error = tokio::time::timeout(SOON, body.collect()).await.unwrap().unwrap_err();
    assert!(matches!(error, NodeError::TimedOut { operation: "read the logs", .. }), "{error:?}");
}

#[tokio::test]
async fn a_tunnel_carries_bytes_both_ways() {
    async fn tunnel(mut request: Request) -> Response {
        assert_eq!(request.headers()["upgrade"], TUNNEL);
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = hyper_util::rt::TokioIo::new(upgrade.await.unwrap());
            let mut word = [0; 4];
            stream.read_exact(&mut word).await.unwrap();
            word.reverse();
            stream.write_all(&word).await.unwrap();
            stream.shutdown().await.unwrap();
        });
        (StatusCode::SWITCHING_PROTOCOLS, [("connection", "upgrade"), ("upgrade", TUNNEL)]).into_response()
    }
    let server = Server::http(Router::new().route("/v1/sandboxes/{id}/tunnel", get(tunnel)));
    let mut tunnel = server.client().tunnel(ID, None).await.unwrap();
    tunnel.write_all(b"abcd").await.unwrap();
    let mut echoed = Vec::new();
    tokio::time::timeout(SOON, tunnel.read_to_end(&mut echoed)).await.unwrap().unwrap();
    assert_eq!(echoed, b"dcba");
}

#[tokio::test]
async fn a_guest_that_cannot_be_reached_is_refused_by_code() {
    let app = Router::new().route("/v1/sandboxes/{id}/tunnel", get(|| async { refuse(Code::AgentUnreachable) }));
    let error = Server::http(app).client().tunnel(ID, None).await.map(drop).unwrap_err();
    assert_eq!(error.code(), Some(Code::AgentUnreachable));
}

#[tokio::test]
async fn a_passed_request_keeps_its_body_and_status_and_loses_its_connections_headers() {
    async fn start(headers: HeaderMap, body: Bytes) -> Response {
        assert_eq!(headers["content-type"], "application/connect+json");
        assert!(!headers.contains_key("te") && !headers.contains_key("x-mine") && !headers.contains_key("connection"));
        assert_eq!(headers["host"], "node");
        (StatusCode::UNSUPPORTED_MEDIA_TYPE, [("keep-alive", "timeout=5")], body).into_response()
    }
    let server = Server::http(Router::new().route("/v1/sandboxes/{id}/pod/process.Process/Start", post(start)));
    let request = Request::post("https://elsewhere/agents/x/process.Process/Start")
        .header("host", "elsewhere")
        .header("connection", "x-mine, te")
        .header("te", "trailers")
        .header("x-mine", "1")
        .header("content-type", "application/connect+json")
        .body(Full::new(Bytes::from("frames")))
        .unwrap();
    let answer = server.client().forward(ID, "/process.Process/Start", request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert!(!answer.headers().contains_key("keep-alive"));
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "frames");
}

#[tokio::test]
async fn only_commands_files_and_what_the_guest_is_are_passed() {
    let client = NodeClient::new("/nonexistent");
    for path in ["/filesystem.Filesystem/Stat", "/files?path=%2Fx", "/files/compose", "/envs", "/health"] {
        let request = Request::post("/").body(Full::<Bytes>::default()).unwrap();
        let error = client.forward(ID, path, request).await.map(drop).unwrap_err();
        assert!(!matches!(error, NodeError::Protocol { .. }), "{path}: {error:?}");
    }
    for path in [
        "/v1/stop",
        "/process.Process/",
        "/process.Process/../v1/stop",
        "/process.Process/Start?x=1",
        "",
        "/files/../v1/stop",
        "/filesx",
        "/envs?x=1",
        "/metrics",
    ] {
        let request = Request::post("/").body(Full::<Bytes>::default()).unwrap();
        let error = client.forward(ID, path, request).await.map(drop).unwrap_err();
        assert!(matches!(error, NodeError::Protocol { .. }), "{path}: {error:?}");
    }
}

#[test]
fn no_error_or_client_shows_a_secret() {
    let client = NodeClient::new("/run/node.sock");
    assert!(!format!("{client:?} {:?}", spec()).contains("hush-hush"));
}

#[tokio::test]
async fn fault_2_12_a_node_with_a_full_queue_of_connections_is_knocked_at_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.sock");
    let socket = tokio::net::UnixSocket::new_stream().unwrap();
    socket.bind(&path).unwrap();
    let listener = socket.listen(1).unwrap();
    let client = NodeClient::new(&path);
    let mut calls = Box::pin(futures_util::future::join_all((0..40).map(|_| client.health())));
    // All have knocked before anybody opens.
    assert!(futures_util::poll!(&mut calls).is_pending());
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/health", get(async || "ok"))).await });
    let failed: Vec<_> = calls.await.into_iter().filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{} of 40, {:?}", failed.len(), failed[0]);
}
