//! A request whose path has a price goes on to its agent when it is paid, once.
//!
//! Whoever holds the agent's token goes free. To everybody else a price opens the
//! path, also of a private agent: who pays for an answer gets it.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::response::IntoResponse;
use domain::{PodId, UnixMillis, Usdc};
use http::Response;
use http::header::HeaderMap;
use http::request::Parts;
use hyper::body::{Body as _, Incoming};
use store::RunRecord;
use wire::fault::{Code, Fault};
use x402::{
    AnswerPermit, AnswerWithheld, CheckedPayment, ClientAddr, PaidRequestHash, PaymentRejection, PricedRequest, Quote,
    RequestBinding, Seller, SettlementUnknown,
};

use crate::edge::body::read_at_most;
use crate::edge::requester::Requester;
use crate::error::{ApiError, answer};
use crate::ingress::bodies::BodyPermit;
use crate::ingress::pricing::{AgentPricing, charge, is_plain};
use crate::state::Gateway;

/// Seconds after which a copy of a request that is being paid may ask again.
const SOON_S: u64 = 1;
/// Seconds after which one may ask again when payments cannot be taken.
const LATER_S: u64 = 5;

/// A payment that is good for a request, and not taken yet: what else the request needs
/// is acquired first. When this is dropped nothing is charged.
pub(crate) struct VerifiedPayment<'a> {
    seller: &'a Seller,
    quote: &'a Quote,
    payment: CheckedPayment<'a>,
}

impl VerifiedPayment<'_> {
    /// Whose quotas the request takes from.
    pub(crate) const fn requester(&self, client: ClientAddr) -> Requester {
        Requester::Payer(client.0, self.payment.payer())
    }

    /// What the payment is bound to.
    pub(crate) fn hash(&self, head: &Parts, body: &[u8]) -> PaidRequestHash {
        PaidRequestHash::of(head.method.as_str(), &self.quote.resource.url, body)
    }

    /// Takes the payment for this request.
    pub(crate) async fn pay(self, request: PaidRequestHash, now: UnixMillis) -> Result<AnswerPermit, Response<Body>> {
        let bound = RequestBinding { request, now, lease: rand::random() };
        self.seller.take(self.payment, bound).await.map_err(payment_refused)
    }
}

/// The terms on which one request is let through.
pub(crate) struct PaywallTerms {
    seller: Arc<Seller>,
    quote: Quote,
    resource: String,
    client: ClientAddr,
}

impl Gateway {
    /// What this request costs its sender.
    pub(crate) async fn pricing_for(&self, agent: PodId, path: &str) -> Result<AgentPricing, ApiError> {
        if self.parts.payments.is_none() {
            return Ok(AgentPricing::default());
        }
        let prices = self.price_cache.of(agent, self.parts.store.prices_of(agent)).await?;
        if !prices.is_empty() && !is_plain(path) {
            return Err(ApiError::invalid("this agent takes plain paths alone: no empty, dotted or encoded segments"));
        }
        Ok(AgentPricing { has_prices: prices.values().any(|price| *price > Usdc::ZERO), charge: charge(&prices, path) })
    }

    /// The paywall before a request to this agent.
    pub(crate) async fn paywall(
        &self,
        record: &RunRecord,
        price: Usdc,
        head: &Parts,
        client: IpAddr,
    ) -> Result<PaywallTerms, ApiError> {
        let payments = self.parts.payments.as_ref().ok_or_else(ApiError::no_chain)?;
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let url = format!("{}{path}", self.agent_url.of(record.pod));
        Ok(PaywallTerms {
            seller: payments.seller()?,
            quote: payments.quote(record.wallet, &url, price).await?,
            resource: record.pod.to_string(),
            client: ClientAddr::of(client),
        })
    }

    /// The whole body of a paid request, with its permit: the payment is bound to it.
    pub(crate) async fn paid_body(&self, body: Incoming, payer: Requester) -> Result<(Bytes, BodyPermit), ApiError> {
        let most = self.limits.paid_body_bytes;
        // One that does not say how long it is may be as long as it may be.
        let length = body.size_hint().exact().unwrap_or(u64::from(most)).min(u64::from(most));
        let permit = self.bodies.try_acquire(payer, length)?;
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        Ok((read_at_most(body, most, self.limits.body_ms).await?, permit))
    }
}

impl PaywallTerms {
    /// The address of the client.
    pub(crate) const fn client(&self) -> ClientAddr {
        self.client
    }

    /// Checks the payment among the headers, and that its payer has the funds, before the
    /// body is read or anything is held for the request.
    pub(crate) async fn check(&self, head: &Parts, now: UnixMillis) -> Result<VerifiedPayment<'_>, Response<Body>> {
        let Self { seller, quote, resource, client } = self;
        let order = PricedRequest { quote, resource, now, client: *client };
        let payment = seller.check(order, &head.headers).await.map_err(payment_refused)?;
        Ok(VerifiedPayment { seller, quote, payment })
    }
}

/// The answer to a payment that is not taken.
fn payment_refused(unsold: PaymentRejection) -> Response<Body> {
    let may_be_sent = "the payment may be on its way: send the same request with the same payment again, not a new one";
    let pending = || Fault::new(Code::SettlementPending, may_be_sent).retry_after(LATER_S);
    match unsold {
        PaymentRejection::PaymentRequired(response) => (*response).map(Body::from),
        PaymentRejection::Malformed(header) => {
            let said = "this header holds no payment that can be read: it is base64 of x402's JSON, and there is one";
            answer(&Fault::new(Code::MalformedPayment, said).field(header.as_str()))
        }
        PaymentRejection::InFlight => {
            let said = "this payment is being settled or answered for another copy of the request";
            answer(&Fault::new(Code::PaymentInFlight, said).retry_after(SOON_S))
        }
        PaymentRejection::Pending(receipt) => with_headers(answer(&pending()), receipt),
        PaymentRejection::Unsettled => answer(&pending()),
        PaymentRejection::Unavailable(error) => {
            tracing::warn!(%error, "a payment cannot be taken; its payer is told to try again");
            let (code, after) = match error {
                SettlementUnknown::Token(_) => (Code::ChainUnavailable, LATER_S),
                SettlementUnknown::Record(_) | SettlementUnknown::Busy => (Code::PaymentsUnavailable, LATER_S),
                SettlementUnknown::Unavailable { retry_after_s, .. } => {
                    (Code::PaymentsUnavailable, retry_after_s.unwrap_or(LATER_S))
                }
            };
            let said = "payments cannot be taken just now; nothing was charged by this request";
            answer(&Fault::new(code, said).retry_after(after))
        }
    }
}

fn with_headers(mut response: Response<Body>, headers: HeaderMap) -> Response<Body> {
    response.headers_mut().extend(headers);
    response
}

/// Ends a paid request. An agent that did not answer, or failed, still owes the answer:
/// the payment can be used again. Every other answer is the one that was bought. The
/// receipt goes with all of them.
pub(crate) async fn finish(permit: AnswerPermit, answered: Result<Response<Body>, ApiError>) -> Response<Body> {
    let receipt = permit.headers();
    let is_answer = answered.as_ref().is_ok_and(|response| !response.status().is_server_error());
    let recorded = if is_answer {
        record_answer(permit).await
    } else {
        if let Err(error) = permit.give_back().await {
            tracing::warn!(%error, "a payment cannot be released now; it can be used again when its claim expires");
        }
        Ok(())
    };
    let response = recorded.and(answered).unwrap_or_else(IntoResponse::into_response);
    with_headers(response, receipt)
}

async fn record_answer(permit: AnswerPermit) -> Result<(), ApiError> {
    permit.answer().await.map(drop).map_err(|error| {
        tracing::warn!(%error, "the answer to a paid request cannot be recorded and is withheld");
        let said = "the payment cannot be recorded just now; send the same request again";
        match error {
            AnswerWithheld::Lost => {
                Fault::new(Code::PaymentInFlight, "another copy of this request answers it").retry_after(SOON_S).into()
            }
            AnswerWithheld::Record(_) => Fault::new(Code::PaymentsUnavailable, said).retry_after(SOON_S).into(),
        }
    })
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use http::header::RETRY_AFTER;

    use super::*;

    #[test]
    fn fault_2_3_where_nothing_was_sent_the_payer_is_told_so_and_when_to_come_again() {
        let told_of = |retry_after_s| {
            let error = SettlementUnknown::Unavailable { why: "no more is relayed today".to_owned(), retry_after_s };
            let answer = payment_refused(PaymentRejection::Unavailable(error));
            (answer.status(), answer.headers()[RETRY_AFTER].clone())
        };
        let unavailable = |seconds: u64| (StatusCode::SERVICE_UNAVAILABLE, seconds.into());
        assert_eq!(told_of(Some(3600)), unavailable(3600));
        assert_eq!(told_of(None), unavailable(LATER_S));
    }
}
