//! `/keys`: what a wallet lets programs do in its name. The wallet signs each of these
//! requests; no key makes, lists or revokes another.

use std::sync::Arc;

use auth::ApiKey as Key;
use axum::body::Body;
use axum::extract::State;
use domain::{KeyId, KeyScope};
use http::header::HeaderMap;
use http::{Request, Response, StatusCode};
use secrecy::zeroize::Zeroizing;
use serde::Deserialize;
use store::{ApiKeyOutcome, ApiKeyRecord, NewApiKey};
use wire::Secret;
use wire::fault::{Code, Fault};
use wire::v1::keys::{
    ApiKey, DEFAULT_KEY_SECONDS, KeyRequest, KeyResponse, KeysResponse, MAX_KEY_NAME, MAX_KEY_SECONDS, MIN_KEY_SECONDS,
    RevokedResponse,
};

use crate::api::extract::{PathParams, json, parse_json};
use crate::auth::apikeys::presented;
use crate::auth::caller::{Holder, RemovingHolder};
use crate::error::ApiError;
use crate::state::Gateway;

#[derive(Deserialize)]
pub(crate) struct KeyPath {
    id: String,
}

/// Makes an API key for the caller's wallet. The key is in this answer alone. A retry with
/// the same `Idempotency-Key` has another one in its place, and the first opens nothing.
#[utoipa::path(
    post,
    operation_id = "createKey",
    tag = "keys",
    path = "/keys",
    request_body = KeyRequest,
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes a retry, freshly signed, leave one key and not two")),
    responses(
        (status = 201, description = "The key, shown once", body = KeyResponse),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    ),
    security(("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []))
)]
pub(crate) async fn create(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    holder: Holder,
) -> Result<Response<Body>, ApiError> {
    let request: KeyRequest = parse_json(&holder.body)?;
    let lasts_s = lasts(&request)?;
    let name = request.name.map(checked_name).transpose()?;
    let form = request.form.unwrap_or_default();
    let random = Zeroizing::new(rand::random::<[u8; 32]>());
    let key = Key::new(form, KeyId::from_bits(rand::random()), &random);
    let record = ApiKeyRecord {
        id: key.id(),
        wallet: holder.wallet,
        name,
        form,
        scope: request.scope,
        digest: key.digest(),
        created_at: holder.now,
        expires_at: holder.now.plus(lasts_s * 1000),
        used_at: None,
    };
    let idempotency = gateway.idempotency(&headers, &holder.body)?;
    let most = gateway.limits.keys_per_wallet;
    let outcome = gateway.parts.store.keep_api_key(NewApiKey { key: record.clone(), idempotency, most }).await?;
    match outcome {
        ApiKeyOutcome::Kept | ApiKeyOutcome::Replaced(_) => {
            let (key, info) = (Secret(key.text().clone()), gateway.shown(&record));
            json(StatusCode::CREATED, &KeyResponse { key, info })
        }
        ApiKeyOutcome::Mismatch => Err(mismatch()),
        ApiKeyOutcome::TooMany => Err(too_many(most)),
    }
}

/// The caller's keys, newest first, those that have expired lately included.
#[utoipa::path(
    get,
    operation_id = "listKeys",
    tag = "keys",
    path = "/keys",
    responses((status = 200, description = "One's own keys, without the keys themselves", body = KeysResponse), (status = "default", description = "What is wrong, by `code`", body = Fault)),
    security(("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []))
)]
pub(crate) async fn list(State(gateway): State<Arc<Gateway>>, holder: Holder) -> Result<Response<Body>, ApiError> {
    let keys = gateway.parts.store.api_keys_of(holder.wallet).await?;
    json(StatusCode::OK, &KeysResponse { keys: keys.iter().map(|key| gateway.shown(key)).collect() })
}

/// Revokes one of the caller's keys: it opens nothing from this answer on, and what it opened
/// before ends within seconds.
#[utoipa::path(
    delete,
    operation_id = "revokeKey",
    tag = "keys",
    path = "/keys/{id}",
    params(("id" = KeyId, Path, description = "The key's public part")),
    responses((status = 200, description = "It is revoked", body = RevokedResponse), (status = "default", description = "What is wrong, by `code`", body = Fault)),
    security(("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []))
)]
pub(crate) async fn revoke(
    State(gateway): State<Arc<Gateway>>,
    PathParams(KeyPath { id }): PathParams<KeyPath>,
    RemovingHolder(holder): RemovingHolder,
) -> Result<Response<Body>, ApiError> {
    let id: KeyId = id.parse().map_err(|_| no_key())?;
    match gateway.parts.store.revoke_api_key(holder.wallet, id).await? {
        true => json(StatusCode::OK, &RevokedResponse { success: true, id }),
        false => Err(no_key()),
    }
}

/// What is known of the key that this request carries: for whom it acts, what it opens, until
/// when.
#[utoipa::path(
    get,
    operation_id = "ownKey",
    tag = "keys",
    path = "/keys/self",
    responses((status = 200, description = "The key that asks", body = ApiKey), (status = "default", description = "What is wrong, by `code`", body = Fault)),
    security(("bearer" = []), ("api_key" = []))
)]
pub(crate) async fn own(
    State(gateway): State<Arc<Gateway>>,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let Some(key) = presented(request.headers())? else {
        let said = "send an API key as Authorization: Bearer, or as X-API-Key";
        return Err(ApiError::new(Code::InvalidKey, said));
    };
    let record = gateway.open(&key, KeyScope::Read).await?;
    gateway.rates.wallets.check(record.wallet)?;
    json(StatusCode::OK, &gateway.shown(&record))
}

impl Gateway {
    /// A key as its holder sees it.
    fn shown(&self, record: &ApiKeyRecord) -> ApiKey {
        ApiKey {
            id: record.id,
            prefix: format!("{}{}", record.form.prefix(), record.id),
            name: record.name.clone(),
            wallet: record.wallet,
            scope: record.scope,
            created_at: record.created_at,
            expires_at: record.expires_at,
            last_used_at: self.last_used(record),
        }
    }
}

fn lasts(request: &KeyRequest) -> Result<u64, ApiError> {
    let seconds = request.expires_in_s.unwrap_or(DEFAULT_KEY_SECONDS);
    if (MIN_KEY_SECONDS..=MAX_KEY_SECONDS).contains(&seconds) {
        return Ok(seconds);
    }
    let said = format!("expires_in_s must be from {MIN_KEY_SECONDS} to {MAX_KEY_SECONDS}, not {seconds}");
    Err(Fault::new(Code::InvalidRequest, said).field("expires_in_s").into())
}

fn checked_name(name: String) -> Result<String, ApiError> {
    let shaped = (1..=MAX_KEY_NAME).contains(&name.chars().count()) && !name.chars().any(char::is_control);
    if shaped {
        return Ok(name);
    }
    let said = format!("name is not 1 to {MAX_KEY_NAME} printable characters");
    Err(Fault::new(Code::InvalidRequest, said).field("name").into())
}

fn mismatch() -> ApiError {
    let fault = Fault::new(Code::IdempotencyMismatch, "this Idempotency-Key was used with another request");
    fault.field("Idempotency-Key").into()
}

fn too_many(most: u32) -> ApiError {
    let said = match most {
        0 => "this gateway makes no API keys ([limits] keys_per_wallet)".to_owned(),
        most => format!("your wallet has {most} API keys that are good, as many as it may; revoke one of them"),
    };
    ApiError::new(Code::TooManyKeys, said)
}

fn no_key() -> ApiError {
    ApiError::new(Code::NotFound, "there is no such API key, or it is not yours")
}
