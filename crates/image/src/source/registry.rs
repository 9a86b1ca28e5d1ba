//! Registries, by the OCI distribution protocol: one image, by digest.
//!
//! Plain HTTP is spoken with loopback addresses only. A token is asked for where
//! the registry says, which must be as safe as the registry itself.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use oci_spec::distribution::Reference;
use oci_spec::image::{Descriptor, ImageManifest};
use reqwest::header::{ACCEPT, WWW_AUTHENTICATE};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use wire::Secret;

use super::error::RegistryError;
use super::remote::{self, RemoteStore};
use crate::blobs::{BlobStore, MAX_DOCUMENT};
use crate::digest::BlobDigest;
use crate::document::{self, ACCEPTED};
use crate::signature::{self, FoundSignature, MAX_PAYLOAD, MAX_SIGNATURES, TrustedKeys};
use crate::{ImageError, Progress};

/// Tries of one request at most.
const TRIES: usize = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Other addresses one request is sent on to at most.
const MAX_REDIRECTS: usize = 5;
/// Bytes of a token's answer at most.
const MAX_TOKEN: usize = 64 << 10;

/// A user and password (or token) for a registry.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The user.
    pub user: String,
    /// The password.
    pub password: Secret,
}

/// What to pull, and as whom.
pub(crate) struct RegistrySource {
    pub(crate) reference: String,
    pub(crate) credentials: Option<Credentials>,
}

/// Copies the image into the blobs, and returns its manifest. Where there are trusted keys, one
/// of them must have signed it.
pub(crate) async fn pull(
    source: &RegistrySource,
    blobs: &BlobStore,
    bounds: &crate::Config,
    trusted: Option<&TrustedKeys>,
    to: &dyn Progress,
) -> Result<BlobDigest, ImageError> {
    let (session, sum) = Session::open(source, bounds)?;
    let slow = || RegistryError::Slow { registry: session.registry.clone(), after_s: bounds.pull_timeout_s };
    let whole = Duration::from_secs(bounds.pull_timeout_s);
    to.step("ask the registry", None);
    let pulled = remote::image(&session, (sum, None), blobs, bounds, trusted, to);
    let pulled = tokio::time::timeout(whole, pulled).await;
    pulled.unwrap_or_else(|_| Err(slow().into()))
}

/// One image on one registry.
struct Session {
    client: Client,
    registry: String,
    base: Url,
    credentials: Option<Credentials>,
    /// The token the registry's own authority gave, once it did.
    token: tokio::sync::Mutex<Option<Secret>>,
}

impl Session {
    fn open(source: &RegistrySource, bounds: &crate::Config) -> Result<(Self, BlobDigest), ImageError> {
        let wrong = || ImageError::Reference(source.reference.chars().take(300).collect());
        let reference: Reference = source.reference.parse().map_err(|_| wrong())?;
        let sum = BlobDigest::parse(reference.digest().ok_or_else(wrong)?)?;
        let registry = reference.resolve_registry().to_owned();
        let url = format!("https://{registry}/v2/{}/", reference.repository());
        let mut base: Url = url.parse().map_err(|_| wrong())?;
        if is_loopback(&base) {
            base.set_scheme("http").map_err(|()| wrong())?;
        }
        let client = client(&base, bounds).map_err(|source| failed("a connection", &registry, source))?;
        let (credentials, token) = (source.credentials.clone(), tokio::sync::Mutex::default());
        Ok((Self { client, registry, base, credentials, token }, sum))
    }

    /// Something small as a whole; `None` where there is none.
    async fn small(&self, kind: &str, name: &str, at_most: u64) -> Result<Option<Vec<u8>>, ImageError> {
        let what = "a signature";
        let url = self.base.join(&format!("{kind}/{name}"));
        let url = url.map_err(|_| ImageError::Reference(self.base.to_string()))?;
        let asked = retried(|| async {
            let answer = self.ask(what, self.client.get(url.clone()).header(ACCEPT, ACCEPTED.join(", "))).await?;
            Ok(self.bounded(what, answer, usize::try_from(at_most).unwrap_or(usize::MAX)).await?)
        });
        match asked.await {
            Err(ImageError::Registry(RegistryError::Status { status: StatusCode::NOT_FOUND, .. })) => Ok(None),
            answer => answer.map(Some),
        }
    }

    fn url(&self, kind: &str, sum: BlobDigest) -> Result<Url, ImageError> {
        self.base.join(&format!("{kind}/{sum}")).map_err(|_| ImageError::Reference(self.base.to_string()))
    }

    /// Sends a request, and once more with a token if the registry asks for one.
    async fn ask(&self, what: &'static str, request: RequestBuilder) -> Result<Response, RegistryError> {
        let again = request.try_clone();
        let answer = self.authorized(request).await.send().await.map_err(|e| failed(what, &self.registry, e))?;
        let answer = match (answer.status(), again) {
            (StatusCode::UNAUTHORIZED, Some(again)) => {
                self.authenticate(&answer).await?;
                self.authorized(again).await.send().await.map_err(|e| failed(what, &self.registry, e))?
            }
            _ => answer,
        };
        match answer.status() {
            StatusCode::OK => Ok(answer),
            status => Err(RegistryError::Status { what, registry: self.registry.clone(), status }),
        }
    }

    async fn authorized(&self, request: RequestBuilder) -> RequestBuilder {
        match (&*self.token.lock().await, &self.credentials) {
            (Some(token), _) => request.bearer_auth(token.expose()),
            (None, Some(Credentials { user, password })) => request.basic_auth(user, Some(password.expose())),
            (None, None) => request,
        }
    }

    /// Gets a token as the registry's challenge says.
    async fn authenticate(&self, refused: &Response) -> Result<(), RegistryError> {
        let refuse = |why| RegistryError::Challenge { registry: self.registry.clone(), why };
        let header = refused.headers().get(WWW_AUTHENTICATE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let Some(challenge) = Challenge::parse(header) else { return Err(refuse("it is no bearer challenge")) };
        let mut url: Url = challenge.realm.parse().map_err(|_| refuse("its realm is no URL"))?;
        let safe = url.scheme() == "https" || (is_loopback(&url) && is_loopback(&self.base));
        if !safe {
            return Err(refuse("its realm is not https"));
        }
        url.query_pairs_mut().extend_pairs(challenge.parameters);
        let mut request = self.client.get(url);
        if let Some(Credentials { user, password }) = &self.credentials {
            request = request.basic_auth(user, Some(password.expose()));
        }
        let answer = request.send().await.map_err(|e| failed("a token", &self.registry, e))?;
        if answer.status() != StatusCode::OK {
            return Err(RegistryError::Status {
                what: "a token",
                registry: self.registry.clone(),
                status: answer.status(),
            });
        }
        let answer = self.bounded("a token", answer, MAX_TOKEN).await?;
        let token = serde_json::from_slice::<Token>(&answer).ok().and_then(|token| token.token.or(token.access_token));
        *self.token.lock().await = Some(token.ok_or_else(|| refuse("its token's answer holds none"))?);
        Ok(())
    }

    async fn bounded(
        &self,
        what: &'static str,
        mut answer: Response,
        at_most: usize,
    ) -> Result<Vec<u8>, RegistryError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|e| failed(what, &self.registry, e))? {
            if bytes.len() + chunk.len() > at_most {
                return Err(RegistryError::TooLarge { what, registry: self.registry.clone(), at_most });
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}

impl RemoteStore for Session {
    const TAKING: &'static str = "download the layers";

    async fn document(&self, sum: BlobDigest, _: Option<u64>, blobs: &BlobStore) -> Result<Vec<u8>, ImageError> {
        if !blobs.has(sum) {
            let bytes = retried(|| async {
                let request = self.client.get(self.url("manifests", sum)?).header(ACCEPT, ACCEPTED.join(", "));
                let answer = self.ask("the manifest", request).await?;
                Ok(self.bounded("the manifest", answer, usize::try_from(MAX_DOCUMENT).unwrap_or(usize::MAX)).await?)
            });
            let bytes = bytes.await?;
            let mut incoming = blobs.begin(sum, bytes.len() as u64)?;
            incoming.write(&bytes)?;
            incoming.finish()?;
        }
        blobs.document(sum)
    }

    async fn signatures(&self, digests: &[BlobDigest]) -> Result<Vec<FoundSignature>, ImageError> {
        let mut found = Vec::new();
        for digest in digests {
            let Some(bytes) = self.small("manifests", &signature::tag(*digest), MAX_DOCUMENT).await? else { continue };
            let manifest: ImageManifest = document::json("signatures", &bytes)?;
            for (at, signature) in signature::named(&manifest).take(MAX_SIGNATURES - found.len()) {
                let sum = BlobDigest::named(at)?;
                let payload = self.small("blobs", &sum.to_string(), MAX_PAYLOAD).await?;
                let payload = payload.ok_or_else(|| ImageError::Missing(sum.to_string()))?;
                found.push(FoundSignature { payload, signature: signature.to_owned() });
            }
        }
        Ok(found)
    }

    async fn blob(&self, descriptor: &Descriptor, blobs: &BlobStore, to: &dyn Progress) -> Result<(), ImageError> {
        let sum = BlobDigest::named(descriptor)?;
        if blobs.has(sum) {
            to.advance(descriptor.size());
            return Ok(());
        }
        retried(|| async {
            let mut answer = self.ask("a layer", self.client.get(self.url("blobs", sum)?)).await?;
            let mut incoming = blobs.begin(sum, descriptor.size())?;
            while let Some(chunk) = answer.chunk().await.map_err(|source| failed("a layer", &self.registry, source))? {
                incoming.write(&chunk)?;
                to.advance(chunk.len() as u64);
            }
            incoming.finish()
        })
        .await
    }
}

fn client(base: &Url, bounds: &crate::Config) -> Result<Client, reqwest::Error> {
    let timeout = Duration::from_millis(bounds.registry_timeout_ms);
    Client::builder()
        .user_agent(concat!("palatine/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(timeout)
        .read_timeout(timeout)
        .redirect(reqwest::redirect::Policy::limited(MAX_REDIRECTS))
        .https_only(base.scheme() == "https")
        .build()
}

fn failed(what: &'static str, registry: &str, source: reqwest::Error) -> RegistryError {
    RegistryError::Request { what, registry: registry.to_owned(), source: source.without_url() }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Tries again what may pass by itself: cut connections and overload.
async fn retried<T, F: Future<Output = Result<T, ImageError>>>(once: impl FnMut() -> F) -> Result<T, ImageError> {
    let pauses = ExponentialBuilder::default().with_min_delay(FIRST_PAUSE).with_max_times(TRIES - 1);
    once.retry(pauses).when(may_pass).await
}

fn may_pass(error: &ImageError) -> bool {
    match error {
        ImageError::Registry(RegistryError::Request { .. }) => true,
        ImageError::Registry(RegistryError::Status { status, .. }) => {
            status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
        }
        _ => false,
    }
}

#[derive(serde::Deserialize)]
struct Token {
    token: Option<Secret>,
    access_token: Option<Secret>,
}

/// `Bearer realm="…",service="…",scope="…"`.
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    realm: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    fn parse(header: &str) -> Option<Self> {
        let (scheme, mut rest) = header.trim().split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut parameters) = (None, Vec::new());
        while let Some((key, after)) = rest.split_once('=') {
            let (value, after) = quoted(after)?;
            match key.trim_matches([' ', ',']).to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value.to_owned()),
                key @ ("service" | "scope") => parameters.push((key.to_owned(), value.to_owned())),
                _ => {}
            }
            rest = after;
        }
        Some(Self { realm: realm?, parameters })
    }
}

/// A value in quotes or without, and what comes after it.
fn quoted(text: &str) -> Option<(&str, &str)> {
    match text.strip_prefix('"') {
        Some(text) => text.split_once('"'),
        None => Some(text.split_once(',').unwrap_or((text, ""))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_challenge_is_read_with_commas_in_its_values() {
        let challenge =
            Challenge::parse(r#"Bearer realm="https://auth/token",service="r",scope="repository:a/b:pull,push""#);
        let challenge = challenge.unwrap();
        assert_eq!(challenge.realm, "https://auth/token");
        let scope = ("scope".to_owned(), "repository:a/b:pull,push".to_owned());
        assert_eq!(challenge.parameters, [("service".to_owned(), "r".to_owned()), scope]);
        assert_eq!(Challenge::parse("Basic realm=x"), None);
        assert_eq!(Challenge::parse("Bearer service=\"r\""), None);
    }

    #[test]
    fn only_loopback_is_loopback() {
        for (url, expected) in [
            ("https://localhost:5000/", true),
            ("https://127.0.0.1/", true),
            ("https://[::1]:5000/", true),
            ("https://localhost.example.org/", false),
            ("https://127.0.0.1.example.org/", false),
            ("https://10.0.0.1/", false),
        ] {
            assert_eq!(is_loopback(&url.parse().unwrap()), expected, "{url}");
        }
    }
}
