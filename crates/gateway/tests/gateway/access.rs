//! What takes many calls and one signature: the token that is shown again, the guest's port by
//! token and by key, and tunnels to any port.

use client::GatewayClient;
use domain::RunId;
use futures_util::{SinkExt, StreamExt};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::edge::{Answer, Edge, bare, holder};

/// A call at the guest's port, opened by this.
fn envd(edge: &Edge, id: RunId, method: Method, path: &str, token: &str) -> RequestBuilder {
    let request = edge.client.request(method, edge.url(path)).header("E2b-Sandbox-Id", id.to_string());
    request.header("E2b-Sandbox-Port", "49983").header("X-Access-Token", token)
}

async fn make_key(edge: &Edge, holder: &auth::Keypair, scope: &str) -> (String, String) {
    let made = edge.post(holder, "/keys", &json!({"scope": scope})).await;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&made.body["key"]), text(&made.body["info"]["id"]))
}

#[tokio::test]
async fn a_holder_is_shown_its_agents_token_again_and_nobody_else_is() {
    let (edge, owner) = (Edge::start().await, holder());
    let (id, token) = edge.agent(&owner, false).await;
    let path = format!("/agents/{id}/token");
    let shown = edge.get(&owner, &path).await;
    assert_eq!((shown.status, &shown.body), (200, &json!({"token": token, "run": id})));
    assert_eq!(shown.header("cache-control"), "no-store");
    assert_eq!(edge.get(&holder(), &path).await.code(), "not_found");
    assert_eq!(Answer::of(edge.client.get(edge.url(&path))).await.status, 401);
    assert_eq!(Answer::of(edge.with(&bare(&owner), Method::GET, &path, b"")).await.code(), "unbound_signature");
    let (key, _) = make_key(&edge, &owner, "run").await;
    assert_eq!(Answer::of(edge.client.get(edge.url(&path)).bearer_auth(&key)).await.code(), "key_scope");
    assert_eq!(edge.post(&owner, &format!("/stop/{id}"), &Value::Null).await.status, 200);
    assert_eq!(edge.get(&owner, &path).await.code(), "wrong_state");
    let again = edge.post(&owner, "/spawn", &json!({"pod": id})).await;
    let other = edge.get(&owner, &path).await.body["token"].clone();
    assert_eq!(
        (&other, other == json!(token)),
        (&again.body["agent"]["token"], false),
        "a start has a token of its own"
    );
}

#[tokio::test]
async fn an_api_key_that_lets_agents_run_opens_its_holders_guests_until_it_is_revoked() {
    let (edge, owner) = (Edge::start().await, holder());
    let (id, _) = edge.agent(&owner, true).await;
    let (key, key_id) = make_key(&edge, &owner, "run").await;
    let stat = async |key: &str| {
        let call = envd(&edge, id, Method::POST, "/filesystem.Filesystem/Stat", key);
        Answer::of(call.header("Content-Type", "application/json").body("{}")).await
    };
    assert_eq!(stat(&key).await.status, 200);
    let (_, headers, _) = edge.setup.guests.passed.lock().unwrap().remove(0);
    assert!(!format!("{headers:?}").contains(&key), "{headers:?}");
    let (reading, _) = make_key(&edge, &owner, "read").await;
    let refused = stat(&reading).await;
    assert_eq!((refused.status, &refused.body["code"]), (403, &json!(403)), "{refused:?}");
    let (others, _) = make_key(&edge, &holder(), "run").await;
    assert_eq!(stat(&others).await.status, 401);
    let revoked = Answer::of(edge.signed(&owner, Method::DELETE, &format!("/keys/{key_id}"), b"")).await;
    assert_eq!(revoked.status, 200);
    assert_eq!(stat(&key).await.status, 401);
}

/// A server that gives back what it gets once its client has said all, at another port of
/// every agent.
async fn mirror_at(edge: &Edge, port: u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    edge.setup.guests.other_ports.lock().unwrap().insert(port, listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut all = Vec::new();
                stream.read_to_end(&mut all).await.unwrap();
                stream.write_all(&all).await.unwrap();
            });
        }
    });
}

#[tokio::test]
async fn a_tunnel_carries_bytes_to_any_port_of_who_has_the_token() {
    let (edge, owner) = (Edge::start().await, holder());
    let (id, token) = edge.agent(&owner, true).await;
    mirror_at(&edge, 5432).await;
    let gateway = GatewayClient::new(&edge.url("")).unwrap();
    let (key, _) = make_key(&edge, &owner, "run").await;
    let sent: Vec<u8> = (0..300_000_u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
    for opened_by in [token, key] {
        let ports = gateway.access_by(id.into(), &opened_by.into()).unwrap().ports().unwrap();
        let connection = ports.connect(5432).await.unwrap();
        let (mut here, mut there) = duplex(4096);
        let carrying = tokio::spawn(async move { connection.carry(&mut there).await });
        let (mut reader, mut writer) = tokio::io::split(&mut here);
        let sending = async {
            writer.write_all(&sent).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        let mut back = Vec::new();
        let ((), read) = tokio::join!(sending, reader.read_to_end(&mut back));
        read.unwrap();
        assert!(back == sent, "{} of {} bytes", back.len(), sent.len());
        carrying.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_tunnel_is_refused_before_it_is_one_with_what_is_wrong() {
    let (edge, owner) = (Edge::start().await, holder());
    let (id, token) = edge.agent(&owner, true).await;
    mirror_at(&edge, 5432).await;
    let asked = |path: &'static str, token: &str| {
        let request = envd(&edge, id, Method::GET, path, token).header("Connection", "upgrade");
        request.header("Upgrade", "websocket").header("Sec-WebSocket-Version", "13").header("Sec-WebSocket-Key", "x")
    };
    // The agent is public, and its ports are not.
    for nobody in ["plt_other", ""] {
        assert_eq!(Answer::of(asked("/tunnel?port=5432", nobody)).await.status, 401);
    }
    let nobody = Answer::of(asked("/tunnel?port=9", &token)).await;
    assert_eq!(nobody.body, json!({"code": 502, "message": "nothing listens on the agent's port 9"}));
    for path in [
        "/tunnel?port=49983",
        "/tunnel?port=0",
        "/tunnel?port=x",
        "/tunnel?port=70000",
        "/tunnel",
        "/tunnel?port=1&x=1",
    ] {
        let refused = Answer::of(asked(path, &token)).await;
        assert_eq!((refused.status, &refused.body["code"]), (400, &json!(400)), "{path}: {refused:?}");
    }
    let plain = envd(&edge, id, Method::GET, "/tunnel?port=5432", &token);
    assert_eq!(Answer::of(plain).await.status, 400);
    let other = envd(&edge, id, Method::GET, "/tunnel?port=5432", &token).header("Connection", "upgrade");
    assert_eq!(Answer::of(other.header("Upgrade", "h2c")).await.status, 400);
    edge.post(&owner, &format!("/stop/{id}"), &Value::Null).await;
    assert_eq!(Answer::of(asked("/tunnel?port=5432", &token)).await.status, 502);
}

#[tokio::test]
async fn a_tunnel_whose_other_end_says_what_has_no_meaning_is_ended() {
    let (edge, owner) = (Edge::start().await, holder());
    let (id, token) = edge.agent(&owner, false).await;
    mirror_at(&edge, 5432).await;
    let mut request = format!("ws://{}/tunnel?port=5432", edge.address).into_client_request().unwrap();
    request.headers_mut().insert("host", format!("49983-{id}.localhost").parse().unwrap());
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    let stream = TcpStream::connect(edge.address).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    socket.send(Message::text("hello")).await.unwrap();
    loop {
        match socket.next().await {
            Some(Ok(Message::Binary(bytes))) => assert!(bytes.is_empty(), "nothing was sent"),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => break,
        }
    }
}
