//! API keys: made by a signature, and carried in place of one.

use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use domain::{KeyId, KeyScope};
use palatine_client::{ClientError, GatewayClient};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use wire::Secret;
use wire::v1::keys::KeyRequest;

use crate::gateway::{client, keypair, start};

const ID: &str = "1a2b3c4d5e6f7890";

fn info() -> Value {
    json!({
        "id": ID, "prefix": format!("pal_{ID}"), "wallet": keypair().wallet(), "scope": "run", "created_at": 1,
        "expires_at": 2,
    })
}

#[tokio::test]
async fn keys_are_made_listed_and_revoked_by_signatures() {
    async fn make(request: Request) -> Response {
        assert_eq!(request.headers()["idempotency-key"], "k");
        (StatusCode::CREATED, Json(json!({"key": "pal_hush", "info": info()}))).into_response()
    }
    let revoked = || async { Json(json!({"success": true, "id": ID})) };
    let app = Router::new()
        .route("/keys", post(make).get(|| async { Json(json!({"keys": [info()]})) }))
        .route("/keys/{id}", delete(revoked));
    let client = start(app).await.client;
    let request = KeyRequest { scope: KeyScope::Run, name: None, expires_in_s: None, form: None };
    let made = client.create_key(&request, Some("k")).await.unwrap();
    assert_eq!((made.key.expose(), made.info.scope), ("pal_hush", KeyScope::Run));
    assert!(!format!("{made:?}").contains("hush"));
    let id: KeyId = ID.parse().unwrap();
    assert_eq!(client.keys().await.unwrap().keys[0].id, id);
    assert_eq!(client.revoke_key(id).await.unwrap().id, id);
}

#[tokio::test]
async fn a_client_with_a_key_signs_nothing_and_finds_out_for_whom_it_acts() {
    async fn usage(request: Request) -> Response {
        let headers = request.headers();
        let signed = ["x-wallet", "x-signature", "x-timestamp"].iter().any(|name| headers.contains_key(*name));
        if signed || headers["authorization"] != "Bearer pal_hush" {
            return StatusCode::IM_A_TEAPOT.into_response();
        }
        assert!(request.uri().path().ends_with(&keypair().wallet().to_string()));
        let stats = json!({"total_uptime_ms": 5, "spawns": 1, "core_seconds": 0, "gib_seconds": 0});
        Json(json!({"wallet": keypair().wallet(), "stats": stats, "active_agent": null})).into_response()
    }
    let app = Router::new().route("/keys/self", get(|| async { Json(info()) })).route("/usage/{wallet}", get(usage));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let with = |key: &str| client(&url).with_key(Secret::from(key.to_owned()));
    let keyed: GatewayClient = with("pal_hush");
    assert_eq!(keyed.usage().await.unwrap().stats.total_uptime_ms, 5);
    assert_eq!(keyed.wallet(), None);
    assert!(!format!("{keyed:?}").contains("hush"));
    let error = with("pal_hush\n").usage().await.unwrap_err();
    assert!(matches!(error, ClientError::Protocol { .. }) && !format!("{error:?}").contains("hush"), "{error:?}");
}
