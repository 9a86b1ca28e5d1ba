//! Which headers go on to an agent, and which end here.

use std::net::IpAddr;

use auth::ApiKey;
use http::Version;
use http::header::{AUTHORIZATION, EXPECT, HeaderMap, HeaderName, HeaderValue};
use wire::fault::{Code, Fault};
use wire::v1::public::{X_AUDIENCE, X_SIGNATURE, X_TIMESTAMP, X_WALLET};

use crate::error::ApiError;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// Prefixes of the headers that only the gateway may set for an agent.
const OURS: [&str; 3] = ["x-forwarded-", "x-palatine-", "e2b-sandbox-"];
/// Headers by which servers take somebody else for the sender of a request.
const SENDER: [&str; 18] = [
    "forwarded",
    "x-forwarded",
    "x-real-ip",
    "x-client-ip",
    "client-ip",
    "true-client-ip",
    "x-cluster-client-ip",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "fastly-client-ip",
    "fly-client-ip",
    "x-azure-clientip",
    "x-envoy-external-address",
    "x-original-forwarded-for",
    "forwarded-for",
    "remote-user",
    "x-remote-user",
    "tailscale-user-login",
];
/// Headers by which servers take another path, method or protocol than the request's own,
/// which the gateway has decided by; and another proxy than theirs (`proxy`).
const OTHER_REQUEST: [&str; 18] = [
    "x-original-url",
    "x-original-uri",
    "x-original-path",
    "x-original-host",
    "x-original-method",
    "x-envoy-original-path",
    "script-name",
    "x-script-name",
    "path-info",
    "request-uri",
    "x-request-uri",
    "x-http-path-override",
    "proxy",
    "x-rewrite-url",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "http2-settings",
];

/// The prefixes of agents', uploads' and disks' tokens. API keys are told by their own shape.
const TOKENS: [&[u8]; 3] = [b"plt_", b"plu_", b"plv_"];
/// Where clients put credentials.
const CREDENTIALS: [&str; 6] =
    ["authorization", "proxy-authorization", "x-api-key", "api-key", "x-auth-token", "x-access-token"];

/// The `X-Forwarded-*` headers for an agent. What the client itself sends of them is
/// believed only from a trusted proxy.
pub(crate) struct ForwardedHeaders<'a> {
    pub(crate) client: IpAddr,
    pub(crate) host: &'a str,
    /// The prefix that was taken off the path.
    pub(crate) prefix: Option<&'a str>,
    pub(crate) tls: bool,
    pub(crate) trusted: bool,
}

impl ForwardedHeaders<'_> {
    /// Sets them in place of all that the request had of the kind.
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

/// Whether a request was passed on by a proxy, which says so or is asked to. Proxies
/// that are not told otherwise speak HTTP/1.0, and clients of today do not.
pub(crate) fn passed_on(version: Version, headers: &HeaderMap) -> bool {
    let says = |name: &HeaderName| {
        let name = plain(name);
        name == "via" || name.starts_with("x-forwarded-") || SENDER.contains(&name.as_str())
    };
    version < Version::HTTP_11 || headers.keys().any(says)
}

/// A header's name as servers tell it from others: some read `_` and `.` in it as `-`.
fn plain(name: &HeaderName) -> String {
    name.as_str().replace(['_', '.'], "-")
}

/// Removes headers that an agent's server could believe and must not.
fn strip_not_believed(headers: &mut HeaderMap) {
    let believed = |name: &HeaderName| {
        let name = plain(name);
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

/// Refuses a request with two credentials: the agent might read the one that the
/// gateway did not.
pub(crate) fn one_credential(headers: &HeaderMap) -> Result<(), ApiError> {
    if headers.get_all(AUTHORIZATION).iter().nth(1).is_none() {
        return Ok(());
    }
    Err(Fault::new(Code::InvalidRequest, "there is more than one Authorization header").field("Authorization").into())
}

/// The bearer credential, if there is one.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = text.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Ends what was meant for the gateway alone: agents' tokens, another agent's too, and API
/// keys, wherever clients put credentials; and `Expect`, which the gateway answers itself.
pub(crate) fn strip_ours(headers: &mut HeaderMap) {
    headers.remove(EXPECT);
    for name in CREDENTIALS {
        let is_ours = headers.get_all(name).iter().any(holds_token);
        if is_ours {
            headers.remove(name);
        }
    }
}

fn holds_token(value: &HeaderValue) -> bool {
    let mut words = value.as_bytes().split(|byte| byte.is_ascii_whitespace() || *byte == b',');
    words.any(|word| {
        TOKENS.iter().any(|token| word.starts_with(token)) || str::from_utf8(word).is_ok_and(ApiKey::is_claimed)
    })
}

/// Removes the payment, which is taken here.
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
        ForwardedHeaders { client: peer, host: "a.localhost", prefix: None, tls: false, trusted: false }
            .write(&mut map);
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
            map.insert(HeaderName::try_from(name.replace('-', ".")).unwrap(), "x".parse().unwrap());
        }
        strip_not_believed(&mut map);
        assert_eq!(map, kept);
        let mut signed = headers(&[("x-wallet", "w"), ("x-signature", "s"), ("x-timestamp", "1"), ("x-audience", "a")]);
        strip_not_believed(&mut signed);
        assert_eq!(signed, HeaderMap::new());
    }

    #[test]
    fn fault_2_10_a_proxy_gives_itself_away_however_it_writes_a_name() {
        assert!(!passed_on(Version::HTTP_11, &headers(&[("host", "localhost"), ("accept", "*/*")])));
        assert!(passed_on(Version::HTTP_10, &headers(&[("host", "localhost")])));
        for name in ["via", "forwarded", "x-forwarded-for", "x_forwarded_for", "x_real_ip", "x.real.ip", "remote_user"]
        {
            assert!(passed_on(Version::HTTP_2, &headers(&[(name, "x")])), "{name}");
        }
    }

    #[test]
    fn fault_2_1_a_token_of_any_agent_goes_no_further_wherever_it_stands() {
        let kept = headers(&[("authorization", "Bearer its-own"), ("cookie", "plt_is=1"), ("x-api-key", "its-own")]);
        let mut map = kept.clone();
        strip_ours(&mut map);
        assert_eq!(map, kept);
        for (name, value) in [
            ("authorization", "Bearer plt_x"),
            ("authorization", "plt_x"),
            ("authorization", "Bearer plu_x"),
            ("authorization", "Bearer plv_x"),
            ("x-api-key", "plt_x"),
            ("api-key", "a,plt_x"),
            ("authorization", "Bearer pal_x"),
        ] {
            let mut map = headers(&[(name, value)]);
            strip_ours(&mut map);
            assert_eq!(map, HeaderMap::new(), "{name}: {value}");
        }
    }

    #[test]
    fn an_api_key_goes_no_further_and_a_key_of_e2bs_own_does() {
        let key = ApiKey::new(domain::KeyForm::E2b, domain::KeyId::from_bits(1), &[1; 32]);
        let text = secrecy::ExposeSecret::expose_secret(key.text());
        let mut map = headers(&[("x-api-key", text), ("authorization", &format!("Bearer {text}"))]);
        strip_ours(&mut map);
        assert_eq!(map, HeaderMap::new());
        let theirs = headers(&[("x-api-key", &format!("e2b_{}", "0f".repeat(20)))]);
        let mut map = theirs.clone();
        strip_ours(&mut map);
        assert_eq!(map, theirs);
    }

    #[test]
    fn a_bearer_is_read_whatever_the_case_of_its_scheme() {
        assert_eq!(bearer(&headers(&[("authorization", "bEARER plt_x")])), Some("plt_x"));
        assert_eq!(bearer(&headers(&[("authorization", "Basic plt_x")])), None);
    }
}
