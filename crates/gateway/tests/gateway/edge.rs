//! A gateway to ask, and a holder who asks.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use auth::{Keypair, MessageEncoding, SignedHeaders, TokenIssuer};
use chain::fake::FakeBalances;
use control::fake::{FakeNode, FakeNodeSpec};
use control::{Control, Node};
use domain::{Clock, RunId, SystemClock, Tiers, UnixMillis};
use gateway::{Config, GatewayParts, Limits, Listeners, TlsConfig, serve};
use metrics_exporter_prometheus::PrometheusHandle;
use palatine_gateway as gateway;
use reqwest::{Client, Method, RequestBuilder, Response};
use secrecy::SecretBox;
use serde_json::{Value, json};
use store::Store;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::guest::{FakeGuests, NodeWithGuests, images};

/// The longest any condition is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// What a test wants otherwise than usual.
pub(crate) struct Setup {
    pub(crate) config: Config,
    pub(crate) tls: TlsConfig,
    pub(crate) limits: Limits,
    /// Where the store lies; kept over restarts.
    pub(crate) home: Arc<TempDir>,
    pub(crate) guests: Arc<FakeGuests>,
    pub(crate) balances: Arc<FakeBalances>,
    pub(crate) tiers: Tiers,
    pub(crate) control: control::Config,
    pub(crate) node: FakeNode,
    pub(crate) metrics: Option<PrometheusHandle>,
    /// Where agents are paid.
    pub(crate) payments: Option<Arc<dyn gateway::PaymentProvider>>,
}

impl Default for Setup {
    fn default() -> Self {
        let node = FakeNode::new("one", Arc::new(SystemClock), FakeNodeSpec::default(), 1);
        node.set_images(images());
        let generous = Limits { address_per_second: 10_000, wallet_per_minute: 10_000, ..Limits::default() };
        Self {
            config: Config::default(),
            tls: TlsConfig::default(),
            limits: generous,
            home: Arc::new(TempDir::new().unwrap()),
            guests: Arc::default(),
            balances: Arc::new(FakeBalances::with_default_balance(2_000_000)),
            tiers: Tiers::romulus(),
            control: control::Config::default(),
            node,
            metrics: None,
            payments: None,
        }
    }
}

impl Setup {
    pub(crate) async fn start(self) -> Edge {
        // Another test of this process may have installed it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let port = || async { TcpListener::bind("127.0.0.1:0").await.unwrap() };
        let plain = port().await;
        let secure = if self.tls.cert_file.is_some() { vec![port().await] } else { vec![] };
        let address = plain.local_addr().unwrap();
        let tls_address = secure.first().map(|listener| listener.local_addr().unwrap());
        let store = open(self.home.path().to_owned()).await;
        let stop = CancellationToken::new();
        let control_stop = CancellationToken::new();
        let control = control(&store, &self, control_stop.clone());
        let parts = GatewayParts {
            store: store.clone(),
            control: control.clone(),
            balances: self.balances.clone(),
            tiers: self.tiers.clone(),
            tokens: tokens(),
            clock: Arc::new(SystemClock),
            treasury: None,
            payments: self.payments.clone(),
            metrics: self.metrics.clone(),
            follow: None,
        };
        let paths = port().await;
        let paths_address = paths.local_addr().unwrap();
        let listeners = Listeners { plain: vec![plain], tls: secure, paths: vec![paths] };
        let task = tokio::spawn(serve(
            self.config.clone(),
            self.tls.clone(),
            self.limits.clone(),
            listeners,
            parts,
            stop.clone(),
        ));
        let client = client().build().unwrap();
        Edge { setup: self, address, tls_address, paths_address, store, control, control_stop, stop, task, client }
    }
}

/// The store, once a gateway that ran before has let go of it.
async fn open(directory: PathBuf) -> Store {
    let config = store::Config { directory, ..store::Config::default() };
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match Store::open(&config).await {
            Ok(store) => return store,
            Err(error) if tokio::time::Instant::now() > deadline => panic!("{error}"),
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

fn control(store: &Store, setup: &Setup, stop: CancellationToken) -> Control {
    let node = NodeWithGuests { node: setup.node.clone(), guests: setup.guests.clone() };
    let (nodes, clock): (Vec<Arc<dyn Node>>, _) = (vec![Arc::new(node)], Arc::new(SystemClock));
    let (config, balances) = (setup.control.clone(), setup.balances.clone());
    Control::start(config, store.clone(), nodes, balances, setup.tiers.clone(), clock, stop)
}

/// The agents' tokens of every gateway here.
pub(crate) fn tokens() -> TokenIssuer {
    TokenIssuer::new(&SecretBox::new(Box::new([7; 32])))
}

pub(crate) fn client() -> reqwest::ClientBuilder {
    Client::builder().no_proxy().timeout(PATIENCE)
}

/// A running gateway.
pub(crate) struct Edge {
    pub(crate) setup: Setup,
    pub(crate) address: std::net::SocketAddr,
    pub(crate) tls_address: Option<std::net::SocketAddr>,
    /// Where agents are paths.
    pub(crate) paths_address: std::net::SocketAddr,
    pub(crate) store: Store,
    control: Control,
    control_stop: CancellationToken,
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<Result<(), gateway::ServeError>>,
    pub(crate) client: Client,
}

impl Edge {
    pub(crate) async fn start() -> Self {
        Setup::default().start().await
    }

    /// Goes down in good order, and comes up again over the same store.
    pub(crate) async fn restart(self) -> Self {
        let Self { setup, store, control, control_stop, stop, task, .. } = self;
        stop.cancel();
        task.await.unwrap().unwrap();
        control_stop.cancel();
        control.closed().await;
        drop((store, control));
        setup.start().await
    }

    /// What `/ready` says, once it does so with this status; `what` is being waited for. The
    /// parts are asked in the background, so that the first answers may not know of them yet.
    pub(crate) async fn ready(&self, status: u16, what: &str) -> Value {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let answer = Answer::of(self.client.get(self.url("/ready"))).await;
            let is_asked = !answer.body["status"].as_str().is_some_and(|status| status.contains("was not asked yet"));
            if answer.status == status && is_asked {
                return answer.body;
            }
            assert!(tokio::time::Instant::now() < deadline, "{what}: {} {}", answer.status, answer.body);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A request with these headers of a signature.
    pub(crate) fn with(&self, headers: &SignedHeaders, method: Method, path: &str, body: &[u8]) -> RequestBuilder {
        let mut request = self.client.request(method, self.url(path));
        if let Some(gateway) = &headers.audience {
            request = request.header("X-Audience", gateway.as_str());
        }
        request
            .header("X-Wallet", &headers.wallet)
            .header("X-Signature", &headers.signature)
            .header("X-Timestamp", &headers.timestamp)
            .header("Content-Type", "application/json")
            .body(body.to_vec())
    }

    /// A request in our clients' form.
    pub(crate) fn signed(&self, holder: &Keypair, method: Method, path: &str, body: &[u8]) -> RequestBuilder {
        let headers = self.sign(holder, method.as_str(), path, body);
        self.with(&headers, method, path, body)
    }

    /// Signs in our clients' form.
    pub(crate) fn sign(&self, holder: &Keypair, method: &str, path: &str, body: &[u8]) -> SignedHeaders {
        let gateway = self.address.to_string().parse().unwrap();
        holder.sign_request(&gateway, &auth::BoundRequest { method, path, body }, instant())
    }

    pub(crate) async fn get(&self, holder: &Keypair, path: &str) -> Answer {
        Answer::of(self.signed(holder, Method::GET, path, b"")).await
    }

    pub(crate) async fn post(&self, holder: &Keypair, path: &str, body: &Value) -> Answer {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        Answer::of(self.signed(holder, Method::POST, path, &body)).await
    }

    pub(crate) async fn spawn(&self, holder: &Keypair) -> Answer {
        self.post(holder, "/spawn", &json!({"agent_type": "echo"})).await
    }

    /// A running agent: its id and its token.
    pub(crate) async fn agent(&self, holder: &Keypair, public: bool) -> (RunId, String) {
        let answer = self.post(holder, "/spawn", &json!({"agent_type": "echo", "public": public})).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let agent = &answer.body["agent"];
        (agent["id"].as_str().unwrap().parse().unwrap(), agent["token"].as_str().unwrap().to_owned())
    }

    /// A request to an agent's own URL.
    pub(crate) fn to_agent(&self, id: RunId, method: Method, path: &str) -> RequestBuilder {
        let host = format!("{id}.localhost:{}", self.address.port());
        self.client.request(method, self.url(path)).header("Host", host)
    }
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) async fn of(request: RequestBuilder) -> Self {
        Self::read(request.send().await.unwrap()).await
    }

    pub(crate) async fn read(response: Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = response.bytes().await.unwrap();
        let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into());
        Self { status, headers, body }
    }

    pub(crate) fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or("")
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The body with what differs from run to run made the same.
    pub(crate) fn masked(&self) -> Value {
        masked(self.body.clone())
    }
}

fn masked(value: Value) -> Value {
    let mask = |key: &str, value: Value| match (key, &value) {
        (
            "id" | "run" | "agent_id" | "url" | "host" | "path_url" | "token" | "wallet" | "version",
            Value::String(_),
        ) => {
            json!(format!("[{key}]"))
        }
        (
            "created_at" | "data_kept_until" | "spawned_at" | "uptime_ms" | "total_uptime_ms" | "at",
            Value::Number(_),
        ) => json!(format!("[{key}]")),
        _ => masked(value),
    };
    match value {
        Value::Object(map) => map.into_iter().map(|(key, value)| (key.clone(), mask(&key, value))).collect(),
        Value::Array(list) => list.into_iter().map(masked).collect(),
        other => other,
    }
}

/// Somebody new.
pub(crate) fn holder() -> Keypair {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).unwrap();
    Keypair::generate(&seed)
}

/// An instant that no other signature of this process carries.
pub(crate) fn instant() -> UnixMillis {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = SystemClock.now().0;
    let before = LAST.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |last| Some(now.max(last + 1))).unwrap();
    UnixMillis(now.max(before + 1))
}

/// Romulus's own text, in raw bytes.
pub(crate) fn bare(holder: &Keypair) -> SignedHeaders {
    holder.sign_instant(MessageEncoding::Raw, instant())
}
