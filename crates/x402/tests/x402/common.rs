//! A server with a record and a token in memory, and people who pay.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use alloy_primitives::{Signature, hex};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use domain::{Address, B256, U256, UnixMillis, Usdc};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
pub(crate) use palatine_x402::fake::Payer;
use palatine_x402::fake::{FakeChain, FakePayments};
use palatine_x402::*;
use serde_json::{Value, json};

/// The tests' clock, in Unix seconds.
pub(crate) const NOW: u64 = 1_800_000_000;
/// The price.
pub(crate) const PRICE: Usdc = Usdc(10_000);
/// The testnet's token.
pub(crate) const ASSET: Address = Address::repeat_byte(0xaa);
/// Who is paid.
pub(crate) const PAYEE: Address = Address::repeat_byte(0xee);
/// Where one asks.
pub(crate) const URL: &str = "https://agent.example/v1/chat?x=1";
/// The name in the token's domain.
pub(crate) const NAME: &str = "Bridged USDC (Stargate)";

static LEASES: AtomicU64 = AtomicU64::new(1);

pub(crate) fn lease() -> u64 {
    LEASES.fetch_add(1, Ordering::SeqCst)
}

pub(crate) fn tokens() -> Arc<Tokens> {
    Arc::new(
        [
            Token::new(338, "cronos-testnet", ASSET, NAME, "1"),
            Token::new(25, "cronos-mainnet", Address::repeat_byte(0xbb), NAME, "1"),
        ]
        .into_iter()
        .collect(),
    )
}

pub(crate) fn offer_of(token: &Arc<Token>) -> Offer {
    Offer { token: Arc::clone(token), pay_to: PAYEE, amount: PRICE, max_timeout_s: 300 }
}

pub(crate) fn quote_at(url: &str) -> Quote {
    let tokens = tokens();
    let resource = Resource { url: url.into(), description: "an answer".into(), mime_type: "text/plain".into() };
    Quote { resource, offers: vec![offer_of(tokens.at(338, ASSET).unwrap())] }
}

pub(crate) const TERMS: SellerTiming = SellerTiming { settle_margin_s: 10, clock_skew_s: 30, lease_ms: 60_000 };

/// A server.
pub(crate) struct ResourceServer {
    pub(crate) chain: Arc<FakeChain>,
    pub(crate) payments: Arc<FakePayments>,
    pub(crate) settlements: Arc<Settlements>,
    pub(crate) seller: Seller,
    pub(crate) quote: Quote,
}

impl ResourceServer {
    pub(crate) fn new() -> Self {
        Self::over(Arc::default(), Arc::default())
    }

    /// A server whose predecessor left this record and this chain behind.
    pub(crate) fn over(chain: Arc<FakeChain>, payments: Arc<FakePayments>) -> Self {
        Self::of(chain, payments, 200)
    }

    /// A server with so many places.
    pub(crate) fn with_places(places: usize) -> Self {
        Self::of(Arc::default(), Arc::default(), places)
    }

    fn of(chain: Arc<FakeChain>, payments: Arc<FakePayments>, places: usize) -> Self {
        let settlements = Arc::new(Settlements::new(payments.clone(), chain.clone(), chain.clone(), limits(places)));
        let seller = Seller::new(settlements.clone(), tokens(), TERMS);
        Self { chain, payments, settlements, seller, quote: quote_at(URL) }
    }

    /// Asks for [`URL`] with this body.
    pub(crate) async fn ask_for(
        &self,
        body: &str,
        headers: &HeaderMap,
        at: UnixMillis,
    ) -> Result<AnswerPermit, PaymentRejection> {
        self.ask(&self.quote, "agent-1", body, headers, at).await
    }

    pub(crate) async fn ask(
        &self,
        quote: &Quote,
        resource: &str,
        body: &str,
        headers: &HeaderMap,
        at: UnixMillis,
    ) -> Result<AnswerPermit, PaymentRejection> {
        let request = PaidRequestHash::of("POST", &quote.resource.url, body.as_bytes());
        let order = PricedRequest { quote, resource, now: at, client: CLIENT };
        self.seller.sell(order, RequestBinding { request, now: at, lease: lease() }, headers).await
    }

    /// Asks once, now, for the usual thing, and has the answer leave.
    pub(crate) async fn buy(&self, headers: &HeaderMap) -> Result<HeaderMap, Response<Vec<u8>>> {
        answer(self.ask_for("hello", headers, now()).await).await
    }

    pub(crate) fn buy_in_the_background(
        &self,
        headers: HeaderMap,
    ) -> tokio::task::JoinHandle<Result<HeaderMap, http::Response<Vec<u8>>>> {
        let seller = Seller::new(self.settlements.clone(), tokens(), TERMS);
        let quote = self.quote.clone();
        tokio::spawn(async move {
            let order = PricedRequest { quote: &quote, resource: "agent-1", now: now(), client: CLIENT };
            answer(seller.sell(order, bound(b"hello"), &headers).await).await
        })
    }

    pub(crate) async fn until_settling(&self) {
        until(async || self.chain.settlements() > 0).await;
    }
}

/// Lets the answer leave.
pub(crate) async fn answer(sale: Result<AnswerPermit, PaymentRejection>) -> Result<HeaderMap, Response<Vec<u8>>> {
    match sale {
        Ok(permit) => Ok(permit.answer().await.unwrap()),
        Err(unsold) => Err(told(unsold)),
    }
}

/// A refusal as a server might tell it.
pub(crate) fn told(unsold: PaymentRejection) -> Response<Vec<u8>> {
    let mut response = Response::new(json!({ "error": format!("{unsold:?}") }).to_string().into_bytes());
    *response.status_mut() = match unsold {
        PaymentRejection::PaymentRequired(response) => return *response,
        PaymentRejection::Malformed(_) => StatusCode::BAD_REQUEST,
        PaymentRejection::InFlight => StatusCode::CONFLICT,
        PaymentRejection::Pending(_) | PaymentRejection::Unsettled | PaymentRejection::Unavailable(_) => {
            StatusCode::SERVICE_UNAVAILABLE
        }
    };
    response
}

/// The limits of a server with so many places, which one client and one payer may have
/// to himself.
pub(crate) fn limits(places: usize) -> SettlementLimits {
    SettlementLimits {
        settle_timeout: Duration::from_secs(5),
        max_settling: places,
        per_client: places,
        per_payer: places,
    }
}

/// Who asks.
pub(crate) const CLIENT: ClientAddr = ClientAddr(1);

pub(crate) fn now() -> UnixMillis {
    UnixMillis(NOW * 1000)
}

pub(crate) fn payer() -> Payer {
    Payer::new(0x42)
}

/// A payer with money.
pub(crate) fn funded_payer(server: &ResourceServer) -> Payer {
    let payer = payer();
    server.chain.give(ASSET, payer.address(), Usdc(1_000_000));
    payer
}

/// What an honest client signs for the server's offer.
pub(crate) fn authorization(payer: &Payer) -> Authorization {
    Authorization {
        chain_id: 338,
        asset: ASSET,
        from: payer.address(),
        to: PAYEE,
        value: PRICE,
        valid_after: U256::from(NOW - 600),
        valid_before: U256::from(NOW + 300),
        nonce: B256::repeat_byte(9),
    }
}

pub(crate) fn sign(payer: &Payer, token: &Token, authorization: &Authorization) -> Signature {
    payer.sign(&digest(token, authorization)).unwrap()
}

pub(crate) fn sign_here(payer: &Payer, authorization: &Authorization) -> Signature {
    sign(payer, tokens().at(338, ASSET).unwrap(), authorization)
}

/// `accepted` as the server offers it.
pub(crate) fn accepted() -> Value {
    json!({
        "scheme": "exact", "network": "eip155:338", "amount": PRICE.0.to_string(), "asset": ASSET, "payTo": PAYEE,
        "maxTimeoutSeconds": 300, "extra": { "name": NAME, "version": "1" },
    })
}

pub(crate) fn exact(authorization: &Authorization, signature: &Signature) -> Value {
    json!({
        "signature": format!("0x{}", hex::encode(signature.as_bytes())),
        "authorization": {
            "from": authorization.from, "to": authorization.to, "value": authorization.value,
            "validAfter": authorization.valid_after.to_string(), "validBefore": authorization.valid_before.to_string(),
            "nonce": authorization.nonce,
        },
    })
}

pub(crate) fn v2(authorization: &Authorization, signature: &Signature) -> Value {
    json!({
        "x402Version": 2, "accepted": accepted(), "payload": exact(authorization, signature),
        "resource": { "url": URL, "description": "an answer", "mimeType": "text/plain" },
    })
}

pub(crate) fn v1(authorization: &Authorization, signature: &Signature) -> Value {
    json!({
        "x402Version": 1, "scheme": "exact", "network": "cronos-testnet", "payload": exact(authorization, signature),
    })
}

pub(crate) fn cronos(authorization: &Authorization, signature: &Signature) -> Value {
    json!({
        "x402Version": 1, "scheme": "exact", "network": "cronos-testnet", "payload": {
            "from": authorization.from, "to": authorization.to, "value": authorization.value,
            "validAfter": authorization.valid_after.to::<u64>(), "validBefore": authorization.valid_before.to::<u64>(),
            "nonce": authorization.nonce, "signature": format!("0x{}", hex::encode(signature.as_bytes())),
            "asset": authorization.asset,
        },
    })
}

pub(crate) fn base64(json: &Value) -> String {
    STANDARD.encode(json.to_string())
}

/// The JSON in a header's value.
pub(crate) fn base64_json(value: &HeaderValue) -> Value {
    serde_json::from_slice(&STANDARD.decode(value.as_bytes()).unwrap()).unwrap()
}

pub(crate) fn header(name: &HeaderName, json: &Value) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(name, HeaderValue::try_from(base64(json)).unwrap());
    headers
}

/// The header of version 2 for this authorization, signed as it must be.
pub(crate) fn signs_for(payer: &Payer, authorization: &Authorization) -> HeaderMap {
    header(&PAYMENT_SIGNATURE, &v2(authorization, &sign_here(payer, authorization)))
}

/// The error that a refusal states.
pub(crate) fn error(refusal: &Response<Vec<u8>>) -> String {
    let body: Value = serde_json::from_slice(refusal.body()).unwrap();
    body["error"].as_str().unwrap().to_owned()
}

/// Expects a 402 that states this.
pub(crate) fn refused_for(reason: InvalidReason, outcome: Result<HeaderMap, Response<Vec<u8>>>) {
    let refusal = outcome.unwrap_err();
    assert_eq!((refusal.status(), error(&refusal).as_str()), (StatusCode::PAYMENT_REQUIRED, reason.code(Dialect::V2)));
    assert!(refusal.headers().contains_key(PAYMENT_REQUIRED), "a 402 states its terms");
}

/// The usual request, whole.
pub(crate) fn bound(body: &[u8]) -> RequestBinding {
    RequestBinding { request: PaidRequestHash::of("POST", URL, body), now: now(), lease: lease() }
}

/// Waits for a condition, for as long as tasks have something to do.
pub(crate) async fn until(condition: impl AsyncFn() -> bool) {
    for _ in 0..1000 {
        if condition().await {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("it never came about");
}

/// The payer of this number, who has nothing.
pub(crate) fn unfunded_payer(n: u8) -> Payer {
    Payer::new(n)
}
