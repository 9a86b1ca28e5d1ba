//! Which headers go on to an agent, and which end here.

use std::net::IpAddr;

use http::header::{AUTHORIZATION, EXPECT, HeaderMap, HeaderName, HeaderValue};
use wire::public::{X_AUDIENCE, X_SIGNATURE, X_TIMESTAMP, X_WALLET};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// Beginnings of the names that only the gateway says to an agent.
const OURS: [&str; 3] = ["x-forwarded-", "x-palatine-", "e2b-sandbox-"];
/// By which servers believe another sender than the one who sent.
const SENDER: [&str; 9] = [
    "forwarded",
    "x-forwarded",
    "x-real-ip",
    "x-client-ip",
    "client-ip",
    "true-client-ip",
    "x-cluster-client-ip",
    "cf-connecting-ip",
    "fastly-client-ip",
];
/// By which servers believe another path, method or protocol than the request's own,
/// by which the gateway has decided.
const OTHER_REQUEST: [&str; 11] = [
    "x-original-url",
    "x-original-uri",
    "x-original-path",
    "x-original-host",
    "x-original-method",
    "x-original-forwarded-for",
    "x-rewrite-url",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "http2-settings",
];

/// Who asked, for an agent that wants to know. What the client itself says of
/// that is believed only from a trusted proxy.
pub(crate) struct Forwarded<'a> {
    pub(crate) client: IpAddr,
    pub(crate) host: &'a str,
    /// What of the path was taken away.
    pub(crate) prefix: Option<&'a str>,
    pub(crate) tls: bool,
    pub(crate) trusted: bool,
}

impl Forwarded<'_> {
    /// Says it in place of all that the request said of the kind.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        let said = headers.remove(X_FORWARDED_PROTO).filter(|_| self.trusted);
        strip_not_believed(headers);
        let own = HeaderValue::from_static(if self.tls { "https" } else { "http" });
        headers.insert(X_FORWARDED_PROTO, said.unwrap_or(own));
        set(headers, X_FORWARDED_FOR, &self.client.to_string());
        set(headers, X_FORWARDED_HOST, self.host);
        if let Some(prefix) = self.prefix {
            set(headers, X_FORWARDED_PREFIX, prefix);
        }
    }
}

/// Whether a request was passed on by a proxy, which says so or is asked to.
pub(crate) fn passed_on(headers: &HeaderMap) -> bool {
    let says = |name: &HeaderName| {
        let name = name.as_str();
        name == "via" || name.starts_with("x-forwarded-") || SENDER.contains(&name)
    };
    headers.keys().any(says)
}

/// Takes away what an agent's server could believe of a request and must not. Some
/// servers read `_` in a name as `-`, so both are one here.
fn strip_not_believed(headers: &mut HeaderMap) {
    let believed = |name: &HeaderName| {
        let name = name.as_str().replace('_', "-");
        let named = SENDER.iter().chain(&OTHER_REQUEST).any(|other| name == *other);
        !named && !OURS.iter().any(|ours| name.starts_with(ours))
    };
    let gone: Vec<HeaderName> = headers.keys().filter(|name| !believed(name)).cloned().collect();
    for name in gone {
        headers.remove(name);
    }
    // A holder's signature is for the gateway. Without a wallet beside it, the two
    // others are somebody else's words: senders of webhooks use them.
    if headers.remove(X_WALLET).is_some() {
        headers.remove(X_SIGNATURE);
        headers.remove(X_TIMESTAMP);
        headers.remove(X_AUDIENCE);
    }
}

fn set(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    match HeaderValue::from_str(text) {
        Ok(value) => headers.insert(name, value),
        Err(_) => headers.remove(name),
    };
}

/// The client's address: the peer's, or what a trusted proxy says it is.
pub(crate) fn client_address(peer: IpAddr, trusted: bool, headers: &HeaderMap) -> IpAddr {
    if !trusted {
        return peer;
    }
    let last = headers.get_all(X_FORWARDED_FOR).iter().next_back().and_then(|value| value.to_str().ok());
    last.and_then(|value| value.rsplit(',').next()).and_then(|text| text.trim().parse().ok()).unwrap_or(peer)
}

/// The bearer credential, if there is one.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = text.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Ends what was meant for the gateway alone: the agent's own token, and
/// `Expect`, which the gateway answers itself.
pub(crate) fn strip_ours(headers: &mut HeaderMap, token_was_ours: bool) {
    headers.remove(EXPECT);
    if token_was_ours {
        headers.remove(AUTHORIZATION);
    }
}

/// A payment that was taken here is nothing for the agent.
pub(crate) fn strip_payment(headers: &mut HeaderMap) {
    headers.remove(x402::PAYMENT_SIGNATURE);
    headers.remove(x402::X_PAYMENT);
}

/// Bytes of all headers.
pub(crate) fn size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_client_cannot_say_who_it_is() {
        let (peer, said) = (IpAddr::from([10, 0, 0, 1]), headers(&[("x-forwarded-for", "1.1.1.1, 2.2.2.2")]));
        assert_eq!(client_address(peer, false, &said), peer);
        assert_eq!(client_address(peer, true, &said), IpAddr::from([2, 2, 2, 2]));
        assert_eq!(client_address(peer, true, &headers(&[("x-forwarded-for", "me")])), peer);
        let mut map =
            headers(&[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-proto", "https"), ("forwarded", "for=1")]);
        Forwarded { client: peer, host: "a.localhost", prefix: None, tls: false, trusted: false }.write(&mut map);
        let told =
            [("x-forwarded-for", "10.0.0.1"), ("x-forwarded-proto", "http"), ("x-forwarded-host", "a.localhost")];
        assert_eq!(map, headers(&told));
    }

    #[test]
    fn fault_2_1_what_could_turn_a_request_into_another_ends_here_however_it_is_written() {
        let kept = headers(&[("x-signature", "a webhook's"), ("x-request-id", "1"), ("x-original-title", "2")]);
        let mut map = kept.clone();
        let names = SENDER.iter().chain(&OTHER_REQUEST).map(|name| (*name).to_owned());
        let names = names.chain(["x-forwarded-prefix".to_owned(), "x-forwarded-uri".to_owned()]);
        for name in names.chain(["x-palatine-wallet".to_owned()]) {
            map.insert(HeaderName::try_from(&name).unwrap(), "x".parse().unwrap());
            map.insert(HeaderName::try_from(name.replace('-', "_")).unwrap(), "x".parse().unwrap());
        }
        strip_not_believed(&mut map);
        assert_eq!(map, kept);
        let mut signed = headers(&[("x-wallet", "w"), ("x-signature", "s"), ("x-timestamp", "1"), ("x-audience", "a")]);
        strip_not_believed(&mut signed);
        assert_eq!(signed, HeaderMap::new());
    }

    #[test]
    fn a_bearer_is_read_whatever_the_case_of_its_scheme() {
        assert_eq!(bearer(&headers(&[("authorization", "bEARER plt_x")])), Some("plt_x"));
        assert_eq!(bearer(&headers(&[("authorization", "Basic plt_x")])), None);
    }
}
