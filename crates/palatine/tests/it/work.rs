//! Agents that work: for one answer, in a conversation, for a time.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use fixtures::{Holder, PATIENCE, PLAIN, SMALL, SpawnedAgent, Stack, program, stderr_of, stdout_of, until};
use futures_util::StreamExt;
use reqwest::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// How long a test of a time to live gives an agent: it is to be seen alive first, on a slow machine too.
const LIFETIME_S: u64 = 40;

fn json_of(stack: &Stack, holder: &Holder, words: &[&str]) -> Value {
    let words = [words, &["--json"]].concat();
    serde_json::from_str(&stdout_of(&stack.cli(holder, &words).output().unwrap())).unwrap()
}

#[tokio::test]
async fn an_agent_whose_time_to_live_is_over_is_stopped_with_its_data_kept_whatever_died_meanwhile() {
    needs::needs!(root, network, tun, cgroups);
    let mut stack = Stack::start(PLAIN).await;
    let holder = stack.holder(SMALL);
    let spawned = json_of(&stack, &holder, &["spawn", "--type", "echo", "--timeout", "30m"]);
    let agent = SpawnedAgent::of(&spawned);
    let counted = stack.request(Method::POST, &agent, "/state").send().await.unwrap();
    assert_eq!(counted.status(), 200);
    let listed = stdout_of(&stack.cli(&holder, &["ls"]).output().unwrap());
    assert!(listed.contains("ENDS IN") && (listed.contains("29m") || listed.contains("30m")), "{listed}");
    let endless = stdout_of(&stack.cli(&holder, &["timeout", &agent.id, "none"]).output().unwrap());
    assert!(endless.contains("until it is stopped"), "{endless}");
    let seconds = format!("{LIFETIME_S}s");
    let set_at = Instant::now();
    let set = json_of(&stack, &holder, &["timeout", &agent.id, &seconds]);
    // The gateway dies, and the time goes on.
    stack.kill_gateway();
    stack.start_gateway().await;
    let status = stack.status(&holder, &agent.id).await.expect(200)["agent"].clone();
    assert_eq!((&status["state"], &status["expires_at"]), (&json!("ready"), &set["expires_at"]));
    let ended = until("the agent is stopped", async || {
        let agent = stack.status(&holder, &agent.id).await.expect(200)["agent"].clone();
        (agent["state"] == "stopped").then_some(agent)
    })
    .await;
    assert!(set_at.elapsed() >= Duration::from_secs(LIFETIME_S), "after {:?}", set_at.elapsed());
    assert_eq!(ended["reason"], "expired");
    assert!(ended["data_kept_until"].is_u64() && ended.get("expires_at").is_none(), "{ended}");
    let late = stack.cli(&holder, &["timeout", &agent.id, "1h"]).output().unwrap();
    assert_eq!(late.status.code(), Some(5), "{}", stderr_of(&late));
    let again = SpawnedAgent::of(&json_of(&stack, &holder, &["start", &agent.id]));
    let answer = stack.request(Method::GET, &again, "/state").send().await.unwrap();
    assert_eq!(answer.json::<Value>().await.unwrap()["count"], 1);
    stack.end();
}

#[tokio::test]
async fn run_has_a_new_agent_answer_and_leaves_nothing_unless_it_is_kept() {
    needs::needs!(root, network, tun, cgroups);
    let mut stack = Stack::start(PLAIN).await;
    let holder = stack.holder(SMALL);
    let said = stack.cli(&holder, &["run", "--type", "echo", "what is your name?"]).output().unwrap();
    assert!(stdout_of(&said).contains("what is your name?"));
    assert!(stack.agents(&holder).await.is_empty());
    assert!(stack.node_client().disks().await.unwrap().kept.is_empty(), "its data is left");

    let mut child = stack.cli(&holder, &["run", "--type", "echo", "--keep", "--json", "-"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"from a pipe").unwrap();
    let output = child.wait_with_output().unwrap();
    let done: Value = serde_json::from_str(&stdout_of(&output)).unwrap();
    assert!(done["kept"] == json!(true) && done["answer"].as_str().unwrap().contains("from a pipe"), "{done}");
    let id = done["agent"].as_str().unwrap();
    let kept = stack.status(&holder, id).await.expect(200)["agent"].clone();
    assert_eq!((&kept["state"], &kept["ephemeral"]), (&json!("ready"), &json!(false)));
    assert!(kept.get("expires_at").is_none(), "{kept}");

    // The same agent, asked line by line.
    let mut chat = stack.cli(&holder, &["chat"]);
    let mut chat = chat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    chat.stdin.take().unwrap().write_all(b"first line\n\n/clear\nsecond line\n/exit\nnever\n").unwrap();
    let said = stdout_of(&chat.wait_with_output().unwrap());
    let (first, second) = (said.find("first line"), said.find("second line"));
    assert!(first.is_some() && first < second && !said.contains("never"), "{said}");
    // Who has an agent gets no second one, and is told which it is.
    let refused = stack.cli(&holder, &["run", "--type", "echo", "once more"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(5));
    assert!(stderr_of(&refused).contains(&format!("palatine stop {id}")), "{}", stderr_of(&refused));
    stack.end();
}

#[tokio::test]
async fn ctrl_c_stops_the_agent_that_run_has_begun_and_says_so() {
    needs::needs!(root, network, tun, cgroups);
    let mut stack = Stack::start(PLAIN).await;
    let holder = stack.holder(SMALL);
    let mut run = stack.cli(&holder, &["run", "--type", "echo", "what is your name?"]);
    let child = run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = until("the agent is begun", async || stack.agents(&holder).await.pop()).await;
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr_of(&output));
    let said = format!("interrupted; {} is stopped", begun["id"].as_str().unwrap());
    assert!(stderr_of(&output).contains(&said), "{}", stderr_of(&output));
    until("nothing of it is left", async || stack.agents(&holder).await.is_empty().then_some(())).await;
    stack.end();
}

/// An agent that is scripted: what it was asked, and an answer that never ends to who says "for ever".
#[derive(Clone, Default)]
struct ScriptedAgent(Arc<Mutex<Vec<Value>>>);

impl ScriptedAgent {
    async fn serve() -> (Self, SocketAddr) {
        let agent = Self::default();
        let routes = Router::new()
            .route("/v1/models", get(async || Json(json!({"data": [{"id": "scripted"}]}))))
            .route("/v1/chat/completions", post(answer));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = routes.with_state(agent.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        (agent, address)
    }

    /// What was said in the last question and before it.
    fn last(&self) -> Vec<String> {
        let asked = self.0.lock().unwrap();
        let messages = asked.last().unwrap()["messages"].as_array().unwrap();
        messages.iter().map(|message| message["content"].as_str().unwrap().to_owned()).collect()
    }
}

async fn answer(State(agent): State<ScriptedAgent>, Json(request): Json<Value>) -> axum::response::Response {
    agent.0.lock().unwrap().push(request.clone());
    let question = request["messages"].as_array().unwrap().last().unwrap()["content"].as_str().unwrap().to_owned();
    let sick = agent.0.lock().unwrap().iter().filter(|asked| **asked == request).count() == 1;
    if question == "fail once" && sick {
        let fault = json!({"error": {"message": "quota"}});
        return (axum::http::StatusCode::SERVICE_UNAVAILABLE, Json(fault)).into_response();
    }
    let chunk = |text: &str, end: Value| {
        let chunk = json!({"choices": [{"delta": {"content": text}, "finish_reason": end}]});
        Ok::<_, std::convert::Infallible>(format!("data: {chunk}\n\n"))
    };
    let first = chunk(&format!("**heard** {question}"), Value::Null);
    let body = if question == "for ever" {
        axum::body::Body::from_stream(futures_util::stream::iter([first]).chain(futures_util::stream::pending()))
    } else {
        axum::body::Body::from_stream(futures_util::stream::iter([first, chunk("\n", json!("stop"))]))
    };
    ([("content-type", "text/event-stream")], body).into_response()
}

/// A program at a terminal of its own.
struct AtTerminal {
    child: Child,
    seen: Arc<Mutex<String>>,
}

impl AtTerminal {
    fn start(words: &[&str], environment: &[(&str, &str)]) -> Self {
        let relay = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
        let mut command = Command::new("python3");
        command.args(["-c", relay, program("palatine").to_str().unwrap()]).args(words);
        command.envs(environment.iter().copied()).env("TERM", "xterm").env("NO_COLOR", "1");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (seen, mut output) = (Arc::<Mutex<String>>::default(), child.stdout.take().unwrap());
        let told = Arc::clone(&seen);
        std::thread::spawn(move || {
            let mut bytes = [0; 1024];
            while let Ok(read @ 1..) = output.read(&mut bytes) {
                told.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..read]));
            }
        });
        Self { child, seen }
    }

    fn type_in(&mut self, keys: &str) {
        self.child.stdin.as_mut().unwrap().write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until this is there to be read, after what was read before.
    async fn read(&self, what: &str) {
        until(&format!("{what:?} after {:?}", self.seen.lock().unwrap()), async || {
            let mut seen = self.seen.lock().unwrap();
            let end = seen.find(what)? + what.len();
            seen.drain(..end);
            Some(())
        })
        .await;
    }
}

#[tokio::test]
async fn at_a_terminal_ctrl_c_ends_an_answer_and_not_the_talk_and_a_question_that_failed_is_sent_again() {
    let (agent, address) = ScriptedAgent::serve().await;
    let dir = tempfile::tempdir().unwrap();
    let keypair = dir.path().join("id.json");
    let made = Command::new(program("palatine")).arg("keygen").arg(&keypair).output().unwrap();
    assert!(made.status.success(), "{}", stderr_of(&made));
    let (url, state) = (format!("http://{address}"), dir.path().join("state"));
    let environment = [
        ("PALATINE_GATEWAY", url.as_str()),
        ("PALATINE_KEYPAIR", keypair.to_str().unwrap()),
        ("PALATINE_STATE", state.to_str().unwrap()),
    ];
    let mut terminal = AtTerminal::start(&["chat", "--url", &url], &environment);
    terminal.read("(scripted)").await;
    terminal.read("> ").await;
    terminal.type_in("hello\r");
    // As it came, and as it is meant.
    terminal.read("**heard** hello").await;
    terminal.read("heard hello").await;
    terminal.read("> ").await;
    terminal.type_in("for ever\r");
    terminal.read("**heard** for ever").await;
    terminal.type_in("\x03");
    terminal.read("(interrupted)").await;
    terminal.read("> ").await;
    terminal.type_in("fail once\r");
    terminal.read("quota").await;
    // It stands there again, and one key sends it.
    terminal.read("fail once").await;
    terminal.type_in("\r");
    terminal.read("**heard** fail once").await;
    terminal.read("heard fail once").await;
    assert_eq!(agent.last(), ["hello", "**heard** hello\n", "for ever", "**heard** for ever", "fail once"]);
    terminal.read("> ").await;
    terminal.type_in("/clear\r");
    terminal.read("not sent any more").await;
    terminal.read("> ").await;
    terminal.type_in("/model other\r");
    terminal.read("From now on: other").await;
    terminal.read("> ").await;
    terminal.type_in("alone?\r");
    terminal.read("heard alone?").await;
    assert_eq!(agent.last(), ["alone?"]);
    assert_eq!(agent.0.lock().unwrap().last().unwrap()["model"], "other");
    // Ctrl-C at the prompt takes a line back; Ctrl-D leaves.
    terminal.type_in("not this");
    terminal.read("not this").await;
    terminal.type_in("\x03");
    // The line that is taken back has the same prompt.
    terminal.read("\n").await;
    terminal.read("> ").await;
    terminal.type_in("\x04");
    let limit = Instant::now() + PATIENCE;
    let status = until("the talk is over", async || terminal.child.try_wait().unwrap()).await;
    assert!(status.success() && Instant::now() < limit, "{status}");
    assert_eq!(agent.last(), ["alone?"]);
    let typed = std::fs::read_to_string(state.join("chat.history")).unwrap();
    assert!(typed.contains("for ever") && !typed.contains("not this"), "{typed}");
}

#[tokio::test]
async fn in_a_pipe_each_line_is_a_question_and_one_that_fails_ends_the_talk_with_an_exit_code() {
    let (agent, address) = ScriptedAgent::serve().await;
    let dir = tempfile::tempdir().unwrap();
    let keypair = dir.path().join("id.json");
    let made = Command::new(program("palatine")).arg("keygen").arg(&keypair).output().unwrap();
    assert!(made.status.success(), "{}", stderr_of(&made));
    let url = format!("http://{address}");
    let talk = async |words: &[&str], input: &'static [u8]| {
        let mut command = tokio::process::Command::new(program("palatine"));
        command.args(["chat", "--gateway", &url, "--url", &url]).args(words);
        command.env("PALATINE_KEYPAIR", &keypair).env("PALATINE_STATE", dir.path().join("state"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        tokio::io::AsyncWriteExt::write_all(child.stdin.as_mut().unwrap(), input).await.unwrap();
        drop(child.stdin.take());
        child.wait_with_output().await.unwrap()
    };
    let plain = talk(&[], b"one\ntwo\n").await;
    assert_eq!(stdout_of(&plain), "**heard** one\n\n**heard** two\n\n");
    assert_eq!(agent.last(), ["one", "**heard** one\n", "two"]);
    let told = stdout_of(&talk(&["--json"], b"three\n/exit\n").await);
    let turn: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(turn, json!({"model": "scripted", "question": "three", "answer": "**heard** three\n"}));
    // An answer that is cut is told as none.
    let before = agent.0.lock().unwrap().len();
    let mut command = tokio::process::Command::new(program("palatine"));
    command.args(["chat", "--json", "--gateway", &url, "--url", &url]);
    command.env("PALATINE_KEYPAIR", &keypair).env("PALATINE_STATE", dir.path().join("state"));
    let mut cut = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    tokio::io::AsyncWriteExt::write_all(cut.stdin.as_mut().unwrap(), b"for ever\n").await.unwrap();
    until("it is asked", async || (agent.0.lock().unwrap().len() > before).then_some(())).await;
    let id = i32::try_from(cut.id().unwrap()).unwrap();
    kill_process(Pid::from_raw(id).unwrap(), Signal::INT).unwrap();
    let cut = cut.wait_with_output().await.unwrap();
    assert_eq!((cut.status.code(), cut.stdout.as_slice()), (Some(130), &b""[..]), "{}", stderr_of(&cut));
    let failed = talk(&[], b"fail once\nnever\n").await;
    assert_eq!(failed.status.code(), Some(1), "{}", stderr_of(&failed));
    assert!(stderr_of(&failed).contains("quota"), "{}", stderr_of(&failed));
    assert_eq!(agent.last(), ["fail once"]);
}
