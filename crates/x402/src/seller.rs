//! Selling one answer for one payment.
//!
//! The order is: parse, verify, reserve on disk, settle, and only then serve.
//! What a payer gets, whatever dies in between:
//!
//! - A payment is bound to the first request it comes with ([`RequestHash`]).
//! - A retry of that request with that payment takes up where it was left: it
//!   waits for nothing that is settled, and settles nothing twice.
//! - At most one answer leaves. [`Ticket::answer`] is the point of no return: it
//!   is on disk before the first byte leaves. Whoever dies before it has sold
//!   nothing, and the payer's retry is served; whoever dies after it has
//!   answered, and a retry is told that the payment was used.
//! - Copies that come while one is at work get 409 and may ask again.

use std::sync::Arc;

use domain::{Address, B256, UnixMillis, Usdc};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};

use crate::presented::Presented;
use crate::till::{Taken, Till, TillError};
use crate::verify::{Window, authentic, timely};
use crate::wire::{SettleAnswer, to_base64, to_json, v1_required, v2_required};
use crate::{
    Claim, Dialect, Offer, PaymentKey, PaymentState, Payments, Quote, Reason, RecordError, RequestHash, Reservation,
    Signed, Tokens,
};

/// Version 2's header for terms.
pub const PAYMENT_REQUIRED: HeaderName = HeaderName::from_static("payment-required");
/// Version 2's header for a settlement's result.
pub const PAYMENT_RESPONSE: HeaderName = HeaderName::from_static("payment-response");
/// Version 1's header for a settlement's result.
pub const X_PAYMENT_RESPONSE: HeaderName = HeaderName::from_static("x-payment-response");

/// Seconds after which a copy of a payment that is at work may ask again.
const SOON_S: u64 = 1;
/// Seconds after which one may ask again when the chain or the record is out of
/// order.
const LATER_S: u64 = 5;
/// What is said to who brings no payment.
const NO_PAYMENT: &str = "payment required";

/// How a seller takes payments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Seconds that must be left of a payment for its settlement.
    pub settle_margin_s: u64,
    /// Seconds by which a payer's clock may be ahead.
    pub clock_skew_s: u64,
    /// Milliseconds for which one request may hold a payment: its settlement and
    /// the time to the answer's first byte together.
    pub claim_ms: u64,
}

impl Terms {
    /// The window of validity at this moment.
    #[must_use]
    pub const fn window(&self, now: UnixMillis) -> Window {
        Window { now: now.0 / 1000, settle_margin_s: self.settle_margin_s, clock_skew_s: self.clock_skew_s }
    }
}

/// A request that costs something.
#[derive(Clone, Copy, Debug)]
pub struct Order<'a> {
    /// Its terms.
    pub quote: &'a Quote,
    /// Its hash.
    pub request: RequestHash,
    /// What is bought: an agent's id.
    pub resource: &'a str,
    /// When it came.
    pub now: UnixMillis,
    /// A random number of this request alone.
    pub claim: u64,
}

/// What is done with a request.
#[derive(Debug)]
pub enum Sale {
    /// It is answered with this, and not served: 402 with terms, 409 or 503.
    Refused(Response<Vec<u8>>),
    /// It is paid: serve it, and call [`Ticket::answer`] before the first byte of
    /// the answer leaves.
    Serve(Ticket),
}

/// Sells answers.
pub struct Seller {
    till: Arc<Till>,
    tokens: Arc<Tokens>,
    terms: Terms,
}

impl Seller {
    /// A seller for payments in these tokens.
    #[must_use]
    pub const fn new(till: Arc<Till>, tokens: Arc<Tokens>, terms: Terms) -> Self {
        Self { till, tokens, terms }
    }

    /// What is said to who brings no payment that could be taken, as far as can be
    /// known before the request's body is read. The payment is not taken here.
    #[must_use]
    pub fn turn_away(&self, quote: &Quote, headers: &HeaderMap) -> Option<Response<Vec<u8>>> {
        let presented = match self.presented(quote, headers) {
            Ok(presented) => presented,
            Err(response) => return Some(response),
        };
        let reason = authentic(quote, &presented).err()?;
        Some(terms_of(quote, reason.code(presented.dialect())))
    }

    /// The payment among a request's headers, read but not believed.
    fn presented(&self, quote: &Quote, headers: &HeaderMap) -> Result<Presented, Response<Vec<u8>>> {
        match Presented::from_headers(headers, &self.tokens) {
            Ok(Some(presented)) => Ok(presented),
            Ok(None) => Err(terms_of(quote, NO_PAYMENT)),
            Err((dialect, reason)) => Err(terms_of(quote, reason.code(dialect))),
        }
    }

    /// Takes the payment among a request's headers, or says why not.
    pub async fn sell(&self, order: Order<'_>, headers: &HeaderMap) -> Sale {
        let presented = match self.presented(order.quote, headers) {
            Ok(presented) => presented,
            Err(response) => return Sale::Refused(response),
        };
        match self.take(order, &presented).await {
            Ok((offer, signed, taken)) => self.outcome(order, presented.dialect(), &offer, &signed, taken),
            Err(Stop::Reason(reason)) => Sale::Refused(terms_of(order.quote, reason.code(presented.dialect()))),
            Err(Stop::Trouble(error)) => {
                tracing::warn!(%error, "a payment cannot be taken at the moment");
                Sale::Refused(later("payments cannot be taken at the moment; nothing was charged by this request"))
            }
        }
    }

    async fn take(&self, order: Order<'_>, presented: &Presented) -> Result<(Offer, Signed, Taken), Stop> {
        let (offer, signed) = authentic(order.quote, presented)?;
        if let Err(reason) = timely(&signed.authorization, offer.max_timeout_s, &self.terms.window(order.now))
            && !self.paid_already(&signed.authorization.key()).await?
        {
            return Err(reason.into());
        }
        let claim = Claim { id: order.claim, until: order.now.plus(self.terms.claim_ms) };
        let reservation =
            Reservation { payment: signed, request: order.request, resource: order.resource.to_owned(), at: order.now };
        let taken = self.till.take(reservation, claim).await?;
        Ok((offer, signed, taken))
    }

    /// Who has paid in time gets the answer when he comes back late.
    async fn paid_already(&self, key: &PaymentKey) -> Result<bool, TillError> {
        let found = self.till.payments().find(key).await?;
        Ok(matches!(found, Some((_, PaymentState::Settled { .. }))))
    }

    fn outcome(&self, order: Order<'_>, dialect: Dialect, offer: &Offer, signed: &Signed, taken: Taken) -> Sale {
        let receipt = |tx: Result<B256, Reason>| Receipt::new(dialect, offer, signed, tx);
        match taken {
            Taken::Paid(tx) => Sale::Serve(Ticket {
                payments: Arc::clone(self.till.payments()),
                claim: order.claim,
                receipt: receipt(Ok(tx)),
                purchase: Purchase { key: signed.authorization.key(), amount: offer.amount, payee: offer.pay_to, tx },
            }),
            Taken::InFlight => {
                Sale::Refused(said(StatusCode::CONFLICT, SOON_S, "this payment is being settled or answered"))
            }
            Taken::Answered(_) => Sale::Refused(terms_of(order.quote, Reason::Used.code(dialect))),
            Taken::Open(Reason::Unsettled) => Sale::Refused(later(
                "the payment may be on its way: send the same request with the same payment again, not with a new one",
            )),
            Taken::Refused(reason) | Taken::Open(reason) => {
                let mut response = terms_of(order.quote, reason.code(dialect));
                receipt(Err(reason)).write(response.headers_mut());
                Sale::Refused(response)
            }
        }
    }
}

enum Stop {
    Reason(Reason),
    Trouble(TillError),
}

impl From<Reason> for Stop {
    fn from(reason: Reason) -> Self {
        Self::Reason(reason)
    }
}

impl From<TillError> for Stop {
    fn from(error: TillError) -> Self {
        Self::Trouble(error)
    }
}

/// A sale, for the books.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purchase {
    /// The payment.
    pub key: PaymentKey,
    /// How much.
    pub amount: Usdc,
    /// To whom.
    pub payee: Address,
    /// By which transaction.
    pub tx: B256,
}

/// The right to one answer. Dropped without a word it is lost until its claim
/// runs out; then the payer's retry is served.
pub struct Ticket {
    payments: Arc<dyn Payments>,
    claim: u64,
    receipt: Receipt,
    purchase: Purchase,
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Ticket").field(&self.purchase).finish()
    }
}

/// Why an answer must not leave.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// Serving took longer than the claim held, and another request took over:
    /// the answer belongs to that one.
    #[error("another request has taken this payment over")]
    Lost,
    /// It could not be recorded.
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl Ticket {
    /// What was bought.
    #[must_use]
    pub const fn purchase(&self) -> &Purchase {
        &self.purchase
    }

    /// Records that the answer leaves now, and gives the headers that go with it:
    /// the receipt, and that nobody may cache what was paid for.
    ///
    /// # Errors
    /// The answer must not leave: it is answered with 409 or 503, and the payer
    /// may send the same request again.
    pub async fn answer(self) -> Result<HeaderMap, NoAnswer> {
        if !self.payments.answered(&self.purchase.key, self.claim).await? {
            return Err(NoAnswer::Lost);
        }
        let mut headers = HeaderMap::new();
        self.receipt.write(&mut headers);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
        Ok(headers)
    }

    /// Gives the payment back unanswered, at once: the agent could not be reached
    /// or failed before it said anything. The payer's retry is served.
    ///
    /// # Errors
    /// When it could not be recorded; the claim then runs out by itself.
    pub async fn give_back(self) -> Result<(), RecordError> {
        self.payments.release(&self.purchase.key, self.claim).await
    }
}

/// The result of a settlement, as its payer reads it.
struct Receipt {
    dialect: Dialect,
    answer: SettleAnswer,
}

impl Receipt {
    fn new(dialect: Dialect, offer: &Offer, signed: &Signed, tx: Result<B256, Reason>) -> Self {
        let payer = signed.authorization.from;
        let network = match dialect {
            Dialect::V2 => offer.token.caip2(),
            Dialect::V1 | Dialect::Cronos => offer.token.network().to_owned(),
        };
        let answer = match tx {
            Ok(tx) => SettleAnswer::settled(tx, network, payer),
            Err(reason) => SettleAnswer::failed(reason.code(dialect), None, network, Some(payer)),
        };
        Self { dialect, answer }
    }

    fn write(&self, headers: &mut HeaderMap) {
        let name = match self.dialect {
            Dialect::V2 => PAYMENT_RESPONSE,
            Dialect::V1 | Dialect::Cronos => X_PAYMENT_RESPONSE,
        };
        set(headers, name, &to_base64(&self.answer));
    }
}

/// A 402 in both versions at once: version 2's header, version 1's body.
#[must_use]
pub fn terms_of(quote: &Quote, error: &str) -> Response<Vec<u8>> {
    let body = to_json(&v1_required(quote, error));
    let mut response = json(StatusCode::PAYMENT_REQUIRED, body);
    set(response.headers_mut(), PAYMENT_REQUIRED, &v2_required(quote, error));
    response
}

fn later(error: &str) -> Response<Vec<u8>> {
    said(StatusCode::SERVICE_UNAVAILABLE, LATER_S, error)
}

fn said(status: StatusCode, retry_after_s: u64, error: &str) -> Response<Vec<u8>> {
    let mut response = json(status, serde_json::json!({ "error": error }).to_string().into_bytes());
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(retry_after_s));
    response
}

fn json(status: StatusCode, body: Vec<u8>) -> Response<Vec<u8>> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Base64 is always a header's value.
fn set(headers: &mut HeaderMap, name: HeaderName, base64: &str) {
    if let Ok(value) = HeaderValue::from_str(base64) {
        headers.insert(name, value);
    }
}
