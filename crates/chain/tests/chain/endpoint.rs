//! A JSON-RPC endpoint that does what a test says.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use domain::Wallet;
use futures_util::StreamExt;
use futures_util::stream::{self, Stream};
use palatine_chain::{Endpoint, SolanaConfig, TokenProgram};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// The mint all fakes keep.
pub(crate) const MINT: &str = "5ruEtrHGgqxE3Zo1UdRAvVrdetLwq6SFJvLjgth6pump";
/// The slot a fake answers at unless told otherwise.
pub(crate) const SLOT: u64 = 1000;

/// What an endpoint does with a reading of a balance.
#[derive(Clone, Debug)]
pub(crate) enum Does {
    /// Answers with these accounts, at [`SLOT`].
    Holds(Vec<Value>),
    /// Answers with this body.
    Says(Value),
    /// Answers with these bytes.
    Bytes(&'static str),
    /// Answers with this status and no body of use.
    Status(u16),
    /// Answers 429 and says when to come back.
    Later(u64),
    /// Accepts and says nothing.
    Hangs,
    /// Sends a byte now and then, for ever.
    Drips,
    /// Sends without end.
    Floods,
    /// Sends half of an answer, then drops the connection.
    Breaks,
    /// Answers after this long with these accounts.
    Slow(Duration, Vec<Value>),
}

/// A running endpoint; it ends with the test's runtime.
pub(crate) struct Fake {
    pub(crate) url: String,
    seen: Arc<Seen>,
}

struct Seen {
    does: Box<dyn Fn(u64) -> Does + Send + Sync>,
    calls: AtomicU64,
    under_way: AtomicU64,
    most_at_once: AtomicU64,
}

impl Fake {
    /// An endpoint that always does the same.
    pub(crate) async fn that(does: Does) -> Self {
        Self::acting(move |_| does.clone()).await
    }

    /// An endpoint that acts by how often it was asked for a balance before.
    pub(crate) async fn acting(does: impl Fn(u64) -> Does + Send + Sync + 'static) -> Self {
        let seen = Arc::new(Seen {
            does: Box::new(does),
            calls: AtomicU64::new(0),
            under_way: AtomicU64::new(0),
            most_at_once: AtomicU64::new(0),
        });
        let app = Router::new().route("/{*key}", post(answer)).with_state(Arc::clone(&seen));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/secret-key?token=secret-key", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, seen }
    }

    /// Readings of a balance so far.
    pub(crate) fn calls(&self) -> u64 {
        self.seen.calls.load(Ordering::SeqCst)
    }

    /// The most readings that were under way at once.
    pub(crate) fn most_at_once(&self) -> u64 {
        self.seen.most_at_once.load(Ordering::SeqCst)
    }
}

async fn answer(State(seen): State<Arc<Seen>>, Json(request): Json<Value>) -> Response {
    if request["method"] == "getAccountInfo" {
        return Json(mint_account(TokenProgram::SplToken.address(), 6)).into_response();
    }
    assert_eq!(request["method"], "getTokenAccountsByOwner");
    assert_eq!(request["params"][1], json!({"mint": MINT}));
    assert_eq!(request["params"][2], json!({"encoding": "jsonParsed", "commitment": "confirmed"}));
    let before = seen.calls.fetch_add(1, Ordering::SeqCst);
    let now = seen.under_way.fetch_add(1, Ordering::SeqCst) + 1;
    seen.most_at_once.fetch_max(now, Ordering::SeqCst);
    let response = act((seen.does)(before)).await;
    seen.under_way.fetch_sub(1, Ordering::SeqCst);
    response
}

async fn act(does: Does) -> Response {
    match does {
        Does::Holds(accounts) => Json(at_slot(SLOT, &accounts)).into_response(),
        Does::Says(body) => Json(body).into_response(),
        Does::Bytes(bytes) => bytes.into_response(),
        Does::Status(status) => (StatusCode::from_u16(status).unwrap(), "no").into_response(),
        Does::Later(seconds) => {
            (StatusCode::TOO_MANY_REQUESTS, [("retry-after", seconds.to_string())], "").into_response()
        }
        Does::Hangs => std::future::pending().await,
        Does::Drips => Body::from_stream(drip()).into_response(),
        Does::Floods => {
            let chunk = Bytes::from(vec![b' '; 1024 * 1024]);
            Body::from_stream(stream::repeat_with(move || Ok::<_, Infallible>(chunk.clone()))).into_response()
        }
        Does::Breaks => {
            let half = stream::iter([Ok(Bytes::from(r#"{"jsonrpc":"2.0","result":{"context":{"slot":1},"#))]);
            let broken = stream::iter([Err(std::io::Error::other("gone"))]);
            Body::from_stream(half.chain(broken)).into_response()
        }
        Does::Slow(pause, accounts) => {
            tokio::time::sleep(pause).await;
            Json(at_slot(SLOT, &accounts)).into_response()
        }
    }
}

fn drip() -> impl Stream<Item = Result<Bytes, Infallible>> {
    stream::repeat(()).then(|()| async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok(Bytes::from(" "))
    })
}

/// The answer that holds these accounts.
pub(crate) fn at_slot(slot: u64, accounts: &[Value]) -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "result": {"context": {"slot": slot, "apiVersion": "3.0.0"}, "value": accounts}})
}

/// One account of `wallet`, at an address of its own.
pub(crate) fn account(wallet: &Wallet, amount: &str, address: &str) -> Value {
    json!({"pubkey": address, "account": {
        "owner": TokenProgram::SplToken.address(), "lamports": 2_039_280, "executable": false, "space": 165,
        "data": {"program": "spl-token", "space": 165, "parsed": {"type": "account", "info": {
            "mint": MINT, "owner": wallet.to_string(), "state": "initialized", "isNative": false,
            "tokenAmount": {"amount": amount, "decimals": 6, "uiAmount": 1.5, "uiAmountString": "1.5"},
        }}},
    }})
}

fn mint_account(owner: &str, decimals: u8) -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "result": {"context": {"slot": SLOT}, "value": {
        "owner": owner, "lamports": 1, "executable": false, "space": 82,
        "data": {"program": "spl-token", "space": 82, "parsed": {"type": "mint", "info": {
            "decimals": decimals, "isInitialized": true, "supply": "1", "mintAuthority": null, "freezeAuthority": null,
        }}},
    }}})
}

/// Impatient settings over these endpoints.
pub(crate) fn config(fakes: &[&Fake]) -> SolanaConfig {
    SolanaConfig {
        endpoints: fakes.iter().map(|fake| Endpoint(fake.url.clone())).collect(),
        mint: MINT.to_owned(),
        timeout_ms: 600,
        deadline_ms: 5000,
        backoff_ms: 10,
        ..SolanaConfig::default()
    }
}

/// TLS is never spoken in these tests, but a client wants to be able to.
pub(crate) fn tls() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}
