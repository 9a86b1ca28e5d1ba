//! Files of disks at the public API: who may, and what goes on to the node.

use auth::Keypair;
use reqwest::Method;
use serde_json::{Value, json};

use crate::edge::{Answer, Edge, Setup, holder};

async fn edge() -> Edge {
    let setup = Setup::default();
    setup.node.set_disk(20_000);
    setup.start().await
}

/// Makes a volume: its id, and the token for its files.
async fn make(edge: &Edge, holder: &Keypair, name: &str) -> (String, String) {
    let made = edge.post(holder, "/volumes", &json!({"name": name, "size_mib": 64})).await;
    assert_eq!(made.status, 201, "{made:?}");
    let text = |field: &str| made.body[field].as_str().unwrap().to_owned();
    (text("volumeID"), text("token"))
}

/// What a call is answered with: by the fake node, with what it was asked.
async fn by_token(edge: &Edge, token: &str, method: Method, path: &str, body: &str) -> (u16, String) {
    let request = edge.client.request(method, edge.url(path)).bearer_auth(token);
    let answer = request.body(body.to_owned()).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

fn code(body: &str) -> Value {
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    assert_eq!(body["message"], body["error"], "E2B's clients read the one, ours the other: {body}");
    body["code"].clone()
}

async fn key(edge: &Edge, holder: &Keypair, scope: &str) -> (String, String) {
    let made = edge.post(holder, "/keys", &json!({"scope": scope, "name": "ci"})).await;
    assert_eq!(made.status, 201, "{made:?}");
    let id = made.body["info"]["id"].as_str().unwrap_or_default().to_owned();
    (made.body["key"].as_str().unwrap().to_owned(), id)
}

#[tokio::test]
async fn a_volumes_token_opens_its_files_and_what_is_asked_goes_on_without_the_callers_credentials() {
    let (edge, holder) = (edge().await, holder());
    let (id, token) = make(&edge, &holder, "work").await;
    let wallet = holder.wallet();
    for (method, call, query, body) in [
        (Method::GET, "path", "path=%2Fa%20b", ""),
        (Method::PATCH, "path", "path=a", "{\"mode\": 384}"),
        (Method::DELETE, "path", "path=a", ""),
        (Method::GET, "dir", "path=/&depth=2", ""),
        (Method::POST, "dir", "path=d&force=true", ""),
        (Method::GET, "file", "path=a", ""),
        (Method::PUT, "file", "path=a&mode=420&force=true", "what is in it"),
        (Method::POST, "compose", "", "{\"sources\": [\"a\"], \"path\": \"b\"}"),
        (Method::GET, "archive", "", ""),
        (Method::PUT, "archive", "replace=true&import=abc", "a tar archive"),
    ] {
        let path = format!("/volumecontent/{id}/{call}?{query}");
        let (status, said) = by_token(&edge, &token, method.clone(), &path, body).await;
        assert_eq!((status, said), (200, format!("{method} volume:{id} {call} {query} {wallet} {body}")));
    }
    // It is shown again, to who signs for it.
    let shown = edge.get(&holder, &format!("/volumes/{id}")).await;
    let again = shown.body["token"].as_str().unwrap();
    let path = format!("/volumecontent/{id}/path?path=/");
    assert_eq!(by_token(&edge, again, Method::GET, &path, "").await.0, 200);
    let left = shown.body["token_expires_at"].as_u64().unwrap() - shown.body["created_at"].as_u64().unwrap();
    assert!((23 * 3_600_000..25 * 3_600_000).contains(&left), "{left}");
    assert_eq!(by_token(&edge, &token, Method::PUT, &format!("/volumecontent/{id}/dir?path=/"), "").await.0, 405);
}

#[tokio::test]
async fn no_other_token_wallet_or_key_opens_them() {
    let (edge, holder, other) = (edge().await, holder(), crate::edge::holder());
    let (id, token) = make(&edge, &holder, "work").await;
    let (second, theirs) = make(&edge, &holder, "second").await;
    let path = format!("/volumecontent/{id}/path?path=/");
    for wrong in [theirs.as_str(), "plv_x", &token[..token.len() - 1], ""] {
        let (status, said) = by_token(&edge, wrong, Method::GET, &path, "").await;
        assert_eq!(status, 401, "{wrong} {said}");
    }
    let signed = Answer::of(edge.signed(&holder, Method::GET, &path, b"")).await;
    assert_eq!(signed.status, 200, "its wallet's signature does, too");
    let signed = Answer::of(edge.signed(&other, Method::GET, &path, b"")).await;
    assert_eq!((signed.status, signed.code()), (404, "not_found"), "{signed:?}");
    // Of scope read a key reads, of scope run it writes, and so do tokens that were shown to it.
    for (scope, writes) in [("read", 403), ("run", 200)] {
        let (key, key_id) = key(&edge, &holder, scope).await;
        let shown = Answer::of(edge.client.get(edge.url(&format!("/volumes/{second}"))).bearer_auth(&key)).await;
        let token = shown.body["token"].as_str().unwrap().to_owned();
        let file = format!("/volumecontent/{second}/file?path=a");
        for by in [&key, &token] {
            assert_eq!(by_token(&edge, by, Method::GET, &file, "").await.0, 200, "{scope}");
            assert_eq!(by_token(&edge, by, Method::PUT, &file, "x").await.0, writes, "{scope}");
        }
        let revoked = Answer::of(edge.signed(&holder, Method::DELETE, &format!("/keys/{key_id}"), b"")).await;
        assert!(revoked.status < 300, "{revoked:?}");
        let (status, said) = by_token(&edge, &token, Method::GET, &file, "").await;
        assert_eq!((status, code(&said)), (401, json!("invalid_key")), "{said}");
    }
    let (status, said) = by_token(&edge, &token, Method::GET, "/volumecontent/0000000000000001/path?path=/", "").await;
    assert_eq!(status, 401, "{said}");
    // What is no disk has no token, and is not there for whoever is known by other means.
    let nowhere = "/volumecontent/x/path?path=/";
    let (status, said) = by_token(&edge, &token, Method::GET, nowhere, "").await;
    assert_eq!((status, code(&said)), (401, json!("invalid_token")));
    let signed = Answer::of(edge.signed(&holder, Method::GET, nowhere, b"")).await;
    assert_eq!((signed.status, signed.code()), (404, "not_found"), "{signed:?}");
}

#[tokio::test]
async fn what_is_kept_of_an_agent_is_reached_when_it_does_not_run_and_a_silent_node_is_told() {
    let (edge, holder) = (edge().await, holder());
    let spawned = edge.post(&holder, "/spawn", &json!({"agent_type": "echo"})).await;
    let id = spawned.body["agent"]["id"].as_str().unwrap().to_owned();
    let access = edge.get(&holder, &format!("/agents/{id}/data")).await;
    let token = access.body["token"].as_str().unwrap().to_owned();
    let path = format!("/agents/{id}/data/dir?path=/");
    let (status, said) = by_token(&edge, &token, Method::GET, &path, "").await;
    assert_eq!((status, code(&said)), (409, json!("wrong_state")), "{said}");
    assert_eq!(edge.post(&holder, &format!("/stop/{id}"), &Value::Null).await.status, 200);
    let (status, said) = by_token(&edge, &token, Method::GET, &path, "").await;
    assert_eq!((status, said), (200, format!("GET data:{id} dir path=/ {} ", holder.wallet())));
    assert_eq!(by_token(&edge, &token, Method::GET, "/agents/nobody/data/dir?path=/", "").await.0, 401);
    let unknown = edge.get(&crate::edge::holder(), &format!("/agents/{id}/data")).await;
    assert_eq!(unknown.status, 404);
}
