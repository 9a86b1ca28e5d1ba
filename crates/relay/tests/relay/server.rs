//! The relayer's routes over HTTP, as a gateway would serve them.

use std::net::SocketAddr;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use palatine_relay::{RelayError, RelayResponse, Relayer};
use serde::Serialize;
use wire::v1::relay::{EstimateQuery, X_PAYMENT};

use crate::fixture::HERE;

/// Serves until the test ends.
pub(crate) async fn serve(relayer: Relayer) -> SocketAddr {
    let routes = Router::new()
        .route("/meta/relay", post(relay))
        .route("/meta/batch", post(batch))
        .route("/meta/nonce/{address}", get(nonce))
        .route("/meta/domain", get(async |State(relayer): State<Relayer>| Json(relayer.domain())))
        .route("/estimate", get(estimate))
        .route("/health", get(health))
        .with_state(relayer);
    serve_routes(routes).await
}

pub(crate) async fn serve_routes(routes: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    address
}

fn said<T: Serialize>(answer: Result<RelayResponse<T>, RelayError>) -> Response {
    match answer {
        Ok(answer) => (StatusCode::from_u16(answer.status).unwrap(), Json(answer.body)).into_response(),
        Err(error) => (StatusCode::from_u16(error.status()).unwrap(), Json(error.body())).into_response(),
    }
}

fn payment(headers: &HeaderMap) -> Option<&str> {
    headers.get(X_PAYMENT).and_then(|value| value.to_str().ok())
}

async fn relay(State(relayer): State<Relayer>, headers: HeaderMap, body: Bytes) -> Response {
    said(relayer.relay(&body, payment(&headers), HERE).await)
}

async fn batch(State(relayer): State<Relayer>, headers: HeaderMap, body: Bytes) -> Response {
    said(relayer.batch(&body, payment(&headers), HERE).await)
}

async fn nonce(State(relayer): State<Relayer>, Path(address): Path<String>) -> Response {
    said(relayer.nonce(&address).await.map(|body| RelayResponse { status: 200, body }))
}

async fn estimate(State(relayer): State<Relayer>, Query(query): Query<EstimateQuery>) -> Response {
    said(relayer.estimate(&query).await.map(|body| RelayResponse { status: 200, body }))
}

async fn health(State(relayer): State<Relayer>) -> Response {
    let (status, body) = relayer.health().await;
    said(Ok(RelayResponse { status, body }))
}
