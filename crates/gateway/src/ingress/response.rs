//! An agent's answer on its way back: its cookies are confined to the agent, and its
//! redirects lead to the agent.

use http::header::{HeaderMap, HeaderValue, LOCATION, SET_COOKIE};

use crate::ingress::target::AddressedBy;

/// Confines an answer to where its agent was reached.
pub(crate) fn confine(headers: &mut HeaderMap, addressed_by: &AddressedBy, host: &str) {
    let cookies: Vec<HeaderValue> =
        headers.get_all(SET_COOKIE).iter().filter_map(|value| cookie(value, addressed_by)).collect();
    headers.remove(SET_COOKIE);
    for cookie in cookies {
        headers.append(SET_COOKIE, cookie);
    }
    if let AddressedBy::Path(prefix) = addressed_by
        && let Some(there) = headers.get(LOCATION).and_then(|there| there.to_str().ok())
        && let Some(there) = under(prefix, host, there)
        && let Ok(there) = HeaderValue::try_from(there)
    {
        headers.insert(LOCATION, there);
    }
}

/// A cookie as the agent may set it: for its own host, without a `Domain`, or for
/// its own path. An agent that shares the API's host sets none.
fn cookie(value: &HeaderValue, addressed_by: &AddressedBy) -> Option<HeaderValue> {
    // What is not text cannot be confined.
    let text = value.to_str().ok()?;
    let mut parts = text.split(';');
    let pair = parts.next().unwrap_or_default();
    let is = |part: &&str, name: &str| part.split('=').next().unwrap_or_default().trim().eq_ignore_ascii_case(name);
    let kept: Vec<&str> = parts.filter(|part| !is(part, "domain")).collect();
    match addressed_by {
        AddressedBy::Host => HeaderValue::try_from([&[pair], kept.as_slice()].concat().join(";")).ok(),
        AddressedBy::Header => None,
        AddressedBy::Path(prefix) => {
            // Bound to the path `/` by its name, and so to all agents here.
            if pair.trim_start().get(..7).is_some_and(|begin| begin.eq_ignore_ascii_case("__host-")) {
                return None;
            }
            // The last one counts, as browsers read it.
            let path = kept.iter().rev().find(|part| is(part, "path"));
            let path = path.and_then(|part| part.split_once('=')).map_or("", |(_, path)| path.trim());
            let path = if path.starts_with('/') { path } else { "/" };
            let path = format!(" Path={}", below(prefix, path));
            let kept = kept.iter().filter(|part| !is(part, "path")).copied();
            let whole: Vec<&str> = std::iter::once(pair).chain(kept).chain([path.as_str()]).collect();
            HeaderValue::try_from(whole.join(";")).ok()
        }
    }
}

/// Where an agent under a path sends a client that it sends to its own root: a path,
/// or a URL of the host it was asked by. An agent that knows `X-Forwarded-Prefix`
/// has said it already.
fn under(prefix: &str, host: &str, there: &str) -> Option<String> {
    let origin_end = match there.split_once("://") {
        Some(("http" | "https", rest)) => {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let ours = rest.get(..end)?.eq_ignore_ascii_case(host);
            ours.then_some(there.len() - rest.len() + end)?
        }
        _ if there.starts_with('/') && !there.starts_with("//") => 0,
        _ => return None,
    };
    let (origin, path) = there.split_at_checked(origin_end)?;
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    Some(format!("{origin}{}", below(prefix, &path)))
}

/// A path below the prefix, once.
fn below(prefix: &str, path: &str) -> String {
    let already = path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#']));
    if already { path.to_owned() } else { format!("{prefix}{path}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "127.0.0.1:8081";

    fn set(cookie_text: &str, addressed_by: &AddressedBy) -> Option<String> {
        let mut headers = HeaderMap::from_iter([(SET_COOKIE, HeaderValue::from_str(cookie_text).unwrap())]);
        confine(&mut headers, addressed_by, HOST);
        headers.get(SET_COOKIE).map(|value| value.to_str().unwrap().to_owned())
    }

    fn path() -> AddressedBy {
        AddressedBy::Path("/an-id".to_owned())
    }

    #[test]
    fn fault_2_7_a_cookie_is_kept_to_the_host_of_the_agent_that_set_it() {
        let kept = |text: &str| set(text, &AddressedBy::Host).unwrap();
        for domain in ["Domain=agents.example", "domain = .localhost", "DOMAIN=x; Domain=y", "Domain"] {
            assert_eq!(kept(&format!("a=1; {domain}; Secure; Path=/x")), "a=1; Secure; Path=/x", "{domain}");
        }
        assert_eq!(kept("__Host-a=1; Secure; Path=/"), "__Host-a=1; Secure; Path=/");
        assert_eq!(kept("a=Domain=x"), "a=Domain=x");
        assert_eq!(set("a=1", &AddressedBy::Header), None);
    }

    #[test]
    fn fault_2_7_a_cookie_of_an_agent_under_a_path_is_kept_to_that_path() {
        let kept = |text: &str| set(text, &path());
        let is = |text: &str| Some(text.to_owned());
        assert_eq!(kept("a=1"), is("a=1; Path=/an-id/"));
        assert_eq!(kept("a=1; Path=/; HttpOnly"), is("a=1; HttpOnly; Path=/an-id/"));
        assert_eq!(kept("a=1; path=/x; Domain=y"), is("a=1; Path=/an-id/x"));
        assert_eq!(kept("a=1; Path=/an-id/x; Path=/other"), is("a=1; Path=/an-id/other"));
        assert_eq!(kept("a=1; Path=/an-id/x"), is("a=1; Path=/an-id/x"));
        assert_eq!(kept("a=1; Path=/an-idx"), is("a=1; Path=/an-id/an-idx"));
        assert_eq!(kept("__host-a=1; Secure; Path=/"), None);
    }

    #[test]
    fn fault_2_11_an_agent_under_a_path_sends_clients_on_below_it() {
        let sent = |text: &str, addressed_by: &AddressedBy| {
            let mut headers = HeaderMap::from_iter([(LOCATION, HeaderValue::from_str(text).unwrap())]);
            confine(&mut headers, addressed_by, HOST);
            headers[LOCATION].to_str().unwrap().to_owned()
        };
        for (said, meant) in [
            ("/login?x=1", "/an-id/login?x=1"),
            ("/", "/an-id/"),
            ("/an-id", "/an-id"),
            ("/an-id/login", "/an-id/login"),
            ("/an-idx", "/an-id/an-idx"),
            ("login", "login"),
            ("//cdn.example/x", "//cdn.example/x"),
            ("https://other.example/x", "https://other.example/x"),
            ("http://127.0.0.1:8081/x", "http://127.0.0.1:8081/an-id/x"),
            ("http://127.0.0.1:8081", "http://127.0.0.1:8081/an-id/"),
            ("http://127.0.0.1:8081?q", "http://127.0.0.1:8081/an-id/?q"),
            ("http://127.0.0.1:8081/an-id/x", "http://127.0.0.1:8081/an-id/x"),
            ("http://127.0.0.1:80810/x", "http://127.0.0.1:80810/x"),
        ] {
            assert_eq!(sent(said, &path()), meant, "{said}");
            assert_eq!(sent(said, &AddressedBy::Host), said);
        }
    }
}
