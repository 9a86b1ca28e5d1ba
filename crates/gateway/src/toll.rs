//! What is taken on the way to an agent: a request whose path has a price goes on
//! when it is paid, once.
//!
//! Whoever holds the agent's token goes free. To everybody else a price opens the
//! path, also of a private agent: who pays for an answer gets it.
//!
//! The price of a path must not be evaded by another writing of it, which an agent
//! might read as the same: an agent with prices takes plain paths alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use domain::{AgentId, Usdc};
use http::header::HeaderMap;
use http::request::Parts;
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use moka::future::Cache;
use store::{Record, Store, StoreError};
use wire::fault::{Code, Fault};
use x402::{NoAnswer, Order, RequestHash, Sale, Ticket};

use crate::caller::read_at_most;
use crate::refusal::Refusal;
use crate::state::Gateway;

/// Agents whose prices are held in memory.
const HELD: u64 = 10_000;
/// Prices of one agent at most.
pub(crate) const MAX_PRICES: usize = 64;
/// Bytes of a price's path at most.
pub(crate) const MAX_PATH: usize = 256;

/// Prices by the beginning of a path.
pub(crate) type Prices = BTreeMap<String, Usdc>;

/// What requests cost, as read from the store.
pub(crate) struct Tariff(Cache<AgentId, Arc<Prices>>);

impl Tariff {
    pub(crate) fn new() -> Self {
        Self(Cache::new(HELD))
    }

    /// An agent's prices.
    pub(crate) async fn of(&self, store: &Store, agent: AgentId) -> Result<Arc<Prices>, StoreError> {
        let reading = async { store.prices_of(agent).await.map(Arc::new) };
        self.0.try_get_with(agent, reading).await.map_err(|error| (*error).clone())
    }

    /// Forgets what was read: it has changed.
    pub(crate) async fn forget(&self, agent: AgentId) {
        self.0.invalidate(&agent).await;
    }
}

/// What a path costs: the price of the longest beginning that ends where a segment
/// does. Letters count as equal in both cases, as some agents take them.
pub(crate) fn price(prices: &Prices, path: &str) -> Option<Usdc> {
    let path = path.to_ascii_lowercase();
    let begins = |prefix: &str| {
        let rest = path.strip_prefix(&prefix.to_ascii_lowercase());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/'))
    };
    let fits = prices.iter().filter(|(prefix, _)| begins(prefix));
    fits.max_by_key(|(prefix, _)| prefix.len()).map(|(_, price)| *price).filter(|price| *price > Usdc::ZERO)
}

/// Whether a path has one reading: no empty or dotted segments, nothing encoded
/// that need not be, no second separators.
pub(crate) fn is_plain(path: &str) -> bool {
    let segments = || path.strip_prefix('/').into_iter().flat_map(|path| path.split('/'));
    let last = segments().count().saturating_sub(1);
    let whole = |(at, segment): (usize, &str)| {
        let name = segment.split(';').next().unwrap_or(segment);
        (!segment.is_empty() || at == last) && !matches!(name, "." | "..") && !segment.contains(';')
    };
    path.starts_with('/') && segments().enumerate().all(whole) && !path.contains('\\') && is_encoded_plainly(path)
}

/// Whether what is percent-encoded had to be: no letters, digits, dots or slashes.
fn is_encoded_plainly(path: &str) -> bool {
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        let Some(byte) = rest.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok()) else {
            return false;
        };
        if byte.is_ascii_alphanumeric() || byte.is_ascii_control() || b"-._~/\\%;".contains(&byte) {
            return false;
        }
        rest = &rest[at + 3..];
    }
    true
}

/// A request that may go on.
pub(crate) struct Passed {
    /// Its body, whole where it was paid for.
    pub(crate) body: Body,
    /// What is owed to the payer, where it was paid for.
    pub(crate) ticket: Option<Ticket>,
}

/// What becomes of a request at the toll.
pub(crate) enum Toll {
    /// It goes on.
    Pass(Passed),
    /// It is answered here: terms, or why the payment is not taken.
    Stop(Response<Body>),
}

impl Gateway {
    /// What this request costs its sender.
    pub(crate) async fn toll_of(&self, agent: AgentId, path: &str) -> Result<Option<Usdc>, Refusal> {
        if self.parts.treasury.is_none() {
            return Ok(None);
        }
        let prices = self.tariff.of(&self.parts.store, agent).await?;
        if !prices.is_empty() && !is_plain(path) {
            return Err(Refusal::invalid("this agent takes plain paths alone: no empty, dotted or encoded segments"));
        }
        Ok(price(&prices, path))
    }

    /// Takes the payment for a request whose path has a price.
    pub(crate) async fn take_toll(
        &self,
        record: &Record,
        price: Usdc,
        head: &Parts,
        body: Incoming,
    ) -> Result<Toll, Refusal> {
        let treasury = self.treasury()?;
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let url = format!("{}{path}", self.agent_url.of(record.id));
        let quote = treasury.quote(record.wallet, &url, price).await?;
        // Nothing is held for who brings nothing.
        if let Some(response) = treasury.turn_away(&quote, &head.headers)? {
            return Ok(Toll::Stop(response.map(Body::from)));
        }
        // What a payment is bound to is read whole first.
        let most = usize::try_from(self.limits.paid_body_bytes).unwrap_or(usize::MAX);
        let body = read_at_most(body, most, self.limits.body_ms).await?;
        let request = RequestHash::of(head.method.as_str(), &url, &body);
        let resource = record.id.to_string();
        let order = Order { quote: &quote, request, resource: &resource, now: self.now(), claim: rand::random() };
        Ok(match treasury.sell(order, &head.headers).await? {
            Sale::Refused(response) => Toll::Stop(response.map(Body::from)),
            Sale::Serve(ticket) => Toll::Pass(Passed { body: Body::new(Full::new(body)), ticket: Some(ticket) }),
        })
    }
}

/// Settles with the payer: an agent that said nothing, or failed, owes the answer
/// still; every other answer is the one that was bought.
pub(crate) async fn redeem(ticket: Ticket, answered: Option<StatusCode>) -> Result<HeaderMap, Refusal> {
    if answered.is_none_or(|status| status.is_server_error()) {
        if let Err(error) = ticket.give_back().await {
            tracing::warn!(%error, "a payment is not given back at once; it is when its claim ends");
        }
        return Ok(HeaderMap::new());
    }
    ticket.answer().await.map_err(|error| {
        tracing::warn!(%error, "an answer that was paid for must not leave");
        let said = "the payment cannot be booked just now; send the same request again";
        match error {
            NoAnswer::Lost => Refusal::new(Code::WrongState, "another copy of this request answers it"),
            NoAnswer::Record(_) => Fault::new(Code::ChainUnavailable, said).retry_after(1).into(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prices(list: &[(&str, u64)]) -> Prices {
        list.iter().map(|(path, price)| ((*path).to_owned(), Usdc(*price))).collect()
    }

    #[test]
    fn the_longest_beginning_of_a_path_that_ends_with_a_segment_counts() {
        let prices = prices(&[("/v1", 1), ("/v1/chat", 2), ("/v1/free", 0), ("/static/", 3)]);
        for (path, expected) in [
            ("/v1", Some(1)),
            ("/v1/", Some(1)),
            ("/v1/models", Some(1)),
            ("/v1/chat/completions", Some(2)),
            ("/V1/Chat/completions", Some(2)),
            ("/v1/chats", Some(1)),
            ("/v1/free/x", None),
            ("/v11", None),
            ("/static/a", Some(3)),
            ("/static", None),
            ("/", None),
        ] {
            assert_eq!(price(&prices, path), expected.map(Usdc), "{path}");
        }
        assert_eq!(price(&Prices::new(), "/v1"), None);
        assert_eq!(price(&[("/".to_owned(), Usdc(5))].into(), "/anything/at/all"), Some(Usdc(5)));
    }

    #[test]
    fn a_path_with_a_second_reading_is_not_plain() {
        for path in ["/", "/v1", "/v1/", "/v1/chat/completions", "/a%20b", "/%C3%A9", "/a.b/..c"] {
            assert!(is_plain(path), "{path}");
        }
        for path in [
            "",
            "v1",
            "//v1",
            "/v1//chat",
            "/./v1",
            "/a/../v1",
            "/v1/..",
            "/%761",
            "/v1%2Fchat",
            "/v1/%2e%2e/x",
            "/v1%5cchat",
            "/v1\\chat",
            "/v1;x/chat",
            "/..;/v1",
            "/v1%3b",
            "/%",
            "/%zz",
            "/%2",
            "/v1%252f",
            "/a%00",
        ] {
            assert!(!is_plain(path), "{path}");
        }
    }
}
