//! What a connection to an agent may change to: WebSocket, and nothing else.
//!
//! Any other protocol could carry requests of its own (h2c does), which would
//! reach the agent past the gateway's tokens, prices and limits. A request for
//! another one is ignored, as HTTP lets a server do: it goes on in the protocol that it
//! came in.

use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::ext::Protocol;
use sha1::{Digest, Sha1};

/// The one protocol.
const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

/// How a WebSocket is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WebSocketHandshake {
    /// By an upgrade of HTTP/1.1.
    Upgrade,
    /// By an extended CONNECT of HTTP/2 (RFC 8441).
    Connect,
}

impl WebSocketHandshake {
    /// Whether the request asks for a WebSocket, in a way that can be granted. An
    /// extended CONNECT becomes the GET that it stands for.
    pub(crate) fn wanted<B>(request: &mut Request<B>) -> Option<Self> {
        let protocol = request.extensions().get::<Protocol>();
        if request.method() == Method::CONNECT && protocol.is_some_and(|protocol| protocol.as_str() == "websocket") {
            *request.method_mut() = Method::GET;
            return Some(Self::Connect);
        }
        let upgrade = request.version() == Version::HTTP_11
            && request.method() == Method::GET
            && names(request.headers(), &CONNECTION, "upgrade")
            && names(request.headers(), &UPGRADE, "websocket");
        upgrade.then_some(Self::Upgrade)
    }

    /// Asks an agent for it, always by an upgrade.
    pub(crate) fn ask(self, headers: &mut HeaderMap, nonce: [u8; 16]) {
        write(headers);
        if self == Self::Connect {
            // HTTP/2 has no use for a key; an upgrade needs one.
            if let Ok(key) = STANDARD.encode(nonce).parse() {
                headers.insert(SEC_WEBSOCKET_KEY, key);
            }
        }
    }

    /// What the agent must say of the key that it was asked with (RFC 6455, 4.2.2),
    /// where the key is ours: a client looks at its own.
    pub(crate) fn accept(self, asked: &HeaderMap) -> Option<HeaderValue> {
        match self {
            Self::Upgrade => None,
            Self::Connect => acceptance(asked),
        }
    }

    /// The answer by which this program itself grants it; `None` where a client did not ask
    /// as it should.
    pub(crate) fn serve(self, asked: &HeaderMap) -> Option<Response<Body>> {
        asked.get(SEC_WEBSOCKET_VERSION).filter(|version| *version == "13")?;
        let mut answer = Response::new(Body::empty());
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        if self == Self::Upgrade {
            answer.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, acceptance(asked)?);
        }
        self.grant(&mut answer);
        Some(answer)
    }

    /// Grants it to the client that asked.
    pub(crate) fn grant(self, answer: &mut Response<Body>) {
        match self {
            Self::Upgrade => write(answer.headers_mut()),
            Self::Connect => {
                *answer.status_mut() = StatusCode::OK;
                answer.headers_mut().remove(SEC_WEBSOCKET_ACCEPT);
            }
        }
    }
}

/// What is said of the key in a request.
fn acceptance(asked: &HeaderMap) -> Option<HeaderValue> {
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let key = asked.get(SEC_WEBSOCKET_KEY)?;
    let sum = Sha1::new().chain_update(key.as_bytes()).chain_update(GUID).finalize();
    STANDARD.encode(sum).parse().ok()
}

/// Whether an agent that changes protocols changes to that one, and has understood
/// that it does: `accept` is what it must say of our key.
pub(crate) fn is_granted(answer: &HeaderMap, accept: Option<&HeaderValue>) -> bool {
    names(answer, &UPGRADE, "websocket") && accept.is_none_or(|accept| answer.get(SEC_WEBSOCKET_ACCEPT) == Some(accept))
}

fn write(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, WEBSOCKET);
}

/// What a subprotocol that carries an agent's token begins with. It is how a page
/// brings the token, which can set no header of a WebSocket:
/// `new WebSocket(url, ["palatine.token.plt_…"])`. A page of somebody else has no
/// token to bring, so nothing need be asked of its origin.
const TOKEN: &str = "palatine.token.";

/// The token among the subprotocols of a WebSocket that is asked for.
pub(crate) fn token(headers: &HeaderMap) -> Option<&str> {
    list(headers, &SEC_WEBSOCKET_PROTOCOL).find_map(|name| name.strip_prefix(TOKEN))
}

/// Takes the token from among the subprotocols: an agent does not see it.
pub(crate) fn take_token(headers: &mut HeaderMap) -> Option<HeaderValue> {
    let token = list(headers, &SEC_WEBSOCKET_PROTOCOL).find(|name| name.starts_with(TOKEN))?.parse().ok()?;
    let others: Vec<&str> = list(headers, &SEC_WEBSOCKET_PROTOCOL).filter(|name| !name.starts_with(TOKEN)).collect();
    match HeaderValue::try_from(others.join(", ")) {
        Ok(others) if !others.is_empty() => headers.insert(SEC_WEBSOCKET_PROTOCOL, others),
        _ => headers.remove(SEC_WEBSOCKET_PROTOCOL),
    };
    Some(token)
}

/// Answers with the subprotocol that the agent chose, or else with the token's: a
/// browser ends a WebSocket for which it offered some and none was chosen.
pub(crate) fn choose(answer: &mut HeaderMap, token: HeaderValue) {
    answer.entry(SEC_WEBSOCKET_PROTOCOL).or_insert(token);
}

/// The words of a header's list.
fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

/// Whether a header's list holds this word.
fn names(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    list(headers, name).any(|found| found.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(version: Version, method: Method, headers: &[(&str, &str)]) -> bool {
        let mut request = Request::builder().version(version).method(method);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        WebSocketHandshake::wanted(&mut request.body(()).unwrap()) == Some(WebSocketHandshake::Upgrade)
    }

    #[test]
    fn a_web_socket_is_wanted_where_both_headers_of_a_get_say_so() {
        let both = [("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")];
        assert!(asks(Version::HTTP_11, Method::GET, &both));
        assert!(asks(Version::HTTP_11, Method::GET, &[("connection", "upgrade"), ("upgrade", "h2c, websocket")]));
        assert!(!asks(Version::HTTP_11, Method::POST, &both));
        assert!(!asks(Version::HTTP_10, Method::GET, &both));
        assert!(!asks(Version::HTTP_11, Method::GET, &both[1..]));
        assert!(!asks(Version::HTTP_11, Method::GET, &both[..1]));
    }

    #[test]
    fn a_token_among_the_subprotocols_is_read_and_taken_away_and_chosen_if_no_other_is() {
        let of = |values: &[&str]| -> HeaderMap {
            values.iter().map(|value| (SEC_WEBSOCKET_PROTOCOL, value.parse().unwrap())).collect()
        };
        let mut headers = of(&["chat.v2, palatine.token.plt_abc", "chat.v1"]);
        assert_eq!(token(&headers), Some("plt_abc"));
        let taken = take_token(&mut headers).unwrap();
        assert_eq!((taken.to_str().unwrap(), &headers), ("palatine.token.plt_abc", &of(&["chat.v2, chat.v1"])));
        let mut alone = of(&["palatine.token.plt_abc"]);
        assert!(take_token(&mut alone).is_some() && alone.is_empty());
        assert_eq!((token(&of(&["chat"])), take_token(&mut of(&["chat"]))), (None, None));
        let mut chosen = of(&["chat.v2"]);
        choose(&mut chosen, taken.clone());
        assert_eq!(chosen, of(&["chat.v2"]));
        let mut none = HeaderMap::new();
        choose(&mut none, taken);
        assert_eq!(none, of(&["palatine.token.plt_abc"]));
    }

    #[test]
    fn fault_2_1_no_other_protocol_is_wanted_or_granted() {
        for other in ["h2c", "h2", "TLS/1.0", "HTTP/2.0", "IRC/6.9", "connect-udp", "websocket2", ""] {
            assert!(!asks(Version::HTTP_11, Method::GET, &[("connection", "upgrade"), ("upgrade", other)]), "{other}");
            let answer = HeaderMap::from_iter([(UPGRADE, other.parse().unwrap())]);
            assert!(!is_granted(&answer, None), "{other}");
        }
    }

    #[test]
    fn a_web_socket_of_our_own_is_granted_to_who_asks_as_it_should() {
        let mut asked = HeaderMap::from_iter([(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"))]);
        assert!(WebSocketHandshake::Upgrade.serve(&asked).is_none(), "it has no key");
        let connected = WebSocketHandshake::Connect.serve(&asked).unwrap();
        assert_eq!((connected.status(), connected.headers().len()), (StatusCode::OK, 0));
        asked.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
        let granted = WebSocketHandshake::Upgrade.serve(&asked).unwrap();
        assert_eq!(granted.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(granted.headers()[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(is_granted(granted.headers(), None));
        asked.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("8"));
        assert!(WebSocketHandshake::Upgrade.serve(&asked).is_none());
    }

    #[test]
    fn fault_2_8_who_has_no_key_of_its_own_has_the_agents_acceptance_looked_at() {
        // RFC 6455's own example.
        let asked = HeaderMap::from_iter([(SEC_WEBSOCKET_KEY, HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="))]);
        let accept = WebSocketHandshake::Connect.accept(&asked).unwrap();
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(WebSocketHandshake::Upgrade.accept(&asked), None);
        let mut answer = HeaderMap::from_iter([(UPGRADE, WEBSOCKET)]);
        assert!(is_granted(&answer, None) && !is_granted(&answer, Some(&accept)));
        answer.insert(SEC_WEBSOCKET_ACCEPT, accept.clone());
        assert!(is_granted(&answer, Some(&accept)));
    }
}
