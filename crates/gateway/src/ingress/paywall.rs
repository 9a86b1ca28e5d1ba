//! What is taken on the way to an agent: a request whose path has a price goes on
//! when it is paid, once.
//!
//! Whoever holds the agent's token goes free. To everybody else a price opens the
//! path, also of a private agent: who pays for an answer gets it.
//!
//! The price of a path must not be evaded by another writing of it, which an agent
//! might read as the same: an agent with prices takes plain paths alone, and a path that
//! some agents take for a priced one (`/v1/chat.json`) costs what that costs.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::response::IntoResponse;
use domain::{PodId, UnixMillis, Usdc};
use http::Response;
use http::header::HeaderMap;
use http::request::Parts;
use hyper::body::{Body as _, Incoming};
use store::Record;
use wire::fault::{Code, Fault};
use x402::{Bound, Checked, Client, NoAnswer, Order, Quote, RequestHash, Seller, Ticket, TillError, Unsold};

use crate::auth::caller::read_at_most;
use crate::edge::streams::Asker;
use crate::ingress::bodies::Room;
use crate::ingress::price_table::Prices;
use crate::refusal::{Refusal, answer};
use crate::state::Gateway;

/// Seconds after which a copy of a payment that is at work may ask again.
const SOON_S: u64 = 1;
/// Seconds after which one may ask again when payments are out of order.
const LATER_S: u64 = 5;
/// Prices of one agent at most.
pub(crate) const MAX_PRICES: usize = 64;
/// Bytes of a price's path at most.
const MAX_PATH: usize = 256;

/// What a request costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Toll {
    /// So much.
    pub(crate) price: Usdc,
    /// Whether it opens the path of a private agent: not where the path merely may be
    /// read as one that has a price.
    pub(crate) opens: bool,
}

/// What an agent asks of who comes without its token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tolled {
    /// Whether anything of it costs something.
    pub(crate) sells: bool,
    /// What this request costs.
    pub(crate) toll: Option<Toll>,
}

/// What a path costs: the price of the longest beginning that ends where a segment
/// does, and the dearer one where some agents read it as another path. Letters count as
/// equal in both cases, as some agents take them.
pub(crate) fn toll(prices: &Prices, path: &str) -> Option<Toll> {
    // Through the upper case: a long s is an s to who compares without case.
    let path = decoded(path).unwrap_or_else(|| path.to_owned()).to_uppercase().to_lowercase();
    let longest = |begins: fn(&str, &str) -> bool| {
        let fits = prices.iter().filter(|(prefix, _)| begins(&path, &prefix.to_ascii_lowercase()));
        fits.max_by_key(|(prefix, _)| prefix.len()).map(|(_, price)| *price)
    };
    let written = longest(begins_with).filter(|price| *price > Usdc::ZERO);
    let price = written.max(longest(may_begin_with)).filter(|price| *price > Usdc::ZERO)?;
    Some(Toll { price, opens: written.is_some() })
}

/// Whether a path begins with these segments, as it is written.
fn begins_with(path: &str, prefix: &str) -> bool {
    let rest = path.strip_prefix(prefix);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/'))
}

/// Whether some agents take a path for one that begins with these segments.
fn may_begin_with(path: &str, prefix: &str) -> bool {
    let bare = prefix.strip_suffix('/').unwrap_or(prefix);
    let is_folder = bare.len() < prefix.len();
    let mut segments = path.split('/');
    let mut names = bare.split('/').peekable();
    while let Some(name) = names.next() {
        let is_last = names.peek().is_none() && !is_folder;
        if !segments.next().is_some_and(|segment| may_be(segment, name, is_last)) {
            return false;
        }
    }
    !is_folder || segments.next().is_some()
}

/// Whether some agents take a segment for this name: without the spaces about it (a plus
/// is one to some) and the dots behind it. Of the last one, what follows a dot may be the
/// format that is asked for: `/v1/chat.json` is `/v1/chat` to Rails and Spring.
fn may_be(segment: &str, name: &str, is_last: bool) -> bool {
    let is_space = |letter: char| letter.is_whitespace() || letter == '+';
    [segment, segment.trim_start_matches(is_space)].into_iter().any(|segment| {
        let rest = segment.strip_prefix(name).map(|rest| rest.trim_start_matches(is_space));
        rest.is_some_and(|rest| {
            let is_dropped = |letter| is_space(letter) || letter == '.';
            rest.chars().all(is_dropped) || (is_last && rest.starts_with('.'))
        })
    })
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
    path.starts_with('/') && segments().enumerate().all(whole) && !path.contains('\\') && decoded(path).is_some()
}

/// Whether a price can be put on a path: what each client writes in one way alone.
pub(crate) fn can_be_priced(path: &str) -> bool {
    let stands_for_itself = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@/".contains(&byte);
    is_plain(path) && path.len() <= MAX_PATH && path.bytes().all(stands_for_itself)
}

/// The path that is meant, where it has one reading: no letters, digits, dots or
/// separators are percent-encoded, and all together is text.
fn decoded(path: &str) -> Option<String> {
    let mut parts = path.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        // `from_str_radix` takes a sign.
        let byte = u8::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'))?;
        if byte.is_ascii_alphanumeric() || byte.is_ascii_control() || b"-._~/\\%;?#".contains(&byte) {
            return None;
        }
        bytes.push(byte);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

/// A request whose payment is good: what else it needs is secured next, and then the
/// payment is taken. Nothing was charged yet, and nothing is when it is dropped.
pub(crate) struct Payable<'a> {
    seller: &'a Seller,
    quote: &'a Quote,
    payment: Checked<'a>,
}

impl Payable<'_> {
    /// Who asks, as places are counted.
    pub(crate) const fn asker(&self, client: Client) -> Asker {
        Asker::Payer(client.0, self.payment.payer())
    }

    /// What the payment is bound to.
    pub(crate) fn hash(&self, head: &Parts, body: &[u8]) -> RequestHash {
        RequestHash::of(head.method.as_str(), &self.quote.resource.url, body)
    }

    /// Takes the payment for this request.
    pub(crate) async fn pay(self, request: RequestHash, now: UnixMillis) -> Result<Ticket, Response<Body>> {
        let bound = Bound { request, now, claim: rand::random() };
        self.seller.take(self.payment, bound).await.map_err(told)
    }
}

/// What a payment is held against: kept beside [`Payable`], which borrows from it.
pub(crate) struct Counter {
    seller: Arc<Seller>,
    quote: Quote,
    resource: String,
    client: Client,
}

impl Gateway {
    /// What this request costs its sender.
    pub(crate) async fn toll_of(&self, agent: PodId, path: &str) -> Result<Tolled, Refusal> {
        if self.parts.shop.is_none() {
            return Ok(Tolled::default());
        }
        let prices = self.tariff.of(agent, self.parts.store.prices_of(agent)).await?;
        if !prices.is_empty() && !is_plain(path) {
            return Err(Refusal::invalid("this agent takes plain paths alone: no empty, dotted or encoded segments"));
        }
        Ok(Tolled { sells: prices.values().any(|price| *price > Usdc::ZERO), toll: toll(&prices, path) })
    }

    /// Where a request to this agent is paid.
    pub(crate) async fn counter(
        &self,
        record: &Record,
        price: Usdc,
        head: &Parts,
        client: IpAddr,
    ) -> Result<Counter, Refusal> {
        let shop = self.parts.shop.as_ref().ok_or_else(Refusal::no_chain)?;
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let url = format!("{}{path}", self.agent_url.of(record.pod));
        Ok(Counter {
            seller: shop.seller()?,
            quote: shop.quote(record.wallet, &url, price).await?,
            resource: record.pod.to_string(),
            client: Client::of(client),
        })
    }

    /// The whole body of a request that is paid for, with the room that it takes: its
    /// payment is bound to it.
    pub(crate) async fn paid_body(&self, body: Incoming, payer: Asker) -> Result<(Bytes, Room), Refusal> {
        let most = self.limits.paid_body_bytes;
        // One that does not say how long it is may be as long as it may be.
        let length = body.size_hint().exact().unwrap_or(u64::from(most)).min(u64::from(most));
        let room = self.bodies.enter(payer, length)?;
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        Ok((read_at_most(body, most, self.limits.body_ms).await?, room))
    }
}

impl Counter {
    /// Who pays here.
    pub(crate) const fn client(&self) -> Client {
        self.client
    }

    /// Checks the payment among the headers, its payer's money too, before the body is
    /// read or anything is held for him.
    pub(crate) async fn check(&self, head: &Parts, now: UnixMillis) -> Result<Payable<'_>, Response<Body>> {
        let Self { seller, quote, resource, client } = self;
        let order = Order { quote, resource, now, client: *client };
        let payment = seller.check(order, &head.headers).await.map_err(told)?;
        Ok(Payable { seller, quote, payment })
    }
}

/// How a payment that is not taken is answered.
fn told(unsold: Unsold) -> Response<Body> {
    let may_be_sent = "the payment may be on its way: send the same request with the same payment again, not a new one";
    let pending = || Fault::new(Code::SettlementPending, may_be_sent).retry_after(LATER_S);
    match unsold {
        Unsold::Terms(response) => (*response).map(Body::from),
        Unsold::Malformed(header) => {
            let said = "this header holds no payment that can be read: it is base64 of x402's JSON, and there is one";
            answer(&Fault::new(Code::MalformedPayment, said).field(header.as_str()))
        }
        Unsold::InFlight => {
            let said = "this payment is being settled or answered for another copy of the request";
            answer(&Fault::new(Code::PaymentInFlight, said).retry_after(SOON_S))
        }
        Unsold::Pending(receipt) => with_headers(answer(&pending()), receipt),
        Unsold::Unsettled => answer(&pending()),
        Unsold::Unavailable(error) => {
            tracing::warn!(%error, "a payment cannot be taken at the moment");
            let (code, after) = match error {
                TillError::Unread(_) => (Code::ChainUnavailable, LATER_S),
                TillError::Record(_) | TillError::Busy => (Code::PaymentsUnavailable, LATER_S),
                TillError::Unavailable { retry_after_s, .. } => {
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

/// Settles with the payer: an agent that said nothing, or failed, owes the answer
/// still; every other answer is the one that was bought. The receipt goes with all of
/// them.
pub(crate) async fn redeem(ticket: Ticket, answered: Result<Response<Body>, Refusal>) -> Response<Body> {
    let receipt = ticket.headers();
    let is_answer = answered.as_ref().is_ok_and(|response| !response.status().is_server_error());
    let booked = if is_answer {
        book(ticket).await
    } else {
        if let Err(error) = ticket.give_back().await {
            tracing::warn!(%error, "a payment is not given back at once; it is when its claim ends");
        }
        Ok(())
    };
    let response = booked.and(answered).unwrap_or_else(IntoResponse::into_response);
    with_headers(response, receipt)
}

async fn book(ticket: Ticket) -> Result<(), Refusal> {
    ticket.answer().await.map(drop).map_err(|error| {
        tracing::warn!(%error, "an answer that was paid for must not leave");
        let said = "the payment cannot be booked just now; send the same request again";
        match error {
            NoAnswer::Lost => {
                Fault::new(Code::PaymentInFlight, "another copy of this request answers it").retry_after(SOON_S).into()
            }
            NoAnswer::Record(_) => Fault::new(Code::PaymentsUnavailable, said).retry_after(SOON_S).into(),
        }
    })
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use http::header::RETRY_AFTER;

    use super::*;

    fn prices(list: &[(&str, u64)]) -> Prices {
        list.iter().map(|(path, price)| ((*path).to_owned(), Usdc(*price))).collect()
    }

    fn price(prices: &Prices, path: &str) -> Option<Usdc> {
        toll(prices, path).map(|toll| toll.price)
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
    fn fault_2_1_a_price_holds_for_every_way_to_write_its_path_and_is_put_on_no_other() {
        let prices = prices(&[("/pay!", 1), ("/a:b", 2)]);
        for path in ["/pay!", "/pay%21", "/PAY%21/x", "/a%3Ab"] {
            assert!(is_plain(path) && price(&prices, path).is_some(), "{path}");
        }
        for path in ["/", "/v1/chat/completions", "/static/", "/pay!", "/a:b", "/~x/y.z"] {
            assert!(can_be_priced(path), "{path}");
        }
        let long = format!("/{}", "x".repeat(MAX_PATH));
        for path in [
            "",
            "v1",
            "/echo/résumé",
            "/a b",
            "/a\u{7f}",
            "/a\n",
            "/a%20b",
            "/a?b",
            "/a#b",
            "/{a}",
            "/a|b",
            "/a//b",
            &long,
        ] {
            assert!(!can_be_priced(path), "{path:?}");
        }
    }

    #[test]
    fn fault_2_1_what_some_agents_read_as_a_priced_path_costs_what_that_costs() {
        let prices = prices(&[("/v1/chat", 2), ("/v1/chat/free", 0), ("/v1/chat.txt", 0), ("/c++", 3), ("/in/", 4)]);
        for (path, expected) in [
            ("/v1/chat.json", Some(2)),
            ("/v1/chat.tar.gz", Some(2)),
            ("/v1/chat.", Some(2)),
            ("/V1/Chat.JSON", Some(2)),
            ("/v1/chat.json/more", Some(2)),
            ("/v1/chat%20", Some(2)),
            ("/v1/chat+", Some(2)),
            ("/v1/chat%C2%A0", Some(2)),
            ("/v1/%20chat", Some(2)),
            ("/v1%20/chat", Some(2)),
            ("/v1./chat", Some(2)),
            ("/v1/chat%20.json", Some(2)),
            ("/v1/chat%20/free", None),
            // The dearer reading: a format of what is free, or something of what is not.
            ("/v1/chat/free.json", Some(2)),
            // Its holder said so.
            ("/v1/chat.txt", None),
            ("/c++", Some(3)),
            ("/c++%20", Some(3)),
            ("/%E2%84%AA", None),
            ("/in/.x", Some(4)),
            ("/in%20/x", Some(4)),
            ("/in", None),
            ("/in.json", None),
            ("/c", None),
            ("/v1/chats.json", None),
            ("/v1/chat-2", None),
            ("/v1/chat+more", None),
            ("/v1/chat%20more", None),
            ("/v1.json/chat", None),
            ("/static/app.js", None),
            ("/a%20b", None),
            ("/", None),
        ] {
            assert!(is_plain(path), "{path}");
            assert_eq!(price(&prices, path), expected.map(Usdc), "{path}");
        }
        let opens = |path| toll(&prices, path).is_some_and(|toll| toll.opens);
        assert!(opens("/v1/chat") && opens("/V1/chat/more") && opens("/v1/chat/free.json"));
        assert!(!opens("/v1/chat.json") && !opens("/v1/chat%20"), "who pays for one path does not pay for another");
        let all = [("/".to_owned(), Usdc(5)), ("/static".to_owned(), Usdc(0)), ("/task".to_owned(), Usdc(7))].into();
        assert_eq!(price(&all, "/static/app.js"), None);
        assert_eq!(price(&all, "/app.js"), Some(Usdc(5)));
        assert_eq!(price(&all, "/ta%C5%BF%E2%84%AA"), Some(Usdc(7)), "a long s and Kelvin's sign");
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
            "/v1%3fx",
            "/v1%23x",
            "/v1%ff",
            "/v1%c3",
            "/%+1",
        ] {
            assert!(!is_plain(path), "{path}");
        }
    }

    #[test]
    fn fault_2_3_where_nothing_was_sent_the_payer_is_told_so_and_when_to_come_again() {
        let told_of = |retry_after_s| {
            let error = TillError::Unavailable { why: "no more is relayed today".to_owned(), retry_after_s };
            let answer = told(Unsold::Unavailable(error));
            (answer.status(), answer.headers()[RETRY_AFTER].clone())
        };
        let unavailable = |seconds: u64| (StatusCode::SERVICE_UNAVAILABLE, seconds.into());
        assert_eq!(told_of(Some(3600)), unavailable(3600));
        assert_eq!(told_of(None), unavailable(LATER_S));
    }
}
