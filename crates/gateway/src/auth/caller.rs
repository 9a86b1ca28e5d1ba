//! Whose signature a request carries. Each is good for one request.

use std::sync::Arc;
use std::time::Duration;

use auth::{BoundRequest, SignatureHeaders, UnverifiedSignature, VerifyPolicy};
use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::FromRequest;
use bytes::BytesMut;
use domain::{UnixMillis, Wallet};
use futures_util::StreamExt;
use http::Request;
use http::header::HeaderMap;
use http::request::Parts;
use store::ReplayKey;
use wire::connect::Envelope;
use wire::v1::public::{X_AUDIENCE, X_SIGNATURE, X_TIMESTAMP, X_WALLET};

use crate::edge::body::read_at_most;
use crate::edge::cors;
use crate::error::ApiError;
use crate::state::Gateway;

/// A verified signature that is **not spent yet**: a handler that takes this spends
/// `replay_key`, whatever the answer is. It may be of Romulus's own text.
pub(crate) struct UnspentSignature {
    pub(crate) wallet: Wallet,
    pub(crate) replay_key: ReplayKey,
    /// Whether it covers this request alone.
    pub(crate) bound: bool,
    pub(crate) body: Bytes,
    pub(crate) now: UnixMillis,
}

/// A verified signature that binds the request and this gateway, spent durably.
pub(crate) struct Holder {
    pub(crate) wallet: Wallet,
    /// Whether it covers this request alone; otherwise it is a [`ReadOnlyHolder`]'s or a
    /// [`StoppingHolder`]'s, in Romulus's own text.
    pub(crate) bound: bool,
    pub(crate) body: Bytes,
    pub(crate) now: UnixMillis,
}

/// A [`Holder`] who only reads what is its own, and may have signed Romulus's own
/// text. That works on a full disk too.
pub(crate) struct ReadOnlyHolder(pub(crate) Holder);

/// A [`Holder`] who is let in however often the wallet has asked, and may have
/// signed Romulus's own text: stopping always works.
pub(crate) struct StoppingHolder(pub(crate) Holder);

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

impl FromRequest<Arc<Gateway>> for UnspentSignature {
    type Rejection = ApiError;

    async fn from_request(request: Request<Body>, gateway: &Arc<Gateway>) -> Result<Self, ApiError> {
        verify_counted(gateway, request, AcceptedText::EitherText).await
    }
}

impl FromRequest<Arc<Gateway>> for Holder {
    type Rejection = ApiError;

    async fn from_request(request: Request<Body>, gateway: &Arc<Gateway>) -> Result<Self, ApiError> {
        spend(gateway, verify_counted(gateway, request, AcceptedText::BoundText).await?).await
    }
}

impl FromRequest<Arc<Gateway>> for ReadOnlyHolder {
    type Rejection = ApiError;

    async fn from_request(request: Request<Body>, gateway: &Arc<Gateway>) -> Result<Self, ApiError> {
        spend_essential(gateway, verify_counted(gateway, request, AcceptedText::EitherText).await?).await.map(Self)
    }
}

impl FromRequest<Arc<Gateway>> for StoppingHolder {
    type Rejection = ApiError;

    async fn from_request(request: Request<Body>, gateway: &Arc<Gateway>) -> Result<Self, ApiError> {
        spend_essential(gateway, verify(gateway, request, AcceptedText::EitherText).await?).await.map(Self)
    }
}

async fn spend(gateway: &Gateway, verified: UnspentSignature) -> Result<Holder, ApiError> {
    let UnspentSignature { wallet, replay_key, bound, body, now } = verified;
    gateway.spend(replay_key).await?;
    Ok(Holder { wallet, bound, body, now })
}

async fn spend_essential(gateway: &Gateway, verified: UnspentSignature) -> Result<Holder, ApiError> {
    let UnspentSignature { wallet, replay_key, bound, body, now } = verified;
    gateway.spend_essential(replay_key, bound).await?;
    Ok(Holder { wallet, bound, body, now })
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

/// The signer of a request whose body goes on, in Connect's envelopes: what is signed
/// of the body is its first envelope alone. The body comes back whole.
pub(crate) async fn of_stream(gateway: &Gateway, request: Request<Body>) -> Result<(Wallet, Body), ApiError> {
    cors::need_json(&request)?;
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
    Ok((holder.wallet, Body::from_stream(begin.chain(rest))))
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
