//! The server: its routes, and the requests it logs.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Request, State as Shared};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::chat::{self, MODEL};
use crate::log;
use crate::mirror;
use crate::openai::{ChatRequest, Refusal};
use crate::state::StateDir;
use crate::upstream::{Upstream, models};

/// Bytes of a body at most, where it is read as a whole.
const MAX_BODY: usize = 8 << 20;
const DEFAULT_PORT: u16 = 8080;
const DEFAULT_STATE: &str = "/data";

/// What the routes share.
pub(crate) struct Agent {
    upstream: Option<Upstream>,
    state: Mutex<StateDir>,
}

/// Serves until it is asked to end.
pub(crate) async fn run() -> ExitCode {
    match serve().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            log::line(&why);
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> Result<(), String> {
    let set = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
    let port = match set("PORT") {
        None => DEFAULT_PORT,
        Some(text) => text.parse().map_err(|_| "PORT is no port".to_owned())?,
    };
    let dir = PathBuf::from(set("STATE_DIR").unwrap_or_else(|| DEFAULT_STATE.to_owned()));
    let shown = dir.display().to_string();
    let state = StateDir::open(dir).map_err(|error| format!("cannot keep state in {shown}: {error}"))?;
    let upstream = Upstream::from_environment()?;
    let mode = if upstream.is_some() { "forwarding to a model" } else { "echoing" };
    let starts = state.counts().starts;
    let host: IpAddr = match set("HOST") {
        None => Ipv4Addr::UNSPECIFIED.into(),
        Some(text) => text.parse().map_err(|_| "HOST is no address".to_owned())?,
    };
    let listener = TcpListener::bind((host, port)).await;
    let listener = listener.map_err(|error| format!("cannot listen on port {port} of {host}: {error}"))?;
    let port = listener.local_addr().map_err(|error| error.to_string())?.port();
    // Whoever reads the line may ask for the end at once.
    let end = asked_to_end()?;
    log::line(&format!("agent-echo listens on port {port}, {mode} (start {starts})"));
    let agent = Arc::new(Agent { upstream, state: Mutex::new(state) });
    let served = axum::serve(listener, router(agent)).with_graceful_shutdown(end);
    served.await.map_err(|error| error.to_string())
}

fn asked_to_end() -> Result<impl Future<Output = ()>, String> {
    let mut asked = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    Ok(async move {
        asked.recv().await;
        log::line("agent-echo ends");
    })
}

fn router(agent: Arc<Agent>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(completions))
        .route("/v1/models", get(list_models))
        .route("/state", get(show_state).post(count))
        .route("/echo", any(mirror::echo))
        .route("/echo/{*rest}", any(mirror::echo))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .route("/upload", any(mirror::upload))
        .route("/download", get(mirror::download))
        .route("/ws", any(mirror::ws))
        .route("/sse", get(mirror::sse))
        .layer(from_fn(logged))
        .route("/health", get(well))
        .route("/ready", get(well))
        .with_state(agent)
}

async fn well() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// One line for each request: its path without the query, which may hold
/// anything.
async fn logged(request: Request, next: Next) -> Response {
    let head = format!("{} {}", request.method(), request.uri().path());
    let start = Instant::now();
    let response = next.run(request).await;
    log::line(&format!("{head} {} {} ms", response.status().as_u16(), start.elapsed().as_millis()));
    response
}

async fn completions(Shared(agent): Shared<Arc<Agent>>, body: Bytes) -> Result<Response, Refusal> {
    match &agent.upstream {
        Some(upstream) => upstream.chat(serde_json::from_slice(&body).map_err(Refusal::invalid)?).await,
        None => chat::answer(&serde_json::from_slice::<ChatRequest>(&body).map_err(Refusal::invalid)?),
    }
}

async fn list_models(Shared(agent): Shared<Arc<Agent>>) -> Result<Response, Refusal> {
    match &agent.upstream {
        Some(upstream) => upstream.models().await,
        None => Ok(Json(models(MODEL)).into_response()),
    }
}

async fn show_state(Shared(agent): Shared<Arc<Agent>>) -> Json<Value> {
    let counts = agent.state.lock().unwrap_or_else(PoisonError::into_inner).counts();
    Json(json!({"starts": counts.starts, "count": counts.count, "pid": std::process::id()}))
}

async fn count(Shared(agent): Shared<Arc<Agent>>) -> Result<Json<Value>, Refusal> {
    let counted = agent.state.lock().unwrap_or_else(PoisonError::into_inner).count();
    let counts = counted.map_err(|error| Refusal::upstream(format!("cannot keep the count: {error}")))?;
    Ok(Json(json!({"starts": counts.starts, "count": counts.count})))
}
