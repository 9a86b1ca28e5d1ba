//! A model's server for tests: OpenAI's chat API by a script, at a private address that guests are let to reach. Each
//! of its replies has a nonce of its own, and what it was asked is kept.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use needs::needs;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

/// Draws of an address that nobody else has.
const DRAWS: usize = 16;

/// What a turn of a conversation has come to: its question, and what the tools have said since.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) question: String,
    pub(crate) results: Vec<String>,
}

/// What the model says next.
pub(crate) enum Reply {
    /// That a tool be used.
    Call(&'static str, Value),
    /// A text.
    Say(String),
}

/// What the model says to a turn, with this nonce in it.
pub(crate) type Script = fn(&Turn, &str) -> Reply;

/// A request that was answered, and the nonce of the reply.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    pub(crate) request: Value,
    pub(crate) nonce: String,
}

/// The server. It ends when dropped.
pub(crate) struct ScriptedModel {
    shared: Arc<Shared>,
    address: PrivateAddress,
    port: u16,
    runtime: Option<Runtime>,
}

struct Shared {
    key: String,
    models: [String; 2],
    script: Script,
    open: AtomicBool,
    exchanges: Mutex<Vec<Exchange>>,
    page: String,
}

impl ScriptedModel {
    pub(crate) fn start(script: Script) -> Self {
        let address = PrivateAddress::take();
        let listener = std::net::TcpListener::bind((address.text.as_str(), 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let models = [(); 2].map(|()| format!("scripted-{}", nonce()));
        let (key, open) = (format!("sk-{}", nonce()), AtomicBool::new(true));
        let (exchanges, page) = (Mutex::default(), nonce());
        let shared = Arc::new(Shared { key, models, script, open, exchanges, page });
        let routes = Router::new().route("/v1/models", get(models_of)).route("/v1/chat/completions", post(chat));
        let routes = routes.route("/page", get(page_of)).with_state(shared.clone());
        // Tests wait for programs, and it must answer meanwhile.
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.spawn(async move {
            axum::serve(tokio::net::TcpListener::from_std(listener).unwrap(), routes).await.unwrap();
        });
        Self { shared, address, port, runtime: Some(runtime) }
    }

    /// The section of the configuration that lets guests reach it.
    pub(crate) fn reachable(&self) -> String {
        format!("[network]\nreachable = [\"{}:{}\"]\n", self.address.text, self.port)
    }

    /// What tells an agent of it, on the command line of `spawn` and `start`.
    pub(crate) fn env(&self) -> Vec<String> {
        let url = format!("OPENAI_BASE_URL=http://{}:{}/v1", self.address.text, self.port);
        let key = format!("OPENAI_API_KEY={}", self.shared.key);
        ["--env".to_owned(), url, "--env".to_owned(), key].to_vec()
    }

    /// The same, and which model is to be used.
    pub(crate) fn env_with_model(&self) -> Vec<String> {
        let mut env = self.env();
        env.extend(["--env".to_owned(), format!("OPENAI_MODEL={}", self.models()[0])]);
        env
    }

    /// A page that it serves to whoever asks, and the word that the page's own script turns round in it.
    pub(crate) fn page(&self) -> (String, &str) {
        (format!("http://{}:{}/page", self.address.text, self.port), &self.shared.page)
    }

    /// The models that it lists, in their order.
    pub(crate) fn models(&self) -> &[String; 2] {
        &self.shared.models
    }

    /// Whether it has its models; else it is unavailable.
    pub(crate) fn set_open(&self, open: bool) {
        self.shared.open.store(open, Ordering::Relaxed);
    }

    /// What it was asked so far.
    pub(crate) fn exchanges(&self) -> Vec<Exchange> {
        self.shared.exchanges.lock().unwrap().clone()
    }
}

impl Drop for ScriptedModel {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// 16 hex digits that nobody can know.
pub(crate) fn nonce() -> String {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).unwrap();
    hex::encode(bytes)
}

impl Shared {
    fn refusal(&self, headers: &HeaderMap) -> Option<Response> {
        let key = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        if key != Some(&format!("Bearer {}", self.key)) {
            return Some(refused(StatusCode::UNAUTHORIZED, "another key"));
        }
        (!self.open.load(Ordering::Relaxed)).then(|| refused(StatusCode::SERVICE_UNAVAILABLE, "not yet"))
    }
}

fn refused(status: StatusCode, message: &str) -> Response {
    let error = json!({"error": {"message": message, "type": "server_error", "param": null, "code": null}});
    (status, Json(error)).into_response()
}

async fn models_of(State(model): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    if let Some(refusal) = model.refusal(&headers) {
        return refusal;
    }
    let listed = model.models.iter().map(|name| json!({"id": name, "object": "model", "created": 0, "owned_by": "us"}));
    Json(json!({"object": "list", "data": listed.collect::<Vec<_>>()})).into_response()
}

async fn page_of(State(model): State<Arc<Shared>>) -> Html<String> {
    let script = format!("document.body.textContent = 'turned ' + '{}'.split('').reverse().join('')", model.page);
    Html(format!("<!doctype html><title>A page</title><body><script>{script}</script></body>"))
}

async fn chat(State(model): State<Arc<Shared>>, headers: HeaderMap, Json(request): Json<Value>) -> Response {
    if let Some(refusal) = model.refusal(&headers) {
        return refusal;
    }
    let nonce = nonce();
    let reply = (model.script)(&Turn::of(&request), &nonce);
    let answer = if request["stream"] == true { streamed(&request, &reply) } else { whole(&request, &reply) };
    model.exchanges.lock().unwrap().push(Exchange { request, nonce });
    answer
}

impl Turn {
    fn of(request: &Value) -> Self {
        let messages = request["messages"].as_array().map_or(&[][..], Vec::as_slice);
        let asked = messages.iter().rposition(|message| message["role"] == "user").unwrap_or(0);
        let since = messages.iter().skip(asked + 1).filter(|message| message["role"] == "tool");
        let question = messages.get(asked).map(text_of).unwrap_or_default();
        Self { question, results: since.map(text_of).collect() }
    }

    /// The word behind this one in the question.
    pub(crate) fn word_after(&self, word: &str) -> Option<&str> {
        let mut words = self.question.split_whitespace().skip_while(|found| *found != word);
        words.nth(1)
    }
}

/// The text of a message, or of the parts of one.
fn text_of(message: &Value) -> String {
    match &message["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n"),
        _ => String::new(),
    }
}

impl Reply {
    /// The message, and why it ends there.
    fn message(&self) -> (Value, &'static str) {
        match self {
            Self::Say(text) => (json!({"role": "assistant", "content": text}), "stop"),
            Self::Call(tool, arguments) => {
                let function = json!({"name": tool, "arguments": arguments.to_string()});
                let call =
                    json!({"index": 0, "id": format!("call_{}", nonce()), "type": "function", "function": function});
                (json!({"role": "assistant", "content": null, "tool_calls": [call]}), "tool_calls")
            }
        }
    }
}

fn usage() -> Value {
    json!({"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18})
}

fn whole(request: &Value, reply: &Reply) -> Response {
    let (message, end) = reply.message();
    let choice = json!({"index": 0, "message": message, "finish_reason": end});
    let (id, model) = (format!("chatcmpl-{}", nonce()), &request["model"]);
    let answer = json!({"id": id, "object": "chat.completion", "created": 1, "model": model, "choices": [choice], "usage": usage()});
    Json(answer).into_response()
}

fn streamed(request: &Value, reply: &Reply) -> Response {
    let (message, end) = reply.message();
    let (id, model) = (format!("chatcmpl-{}", nonce()), &request["model"]);
    let event = |choices: Value, usage: Value| {
        let kind = "chat.completion.chunk";
        let event = json!({"id": id, "object": kind, "created": 1, "model": model, "choices": choices, "usage": usage});
        format!("data: {event}\n\n")
    };
    let choice = |delta: Value, end: Value| json!([{"index": 0, "delta": delta, "finish_reason": end}]);
    let said = event(choice(message, Value::Null), Value::Null);
    let ended = event(choice(json!({}), json!(end)), Value::Null);
    let used = event(json!([]), usage());
    let body = format!("{said}{ended}{used}data: [DONE]\n\n");
    ([(CONTENT_TYPE, "text/event-stream")], body).into_response()
}

/// A private address of this machine's that nobody else has. It is given back when dropped, and also when the test is
/// ended from outside: a pipe that is closed with the test tells it.
struct PrivateAddress {
    text: String,
    keeper: Child,
}

/// Takes the address, says so, and gives it back when nobody holds the other end of the pipe.
const KEEP: &str = "ip addr add $0/32 dev lo && echo taken && { read -r _; ip addr del $0/32 dev lo; }";

impl PrivateAddress {
    fn take() -> Self {
        needs!(root, network);
        for _ in 0..DRAWS {
            let mut bytes = [0; 2];
            getrandom::fill(&mut bytes).unwrap();
            let text = format!("10.79.{}.{}", bytes[0], bytes[1]);
            let mut command = Command::new("sh");
            command.args(["-c", KEEP, &text]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
            // What ends a test that takes too long ends its group.
            let mut keeper = command.process_group(0).spawn().unwrap();
            let mut said = String::new();
            BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut said).unwrap();
            if said == "taken\n" {
                return Self { text, keeper };
            }
            keeper.wait().unwrap();
        }
        panic!("this machine takes no address more");
    }
}

impl Drop for PrivateAddress {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        self.keeper.wait().ok();
    }
}
