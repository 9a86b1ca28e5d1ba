//! The relayer's routes, which are CroGas's: their JSON, their errors.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Query, State};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use http::{Request, Response, StatusCode};
use relay::{RelayError, RelayResponse, Relayer};
use serde::Serialize;
use wire::EvmAddress;
use wire::fault::Fault;
use wire::v1::relay::{
    BatchAnswer, BatchRequest, DomainAnswer, EstimateAnswer, EstimateQuery, NonceAnswer, PaymentRequired,
    RawTransactionRequest, RelayAnswer, RelayCallRequest, RelayRequest,
};

use crate::api::extract::{PathParams, json};
use crate::edge::body::read_at_most;
use crate::edge::cors;
use crate::edge::source::RequestSource;
use crate::error::ApiError;
use crate::state::Gateway;

/// CroGas's header of a payment.
const X_PAYMENT: &str = "x-payment";

/// Carries out a call that somebody without coins has signed (ERC-2771).
#[utoipa::path(
    post,
    operation_id = "relay",
    tag = "relayer",
    path = "/meta/relay",
    request_body = RelayRequest,
    params(("X-Payment" = Option<String>, Header, description = "The fee's payment, where one is asked")),
    responses(
        (status = 200, description = "What became of it: `success` is the call's own", body = RelayAnswer),
        (status = 202, description = "The chain has not decided; ask again with the same request", body = RelayAnswer),
        (status = 402, description = "The fee, and how to pay it", body = PaymentRequired),
        (status = "default", description = "CroGas's refusal, or a fault of the gateway", body = Fault),
    )
)]
pub(crate) async fn relay(
    State(gateway): State<Arc<Gateway>>,
    Extension(source): Extension<RequestSource>,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let (relayer, payment, body) = gateway.relayed(request).await?;
    respond(relayer.relay(&body, payment.as_deref(), source.address).await)
}

/// Carries out up to ten of them for one fee.
#[utoipa::path(
    post,
    operation_id = "relayBatch",
    tag = "relayer",
    path = "/meta/batch",
    request_body = BatchRequest,
    params(("X-Payment" = Option<String>, Header, description = "The fee's payment, where one is asked")),
    responses(
        (status = 200, description = "What became of each", body = BatchAnswer),
        (status = 402, description = "The fee, and how to pay it", body = PaymentRequired),
        (status = "default", description = "CroGas's refusal, or a fault of the gateway", body = Fault),
    )
)]
pub(crate) async fn batch(
    State(gateway): State<Arc<Gateway>>,
    Extension(source): Extension<RequestSource>,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let (relayer, payment, body) = gateway.relayed(request).await?;
    respond(relayer.batch(&body, payment.as_deref(), source.address).await)
}

/// Pays the gas of a call that carries a signature of its own, or needs none.
#[utoipa::path(
    post,
    operation_id = "relayCall",
    tag = "relayer",
    path = "/meta/call",
    request_body = RelayCallRequest,
    params(("X-Payment" = Option<String>, Header, description = "The fee's payment, where one is asked")),
    responses(
        (status = 200, description = "What became of it", body = RelayAnswer),
        (status = 402, description = "The fee, and how to pay it", body = PaymentRequired),
        (status = "default", description = "CroGas's refusal, or a fault of the gateway", body = Fault),
    )
)]
pub(crate) async fn call(
    State(gateway): State<Arc<Gateway>>,
    Extension(source): Extension<RequestSource>,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let (relayer, payment, body) = gateway.relayed(request).await?;
    respond(relayer.call(&body, payment.as_deref(), source.address).await)
}

/// Passes on a whole transaction, whose signer pays for it.
#[utoipa::path(
    post,
    operation_id = "relayRaw",
    tag = "relayer",
    path = "/relay",
    request_body = RawTransactionRequest,
    responses(
        (status = 200, description = "What became of it", body = RelayAnswer),
        (status = "default", description = "CroGas's refusal, or a fault of the gateway", body = Fault),
    )
)]
pub(crate) async fn raw(
    State(gateway): State<Arc<Gateway>>,
    Extension(source): Extension<RequestSource>,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let (relayer, _, body) = gateway.relayed(request).await?;
    respond(relayer.raw(&body, source.address).await)
}

/// The forwarder's next nonce of an address.
#[utoipa::path(
    get,
    operation_id = "relayNonce",
    tag = "relayer",
    path = "/meta/nonce/{address}",
    params(("address" = EvmAddress, Path, description = "Whose nonce")),
    responses((status = 200, description = "The nonce", body = NonceAnswer), (status = "default", description = "CroGas's refusal, or a fault of the gateway", body = Fault))
)]
pub(crate) async fn nonce(
    State(gateway): State<Arc<Gateway>>,
    PathParams(address): PathParams<String>,
) -> Result<Response<Body>, ApiError> {
    let answer = gateway.treasury()?.relayer()?.nonce(&address).await;
    respond(answer.map(|body| RelayResponse { status: 200, body }))
}

/// The EIP-712 domain that requests are signed for.
#[utoipa::path(
    get,
    operation_id = "relayDomain",
    tag = "relayer",
    path = "/meta/domain",
    responses((status = 200, description = "Domain and types", body = DomainAnswer), (status = "default", description = "What is wrong, by `code`", body = Fault))
)]
pub(crate) async fn domain(State(gateway): State<Arc<Gateway>>) -> Result<Response<Body>, ApiError> {
    json(StatusCode::OK, &gateway.treasury()?.relayer()?.domain())
}

/// What a call would cost.
#[utoipa::path(
    get,
    operation_id = "relayEstimate",
    tag = "relayer",
    path = "/estimate",
    params(
        ("to" = String, Query, description = "The contract"),
        ("data" = Option<String>, Query, description = "The call, hex"),
        ("value" = Option<String>, Query, description = "Wei"),
        ("priority" = Option<String>, Query, description = "`slow`, `normal` or `fast`"),
    ),
    responses((status = 200, description = "Gas and price", body = EstimateAnswer), (status = "default", description = "CroGas's refusal, or a fault of the gateway", body = Fault))
)]
pub(crate) async fn estimate(
    State(gateway): State<Arc<Gateway>>,
    query: Result<Query<EstimateQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response<Body>, ApiError> {
    let Query(query) =
        query.map_err(|_| ApiError::invalid("the query string is not one of this path; see /openapi.json"))?;
    let answer = gateway.treasury()?.relayer()?.estimate(&query).await;
    respond(answer.map(|body| RelayResponse { status: 200, body }))
}

impl Gateway {
    /// The relayer, and the payment and body of what it is asked.
    async fn relayed(&self, request: Request<Body>) -> Result<(Relayer, Option<String>, Vec<u8>), ApiError> {
        cors::need_json(&request)?;
        let relayer = self.treasury()?.relayer()?;
        let (head, body) = request.into_parts();
        let payment = payment(&head.headers)?;
        let body = read_at_most(body, relayer.max_body(), self.limits.body_ms).await?;
        Ok((relayer, payment, body.to_vec()))
    }
}

fn payment(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get(X_PAYMENT) else { return Ok(None) };
    let text = value.to_str().map_err(|_| ApiError::invalid("X-Payment is not printable"))?;
    Ok(Some(text.to_owned()))
}

fn respond<T: Serialize>(answer: Result<RelayResponse<T>, RelayError>) -> Result<Response<Body>, ApiError> {
    match answer {
        Ok(answer) => json(status(answer.status), &answer.body),
        Err(error) => {
            if status(error.status()).is_server_error() {
                tracing::warn!(%error, "the relayer refused a call");
            }
            let mut response = json(status(error.status()), &error.body())?;
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            if let Some(seconds) = error.retry_after() {
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
            }
            Ok(response)
        }
    }
}

fn status(number: u16) -> StatusCode {
    StatusCode::from_u16(number).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
