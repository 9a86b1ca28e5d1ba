//! Signing, sending, and reading whole answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use auth::{GatewayName, Keypair};
use bytes::Bytes;
use domain::{Clock, SystemClock, UnixMillis, Wallet};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Body, Client, ClientBuilder, Method, Response, StatusCode, Url};
use serde::de::DeserializeOwned;
use wire::Secret;
use wire::fault::Fault;
use wire::v1::public::{X_AUDIENCE, X_SIGNATURE, X_TIMESTAMP, X_WALLET};

use super::resolve::Resolver;
use super::{ApiError, ClientError};

/// Bytes of an answer that is read whole, at most.
const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// The longest piece of an unexpected answer that is shown.
const MAX_WORDS: usize = 200;

/// How long calls may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Opening a connection.
    pub connect: Duration,
    /// Reading, and the head of every stream.
    pub read: Duration,
    /// Spawning: the agent boots before the answer comes. No gateway waits for an hour, and
    /// each says itself when its own deadline is over.
    pub spawn: Duration,
    /// Stopping: the agent may take its time.
    pub stop: Duration,
    /// Silence in a followed stream of events; the gateway sends a comment every
    /// 15 s.
    pub events_idle: Duration,
    /// Silence in an agent's answer: it may think.
    pub answer_idle: Duration,
    /// Silence in a command's stream, in which we ask for keep-alives.
    pub exec_idle: Duration,
    /// Silence in logs that are not followed. Followed logs may be silent.
    pub logs_idle: Duration,
    /// How long a command may take to read a piece of its input. Less than the
    /// minute after which a node gives up on a guest.
    pub input: Duration,
    /// Silence in a command's input, in which we send a sign of life.
    pub input_idle: Duration,
    /// Uploading one file, or one piece of a large one.
    pub upload: Duration,
    /// Silence in a file that is read.
    pub files_idle: Duration,
    /// Silence in the archive of a disk's files.
    pub archive_idle: Duration,
    /// How long a command may take to end when it is asked, and ending it by force.
    pub end: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            read: Duration::from_secs(20),
            spawn: Duration::from_secs(3_900),
            stop: Duration::from_secs(90),
            events_idle: Duration::from_secs(60),
            answer_idle: Duration::from_secs(300),
            exec_idle: Duration::from_secs(30),
            logs_idle: Duration::from_secs(20),
            input: Duration::from_secs(50),
            input_idle: Duration::from_secs(30),
            upload: Duration::from_mins(10),
            files_idle: Duration::from_secs(30),
            archive_idle: Duration::from_mins(2),
            end: Duration::from_secs(5),
        }
    }
}

/// How often a connection that is silent is asked whether its other end is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// A client of one gateway. Cheap to clone.
#[derive(Clone, Debug)]
pub struct GatewayClient {
    pub(super) http: Client,
    gateway: Url,
    /// What signatures name: the host of that URL, and of no answer.
    name: GatewayName,
    credential: Option<Credential>,
    pub(super) limits: Timeouts,
}

/// By what its calls are a wallet's own.
#[derive(Clone, Debug)]
enum Credential {
    /// The wallet signs each of them.
    Signer(Arc<Signer>),
    /// Each carries an API key that the wallet has made.
    Key(Secret),
}

/// A keypair, and the last instant it signed.
#[derive(Debug)]
struct Signer {
    keypair: Keypair,
    last: AtomicU64,
}

impl Signer {
    /// Now; but never the same instant twice, since a gateway takes each signed
    /// text once.
    fn instant(&self) -> UnixMillis {
        let now = SystemClock.now().0;
        let next = |last: u64| now.max(last + 1);
        let last = self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)));
        UnixMillis(next(last.unwrap_or_default()))
    }
}

/// One call of the API.
pub(super) struct Call {
    pub(super) operation: &'static str,
    pub(super) method: Method,
    /// With its query, as it is signed and sent.
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) deadline: Duration,
}

impl Call {
    pub(super) fn get(operation: &'static str, path: impl Into<String>, deadline: Duration) -> Self {
        let (headers, body) = (HeaderMap::new(), Bytes::new());
        Self { operation, method: Method::GET, path: path.into(), headers, body, deadline }
    }

    pub(super) fn post(operation: &'static str, path: impl Into<String>, deadline: Duration) -> Self {
        Self { method: Method::POST, ..Self::get(operation, path, deadline) }
    }

    pub(super) fn put(operation: &'static str, path: impl Into<String>, deadline: Duration) -> Self {
        Self { method: Method::PUT, ..Self::get(operation, path, deadline) }
    }

    pub(super) fn delete(operation: &'static str, path: impl Into<String>, deadline: Duration) -> Self {
        Self { method: Method::DELETE, ..Self::get(operation, path, deadline) }
    }

    /// With this body of this type.
    pub(super) fn body(mut self, kind: &'static str, body: impl Into<Bytes>) -> Self {
        self.headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        self.body = body.into();
        self
    }

    /// With this API key, or this token.
    pub(super) fn keyed(mut self, key: &Secret) -> Result<Self, ClientError> {
        let wrong = |_| ClientError::protocol(self.operation, "the key or token holds what no header may");
        let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose())).map_err(wrong)?;
        value.set_sensitive(true);
        self.headers.insert(AUTHORIZATION, value);
        Ok(self)
    }

    pub(super) fn header(mut self, name: &'static str, value: &str) -> Result<Self, ClientError> {
        let value = HeaderValue::from_str(value).map_err(|error| ClientError::protocol(self.operation, error))?;
        self.headers.insert(name, value);
        Ok(self)
    }
}

impl GatewayClient {
    /// A client of the gateway at this URL, such as `http://127.0.0.1:8080`. A
    /// TLS provider must be installed.
    ///
    /// # Errors
    /// When the URL is none, or no HTTP client can be made.
    pub fn new(gateway: &str) -> Result<Self, ClientError> {
        let (url, name) = named(gateway)?;
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            return Err(ClientError::Setup("no TLS provider is installed".into()));
        }
        let limits = Timeouts::default();
        let http = http_builder(&url, limits.connect).build().map_err(|error| ClientError::Setup(error.into()))?;
        Ok(Self { http, gateway: url, name, credential: None, limits })
    }

    /// The same client, signing as this wallet, in the bound form.
    #[must_use]
    pub fn signed_by(mut self, keypair: Keypair) -> Self {
        self.credential = Some(Credential::Signer(Arc::new(Signer { keypair, last: AtomicU64::new(0) })));
        self
    }

    /// The same client, with an API key in place of signatures.
    #[must_use]
    pub fn with_key(mut self, key: Secret) -> Self {
        self.credential = Some(Credential::Key(key));
        self
    }

    /// The same client with other limits (but for `connect`, which is fixed when
    /// the client is made).
    #[must_use]
    pub const fn with_limits(mut self, limits: Timeouts) -> Self {
        self.limits = limits;
        self
    }

    /// The wallet that signs, if one does.
    #[must_use]
    pub fn wallet(&self) -> Option<Wallet> {
        match &self.credential {
            Some(Credential::Signer(signer)) => Some(signer.keypair.wallet()),
            Some(Credential::Key(_)) | None => None,
        }
    }

    /// Where it is.
    pub(super) const fn gateway(&self) -> &Url {
        &self.gateway
    }

    /// The API key that calls carry, if they do.
    pub(super) const fn key(&self) -> Option<&Secret> {
        match &self.credential {
            Some(Credential::Key(key)) => Some(key),
            Some(Credential::Signer(_)) | None => None,
        }
    }

    /// Signs and sends a call, or sends it with the key, and reads its whole answer.
    pub(super) async fn signed<T: DeserializeOwned>(&self, call: Call) -> Result<T, ClientError> {
        let (operation, deadline) = (call.operation, call.deadline);
        within(operation, deadline, async { json(operation, self.send_signed(call).await?).await }).await
    }

    /// Sends a call that needs no signature and reads its whole answer.
    pub(super) async fn open<T: DeserializeOwned>(&self, call: Call) -> Result<T, ClientError> {
        let (operation, deadline) = (call.operation, call.deadline);
        within(operation, deadline, async { json(operation, self.send(call).await?).await }).await
    }

    /// Sends a call that needs no signature, with a body that flows, and reads its whole answer.
    pub(super) async fn open_with<T: DeserializeOwned>(&self, call: Call, body: Body) -> Result<T, ClientError> {
        let (operation, deadline) = (call.operation, call.deadline);
        within(operation, deadline, async { json(operation, self.send_with(call, body).await?).await }).await
    }

    /// Signs and sends a call; the answer is a success whose body still flows.
    pub(super) async fn streamed(&self, call: Call) -> Result<Response, ClientError> {
        let (operation, deadline) = (call.operation, call.deadline);
        within(operation, deadline, async { accepted(operation, self.send_signed(call).await?).await }).await
    }

    async fn send_signed(&self, mut call: Call) -> Result<Response, ClientError> {
        let signer = match &self.credential {
            None => return Err(ClientError::Unsigned(call.operation)),
            Some(Credential::Key(key)) => return self.send(call.keyed(key)?).await,
            Some(Credential::Signer(signer)) => signer,
        };
        let request = auth::BoundRequest { method: call.method.as_str(), path: &call.path, body: &call.body };
        let signed = signer.keypair.sign_request(&self.name, &request, signer.instant());
        call = call
            .header(X_WALLET, &signed.wallet)?
            .header(X_SIGNATURE, &signed.signature)?
            .header(X_TIMESTAMP, &signed.timestamp)?
            .header(X_AUDIENCE, self.name.as_str())?;
        self.send(call).await
    }

    /// Where a path of this gateway is.
    pub(super) fn url(&self, operation: &'static str, path: &str) -> Result<Url, ClientError> {
        self.gateway.join(path).map_err(|error| ClientError::protocol(operation, error))
    }

    async fn send(&self, mut call: Call) -> Result<Response, ClientError> {
        let body = std::mem::take(&mut call.body);
        self.send_with(call, body.into()).await
    }

    async fn send_with(&self, call: Call, body: Body) -> Result<Response, ClientError> {
        let url = self.url(call.operation, &call.path)?;
        let request = self.http.request(call.method, url).headers(call.headers).body(body);
        request.send().await.map_err(|error| ClientError::transport(call.operation, error))
    }
}

/// A client of HTTP for the gateway at this URL and its agents.
pub(super) fn http_builder(gateway: &Url, connect: Duration) -> ClientBuilder {
    let resolver = Resolver::new(gateway);
    let builder = Client::builder().connect_timeout(connect).redirect(Policy::none());
    let builder = if resolver.is_here() { builder.no_proxy() } else { builder };
    builder
        .dns_resolver(Arc::new(resolver))
        .tcp_keepalive(KEEP_ALIVE)
        .user_agent(concat!("palatine/", env!("CARGO_PKG_VERSION")))
}

fn is_gateway(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.path() == "/"
        && url.query().is_none()
        && url.username().is_empty()
        && url.password().is_none()
}

/// What signatures and links call the gateway at this URL: its host. No gateway is
/// asked for it, so that none can have a text signed that is meant for another.
///
/// # Errors
/// When the URL is none of a gateway.
pub fn gateway_name(gateway: &str) -> Result<GatewayName, ClientError> {
    named(gateway).map(|(_, name)| name)
}

fn named(gateway: &str) -> Result<(Url, GatewayName), ClientError> {
    let url = Url::parse(gateway).ok().filter(is_gateway);
    // `Url` leaves out the scheme's own port.
    let name = |url: Url| GatewayName::new(url.host_str()?, url.port()).ok().map(|name| (url, name));
    url.and_then(name).ok_or_else(|| ClientError::Gateway(gateway.to_owned()))
}

/// Gives a piece of work its deadline.
pub(super) async fn within<T>(
    operation: &'static str,
    after: Duration,
    work: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    tokio::time::timeout(after, work).await.unwrap_or(Err(ClientError::TimedOut { operation, after }))
}

async fn json<T: DeserializeOwned>(operation: &'static str, response: Response) -> Result<T, ClientError> {
    let body = whole(operation, accepted(operation, response).await?).await?;
    serde_json::from_slice(&body).map_err(|error| ClientError::protocol(operation, error))
}

/// The answer if it is a success; the gateway's fault if it is not.
pub(super) async fn accepted(operation: &'static str, response: Response) -> Result<Response, ClientError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = whole(operation, response).await?;
    Err(refused(operation, &body).or_else(|| in_the_guest(operation, &body)).unwrap_or_else(|| {
        ClientError::protocol(operation, format!("status {status} and no fault, but {:?}", words(&body)))
    }))
}

/// The failure that the protocols of the guest tell in this body, if it is one.
fn in_the_guest(operation: &'static str, body: &[u8]) -> Option<ClientError> {
    // Any code is one of the process protocol's, so the message must be there too.
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    body.get("message")?;
    if body.get("code").is_some_and(serde_json::Value::is_number) {
        return serde_json::from_value(body).ok().map(|source| ClientError::Guest { operation, source });
    }
    serde_json::from_value(body).ok().map(ClientError::Rpc)
}

/// The fault in this body, if it is one.
pub(super) fn refused(operation: &'static str, body: &[u8]) -> Option<ClientError> {
    let fault: Fault = serde_json::from_slice(body).ok()?;
    Some(ApiError::new(operation, fault).into())
}

/// Reads the body, at most [`MAX_ANSWER`] bytes of it.
pub(super) async fn whole(operation: &'static str, mut response: Response) -> Result<Vec<u8>, ClientError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| ClientError::transport(operation, error))? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(ClientError::protocol(operation, format!("it is larger than {MAX_ANSWER} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The start of a body, for people.
pub(super) fn words(body: &[u8]) -> String {
    String::from_utf8_lossy(body).chars().filter(|c| !c.is_control()).take(MAX_WORDS).collect()
}

/// Whether an answer says it is of this type.
pub(super) fn is_of(response: &Response, kind: &str) -> bool {
    let said = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    said.is_some_and(|said| said.split(';').next().is_some_and(|said| said.trim().eq_ignore_ascii_case(kind)))
}

/// A status as a number, for errors.
pub(super) fn number(status: StatusCode) -> u16 {
    status.as_u16()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_instant_is_signed_twice() {
        let signer = Signer { keypair: Keypair::generate(&[7; 32]), last: AtomicU64::new(0) };
        let instants: Vec<_> = (0..1000).map(|_| signer.instant()).collect();
        assert!(instants.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn fault_2_5_a_gateways_name_is_the_host_we_go_to() {
        let cases = [
            ("http://127.0.0.1:8080", "127.0.0.1:8080"),
            ("https://Api.Example./", "api.example"),
            ("https://api.example:443", "api.example"),
            ("http://api.example:443", "api.example:443"),
            ("http://[::1]:80", "[::1]"),
        ];
        for (url, name) in cases {
            assert_eq!(gateway_name(url).unwrap().as_str(), name, "{url}");
        }
        assert!(gateway_name("http://a!b").is_err());
    }

    #[test]
    fn only_a_bare_http_url_is_a_gateway() {
        for good in ["http://127.0.0.1:8080", "https://api.example/", "http://localhost"] {
            assert!(is_gateway(&good.parse().unwrap()), "{good}");
        }
        for bad in ["http://x/api", "ftp://x", "http://u:p@x", "http://x/?a=b", "mailto:x"] {
            assert!(!is_gateway(&bad.parse().unwrap()), "{bad}");
        }
    }
}
