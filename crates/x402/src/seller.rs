//! Selling one answer for one payment.
//!
//! The order is: parse, verify and look at the payer's funds, all from the headers alone
//! ([`Seller::check`]); read the body and secure whatever else the request needs; bind
//! the payment to the request, reserve on disk and settle ([`Seller::take`]); and only
//! then serve.
//! What a payer gets, whatever dies in between:
//!
//! - A payment is bound to the first request it comes with ([`PaidRequestHash`]).
//! - A retry of that request with that payment takes up where it was left: it
//!   waits for nothing that is settled, and settles nothing twice.
//! - At most one answer leaves. [`AnswerPermit::answer`] is the point of no return: it
//!   is on disk before the first byte leaves. Whoever dies before it has sold
//!   nothing, and the payer's retry is served; whoever dies after it has
//!   answered, and a retry is told that the payment was used.
//! - Copies that come while one is at work are told so, and may ask again.
//! - The receipt goes with every answer that a settled payment gets.

use std::sync::Arc;

use domain::{Address, B256, UnixMillis, Usdc};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use crate::settlements::{SettleOutcome, SettlementUnknown, Settlements};
use crate::unverified::{PAYMENT_SIGNATURE, UnverifiedPayment, X_PAYMENT};
use crate::verify::{ClockTolerance, check_authenticity, check_validity};
use crate::wire::{SettleResponse, to_base64, to_json, v1_required, v2_required};
use crate::{
    ClientAddr, Dialect, InvalidReason, Offer, PaidRequestHash, Payment, PaymentKey, PaymentLease, PaymentState,
    Payments, PaymentsError, Quote, SignedAuthorization, Tokens,
};

/// Version 2's header for terms.
pub const PAYMENT_REQUIRED: HeaderName = HeaderName::from_static("payment-required");
/// Version 2's header for a settlement's result.
pub const PAYMENT_RESPONSE: HeaderName = HeaderName::from_static("payment-response");
/// Version 1's header for a settlement's result.
pub const X_PAYMENT_RESPONSE: HeaderName = HeaderName::from_static("x-payment-response");

/// What is said to who brings no payment.
const NO_PAYMENT: &str = "payment required";

/// How a seller takes payments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SellerTiming {
    /// Seconds that must be left of a payment for its settlement.
    pub settle_margin_s: u64,
    /// Seconds by which a payer's clock may be ahead.
    pub clock_skew_s: u64,
    /// Milliseconds for which one request may hold a payment: its settlement and
    /// the time to the answer's first byte together.
    pub lease_ms: u64,
}

impl SellerTiming {
    /// What is told of the clocks at this moment.
    #[must_use]
    pub const fn tolerance(&self, now: UnixMillis) -> ClockTolerance {
        ClockTolerance { now: now.0 / 1000, settle_margin_s: self.settle_margin_s, clock_skew_s: self.clock_skew_s }
    }
}

/// A request that costs something, as far as it is known before its body.
#[derive(Clone, Copy, Debug)]
pub struct PricedRequest<'a> {
    /// Its terms.
    pub quote: &'a Quote,
    /// What is bought: an agent's id.
    pub resource: &'a str,
    /// When it came.
    pub now: UnixMillis,
    /// Who brought it.
    pub client: ClientAddr,
}

/// What a payment is bound to.
#[derive(Clone, Copy, Debug)]
pub struct RequestBinding {
    /// The whole request's hash.
    pub request: PaidRequestHash,
    /// When it was whole.
    pub now: UnixMillis,
    /// A random number of this request alone.
    pub lease: u64,
}

/// Why a request is not served.
#[derive(Debug)]
pub enum PaymentRejection {
    /// It must be paid, or paid otherwise: 402 with terms.
    PaymentRequired(Box<Response<Vec<u8>>>),
    /// This header holds no payment that could be read.
    Malformed(HeaderName),
    /// The payment is being settled or answered for another copy of the request.
    InFlight,
    /// The payment's transfer was sent and is not confirmed yet: the same request
    /// with the same payment is served once it is. These headers say so.
    Pending(HeaderMap),
    /// The payment may be on its way: as with [`PaymentRejection::Pending`], but no transaction
    /// is known.
    Unsettled,
    /// Nothing can be said of the payment just now, and nothing was charged.
    Unavailable(SettlementUnknown),
}

/// A payment that was found good. It holds no permit, and nothing was reserved yet.
pub struct CheckedPayment<'a> {
    order: PricedRequest<'a>,
    dialect: Dialect,
    offer: Offer,
    payment: SignedAuthorization,
}

impl CheckedPayment<'_> {
    /// Who pays.
    #[must_use]
    pub const fn payer(&self) -> Address {
        self.payment.authorization.from
    }
}

/// Sells answers.
pub struct Seller {
    settlements: Arc<Settlements>,
    tokens: Arc<Tokens>,
    timing: SellerTiming,
}

impl Seller {
    /// A seller for payments in these tokens.
    #[must_use]
    pub const fn new(settlements: Arc<Settlements>, tokens: Arc<Tokens>, timing: SellerTiming) -> Self {
        Self { settlements, tokens, timing }
    }

    /// The payment among a request's headers, read but not believed.
    fn presented(&self, quote: &Quote, headers: &HeaderMap) -> Result<UnverifiedPayment, PaymentRejection> {
        match UnverifiedPayment::from_headers(headers, &self.tokens) {
            Ok(Some(presented)) => Ok(presented),
            Ok(None) => Err(PaymentRejection::PaymentRequired(Box::new(payment_required(quote, NO_PAYMENT)))),
            Err((dialect, InvalidReason::Payload)) => Err(PaymentRejection::Malformed(header_of(dialect))),
            Err((dialect, reason)) => {
                Err(PaymentRejection::PaymentRequired(Box::new(payment_required(quote, reason.code(dialect)))))
            }
        }
    }

    /// Looks at the payment among a request's headers, before its body is read and
    /// without taking it: is it good, and has its payer the money?
    ///
    /// # Errors
    /// Why it would not be taken.
    pub async fn check<'a>(
        &self,
        order: PricedRequest<'a>,
        headers: &HeaderMap,
    ) -> Result<CheckedPayment<'a>, PaymentRejection> {
        let presented = self.presented(order.quote, headers)?;
        let dialect = presented.dialect();
        let refused = |reason: InvalidReason| {
            PaymentRejection::PaymentRequired(Box::new(payment_required(order.quote, reason.code(dialect))))
        };
        let (offer, payment) = check_authenticity(order.quote, &presented).map_err(refused)?;
        let checked = CheckedPayment { order, dialect, offer, payment };
        self.in_time(&checked, order.now).await?;
        let declined = |reason, tx| Err(declined(order, dialect, &checked.offer, &payment, reason, tx));
        match self.settlements.precheck(order.client, &payment).await? {
            // What has bought its answer gets no place of those who pay.
            Ok(Some(PaymentState::Answered { tx })) => declined(InvalidReason::Used, Some(tx)),
            Ok(Some(PaymentState::Failed { .. })) => declined(InvalidReason::Used, None),
            Ok(Some(PaymentState::Reserved | PaymentState::Settled { .. }) | None) => Ok(checked),
            Err(reason) => declined(reason, None),
        }
    }

    /// Whether a payment is valid at this moment, or was when it was made.
    async fn in_time(&self, checked: &CheckedPayment<'_>, now: UnixMillis) -> Result<(), PaymentRejection> {
        let CheckedPayment { order, dialect, offer, payment } = checked;
        match check_validity(&payment.authorization, offer.max_timeout_s, &self.timing.tolerance(now)) {
            Err(reason) if !self.paid_already(&payment.authorization.key()).await? => {
                Err(PaymentRejection::PaymentRequired(Box::new(payment_required(order.quote, reason.code(*dialect)))))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Takes a payment that was checked, for the request that it came with.
    ///
    /// # Errors
    /// Why it is not taken.
    pub async fn take(
        &self,
        checked: CheckedPayment<'_>,
        bound: RequestBinding,
    ) -> Result<AnswerPermit, PaymentRejection> {
        // The body may have taken its time.
        self.in_time(&checked, bound.now).await?;
        let CheckedPayment { order, dialect, offer, payment } = checked;
        let RequestBinding { request, now, lease } = bound;
        let resource = order.resource.to_owned();
        let reservation = Payment { signed: payment, request, resource, seen_at: now };
        let held = PaymentLease { id: lease, until: now.plus(self.timing.lease_ms) };
        let declined = |reason, tx| Err(declined(order, dialect, &offer, &payment, reason, tx));
        match self.settlements.settle(reservation, held, order.client).await? {
            SettleOutcome::Paid(tx) => Ok(AnswerPermit {
                payments: Arc::clone(self.settlements.payments()),
                lease,
                receipt: Receipt::new(dialect, &offer, &payment, Ok(tx)),
                purchase: PurchaseRecord {
                    key: payment.authorization.key(),
                    amount: offer.amount,
                    payee: offer.pay_to,
                    tx,
                },
            }),
            SettleOutcome::InFlight => Err(PaymentRejection::InFlight),
            SettleOutcome::Answered(tx) => declined(InvalidReason::Used, Some(tx)),
            SettleOutcome::Pending(tx) => {
                let receipt = Receipt::new(dialect, &offer, &payment, Err((InvalidReason::Pending, Some(tx))));
                Err(PaymentRejection::Pending(receipt.headers()))
            }
            SettleOutcome::Open(InvalidReason::Unsettled) => Err(PaymentRejection::Unsettled),
            SettleOutcome::Refused(reason) | SettleOutcome::Open(reason) => declined(reason, None),
        }
    }

    /// Both: [`Seller::check`] and [`Seller::take`].
    ///
    /// # Errors
    /// Why the request is not served.
    pub async fn sell(
        &self,
        order: PricedRequest<'_>,
        bound: RequestBinding,
        headers: &HeaderMap,
    ) -> Result<AnswerPermit, PaymentRejection> {
        let checked = self.check(order, headers).await?;
        self.take(checked, bound).await
    }

    /// Who has paid in time gets the answer when he comes back late.
    async fn paid_already(&self, key: &PaymentKey) -> Result<bool, SettlementUnknown> {
        let found = self.settlements.payments().find(key).await?;
        Ok(matches!(found, Some((_, PaymentState::Settled { .. }))))
    }
}

/// Terms, with what became of the payment that came.
fn declined(
    order: PricedRequest<'_>,
    dialect: Dialect,
    offer: &Offer,
    payment: &SignedAuthorization,
    reason: InvalidReason,
    tx: Option<B256>,
) -> PaymentRejection {
    let mut response = payment_required(order.quote, reason.code(dialect));
    response.headers_mut().extend(Receipt::new(dialect, offer, payment, Err((reason, tx))).headers());
    PaymentRejection::PaymentRequired(Box::new(response))
}

impl From<SettlementUnknown> for PaymentRejection {
    fn from(error: SettlementUnknown) -> Self {
        Self::Unavailable(error)
    }
}

impl From<PaymentsError> for PaymentRejection {
    fn from(error: PaymentsError) -> Self {
        Self::Unavailable(error.into())
    }
}

/// What was bought, for records and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PurchaseRecord {
    /// The payment.
    pub key: PaymentKey,
    /// How much.
    pub amount: Usdc,
    /// To whom.
    pub payee: Address,
    /// By which transaction.
    pub tx: B256,
}

/// The right to one answer. Dropped without a word it is lost until its lease
/// runs out; then the payer's retry is served.
pub struct AnswerPermit {
    payments: Arc<dyn Payments>,
    lease: u64,
    receipt: Receipt,
    purchase: PurchaseRecord,
}

impl std::fmt::Debug for AnswerPermit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("AnswerPermit").field(&self.purchase).finish()
    }
}

/// Why an answer must not leave.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerWithheld {
    /// Serving took longer than the lease held, and another request took over:
    /// the answer belongs to that one.
    #[error("another request has taken this payment over")]
    Lost,
    /// It could not be recorded.
    #[error(transparent)]
    Record(#[from] PaymentsError),
}

impl AnswerPermit {
    /// What was bought.
    #[must_use]
    pub const fn purchase(&self) -> &PurchaseRecord {
        &self.purchase
    }

    /// The headers that go with whatever this request is answered, an error or a
    /// change of protocol too: the receipt, and that nobody may cache it.
    #[must_use]
    pub fn headers(&self) -> HeaderMap {
        let mut headers = self.receipt.headers();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
        headers
    }

    /// Records that the answer leaves now, with [`AnswerPermit::headers`].
    ///
    /// # Errors
    /// The answer must not leave: it is answered with 409 or 503, and the payer
    /// may send the same request again.
    pub async fn answer(self) -> Result<HeaderMap, AnswerWithheld> {
        if !self.payments.answered(&self.purchase.key, self.lease).await? {
            return Err(AnswerWithheld::Lost);
        }
        Ok(self.headers())
    }

    /// Gives the payment back unanswered, at once: the agent could not be reached
    /// or failed before it said anything. The payer's retry is served.
    ///
    /// # Errors
    /// When it could not be recorded; the lease then runs out by itself.
    pub async fn give_back(self) -> Result<(), PaymentsError> {
        self.payments.release(&self.purchase.key, self.lease).await
    }
}

/// The result of a settlement, as its payer reads it.
struct Receipt {
    dialect: Dialect,
    answer: SettleResponse,
}

impl Receipt {
    fn new(
        dialect: Dialect,
        offer: &Offer,
        signed: &SignedAuthorization,
        tx: Result<B256, (InvalidReason, Option<B256>)>,
    ) -> Self {
        let payer = signed.authorization.from;
        let network = match dialect {
            Dialect::V2 => offer.token.caip2(),
            Dialect::V1 | Dialect::Cronos => offer.token.network().to_owned(),
        };
        let answer = match tx {
            Ok(tx) => SettleResponse::settled(tx, network, payer),
            Err((reason, tx)) => SettleResponse::failed(reason.code(dialect), tx, network, Some(payer)),
        };
        Self { dialect, answer }
    }

    fn headers(&self) -> HeaderMap {
        let name = match self.dialect {
            Dialect::V2 => PAYMENT_RESPONSE,
            Dialect::V1 | Dialect::Cronos => X_PAYMENT_RESPONSE,
        };
        let mut headers = HeaderMap::new();
        set(&mut headers, name, &to_base64(&self.answer));
        headers
    }
}

/// A 402 in both versions at once: version 2's header, version 1's body.
#[must_use]
pub fn payment_required(quote: &Quote, error: &str) -> Response<Vec<u8>> {
    let body = to_json(&v1_required(quote, error));
    let mut response = json(StatusCode::PAYMENT_REQUIRED, body);
    set(response.headers_mut(), PAYMENT_REQUIRED, &v2_required(quote, error));
    response
}

/// The header that a payment in this dialect comes in.
const fn header_of(dialect: Dialect) -> HeaderName {
    match dialect {
        Dialect::V2 => PAYMENT_SIGNATURE,
        Dialect::V1 | Dialect::Cronos => X_PAYMENT,
    }
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
