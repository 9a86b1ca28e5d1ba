//! Requests that cost something, with a record and a token in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::any;
use bytes::Bytes;
use domain::{Address, B256, RunId, Usdc, Wallet};
use fixtures::{PaymentSigner, until_holds};
use http_body_util::{BodyExt, Empty};
use hyper::ext::Protocol;
use hyper_util::rt::{TokioExecutor, TokioIo};
use identity::Identity;
use palatine_gateway::PaymentProvider;
use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use treasury::TreasuryError;
use x402::fake::{FakeChain, FakePayments};
use x402::{Buyer, Offer, Quote, Resource, Seller, SellerTiming, Settlements, SignHash, Token, Tokens};

use crate::edge::{Answer, Edge, PATIENCE, Setup, holder, instant};
use crate::raw;

const ASSET: Address = Address::repeat_byte(0xaa);
const PAYEE: Address = Address::repeat_byte(0xee);
const PRICE: Usdc = Usdc(10_000);
/// The path that costs it.
const PRICED: &str = "/paid";

/// Takes any payment that is covered.
struct FakeServices {
    chain: Arc<FakeChain>,
    tokens: Arc<Tokens>,
    seller: Arc<Seller>,
}

impl FakeServices {
    fn open() -> Arc<Self> {
        let chain = Arc::<FakeChain>::default();
        let tokens: Tokens = [Token::new(338, "cronos-testnet", ASSET, "USDC", "1")].into_iter().collect();
        let tokens = Arc::new(tokens);
        let limits =
            x402::SettlementLimits { settle_timeout: PATIENCE, max_settling: 64, per_client: 64, per_payer: 64 };
        let settlements = Settlements::new(Arc::new(FakePayments::default()), chain.clone(), chain.clone(), limits);
        let terms = SellerTiming { settle_margin_s: 10, clock_skew_s: 30, lease_ms: 60_000 };
        let seller = Arc::new(Seller::new(Arc::new(settlements), tokens.clone(), terms));
        Arc::new(Self { chain, tokens, seller })
    }
}

#[async_trait]
impl PaymentProvider for FakeServices {
    fn seller(&self) -> Result<Arc<Seller>, TreasuryError> {
        Ok(Arc::clone(&self.seller))
    }

    async fn quote(&self, _: Wallet, url: &str, price: Usdc) -> Result<Quote, TreasuryError> {
        let token = Arc::clone(self.tokens.at(338, ASSET).unwrap());
        let offer = Offer { token, pay_to: PAYEE, amount: price, max_timeout_s: 300 };
        let resource = Resource { url: url.to_owned(), description: String::new(), mime_type: String::new() };
        Ok(Quote { resource, offers: vec![offer] })
    }
}

/// A gateway with an agent that costs something.
struct PaidAgent {
    edge: Edge,
    payments: Arc<FakeServices>,
    id: RunId,
    token: String,
}

impl PaidAgent {
    async fn open(mut setup: Setup) -> Self {
        let payments = FakeServices::open();
        setup.payments = Some(payments.clone());
        let edge = setup.start().await;
        let (id, token) = edge.agent(&holder(), true).await;
        edge.store.set_prices(id.into(), [(PRICED.to_owned(), PRICE)].into()).await.unwrap();
        Self { edge, payments, id, token }
    }

    /// A good payment for the priced path, by somebody who has so much.
    async fn payment_of(&self, secret: u8, money: Usdc) -> (HeaderName, HeaderValue) {
        let payer = PaymentSigner(Identity::from_secret(&[secret; 32]).unwrap());
        self.payments.chain.give(ASSET, payer.address(), money);
        let terms = self.edge.to_agent(self.id, Method::GET, PRICED).send().await.unwrap();
        assert_eq!(terms.status(), 402);
        let (headers, body) = (terms.headers().clone(), terms.bytes().await.unwrap());
        let buyer = Buyer::new(payer, Arc::clone(&self.payments.tokens), 300);
        let now = instant().0 / 1000;
        buyer.pay(&headers, &body, PRICE, now, B256::repeat_byte(secret)).unwrap().header
    }

    async fn payment(&self) -> (HeaderName, HeaderValue) {
        self.payment_of(7, Usdc(1_000_000)).await
    }

    fn ask(&self, method: Method, (name, value): &(HeaderName, HeaderValue)) -> reqwest::RequestBuilder {
        self.edge.to_agent(self.id, method, PRICED).header(name, value)
    }

    fn settlements(&self) -> usize {
        self.payments.chain.settlements()
    }

    fn host(&self) -> String {
        format!("{}.localhost:{}", self.id, self.edge.address.port())
    }
}

fn has_receipt(headers: &HeaderMap) -> bool {
    x402::receipt(headers).is_some()
}

#[tokio::test]
async fn fault_2_8_one_payment_buys_one_answer_which_bears_its_receipt() {
    let agent = PaidAgent::open(Setup::default()).await;
    agent.edge.setup.guests.serves(Router::new().fallback(any(crate::ingress::mirror))).await;
    let payment = agent.payment().await;
    let answer = Answer::of(agent.ask(Method::POST, &payment).body("hello")).await;
    assert_eq!((answer.status, &answer.body["body"]), (200, &"hello".into()));
    assert!(has_receipt(&answer.headers));
    assert!(answer.body["headers"].get(payment.0.as_str()).is_none(), "the payment goes no further");
    let again = Answer::of(agent.ask(Method::POST, &payment).body("hello")).await;
    assert_eq!((again.status, agent.settlements()), (402, 1));
    // Who holds the token goes free.
    let held = Answer::of(agent.edge.to_agent(agent.id, Method::GET, PRICED).bearer_auth(&agent.token)).await;
    assert_eq!(held.status, 200);
}

#[tokio::test]
async fn fault_2_8_a_web_socket_that_was_paid_for_bears_its_receipt() {
    let agent = PaidAgent::open(Setup::default()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    agent.edge.setup.guests.listens_at(listener.local_addr().unwrap());
    tokio::spawn(async move { tokio_tungstenite::accept_async(listener.accept().await.unwrap().0).await });
    let (name, value) = agent.payment().await;
    let mut request = format!("ws://{}{PRICED}", agent.edge.address).into_client_request().unwrap();
    request.headers_mut().insert("host", agent.host().parse().unwrap());
    request.headers_mut().insert(name, value);
    let stream = TcpStream::connect(agent.edge.address).await.unwrap();
    let (_, answer) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    assert_eq!((answer.status(), agent.settlements()), (StatusCode::SWITCHING_PROTOCOLS, 1));
    assert!(has_receipt(answer.headers()), "{answer:?}");
}

#[tokio::test]
async fn fault_2_8_who_finds_no_place_is_told_so_before_any_money_is_taken() {
    let mut setup = Setup::default();
    (setup.limits.agent_connections, setup.limits.agent_wait_ms, setup.limits.streams_per_agent) = (1, 50, 1);
    setup.limits.streams_per_address = 1;
    let agent = PaidAgent::open(setup).await;
    let inside = Arc::new(Semaphore::new(0));
    let told = Arc::clone(&inside);
    let app = Router::new().fallback(any(move || {
        let told = Arc::clone(&told);
        async move {
            told.add_permits(1);
            std::future::pending::<&str>().await
        }
    }));
    agent.edge.setup.guests.serves(app).await;
    let payment = agent.payment().await;
    let held = agent.edge.to_agent(agent.id, Method::GET, "/").bearer_auth(&agent.token);
    let held = tokio::spawn(held.send());
    inside.acquire().await.unwrap().forget();
    let busy = Answer::of(agent.ask(Method::GET, &payment)).await;
    assert_eq!((busy.status, busy.code(), agent.settlements()), (503, "agent_busy", 0));
    assert!(!has_receipt(&busy.headers));
    held.abort();
}

#[tokio::test]
async fn fault_2_8_a_stream_too_many_is_refused_before_any_money_is_taken() {
    let mut setup = Setup::default();
    (setup.limits.streams_per_agent, setup.limits.streams_per_address) = (1, 1);
    let agent = PaidAgent::open(setup).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    agent.edge.setup.guests.listens_at(listener.local_addr().unwrap());
    tokio::spawn(async move {
        let socket = tokio_tungstenite::accept_async(listener.accept().await.unwrap().0).await;
        std::future::pending::<()>().await;
        drop(socket);
    });
    let mut request = format!("ws://{}/", agent.edge.address).into_client_request().unwrap();
    request.headers_mut().insert("host", agent.host().parse().unwrap());
    let stream = TcpStream::connect(agent.edge.address).await.unwrap();
    let _open = tokio_tungstenite::client_async(request, stream).await.unwrap();
    let payment = agent.payment().await;
    let ask = agent.ask(Method::GET, &payment).header("Connection", "upgrade").header("Upgrade", "websocket");
    let full = Answer::of(ask).await;
    assert_eq!((full.status, full.code(), agent.settlements()), (429, "rate_limited", 0));
}

#[tokio::test]
async fn fault_2_8_an_agent_that_fails_owes_its_answer_and_the_receipt_goes_with_the_failure() {
    let agent = PaidAgent::open(Setup::default()).await;
    let payment = agent.payment().await;
    let dead = Answer::of(agent.ask(Method::GET, &payment)).await;
    assert_eq!((dead.status, dead.code()), (502, "agent_unreachable"));
    assert!(has_receipt(&dead.headers));
    agent.edge.setup.guests.serves(Router::new().fallback(any(async || StatusCode::INTERNAL_SERVER_ERROR))).await;
    let failed = Answer::of(agent.ask(Method::GET, &payment)).await;
    assert_eq!(failed.status, 500);
    assert!(has_receipt(&failed.headers));
    let (id, guests) = (agent.id, &agent.edge.setup.guests);
    until_holds("the connection is idle, or gone", || guests.tunnels.now(id) <= 1).await;
    guests.serves_as(id, Router::new().fallback(any(async || "here"))).await;
    until_holds("the old connection is gone", || guests.tunnels.now(id) == 0).await;
    let answer = Answer::of(agent.ask(Method::GET, &payment)).await;
    assert_eq!((answer.status, agent.settlements()), (200, 1));
    assert_eq!(Answer::of(agent.ask(Method::GET, &payment)).await.status, 402);
}

#[tokio::test]
async fn fault_2_8_a_client_that_hangs_up_has_bought_the_answer_all_the_same() {
    let agent = PaidAgent::open(Setup::default()).await;
    let (gate, asked) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let (its_gate, its_asked) = (Arc::clone(&gate), Arc::clone(&asked));
    let app = Router::new().fallback(any(move || {
        let (gate, asked) = (Arc::clone(&its_gate), Arc::clone(&its_asked));
        async move {
            asked.fetch_add(1, Ordering::SeqCst);
            gate.acquire().await.unwrap().forget();
            "at last"
        }
    }));
    agent.edge.setup.guests.serves(app).await;
    let payment = agent.payment().await;
    let gone = tokio::spawn(agent.ask(Method::GET, &payment).send());
    until_holds("the agent is asked", || asked.load(Ordering::SeqCst) == 1).await;
    gone.abort();
    let _ = gone.await;
    gate.add_permits(8);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let again = Answer::of(agent.ask(Method::GET, &payment)).await;
        match again.status {
            402 => break,
            // It is still being answered.
            409 => assert!(tokio::time::Instant::now() < deadline, "it is never booked"),
            _ => panic!("{again:?}"),
        }
    }
    assert_eq!((asked.load(Ordering::SeqCst), agent.settlements()), (1, 1));
}

/// Asks for a WebSocket over HTTP/2.
async fn connect(agent: &PaidAgent, path: &str, headers: &[(HeaderName, HeaderValue)]) -> http::Response<Bytes> {
    let stream = TcpStream::connect(agent.edge.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = http::Request::builder().method("CONNECT").uri(format!("http://{}{path}", agent.host()));
    request = request.header("sec-websocket-version", "13").extension(Protocol::from_static("websocket"));
    for (name, value) in headers {
        request = request.header(name, value);
    }
    // The server's settings must be here before CONNECT may be extended.
    sender.ready().await.unwrap();
    let health = http::Request::get(agent.edge.url("/health")).body(Empty::<Bytes>::new()).unwrap();
    sender.send_request(health).await.unwrap();
    let answer = sender.send_request(request.body(Empty::new()).unwrap()).await.unwrap();
    let (head, body) = answer.into_parts();
    http::Response::from_parts(head, body.collect().await.unwrap().to_bytes())
}

#[tokio::test]
async fn fault_2_8_a_web_socket_that_the_agent_does_not_have_is_an_answer_with_its_receipt() {
    let agent = PaidAgent::open(Setup::default()).await;
    agent.edge.setup.guests.serves(Router::new().fallback(any(async || "no socket"))).await;
    let free = connect(&agent, "/", &[]).await;
    assert_eq!(free.status(), 502);
    assert!(String::from_utf8_lossy(free.body()).contains("no_web_socket"), "{free:?}");
    let payment = agent.payment().await;
    let paid = connect(&agent, PRICED, std::slice::from_ref(&payment)).await;
    assert_eq!(paid.status(), 502);
    assert!(has_receipt(paid.headers()), "{paid:?}");
    // What was paid is not lost: the path has another answer.
    let answer = Answer::of(agent.ask(Method::GET, &payment)).await;
    assert_eq!((answer.status, &answer.body, agent.settlements()), (200, &"no socket".into(), 1));
}

/// Sends the head of a paid request with a body of this length, which does not come.
async fn announce(agent: &PaidAgent, (name, value): &(HeaderName, HeaderValue), length: usize) -> TcpStream {
    let (host, value) = (agent.host(), value.to_str().unwrap());
    let text = format!(
        "POST {PRICED} HTTP/1.1\r\nHost: {host}\r\n{name}: {value}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    raw::send(&agent.edge, &text).await
}

#[tokio::test]
async fn fault_2_2_nothing_is_read_of_who_has_no_money() {
    let agent = PaidAgent::open(Setup::default()).await;
    let payment = agent.payment_of(9, Usdc(1)).await;
    let answer = raw::head(&mut announce(&agent, &payment, 4_000_000).await).await;
    assert!(answer.starts_with("HTTP/1.1 402"), "{answer}");
    assert_eq!(agent.settlements(), 0);
}

#[tokio::test]
async fn fault_2_2_bodies_of_one_address_that_are_held_at_once_are_bounded() {
    let mut setup = Setup::default();
    (setup.limits.paid_body_bytes, setup.limits.paid_bodies_per_address_bytes) = (8192, 8192);
    let agent = PaidAgent::open(setup).await;
    let payment = agent.payment().await;
    let (mut one, mut other) = (announce(&agent, &payment, 5_000).await, announce(&agent, &payment, 5_000).await);
    // One of the two is waited for, and the other refused before its body.
    let refused = tokio::select! {
        refused = raw::head(&mut one) => refused,
        refused = raw::head(&mut other) => refused,
    };
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("retry-after: 1"), "{refused}");
    assert_eq!(agent.settlements(), 0);
}

#[tokio::test]
async fn fault_2_7_what_a_page_may_send_is_asked_without_paying() {
    let agent = PaidAgent::open(Setup::default()).await;
    agent.edge.setup.guests.serves(Router::new().fallback(any(async || "granted"))).await;
    let asks = || agent.edge.to_agent(agent.id, Method::OPTIONS, PRICED).header("Origin", "https://app.example");
    assert_eq!(Answer::of(asks()).await.status, 402);
    let preflight = || asks().header("Access-Control-Request-Method", "POST");
    let granted = Answer::of(preflight()).await;
    assert_eq!((granted.status, &granted.body), (200, &"granted".into()));
    assert_eq!(Answer::of(preflight().body("work")).await.status, 402, "it has no body");
}

#[tokio::test]
async fn fault_2_3_a_body_that_does_not_come_holds_nothing_of_the_agents() {
    let mut setup = Setup::default();
    (setup.limits.agent_connections, setup.limits.agent_wait_ms) = (1, 300);
    let agent = PaidAgent::open(setup).await;
    agent.edge.setup.guests.serves(Router::new().fallback(any(async || "paid"))).await;
    let (name, value) = agent.payment_of(8, Usdc(1_000_000)).await;
    let head = format!("POST {PRICED} HTTP/1.1\r\nHost: {}\r\n{name}: {}", agent.host(), value.to_str().unwrap());
    let head = format!("{head}\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n");
    let mut slow = raw::send(&agent.edge, &head).await;
    let asked = raw::head(&mut slow).await;
    assert!(asked.starts_with("HTTP/1.1 100 "), "its body is waited for: {asked}");
    let payment = agent.payment().await;
    let paid = Answer::of(agent.ask(Method::GET, &payment)).await;
    assert_eq!((paid.status, agent.settlements()), (200, 1), "{paid:?}");
}

#[tokio::test]
async fn fault_2_3_who_pays_is_answered_while_visitors_hold_all_that_they_may() {
    let mut setup = Setup::default();
    setup.config.trusted_proxies = ["127.0.0.1".parse().unwrap()].into();
    (setup.limits.agent_connections, setup.limits.agent_wait_ms) = (4, 300);
    (setup.limits.agent_connections_per_address, setup.limits.agent_waiting) = (2, 4);
    let agent = PaidAgent::open(setup).await;
    let inside = Arc::new(AtomicUsize::new(0));
    let told = Arc::clone(&inside);
    let app = Router::new().route(PRICED, any(async || "paid")).fallback(any(move || {
        let told = Arc::clone(&told);
        async move {
            told.fetch_add(1, Ordering::SeqCst);
            std::future::pending::<&str>().await
        }
    }));
    agent.edge.setup.guests.serves(app).await;
    let visit = |address: usize| {
        let visit = agent.edge.to_agent(agent.id, Method::GET, "/");
        tokio::spawn(visit.header("X-Forwarded-For", format!("192.0.2.{address}")).send())
    };
    let visitors: Vec<_> = (0..16).map(visit).collect();
    until_holds("visitors are inside", || inside.load(Ordering::SeqCst) >= 2).await;
    let payment = agent.payment().await;
    let paid = Answer::of(agent.ask(Method::GET, &payment).header("X-Forwarded-For", "192.0.2.200")).await;
    assert_eq!((paid.status, &paid.body), (200, &"paid".into()));
    assert_eq!(inside.load(Ordering::SeqCst), 2, "one place is left to who pays, and one to the holder");
    visitors.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn fault_2_1_a_format_of_a_priced_path_is_paid_for_and_opens_no_private_agent() {
    let agent = PaidAgent::open(Setup::default()).await;
    agent.edge.setup.guests.serves(Router::new().fallback(any(async || "served"))).await;
    let status = async |id, path: &str| Answer::of(agent.edge.to_agent(id, Method::GET, path)).await.status;
    let (private, _) = agent.edge.agent(&holder(), false).await;
    agent.edge.store.set_prices(private.into(), [(PRICED.to_owned(), PRICE)].into()).await.unwrap();
    for (path, public, closed) in [
        (PRICED, 402, 402),
        ("/paid.json", 402, 401),
        ("/paid%20", 402, 401),
        ("/paid+", 402, 401),
        ("/static/app.js", 200, 401),
    ] {
        assert_eq!((status(agent.id, path).await, status(private, path).await), (public, closed), "{path}");
    }
}

#[tokio::test]
async fn fault_2_8_who_writes_a_whole_body_before_he_reads_gets_his_402() {
    let agent = PaidAgent::open(Setup::default()).await;
    let head = format!("POST {PRICED} HTTP/1.1\r\nHost: {}\r\n", agent.host());
    for length in [0, 1_000, 4 * 1024 * 1024] {
        let answer = raw::write_then_read(&agent.edge, &head, length).await;
        assert!(answer.starts_with("HTTP/1.1 402 ") && answer.contains("x402Version"), "{length}: {answer}");
    }
}
