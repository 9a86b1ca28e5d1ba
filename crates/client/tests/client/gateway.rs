//! A gateway that a test makes of its own routes. It lets only correctly signed,
//! bound, unused requests pass, but for its open paths and those that the agent's token opens.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use auth::{Keypair, SignatureHeaders, VerifyPolicy};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use domain::{Clock, RunId, SystemClock};
use futures_util::stream::{self, Stream, StreamExt};
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use palatine_client::{GatewayClient, Timeouts};
use tokio::net::TcpListener;
use wire::fault::{Code, Fault};

/// The agent of all tests.
pub(crate) const ID: RunId = RunId::from_bits(0xa1b2_c3d4_e5f6_7890);
/// Longer than any test may take.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// What opens that agent.
pub(crate) const TOKEN: &str = "plt_token";

type Used = Arc<Mutex<HashSet<[u8; 32]>>>;

/// A running gateway; it ends with the test's runtime.
pub(crate) struct Gateway {
    pub(crate) port: u16,
    pub(crate) client: GatewayClient,
    /// A client that a hung gateway costs little time.
    pub(crate) hasty: GatewayClient,
}

pub(crate) async fn start(routes: Router) -> Gateway {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let app = routes.layer(from_fn_with_state(Used::default(), guard));
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let client = client(&format!("http://127.0.0.1:{port}"));
    Gateway { port, hasty: client.clone().with_limits(limits(Duration::from_millis(500))), client }
}

pub(crate) fn keypair() -> Keypair {
    Keypair::generate(&[7; 32])
}

/// A client with the patience of a test.
pub(crate) fn client(url: &str) -> GatewayClient {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let limits = Timeouts { exec_idle: Duration::from_secs(3), ..limits(SOON) };
    GatewayClient::new(url).unwrap().signed_by(keypair()).with_limits(limits)
}

fn limits(all: Duration) -> Timeouts {
    Timeouts {
        connect: all,
        read: all,
        spawn: all,
        stop: all,
        events_idle: all,
        answer_idle: all,
        exec_idle: all,
        logs_idle: all,
        input: all,
        input_idle: all,
        upload: all,
        files_idle: all,
        archive_idle: all,
        end: all,
    }
}

async fn guard(State(used): State<Used>, request: Request, next: Next) -> Response {
    let path = request.uri().path_and_query().unwrap().as_str().to_owned();
    if path.starts_with("/v1/") || path == "/tiers" || path == "/health" {
        return next.run(request).await;
    }
    let (head, body) = request.into_parts();
    if path.starts_with("/process.Process/") || path.starts_with("/tunnel") {
        let shown = head.headers.get("x-access-token").is_some_and(|token| token == TOKEN);
        if !is_for_agent(&head.headers) || !shown {
            return refused(401, "who are you");
        }
        return next.run(Request::from_parts(head, body)).await;
    }
    let body = body.collect().await.unwrap().to_bytes();
    let passed = Body::from(body.clone());
    let text = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    let presented = SignatureHeaders {
        wallet: text("x-wallet"),
        signature: text("x-signature"),
        timestamp: text("x-timestamp"),
        audience: text("x-audience"),
    };
    let signed = auth::BoundRequest { method: head.method.as_str(), path: &path, body: &body };
    let now = SystemClock.now();
    // Whoever the client's URL names, is meant.
    let named = [text("host").unwrap().parse().unwrap()];
    let policy = VerifyPolicy { audiences: &named, require_bound: true };
    match auth::verify(presented, &signed, policy, now) {
        Ok(signed) if used.lock().unwrap().insert(signed.replay_key) => {
            next.run(Request::from_parts(head, passed)).await
        }
        Ok(_) => fault(Fault::new(Code::ReplayedSignature, "replayed")),
        Err(error) => fault(Fault::new(Code::InvalidSignature, error.to_string())),
    }
}

/// Whether the headers name the agent, and the port of its guest's protocols.
pub(crate) fn is_for_agent(headers: &HeaderMap) -> bool {
    let is = |name: &str, value: &str| headers.get(name).is_some_and(|said| said == value);
    is("e2b-sandbox-id", &ID.to_string()) && is("e2b-sandbox-port", "49983")
}

/// A refusal as that port says it.
pub(crate) fn refused(status: u16, message: &str) -> Response {
    let said = axum::Json(serde_json::json!({"code": status, "message": message}));
    (StatusCode::from_u16(status).unwrap(), said).into_response()
}

pub(crate) fn fault(fault: Fault) -> Response {
    (StatusCode::from_u16(fault.code.status()).unwrap(), axum::Json(fault)).into_response()
}

/// A body of these pieces, which then breaks, hangs or ends.
pub(crate) fn body(pieces: &[&str], then: Then) -> Body {
    let pieces: Vec<Result<Bytes, std::io::Error>> =
        pieces.iter().map(|piece| Ok(Bytes::copy_from_slice(piece.as_bytes()))).collect();
    Body::from_stream(paced(pieces).chain(then.stream()))
}

/// How a body goes on after its pieces.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Then {
    Ends,
    Breaks,
    Hangs,
}

impl Then {
    pub(crate) fn stream(self) -> stream::BoxStream<'static, Result<Bytes, std::io::Error>> {
        match self {
            Self::Ends => stream::empty().boxed(),
            // A server that breaks off at once takes along what it has not yet sent.
            Self::Breaks => stream::once(async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Err(std::io::Error::other("gone"))
            })
            .boxed(),
            Self::Hangs => stream::pending().boxed(),
        }
    }
}

/// Each piece in a packet of its own.
pub(crate) fn paced<T: Send + 'static>(pieces: Vec<T>) -> impl Stream<Item = T> + Send + 'static {
    stream::iter(pieces).then(|piece| async {
        tokio::time::sleep(Duration::from_millis(2)).await;
        piece
    })
}
