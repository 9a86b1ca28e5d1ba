//! What is fuzzed of this crate: whom a host names, what a path costs, what is asked of `pod`.

use std::collections::BTreeSet;

use http::{Method, Uri};
use url::Url;

use crate::edge::hosts::{ApiHosts, Host};
use crate::ingress::envd::EnvdCall;
use crate::ingress::pricing::{charge, is_plain};
use crate::ingress::urls::AgentHostPattern;

/// The domain of a gateway's agents, and the gateway's own name.
const AGENTS: &str = "https://{id}.agents.example.com";
const OWN: &str = "api.example.com";

/// What is asked of `pod` at the port of E2B's daemon is one of its calls, and has no
/// signature in it.
///
/// # Panics
/// When the bytes break that.
pub fn envd(bytes: &[u8]) {
    let Ok(uri) = Uri::try_from(bytes) else { return };
    for method in [Method::GET, Method::POST] {
        let Some(call) = EnvdCall::of(&method, &uri) else { continue };
        let target: Uri = call.target.parse().expect("a target");
        let calls = ["/process.Process/", "/filesystem.Filesystem/"];
        let is_call = calls.iter().any(|call| target.path().strip_prefix(call).is_some_and(|name| !name.contains('/')));
        let others = ["/files", "/files/compose", "/envs", "/health", "/usage"];
        assert!(is_call || others.contains(&target.path()), "{target}");
        let query = form_urlencoded::parse(target.query().unwrap_or_default().as_bytes());
        let names: Vec<_> = query.map(|(name, _)| name.into_owned()).collect();
        assert!(names.iter().all(|name| ["path", "username", "mode"].contains(&name.as_str())), "{target}");
        assert!(target.query().is_none() || target.path() == "/files", "{target}");
    }
}

/// A request's host: an agent's is its id under our domain, and what we take for our
/// own is what a browser takes for it too.
///
/// # Panics
/// When the bytes break that.
pub fn host(bytes: &[u8]) {
    let Ok(host) = std::str::from_utf8(bytes) else { return };
    let (Ok(url), Ok(own)) = (AgentHostPattern::parse(AGENTS), Host::try_from(OWN.to_owned())) else {
        unreachable!("both are constant")
    };
    if let Some((id, port)) = url.agent(host) {
        let lower = host.to_ascii_lowercase();
        let port = port.map(|port| format!("{port}-")).unwrap_or_default();
        let rest = lower.strip_prefix(&format!("{port}{id}.")).expect("an agent's host begins with its id");
        assert!(rest.starts_with("agents.example.com") || rest.starts_with("localhost"), "{rest}");
    }
    let hosts = ApiHosts::new(&BTreeSet::from([own]), [url.domain()]);
    if !hosts.contains(host) {
        return;
    }
    let Ok(seen) = Url::parse(&format!("http://{host}/")) else { return };
    assert_eq!((seen.username(), seen.path()), ("", "/"), "a host is a host");
    match seen.host() {
        Some(url::Host::Domain(name)) => {
            let name = name.strip_suffix('.').unwrap_or(name);
            let ours = [OWN, url.domain(), "localhost"].contains(&name) || name.ends_with(".localhost");
            assert!(ours, "{name}");
        }
        Some(url::Host::Ipv4(_) | url::Host::Ipv6(_)) => {}
        None => unreachable!("http has a host"),
    }
}

/// Whether an agent gets a request of this path for nothing, where what begins with
/// `priced` costs something.
#[must_use]
pub fn is_free(priced: &str, path: &str) -> bool {
    let prices = [(priced.to_owned(), domain::Usdc(1))].into();
    is_plain(path) && charge(&prices, path).is_none()
}
