//! Whom a request is for: the API, or an agent, addressed in one of
//! three ways. What follows (token, price, limits) is the same for all.
//!
//! | address | where |
//! |---|---|
//! | `{id}.<domain>`, `{port}-{id}.<domain>` | the listeners, by the host |
//! | `/{id}/…` | the listeners for paths, which have no API |
//! | `E2b-Sandbox-Id: {id}` | the listeners, at the API's own hosts |
//!
//! `E2b-Sandbox-Port` names a port with any of them; without one it is the agent's own.

use axum::body::Body;
use domain::PodId;
use http::header::{HeaderMap, HeaderName, HeaderValue, LOCATION};
use http::uri::PathAndQuery;
use http::{Request, Response, StatusCode, Uri};
use wire::fault::{Code, Fault};

use crate::error::ApiError;
use crate::ingress::urls::is_reserved;
use crate::state::Gateway;

/// E2B's headers, which its SDKs send with every call into a sandbox.
pub(crate) const SANDBOX_ID: HeaderName = HeaderName::from_static("e2b-sandbox-id");
pub(crate) const SANDBOX_PORT: HeaderName = HeaderName::from_static("e2b-sandbox-port");

/// What a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListenerKind {
    /// The API, and agents by their hosts.
    Hosts,
    /// Agents by paths.
    Paths,
}

/// Whom a request is for.
#[derive(Debug)]
pub(crate) enum Target {
    Api,
    Agent(AgentTarget),
    /// Nobody yet: the client is redirected.
    Redirect(Response<Body>),
}

/// An agent, and how it was addressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AgentTarget {
    pub(crate) id: PodId,
    pub(crate) addressed_by: AddressedBy,
    /// The port that was asked for, where one was.
    pub(crate) port: Option<u16>,
}

/// How an agent was addressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AddressedBy {
    /// By a host of its own.
    Host,
    /// By this prefix of a path.
    Path(String),
    /// By a header, at the API's host.
    Header,
}

impl Target {
    /// Finds out. A request to an agent's path is left with the path that the agent knows.
    pub(crate) fn of<B>(
        gateway: &Gateway,
        listener: ListenerKind,
        host: Option<&str>,
        request: &mut Request<B>,
    ) -> Result<Self, ApiError> {
        let agent = host.filter(|host| !gateway.hosts.is_named(host)).and_then(|host| gateway.agent_url.agent(host));
        let (asked, port) = (single(request.headers(), &SANDBOX_ID)?, port(request.headers())?);
        let asked = asked.map(|text| text.parse::<PodId>().map_err(|_| not_an_agent())).transpose()?;
        let by_host = agent.and_then(|(_, port)| port);
        let (id, addressed_by) = match (listener, agent, asked) {
            (ListenerKind::Hosts, Some((id, _)), _) => (id, AddressedBy::Host),
            (ListenerKind::Hosts, None, _) | (ListenerKind::Paths, None, _) if !gateway.knows(host) => {
                return Err(unknown_host());
            }
            (ListenerKind::Hosts, None, Some(id)) => (id, AddressedBy::Header),
            (ListenerKind::Hosts, None, None) => return Ok(Self::Api),
            // An agent's own host has no other agents under it.
            (ListenerKind::Paths, Some(_), _) => return Err(unknown_host()),
            (ListenerKind::Paths, None, _) => match parse_path(request.uri())? {
                PathTarget::Whole(id, rest) => {
                    *request.uri_mut() = rest;
                    (id, AddressedBy::Path(gateway.prefix(id)))
                }
                PathTarget::Bare(id) => return redirect_to_root(id, request.uri()).map(Self::Redirect),
            },
        };
        if asked.is_some_and(|asked| asked != id) {
            return Err(ApiError::invalid("E2b-Sandbox-Id names another agent than the URL"));
        }
        if by_host.is_some() && port.is_some_and(|port| Some(port) != by_host) {
            return Err(ApiError::invalid("E2b-Sandbox-Port names another port than the URL"));
        }
        Ok(Self::Agent(AgentTarget { id, addressed_by, port: by_host.or(port) }))
    }
}

impl Gateway {
    /// Whether this host is ours. A client that names none is not a browser.
    fn knows(&self, host: Option<&str>) -> bool {
        host.is_none_or(|host| self.hosts.contains(host))
    }

    fn prefix(&self, id: PodId) -> String {
        self.path_url.as_ref().map_or_else(|| format!("/{id}"), |url| url.prefix(id))
    }
}

fn unknown_host() -> ApiError {
    Fault::new(Code::UnknownHost, "this gateway does not answer to that host; its operator lists those it does")
        .field("Host")
        .into()
}

fn not_an_agent() -> ApiError {
    ApiError::new(Code::NotFound, "no agent is named: expected an id like agent-123 or a1b2c3d4-e5f6-7890")
}

/// What a path says of an agent.
enum PathTarget {
    /// The agent, and its part of the target.
    Whole(PodId, Uri),
    /// The agent alone, without a slash behind it.
    Bare(PodId),
}

fn parse_path(uri: &Uri) -> Result<PathTarget, ApiError> {
    let target = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let text = target.strip_prefix('/').ok_or_else(not_an_agent)?;
    let end = text.find(['/', '?']).unwrap_or(text.len());
    let (id, rest) = text.split_at_checked(end).ok_or_else(not_an_agent)?;
    let id = Some(id).filter(|id| !is_reserved(id)).and_then(|id| id.parse().ok()).ok_or_else(not_an_agent)?;
    if !rest.starts_with('/') {
        return Ok(PathTarget::Bare(id));
    }
    // Without an authority, even `//x` is a path.
    let rest: PathAndQuery = rest.parse().map_err(|_| ApiError::invalid("the path is not one"))?;
    Ok(PathTarget::Whole(id, Uri::from(rest)))
}

/// Links that an agent's page writes lead under its root only if the root ends with
/// a slash. The redirect is relative: a proxy may have taken a prefix off the path.
fn redirect_to_root(id: PodId, uri: &Uri) -> Result<Response<Body>, ApiError> {
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let there = HeaderValue::try_from(format!("{id}/{query}")).map_err(|_| ApiError::invalid("the path is not one"))?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    response.headers_mut().insert(LOCATION, there);
    Ok(response)
}

fn port(headers: &HeaderMap) -> Result<Option<u16>, ApiError> {
    let text = single(headers, &SANDBOX_PORT)?;
    let parse = |text: &str| text.parse().ok().filter(|port| *port != 0);
    text.map(|text| parse(text).ok_or_else(|| ApiError::invalid("E2b-Sandbox-Port is not a port"))).transpose()
}

/// A header that must not be there twice: a proxy in between might use the other one.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, ApiError> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(ApiError::invalid(format!("there is more than one {name}")));
    }
    first.map(|value| value.to_str().map_err(|_| ApiError::invalid(format!("{name} is not text")))).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_an_agents_id_and_the_target_that_the_agent_knows() {
        let whole = |text: &str| match parse_path(&text.parse().unwrap()) {
            Ok(PathTarget::Whole(id, rest)) => Some((id.to_string(), rest.to_string())),
            _ => None,
        };
        let is = |rest: &str| Some(("a1b2c3d4-e5f6-7890".to_owned(), rest.to_owned()));
        assert_eq!(whole("/a1b2c3d4-e5f6-7890/"), is("/"));
        assert_eq!(whole("/a1b2c3d4-e5f6-7890/v1/chat?x=/y"), is("/v1/chat?x=/y"));
        assert_eq!(whole("/a1b2c3d4-e5f6-7890//evil.example/x"), is("//evil.example/x"));
        assert_eq!(whole("/agent-123/x"), Some(("agent-123".to_owned(), "/x".to_owned())));
        for other in [
            "/",
            "/favicon.ico",
            "/health",
            "/Health",
            "//a1b2c3d4-e5f6-7890/",
            "/%611b2c3d4-e5f6-7890/",
            "/../a1b2c3d4-e5f6-7890/",
        ] {
            assert!(parse_path(&other.parse().unwrap()).is_err(), "{other}");
        }
        let bare = "/a1b2c3d4-e5f6-7890?x=1".parse().unwrap();
        let Ok(PathTarget::Bare(id)) = parse_path(&bare) else { panic!("it has no slash") };
        assert_eq!(redirect_to_root(id, &bare).unwrap().headers()[LOCATION], "a1b2c3d4-e5f6-7890/?x=1");
    }
}
