//! A `pod` that does what the test tells it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use domain::{RunId, UnixMillis};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use sandbox::fake::{FakeHost, GuestConnection};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep};
use wire::v1::pod::{GuestConfig, HelperConfig, ImageRunConfig, LogLine, PORT, PodPhase, PodStatus};

/// How a guest behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PodBehavior {
    /// Ready as soon as it is told.
    Good,
    /// Ready, with an agent that listens on its guest's loopback alone.
    Loopback,
    /// Takes its identity and never gets ready.
    Slow,
    /// Listens on nothing.
    Mute,
    /// Its agent dies too often.
    Hopeless,
    /// Says something else at each look.
    Flapping,
    /// Checks its disks for [`CHECKED_FOR`] before it answers.
    Checking,
    /// Answers everything with a stream that never ends.
    Hostile,
}

/// An image's word on how it is run.
pub(crate) fn run() -> ImageRunConfig {
    ImageRunConfig {
        argv: vec!["/agent".to_owned()],
        env: BTreeMap::new(),
        cwd: "/".to_owned(),
        user: String::new(),
        port: 8080,
        ready_path: "/ready".to_owned(),
        health_path: "/health".to_owned(),
        state_dir: "/data".to_owned(),
        stop_signal: "SIGTERM".to_owned(),
    }
}

/// One guest's `pod`.
#[derive(Default)]
pub(crate) struct Guest {
    pub(crate) identities: Vec<GuestConfig>,
    pub(crate) phase: Option<PodPhase>,
    /// The boot it is in; another one forgets the identity.
    boot: u32,
    pub(crate) lines: Vec<String>,
    /// How often its agent has ended.
    pub(crate) exits: u32,
    told: bool,
    /// How often it was told to be a helper.
    pub(crate) mounts: u32,
}

/// All guests of a test.
#[derive(Clone)]
pub(crate) struct Guests(Arc<Inner>);

struct Inner {
    behavior: Mutex<PodBehavior>,
    guests: Mutex<HashMap<RunId, Guest>>,
    machine: Mutex<Option<FakeHost>>,
}

impl Guests {
    pub(crate) fn new(behavior: PodBehavior) -> (Self, FakeHost) {
        let inner = Inner { behavior: Mutex::new(behavior), guests: Mutex::default(), machine: Mutex::default() };
        let guests = Self(Arc::new(inner));
        let serving = guests.clone();
        let machine = FakeHost::new(move |arrival| serving.serve(arrival));
        *lock(&guests.0.machine) = Some(machine.clone());
        (guests, machine)
    }

    pub(crate) fn behave(&self, behavior: PodBehavior) {
        *lock(&self.0.behavior) = behavior;
    }

    pub(crate) fn with<T>(&self, id: RunId, act: impl FnOnce(&mut Guest) -> T) -> T {
        act(lock(&self.0.guests).entry(id).or_default())
    }

    fn serve(&self, arrival: GuestConnection) -> bool {
        let behavior = *lock(&self.0.behavior);
        if behavior == PodBehavior::Mute {
            return false;
        }
        self.with(arrival.id, |guest| {
            if guest.boot != arrival.boot {
                (guest.boot, guest.told, guest.phase, guest.exits) = (arrival.boot, false, None, 0);
            }
        });
        if behavior == PodBehavior::Hostile {
            tokio::spawn(babble(arrival.stream));
            return true;
        }
        if arrival.port != PORT {
            if behavior == PodBehavior::Loopback {
                return false;
            }
            tokio::spawn(echo(arrival.stream));
            return true;
        }
        let router = Router::new()
            .route("/v1/identity", post(identity))
            .route("/v1/status", get(status))
            .route("/v1/logs", get(logs))
            .route("/v1/stop", post(stop))
            .route("/v1/tunnel", get(tunnel))
            .route("/metrics", get(async || "pod_processes 1\n"))
            .route("/process.Process/{method}", post(process))
            .route("/filesystem.Filesystem/{method}", post(process))
            .route("/files", get(process).post(process))
            .route("/v1/volumes/{name}/{call}", any(process))
            .route("/v1/content/{call}", any(process))
            .route("/v1/mount", post(mount))
            .route("/v1/boot", get(boot))
            .with_state(Pod { guests: self.clone(), id: arrival.id, behavior });
        let io = TokioIo::new(arrival.stream);
        let serving = hyper::server::conn::http1::Builder::new().serve_connection(io, TowerToHyperService::new(router));
        tokio::spawn(serving.with_upgrades());
        true
    }
}

/// Gives back what comes until the other end has said all, and then ends too.
async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut piece = [0; 1024];
    while let Ok(read @ 1..) = stream.read(&mut piece).await {
        if stream.write_all(&piece[..read]).await.is_err() {
            return;
        }
    }
}

async fn babble(mut stream: tokio::io::DuplexStream) {
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n";
    if stream.write_all(head).await.is_ok() {
        while stream.write_all(&[b'['; 4096]).await.is_ok() {}
    }
}

#[derive(Clone)]
struct Pod {
    guests: Guests,
    id: RunId,
    behavior: PodBehavior,
}

impl Pod {
    fn allows(&self, headers: &HeaderMap) -> bool {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let shown = text("authorization").and_then(|value| value.strip_prefix("Bearer "));
        let shown = shown.or_else(|| text("x-access-token"));
        self.guests.with(self.id, |guest| {
            let token = guest.identities.last().map(|identity| identity.token.expose());
            // A helper asks for none.
            guest.mounts > 0 || guest.told && token == shown
        })
    }
}

/// How long a guest checks its disks.
pub(crate) const CHECKED_FOR: Duration = Duration::from_secs(5);

async fn boot(State(pod): State<Pod>) -> String {
    match pod.behavior {
        PodBehavior::Checking => r#"{"checked": 40}"#.to_owned(),
        _ => "{}".to_owned(),
    }
}

async fn checked(behavior: PodBehavior) {
    if behavior == PodBehavior::Checking {
        sleep(CHECKED_FOR).await;
    }
}

async fn identity(State(pod): State<Pod>, body: Bytes) -> StatusCode {
    checked(pod.behavior).await;
    let identity: GuestConfig = serde_json::from_slice(&body).expect("an identity");
    pod.guests.with(pod.id, |guest| {
        if guest.told {
            return StatusCode::CONFLICT;
        }
        guest.told = true;
        guest.identities.push(identity);
        guest.phase = Some(match pod.behavior {
            PodBehavior::Good | PodBehavior::Loopback | PodBehavior::Flapping | PodBehavior::Checking => {
                PodPhase::Ready
            }
            PodBehavior::Hopeless => PodPhase::Failed,
            PodBehavior::Slow | PodBehavior::Mute | PodBehavior::Hostile => PodPhase::Starting,
        });
        StatusCode::OK
    })
}

/// What a helper says; of a hopeless one the disk is damaged.
async fn mount(State(pod): State<Pod>, body: Bytes) -> Response {
    let config: HelperConfig = serde_json::from_slice(&body).expect("a helper's config");
    assert!(config.clock_unix_ns > 0 && !config.entropy.expose().is_empty());
    checked(pod.behavior).await;
    if pod.behavior == PodBehavior::Hopeless {
        let said = serde_json::json!({"error": "its file system is damaged", "code": "wrong_state"});
        return (StatusCode::CONFLICT, said.to_string()).into_response();
    }
    pod.guests.with(pod.id, |guest| guest.mounts += 1);
    StatusCode::NO_CONTENT.into_response()
}

async fn status(State(pod): State<Pod>, Query(query): Query<HashMap<String, String>>, headers: HeaderMap) -> Response {
    if !pod.allows(&headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let wait = query.get("wait_ms").and_then(|wait| wait.parse().ok()).map_or(Duration::ZERO, Duration::from_millis);
    let until = Instant::now() + wait;
    let exits = || pod.guests.with(pod.id, |guest| guest.exits);
    let seen = exits();
    loop {
        let phase = pod.guests.with(pod.id, |guest| guest.phase).unwrap_or(PodPhase::Waiting);
        let flaps = pod.behavior == PodBehavior::Flapping;
        let phase = if flaps && wait.is_zero() { PodPhase::Backoff } else { phase };
        let settled = matches!(phase, PodPhase::Ready | PodPhase::Failed | PodPhase::Stopping);
        if settled || exits() != seen || Instant::now() >= until {
            let status = PodStatus {
                phase,
                restarts: 0,
                exits: exits(),
                listening_after_us: 1,
                timings_us: BTreeMap::new(),
                last_exit: Some("exit status 1".to_owned()),
            };
            return serde_json::to_vec(&status).expect("JSON").into_response();
        }
        sleep(Duration::from_millis(20)).await;
    }
}

async fn logs(State(pod): State<Pod>, Query(query): Query<HashMap<String, String>>, headers: HeaderMap) -> Response {
    if !pod.allows(&headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let after: usize = query.get("after").and_then(|after| after.parse().ok()).unwrap_or(0);
    let stream = futures_util::stream::unfold((pod, after), |(pod, at)| async move {
        loop {
            if let Some(line) = pod.guests.with(pod.id, |guest| guest.lines.get(at).cloned()) {
                let line = LogLine { seq: at as u64 + 1, at: UnixMillis(0), stream: "stdout".to_owned(), line };
                let text = format!("{}\n", serde_json::to_string(&line).expect("JSON"));
                return Some((Ok::<_, std::io::Error>(text), (pod, at + 1)));
            }
            sleep(Duration::from_millis(20)).await;
        }
    });
    Body::from_stream(stream).into_response()
}

async fn tunnel(State(pod): State<Pod>, Query(query): Query<HashMap<String, String>>, request: Request) -> Response {
    if !pod.allows(request.headers()) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let listened_on = pod.behavior == PodBehavior::Loopback && query.get("port").is_some_and(|port| port == "8080");
    if !listened_on {
        return StatusCode::BAD_GATEWAY.into_response();
    }
    tokio::spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            echo(TokioIo::new(upgraded)).await;
        }
    });
    let upgrade = [("upgrade", "palatine-tunnel"), ("connection", "upgrade")];
    (StatusCode::SWITCHING_PROTOCOLS, upgrade).into_response()
}

async fn stop(State(pod): State<Pod>, headers: HeaderMap) -> StatusCode {
    if !pod.allows(&headers) {
        return StatusCode::UNAUTHORIZED;
    }
    let machine = lock(&pod.guests.0.machine).clone();
    pod.guests.with(pod.id, |guest| guest.phase = Some(PodPhase::Stopping));
    tokio::spawn(async move {
        sleep(Duration::from_millis(50)).await;
        if let Some(machine) = machine {
            machine.crash(pod.id);
        }
    });
    StatusCode::OK
}

async fn process(State(pod): State<Pod>, request: Request) -> Response {
    if !pod.allows(request.headers()) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let target = request.uri().to_string();
    let leaked = request.headers().contains_key("cookie");
    let user = request.headers().get("authorization").and_then(|value| value.to_str().ok()).unwrap_or("-").to_owned();
    let head = futures_util::stream::once(async move { Ok(Bytes::from(format!("{target} {leaked} {user}\n"))) });
    let echoed = futures_util::StreamExt::chain(head, request.into_body().into_data_stream());
    Body::from_stream(echoed).into_response()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
