//! Whose signature a request carries, good for one request; or whose API key.

use std::sync::Arc;
use std::time::Duration;

use auth::{ApiKey, BoundRequest, SignatureHeaders, UnverifiedSignature, VerifyPolicy};
use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::FromRequest;
use bytes::BytesMut;
use domain::{KeyId, KeyScope, UnixMillis, Wallet};
use futures_util::StreamExt;
use http::Request;
use http::header::HeaderMap;
use http::request::Parts;
use store::{ApiKeyRecord, ReplayKey};
use wire::connect::Envelope;
use wire::fault::Code;
use wire::v1::public::{X_AUDIENCE, X_SIGNATURE, X_TIMESTAMP, X_WALLET};

use crate::auth::apikeys::{self, presented as presented_key};
use crate::edge::body::read_at_most;
use crate::edge::cors;
use crate::error::ApiError;
use crate::state::Gateway;

/// By what a request is its holder's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Authority {
    /// Its wallet's signature.
    Signature {
        /// Whether it covers this request alone; otherwise it is in Romulus's own text.
        bound: bool,
    },
    /// An API key of its wallet's.
    Key(KeyId),
}

/// Who asks for an agent: by an API key, or by a verified signature that is **not spent
/// yet**, and may be of Romulus's own text. A handler that takes this spends `replay_key`,
/// whatever the answer is.
pub(crate) struct SpawningHolder {
    pub(crate) wallet: Wallet,
    pub(crate) replay_key: Option<ReplayKey>,
    pub(crate) body: Bytes,
    pub(crate) now: UnixMillis,
}

/// Who has signed this request for this gateway, spent durably; or what the other extractors
/// here say of theirs.
pub(crate) struct Holder {
    pub(crate) wallet: Wallet,
    pub(crate) by: Authority,
    pub(crate) body: Bytes,
    pub(crate) now: UnixMillis,
}

impl Holder {
    /// The API key that opened this, if one did.
    pub(crate) const fn key(&self) -> Option<KeyId> {
        match self.by {
            Authority::Signature { .. } => None,
            Authority::Key(id) => Some(id),
        }
    }

    /// Whether its wallet has signed this request, and no other.
    pub(crate) fn is_bound(&self) -> bool {
        self.by == Authority::Signature { bound: true }
    }
}

/// A [`Holder`] who has an agent of its own work, and may come with an API key that lets it.
pub(crate) struct RunningHolder(pub(crate) Holder);

/// A [`Holder`] who only reads what is its own, and may have signed Romulus's own text, or
/// come with any API key. That works on a full disk too.
pub(crate) struct ReadOnlyHolder(pub(crate) Holder);

/// A [`Holder`] who is let in however often the wallet has asked, and may have signed
/// Romulus's own text, or come with an API key that lets agents run: stopping always works.
pub(crate) struct StoppingHolder(pub(crate) Holder);

/// A [`Holder`] who takes away what is its own, on a full disk too and however often the
/// wallet has asked. No API key does that.
pub(crate) struct RemovingHolder(pub(crate) Holder);

/// A verified signature that is not spent yet.
struct UnspentSignature {
    wallet: Wallet,
    replay_key: ReplayKey,
    bound: bool,
    body: Bytes,
    now: UnixMillis,
}

/// Which texts open a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AcceptedText {
    /// Romulus's own too: its five routes, and reading.
    EitherText,
    /// Those alone that bind the request and this gateway: an operator who gets
    /// another can replay it at every other gateway.
    BoundText,
}

impl AcceptedText {
    fn policy(self, gateway: &Gateway) -> VerifyPolicy<'_> {
        let require_bound = gateway.config.require_bound || self == Self::BoundText;
        VerifyPolicy { audiences: &gateway.audiences, require_bound }
    }
}

impl FromRequest<Arc<Gateway>> for SpawningHolder {
    type Rejection = ApiError;

    async fn from_request(request: Request<Body>, gateway: &Arc<Gateway>) -> Result<Self, ApiError> {
        if let Some(key) = presented_key(request.headers())? {
            let Holder { wallet, body, now, .. } = by_key(gateway, request, &key, KeyScope::Run, true).await?;
            return Ok(Self { wallet, replay_key: None, body, now });
        }
        let signed = verify_counted(gateway, request, AcceptedText::EitherText).await?;
        let UnspentSignature { wallet, replay_key, body, now, .. } = signed;
        Ok(Self { wallet, replay_key: Some(replay_key), body, now })
    }
}

impl FromRequest<Arc<Gateway>> for Holder {
    type Rejection = ApiError;

    async fn from_request(request: Request<Body>, gateway: &Arc<Gateway>) -> Result<Self, ApiError> {
        apikeys::refuse(request.headers())?;
        spend(gateway, verify_counted(gateway, request, AcceptedText::BoundText).await?).await
    }
}

impl FromRequest<Arc<Gateway>> for RunningHolder {
    type Rejection = ApiError;

    async fn from_request(request: Request<Body>, gateway: &Arc<Gateway>) -> Result<Self, ApiError> {
        if let Some(key) = presented_key(request.headers())? {
            return by_key(gateway, request, &key, KeyScope::Run, true).await.map(Self);
        }
        spend(gateway, verify_counted(gateway, request, AcceptedText::BoundText).await?).await.map(Self)
    }
}

impl FromRequest<Arc<Gateway>> for ReadOnlyHolder {
    type Rejection = ApiError;

    async fn from_request(request: Request<Body>, gateway: &Arc<Gateway>) -> Result<Self, ApiError> {
        if let Some(key) = presented_key(request.headers())? {
            return by_key(gateway, request, &key, KeyScope::Read, true).await.map(Self);
        }
        spend_essential(gateway, verify_counted(gateway, request, AcceptedText::EitherText).await?).await.map(Self)
    }
}

impl FromRequest<Arc<Gateway>> for StoppingHolder {
    type Rejection = ApiError;

    async fn from_request(request: Request<Body>, gateway: &Arc<Gateway>) -> Result<Self, ApiError> {
        if let Some(key) = presented_key(request.headers())? {
            return by_key(gateway, request, &key, KeyScope::Run, false).await.map(Self);
        }
        spend_essential(gateway, verify(gateway, request, AcceptedText::EitherText).await?).await.map(Self)
    }
}

impl FromRequest<Arc<Gateway>> for RemovingHolder {
    type Rejection = ApiError;

    async fn from_request(request: Request<Body>, gateway: &Arc<Gateway>) -> Result<Self, ApiError> {
        apikeys::refuse(request.headers())?;
        let holder = spend_essential(gateway, verify(gateway, request, AcceptedText::EitherText).await?).await?;
        if holder.is_bound() {
            return Ok(Self(holder));
        }
        Err(ApiError::new(Code::UnboundSignature, "a removal needs a signature of this very request"))
    }
}

/// Who asks by an API key; `counted` against its wallet, as a signed request would be.
async fn by_key(
    gateway: &Gateway,
    request: Request<Body>,
    key: &ApiKey,
    needs: KeyScope,
    counted: bool,
) -> Result<Holder, ApiError> {
    cors::need_json(&request)?;
    let ApiKeyRecord { id, wallet, .. } = gateway.open(key, needs).await?;
    if counted {
        gateway.rates.wallets.check(wallet)?;
    }
    let body = read(gateway, request.into_body()).await?;
    Ok(Holder { wallet, by: Authority::Key(id), body, now: gateway.now() })
}

async fn spend(gateway: &Gateway, verified: UnspentSignature) -> Result<Holder, ApiError> {
    let UnspentSignature { wallet, replay_key, bound, body, now } = verified;
    gateway.spend(replay_key).await?;
    Ok(Holder { wallet, by: Authority::Signature { bound }, body, now })
}

async fn spend_essential(gateway: &Gateway, verified: UnspentSignature) -> Result<Holder, ApiError> {
    let UnspentSignature { wallet, replay_key, bound, body, now } = verified;
    gateway.spend_essential(replay_key, bound).await?;
    Ok(Holder { wallet, by: Authority::Signature { bound }, body, now })
}

/// Verifies, and counts the request against its wallet.
async fn verify_counted(
    gateway: &Gateway,
    request: Request<Body>,
    opens: AcceptedText,
) -> Result<UnspentSignature, ApiError> {
    let verified = verify(gateway, request, opens).await?;
    gateway.rates.wallets.check(verified.wallet)?;
    Ok(verified)
}

async fn verify(gateway: &Gateway, request: Request<Body>, opens: AcceptedText) -> Result<UnspentSignature, ApiError> {
    cors::need_json(&request)?;
    let (head, body) = request.into_parts();
    // The headers first: a request that they refuse does not have its body read.
    let claim = UnverifiedSignature::read(presented(&head.headers), opens.policy(gateway), gateway.now())?;
    let body = read(gateway, body).await?;
    verify_over(gateway, &claim, &head, body)
}

/// Whose request it is whose body goes on, in Connect's envelopes: what is signed of the
/// body is its first envelope alone. The body comes back whole.
pub(crate) async fn of_stream(
    gateway: &Gateway,
    request: Request<Body>,
) -> Result<(Wallet, Option<KeyId>, Body), ApiError> {
    cors::need_json(&request)?;
    if let Some(key) = presented_key(request.headers())? {
        let ApiKeyRecord { id, wallet, .. } = gateway.open(&key, KeyScope::Run).await?;
        gateway.rates.wallets.check(wallet)?;
        return Ok((wallet, Some(id), request.into_body()));
    }
    let (head, body) = request.into_parts();
    let claim =
        UnverifiedSignature::read(presented(&head.headers), AcceptedText::BoundText.policy(gateway), gateway.now())?;
    let mut rest = body.into_data_stream();
    let within = Duration::from_millis(gateway.limits.body_ms);
    let begun = tokio::time::timeout(within, first_envelope(&mut rest)).await;
    let (first, more) = begun.map_err(|_| ApiError::invalid("the body did not begin in time"))??;
    let verified = verify_over(gateway, &claim, &head, first.clone())?;
    gateway.rates.wallets.check(verified.wallet)?;
    let holder = spend(gateway, verified).await?;
    let begin = futures_util::stream::iter([first, more].map(Ok));
    Ok((holder.wallet, None, Body::from_stream(begin.chain(rest))))
}

/// The bytes of a body's first envelope, and what came with them.
async fn first_envelope(body: &mut BodyDataStream) -> Result<(Bytes, Bytes), ApiError> {
    let mut all = BytesMut::new();
    loop {
        let length = Envelope::length(&all).map_err(|error| ApiError::invalid(error.to_string()))?;
        if let Some(length) = length.filter(|length| all.len() >= *length) {
            let more = all.split_off(length);
            return Ok((all.freeze(), more.freeze()));
        }
        let bytes = body.next().await.transpose().ok().flatten();
        all.extend_from_slice(&bytes.ok_or_else(|| ApiError::invalid("the body ended before its first message"))?);
    }
}

fn verify_over(
    gateway: &Gateway,
    claim: &UnverifiedSignature<'_>,
    head: &Parts,
    body: Bytes,
) -> Result<UnspentSignature, ApiError> {
    let now = gateway.now();
    let signed = claim.verify(&bound(head, &body), now)?;
    tracing::debug!(form = signed.form.as_str(), bound = signed.bound, "a signature was verified");
    if gateway.spent.contains(&signed.replay_key) {
        return Err(store::StoreError::Replayed.into());
    }
    let replay_key = ReplayKey { key: signed.replay_key, expires_at: signed.expires_at };
    Ok(UnspentSignature { wallet: signed.wallet, replay_key, bound: signed.bound, body, now })
}

/// What a bound signature of this request covers.
fn bound<'a>(head: &'a Parts, body: &'a [u8]) -> BoundRequest<'a> {
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    BoundRequest { method: head.method.as_str(), path, body }
}

/// The signature's headers. One that is there twice, or is not text, is as
/// malformed as an empty one.
pub(crate) fn presented(headers: &HeaderMap) -> SignatureHeaders<'_> {
    let one = |name: &str| {
        let mut values = headers.get_all(name).iter();
        let first = values.next()?;
        Some(if values.next().is_some() { "" } else { first.to_str().unwrap_or("") })
    };
    SignatureHeaders {
        wallet: one(X_WALLET),
        signature: one(X_SIGNATURE),
        timestamp: one(X_TIMESTAMP),
        audience: one(X_AUDIENCE),
    }
}

/// Reads a body, within the bounds of the API.
async fn read(gateway: &Gateway, body: Body) -> Result<Bytes, ApiError> {
    let most = usize::try_from(gateway.limits.body_bytes).unwrap_or(usize::MAX);
    read_at_most(body, most, gateway.limits.body_ms).await
}
