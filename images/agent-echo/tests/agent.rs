//! The agent as a process: what it answers, forwards, keeps and hides.

#![expect(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use axum::routing::post;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

const BINARY: &str = env!("CARGO_BIN_EXE_agent-echo");

/// A running agent; dropped, it is killed.
struct Agent {
    process: Child,
    port: u16,
}

impl Agent {
    fn start(state: &Path, environment: &[(&str, &str)]) -> Self {
        let mut process = Command::new(BINARY)
            .env_clear()
            .envs([("PORT", "0"), ("STATE_DIR", state.to_str().unwrap())])
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        std::thread::spawn(move || lines.for_each(drop));
        let port = first.split("port ").nth(1).and_then(|rest| rest.split(',').next()).unwrap().parse().unwrap();
        Self { process, port }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn client() -> reqwest::Client {
    drop(rustls::crypto::ring::default_provider().install_default());
    reqwest::Client::builder().timeout(Duration::from_secs(20)).build().unwrap()
}

async fn ask(agent: &Agent, body: Value) -> reqwest::Response {
    client().post(agent.url("/v1/chat/completions")).json(&body).send().await.unwrap()
}

/// The text of a streamed answer, and whether it ended as it should.
fn streamed(body: &str) -> (String, bool) {
    let mut data = body.lines().filter_map(|line| line.strip_prefix("data: "));
    let pieces = data.clone().filter_map(|data| serde_json::from_str::<Value>(data).ok());
    let text = pieces.filter_map(|piece| Some(piece["choices"][0]["delta"]["content"].as_str()?.to_owned()));
    (text.collect(), data.next_back() == Some("[DONE]"))
}

#[tokio::test]
async fn without_a_model_every_word_comes_back_whole_or_streamed() {
    let state = tempfile::tempdir().unwrap();
    let agent = Agent::start(state.path(), &[]);
    let question = json!({"model": "echo", "messages": [{"role": "user", "content": "to be or not"}]});
    let whole: Value = ask(&agent, question.clone()).await.json().await.unwrap();
    assert_eq!(whole["choices"][0]["message"]["content"], "echo: to be or not");
    assert_eq!(whole["usage"]["prompt_tokens"], 4);
    let mut stream = question;
    stream["stream"] = json!(true);
    let answer = ask(&agent, stream).await;
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    assert_eq!(streamed(&answer.text().await.unwrap()), ("echo: to be or not".to_owned(), true));
    let models: Value = client().get(agent.url("/v1/models")).send().await.unwrap().json().await.unwrap();
    assert_eq!(models["data"][0]["id"], "echo");
    for path in ["/health", "/ready"] {
        assert_eq!(client().get(agent.url(path)).send().await.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn a_request_that_makes_no_sense_is_refused_in_openais_words() {
    let state = tempfile::tempdir().unwrap();
    let agent = Agent::start(state.path(), &[]);
    for odd in [json!({}), json!({"messages": []}), json!({"messages": [{"role": "system", "content": "x"}]})] {
        let answer = ask(&agent, odd).await;
        assert_eq!(answer.status(), 400);
        let refusal: Value = answer.json().await.unwrap();
        assert_eq!(refusal["error"]["type"], "invalid_request_error");
    }
}

/// A model's server: checks the key, and answers with two pieces that leave one
/// after the other.
async fn model(
    State(gate): State<std::sync::Arc<tokio::sync::Notify>>,
    headers: HeaderMap,
    body: Bytes,
) -> impl IntoResponse {
    let request: Value = serde_json::from_slice(&body).unwrap();
    if headers.get("authorization").and_then(|value| value.to_str().ok()) != Some("Bearer sk-upstream") {
        return (axum::http::StatusCode::UNAUTHORIZED, "who are you").into_response();
    }
    assert_eq!(request["model"], "big-one");
    let pieces = futures_util::stream::unfold(0, move |piece| {
        let gate = gate.clone();
        async move {
            match piece {
                0 => Some((Ok::<_, std::io::Error>("data: first\n\n"), 1)),
                1 => {
                    gate.notified().await;
                    Some((Ok("data: [DONE]\n\n"), 2))
                }
                _ => None,
            }
        }
    });
    ([("content-type", "text/event-stream")], Body::from_stream(pieces)).into_response()
}

async fn start_model() -> (String, std::sync::Arc<tokio::sync::Notify>) {
    let gate = std::sync::Arc::new(tokio::sync::Notify::new());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}/v1", listener.local_addr().unwrap());
    let routes = Router::new().route("/v1/chat/completions", post(model)).with_state(gate.clone());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    (base, gate)
}

#[tokio::test]
async fn a_models_answer_is_passed_on_piece_by_piece_as_it_comes() {
    let state = tempfile::tempdir().unwrap();
    let (base, gate) = start_model().await;
    let set = [("OPENAI_BASE_URL", base.as_str()), ("OPENAI_API_KEY", "sk-upstream"), ("OPENAI_MODEL", "big-one")];
    let agent = Agent::start(state.path(), &set);
    let mut answer = ask(&agent, json!({"messages": [{"role": "user", "content": "hi"}], "stream": true})).await;
    // The second piece leaves only after the first one has arrived here.
    assert_eq!(answer.chunk().await.unwrap().unwrap(), "data: first\n\n");
    gate.notify_one();
    assert_eq!(answer.chunk().await.unwrap().unwrap(), "data: [DONE]\n\n");
    let models: Value = client().get(agent.url("/v1/models")).send().await.unwrap().json().await.unwrap();
    assert_eq!(models["data"][0]["id"], "big-one");
}

#[tokio::test]
async fn a_model_that_refuses_or_is_away_is_a_502_without_the_key() {
    let state = tempfile::tempdir().unwrap();
    let (base, _gate) = start_model().await;
    for (base, key) in [(base.as_str(), "sk-canary-wrong"), ("http://127.0.0.1:1/v1", "sk-canary-away")] {
        let agent = Agent::start(state.path(), &[("OPENAI_BASE_URL", base), ("OPENAI_API_KEY", key)]);
        let answer = ask(&agent, json!({"messages": [{"role": "user", "content": "hi"}]})).await;
        assert_eq!(answer.status(), 502);
        let text = answer.text().await.unwrap();
        assert!(text.contains("upstream_error") && !text.contains("canary"), "{text}");
    }
}

#[tokio::test]
async fn a_request_is_mirrored_without_its_secrets() {
    let state = tempfile::tempdir().unwrap();
    let agent = Agent::start(state.path(), &[]);
    let request =
        client().put(agent.url("/echo/a/b?x=1")).header("authorization", "Bearer canary").header("x-other", "seen");
    let text = request.body("content").send().await.unwrap().text().await.unwrap();
    let mirrored: Value = serde_json::from_str(&text).unwrap();
    assert!(!text.contains("canary"), "{text}");
    assert_eq!(mirrored["headers"]["x-other"], "seen");
    assert_eq!(
        (&mirrored["method"], &mirrored["path"], &mirrored["query"]),
        (&json!("PUT"), &json!("/echo/a/b"), &json!("x=1"))
    );
    assert_eq!(mirrored["body"], "content");
}

#[tokio::test]
async fn bodies_of_any_length_go_through_both_ways() {
    let state = tempfile::tempdir().unwrap();
    let agent = Agent::start(state.path(), &[]);
    let pieces = futures_util::stream::iter((0..320).map(|_| Ok::<_, std::io::Error>(vec![7_u8; 64 << 10])));
    let sent = client().post(agent.url("/upload")).body(reqwest::Body::wrap_stream(pieces)).send().await.unwrap();
    let counted: Value = sent.json().await.unwrap();
    assert_eq!(counted["bytes"], 320 * (64 << 10));
    let got = client().get(agent.url("/download?bytes=1000001")).send().await.unwrap().bytes().await.unwrap();
    assert_eq!(got.len(), 1_000_001);
}

#[tokio::test]
async fn events_come_one_at_a_time_and_messages_come_back() {
    let state = tempfile::tempdir().unwrap();
    let agent = Agent::start(state.path(), &[]);
    let events = client().get(agent.url("/sse?count=3&every_ms=1")).send().await.unwrap().text().await.unwrap();
    assert_eq!(events.matches("event: tick").count(), 3);
    let (mut socket, _) = tokio_tungstenite::connect_async(format!("ws://127.0.0.1:{}/ws", agent.port)).await.unwrap();
    for message in [Message::text("hello"), Message::binary(vec![1, 2, 3])] {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), message);
    }
}

#[tokio::test]
async fn the_count_outlives_the_process() {
    let state = tempfile::tempdir().unwrap();
    let first = Agent::start(state.path(), &[]);
    for _ in 0..2 {
        client().post(first.url("/state")).send().await.unwrap();
    }
    drop(first);
    let second = Agent::start(state.path(), &[]);
    let counts: Value = client().get(second.url("/state")).send().await.unwrap().json().await.unwrap();
    assert_eq!((&counts["starts"], &counts["count"]), (&json!(2), &json!(2)));
    assert_eq!(counts["pid"], second.process.id());
}

#[test]
fn an_agent_that_is_asked_to_end_ends_by_itself() {
    let state = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(state.path(), &[]);
    let sent = Command::new(BINARY).args(["signal", &agent.process.id().to_string(), "15"]).status().unwrap();
    assert!(sent.success());
    assert!(agent.process.wait().unwrap().success());
}

#[test]
fn the_probe_tells_who_answers_by_lines_and_by_its_exit_code() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let open = listener.local_addr().unwrap().to_string();
    let closed = { std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string() };
    let probe = |words: &[&str]| Command::new(BINARY).arg("probe").args(words).output().unwrap();
    let both = probe(&["tcp", &closed, &open]);
    assert_eq!(both.status.code(), Some(1));
    assert_eq!(String::from_utf8(both.stdout).unwrap(), format!("tcp {closed} refused\ntcp {open} answered\n"));
    assert_eq!(probe(&["tcp", &closed]).status.code(), Some(0));
    assert_eq!(probe(&["nonsense"]).status.code(), Some(2));
}

#[test]
fn an_agent_that_cannot_keep_state_says_so_and_ends() {
    let output = Command::new(BINARY).env_clear().env("STATE_DIR", "/nonexistent/state").output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8(output.stdout).unwrap().contains("cannot keep state in /nonexistent/state"));
}
