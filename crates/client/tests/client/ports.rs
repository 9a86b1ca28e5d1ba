//! Ports of an agent: a gateway of the test's own, with one port where bytes come back.

use axum::Router;
use axum::extract::{Query, Request};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::TokioIo;
use palatine_client::{ClientError, Role, carry};
use std::collections::HashMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::gateway::{Gateway, ID, TOKEN, refused, start};

/// Port 7 gives every byte back, port 8 is no WebSocket, and on all others nothing listens.
async fn tunnel(Query(query): Query<HashMap<String, String>>, mut request: Request) -> Response {
    let key = request.headers()["sec-websocket-key"].as_bytes().to_vec();
    let accept = match query["port"].as_str() {
        "7" => derive_accept_key(&key),
        "8" => "other".to_owned(),
        port => return refused(502, &format!("nothing listens on the agent's port {port}")),
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let (mut here, there) = duplex(64);
        let (mut reader, mut writer) = tokio::io::split(there);
        let mirror = async {
            tokio::io::copy(&mut reader, &mut writer).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        let carried = carry(TokioIo::new(upgrade.await.unwrap()), Role::Server, &mut here);
        let _ = tokio::join!(carried, mirror);
    });
    let headers = [("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-accept", accept.as_str())];
    (axum::http::StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

async fn gateway() -> Gateway {
    start(Router::new().route("/tunnel", get(tunnel))).await
}

#[tokio::test]
async fn bytes_go_to_a_port_and_back_and_end() {
    let gateway = gateway().await;
    let access = gateway.client.access_by(ID.into(), &TOKEN.to_owned().into()).unwrap();
    let connection = access.ports().unwrap().connect(7).await.unwrap();
    let (mut here, mut there) = duplex(64);
    let carrying = tokio::spawn(async move { connection.carry(&mut there).await });
    here.write_all(b"over the tunnel").await.unwrap();
    here.shutdown().await.unwrap();
    let mut back = String::new();
    here.read_to_string(&mut back).await.unwrap();
    assert_eq!(back, "over the tunnel");
    carrying.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_port_that_cannot_be_reached_says_why() {
    let gateway = gateway().await;
    let opened_by = |token: &str| gateway.hasty.access_by(ID.into(), &token.to_owned().into()).unwrap();
    let ports = opened_by(TOKEN).ports().unwrap();
    let nobody = ports.connect(9).await.unwrap_err();
    let ClientError::Guest { source, .. } = &nobody else { panic!("{nobody:?}") };
    assert_eq!((source.code, source.message.as_str()), (502, "nothing listens on the agent's port 9"));
    let lies = ports.connect(8).await.unwrap_err();
    assert!(lies.to_string().contains("no WebSocket"), "{lies}");
    let stranger = opened_by("plt_other").ports().unwrap().connect(7).await.unwrap_err();
    assert_eq!(stranger.guest_status(), Some(401));
}
