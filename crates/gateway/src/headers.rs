//! Which headers go on to an agent, and which end here.

use std::net::IpAddr;

use http::header::{AUTHORIZATION, CONNECTION, EXPECT, HeaderMap, HeaderName, HeaderValue, UPGRADE};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The protocol a request wants to change to, if any.
pub(crate) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let asked = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|name| name.trim().eq_ignore_ascii_case("upgrade"));
    if asked { headers.get(UPGRADE).cloned() } else { None }
}

/// Who asked, for an agent that wants to know. What the client itself says of
/// that is believed only from a trusted proxy.
pub(crate) struct Forwarded<'a> {
    pub(crate) client: IpAddr,
    pub(crate) host: &'a str,
    pub(crate) tls: bool,
    pub(crate) trusted: bool,
}

impl Forwarded<'_> {
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        let says_proto = self.trusted && headers.contains_key(X_FORWARDED_PROTO);
        if !says_proto {
            headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(if self.tls { "https" } else { "http" }));
        }
        headers.remove(http::header::FORWARDED);
        set(headers, X_FORWARDED_FOR, &self.client.to_string());
        set(headers, X_FORWARDED_HOST, self.host);
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
        Forwarded { client: peer, host: "a.localhost", tls: false, trusted: false }.write(&mut map);
        let told =
            [("x-forwarded-for", "10.0.0.1"), ("x-forwarded-proto", "http"), ("x-forwarded-host", "a.localhost")];
        assert_eq!(map, headers(&told));
    }

    #[test]
    fn an_upgrade_needs_both_headers() {
        assert!(upgrade(&headers(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")])).is_some());
        assert!(upgrade(&headers(&[("upgrade", "websocket")])).is_none());
    }

    #[test]
    fn a_bearer_is_read_whatever_the_case_of_its_scheme() {
        assert_eq!(bearer(&headers(&[("authorization", "bEARER plt_x")])), Some("plt_x"));
        assert_eq!(bearer(&headers(&[("authorization", "Basic plt_x")])), None);
    }
}
