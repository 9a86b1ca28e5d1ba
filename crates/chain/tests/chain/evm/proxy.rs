//! An endpoint that stands before an honest one, and says what a test wants.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use palatine_chain::Endpoint;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// What an endpoint does with a request and the honest answer to it.
pub(crate) enum Does {
    /// Gives this answer.
    Says(Value),
    /// Accepts and says nothing.
    Hangs,
    /// Drops the connection in the middle.
    Cuts,
    /// Sends more than anybody wants.
    Floods,
    /// Gives this answer, later.
    Late(Duration, Value),
}

type Lie = dyn Fn(&str, &Value, Value) -> Does + Send + Sync;

/// A running proxy; it ends with the test's runtime.
pub(crate) struct Liar {
    url: String,
    state: Arc<Inner>,
}

struct Inner {
    http: reqwest::Client,
    honest: String,
    lie: Box<Lie>,
    lying: AtomicBool,
    heard: Mutex<Vec<String>>,
}

impl Liar {
    /// Lies about answers by method, parameters and the honest answer.
    pub(crate) async fn before(
        honest: &str,
        lie: impl Fn(&str, &Value, Value) -> Does + Send + Sync + 'static,
    ) -> Self {
        let state = Arc::new(Inner {
            http: reqwest::Client::new(),
            honest: honest.to_owned(),
            lie: Box::new(lie),
            lying: AtomicBool::new(true),
            heard: Mutex::default(),
        });
        let app = Router::new().route("/", post(answer)).with_state(Arc::clone(&state));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, state }
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint(self.url.clone())
    }

    /// Makes it honest, or a liar again.
    pub(crate) fn lie(&self, lying: bool) {
        self.state.lying.store(lying, Ordering::SeqCst);
    }

    /// How often a method was called.
    pub(crate) fn heard(&self, method: &str) -> usize {
        self.state.heard.lock().unwrap().iter().filter(|heard| *heard == method).count()
    }

    /// Serves chain 1.
    pub(crate) fn other_chain(method: &str, _: &Value, honest: Value) -> Does {
        Does::Says(if method == "eth_chainId" { result(json!("0x1")) } else { honest })
    }
}

pub(crate) fn result(result: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "result": result})
}

pub(crate) fn error(code: i64, message: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "error": {"code": code, "message": message}})
}

async fn answer(State(state): State<Arc<Inner>>, Json(request): Json<Value>) -> Response {
    let method = request["method"].as_str().unwrap().to_owned();
    state.heard.lock().unwrap().push(method.clone());
    let honest = state.http.post(&state.honest).json(&request).send().await.unwrap().json::<Value>().await.unwrap();
    if !state.lying.load(Ordering::SeqCst) {
        return Json(honest).into_response();
    }
    match (state.lie)(&method, &request["params"], honest) {
        Does::Says(answer) => Json(answer).into_response(),
        Does::Hangs => std::future::pending().await,
        Does::Cuts => {
            let half =
                futures_util::stream::iter([Ok("{\"jsonrpc\":\"2.0\",\"res"), Err(std::io::Error::other("gone"))]);
            Body::from_stream(half).into_response()
        }
        Does::Floods => {
            let chunk = axum::body::Bytes::from(vec![b' '; 1024 * 1024]);
            let endless = futures_util::stream::repeat_with(move || Ok::<_, std::io::Error>(chunk.clone()));
            Body::from_stream(endless).into_response()
        }
        Does::Late(pause, answer) => {
            tokio::time::sleep(pause).await;
            Json(answer).into_response()
        }
    }
}
