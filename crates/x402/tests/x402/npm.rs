//! Others: the unmodified clients and servers from npm.
//!
//! `./dev` installs them; their settlement is a token in memory here, and a real
//! one in `anvil`.

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::Response;
use axum::routing::{any, get, post};
use domain::{Address, B256, Clock, SystemClock, UnixMillis, Usdc};
use fixtures::{ACCOUNT_KEYS, PATIENCE, assets};
use palatine_x402::*;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::common::{CLIENT, NAME, PAYEE, PRICE, Payer, ResourceServer, TERMS, lease, tokens};

/// The payer's key: that of anvil's first account.
const PAYER_KEY: B256 = ACCOUNT_KEYS[0];

/// A server behind HTTP, as a gateway has it.
pub(crate) struct SellerServer {
    pub(crate) seller: Seller,
    pub(crate) facilitator: Facilitator,
    pub(crate) offer: Offer,
}

/// The real clock: the clients have no other.
pub(crate) fn clock() -> UnixMillis {
    SystemClock.now()
}

impl SellerServer {
    pub(crate) fn new(settlements: &Arc<Settlements>, tokens: &Arc<Tokens>, token: &Arc<Token>) -> Self {
        let policy = FacilitatorPolicy {
            payees: AllowedPayees::Anyone,
            least: Usdc(1),
            most: Usdc(1_000_000),
            max_timeout_s: 300,
        };
        Self {
            seller: Seller::new(settlements.clone(), tokens.clone(), TERMS),
            facilitator: Facilitator::new(settlements.clone(), tokens.clone(), TERMS, policy),
            offer: Offer { token: token.clone(), pay_to: PAYEE, amount: PRICE, max_timeout_s: 300 },
        }
    }

    /// Opens for business; says where.
    pub(crate) async fn open(self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new()
            .route("/paid", any(sell))
            .route("/facilitator/supported", get(supported))
            .route("/facilitator/verify", post(verify))
            .route("/facilitator/settle", post(settle))
            .with_state((Arc::new(self), base.clone()));
        tokio::spawn(async move { axum::serve(listener, app).await });
        base
    }
}

type Shared = State<(Arc<SellerServer>, String)>;

async fn sell(
    State((seller_server, base)): Shared,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let url = format!("{base}{uri}");
    let resource = Resource { url: url.clone(), description: "an answer".into(), mime_type: "text/plain".into() };
    let quote = Quote { resource, offers: vec![seller_server.offer.clone()] };
    let request = PaidRequestHash::of(method.as_str(), &url, &body);
    let order = PricedRequest { quote: &quote, resource: "agent-1", now: clock(), client: CLIENT };
    match seller_server.seller.sell(order, RequestBinding { request, now: clock(), lease: lease() }, &headers).await {
        Err(unsold) => crate::common::told(unsold).map(Body::from),
        Ok(permit) => {
            let mut response = Response::new(Body::from("the answer"));
            response.headers_mut().extend(permit.answer().await.unwrap());
            response
        }
    }
}

async fn supported(State((seller_server, _)): Shared) -> Response {
    told(seller_server.facilitator.supported())
}

async fn verify(State((seller_server, _)): Shared, body: Bytes) -> Response {
    told(seller_server.facilitator.verify(&body, clock(), CLIENT).await)
}

async fn settle(State((seller_server, _)): Shared, body: Bytes) -> Response {
    told(seller_server.facilitator.settle(&body, clock(), lease(), CLIENT).await)
}

fn told(answer: FacilitatorResponse) -> Response {
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap();
    response.headers_mut().insert("content-type", "application/json".parse().unwrap());
    response
}

/// A script of ours among the packages, ended when dropped.
pub(crate) fn node(script: &str, arguments: &[&str]) -> Command {
    let packages = assets().join("x402");
    assert!(
        packages.join("node_modules/@x402/fetch").is_dir(),
        "the npm packages of crates/x402/tests/npm are not installed in {}: ./dev test installs them",
        packages.display(),
    );
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/npm").join(script);
    let mut command = Command::new("node");
    // From standard input, so that imports are looked up among the packages.
    command.current_dir(packages).arg("--input-type=module").arg("-").args(arguments);
    command.stdin(std::fs::File::open(source).unwrap()).stdout(Stdio::piped());
    command.stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn run(script: &str, arguments: &[&str]) -> Value {
    let output: Output = timeout(PATIENCE, node(script, arguments).output()).await.expect("the script ends").unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(said.lines().last().unwrap_or_default())
        .unwrap_or_else(|_| panic!("{script} said {said:?} and {:?}", String::from_utf8_lossy(&output.stderr)))
}

/// What a client of ours finds out about its payment.
pub(crate) async fn buys(script: &str, base: &str, asset: Address) -> Value {
    run(script, &[&format!("{base}/paid?q=1"), &PAYER_KEY.to_string(), &asset.to_string()]).await
}

pub(crate) fn customer() -> Payer {
    Payer::of_secret(&PAYER_KEY.0)
}

/// The token that version 1's packages know: their lists of chains are closed,
/// and Cronos is in none of them.
fn base_sepolia() -> Arc<Token> {
    let usdc = alloy_primitives::address!("036CbD53842c5426634e7929541eC2318f3dCF7e");
    Arc::new(Token::new(84532, "base-sepolia", usdc, "USDC", "2"))
}

fn cronos() -> Arc<Token> {
    tokens().at(338, crate::common::ASSET).unwrap().clone()
}

async fn sells_to(script: &str, token: Arc<Token>) {
    let server = ResourceServer::new();
    server.chain.give(token.address(), customer().address(), Usdc(1_000_000));
    let tokens = Arc::new([Token::clone(&token)].into_iter().collect());
    let base = SellerServer::new(&server.settlements, &tokens, &token).open().await;
    let said = buys(script, &base, token.address()).await;
    assert_eq!((&said["status"], &said["body"]), (&200.into(), &"the answer".into()), "{said}");
    assert_eq!(said["receipt"]["success"], true, "{said}");
    assert_eq!(said["receipt"]["payer"], customer().address().to_string(), "{said}");
    assert_eq!((server.chain.settlements(), server.chain.holds(token.address(), PAYEE)), (1, PRICE));
}

#[tokio::test]
async fn an_unmodified_client_of_version_2_pays_us_on_cronos() {
    sells_to("fetch-v2.mjs", cronos()).await;
}

/// What an unmodified client says that pays nothing.
async fn refuses(allowed: &[&str]) -> String {
    let server = ResourceServer::new();
    let token = cronos();
    server.chain.give(token.address(), customer().address(), Usdc(1_000_000));
    let tokens = Arc::new([Token::clone(&token)].into_iter().collect());
    let base = SellerServer::new(&server.settlements, &tokens, &token).open().await;
    let url = format!("{base}/paid");
    let key = PAYER_KEY.to_string();
    let output = node("fetch-v2.mjs", &[&[url.as_str(), key.as_str()], allowed].concat()).output();
    let output = timeout(PATIENCE, output).await.expect("the script ends").unwrap();
    assert!(!output.status.success());
    assert_eq!((server.chain.settlements(), server.payments.len()), (0, 0));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What README tells buyers to allow: without it they refuse, and say why.
#[tokio::test]
async fn case_x402_spend_controls_a_buyer_must_allow_our_token_and_may_cap_it() {
    let asset = cronos().address().to_string();
    assert!(refuses(&[]).await.contains("spendControls.allowedAssets"));
    let cap = (PRICE.0 - 1).to_string();
    assert!(refuses(&[&asset, &cap]).await.contains("maxAmountPerPayment"));
    sells_to("fetch-v2.mjs", cronos()).await;
}

#[tokio::test]
async fn an_unmodified_client_of_version_1_pays_us() {
    sells_to("fetch-v1.mjs", base_sepolia()).await;
}

#[tokio::test]
async fn a_current_client_that_is_given_version_1_pays_us() {
    sells_to("fetch-v1-of-v2.mjs", base_sepolia()).await;
}

/// A server of others, and where it answers.
pub(crate) struct Server {
    _child: Child,
    pub(crate) base: String,
}

/// Starts an unmodified server that sells for the price, and settles by the
/// facilitator at `base`.
pub(crate) async fn express(base: &str, asset: Address) -> Server {
    let (facilitator, asset, payee, price) =
        (format!("{base}/facilitator"), asset.to_string(), PAYEE.to_string(), PRICE.0.to_string());
    let mut child = node("express-v2.mjs", &[&facilitator, &asset, &payee, &price, NAME]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let place = timeout(PATIENCE, lines.next_line()).await.expect("the server starts").unwrap().unwrap();
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Server { _child: child, base: place }
}

/// What our buyer gets from a server for a copy of his payment each.
pub(crate) async fn pay_by_hand(url: &str, tokens: Arc<Tokens>, copies: usize) -> Vec<(u16, HeaderMap, String)> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::new();
    let asked = http.get(url).send().await.unwrap();
    assert_eq!(asked.status(), 402);
    let (headers, body) = (asked.headers().clone(), asked.bytes().await.unwrap());
    let buyer = Buyer::new(customer(), tokens, 600);
    let now = clock().0 / 1000;
    let paying = buyer.pay(&headers, &body, Usdc(500_000), now, B256::repeat_byte(0x31)).unwrap();
    assert_eq!((paying.amount, paying.payee), (PRICE, PAYEE));
    let mut answers = Vec::new();
    for _ in 0..copies {
        let answer = http.get(url).header(paying.header.0.clone(), paying.header.1.clone()).send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        answers.push((status, headers, answer.text().await.unwrap()));
    }
    answers
}

#[tokio::test]
async fn we_pay_an_unmodified_server_that_settles_by_our_facilitator_and_serves_no_copy() {
    let ours = ResourceServer::new();
    let token = cronos();
    ours.chain.give(token.address(), customer().address(), Usdc(1_000_000));
    let base = SellerServer::new(&ours.settlements, &tokens(), &token).open().await;
    let server = express(&base, token.address()).await;
    let answers = pay_by_hand(&format!("{}/paid", server.base), tokens(), 3).await;
    assert_eq!((answers[0].0, answers[0].2.as_str()), (200, "their answer"), "{answers:?}");
    assert!(receipt(&answers[0].1).is_some());
    assert!(answers[1..].iter().all(|(status, ..)| *status == 402), "{answers:?}");
    assert_eq!((ours.chain.settlements(), ours.chain.holds(token.address(), PAYEE)), (1, PRICE));
}
