//! API keys: who makes them, what they open, and that nobody else ever sees one.

use std::io;
use std::sync::{Arc, Mutex};

use auth::{ApiKey, Keypair};
use axum::Router;
use axum::body::Body;
use axum::routing::get;
use bytes::Bytes;
use domain::{KeyForm, KeyId, KeyScope, RunId, UnixMillis};
use futures_util::StreamExt;
use reqwest::{Method, RequestBuilder};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use store::{ApiKeyRecord, NewApiKey};
use tracing_subscriber::fmt::MakeWriter;

use crate::api::filled;
use crate::edge::{Answer, Edge, PATIENCE, Setup, bare, holder};

/// Makes a key, and must get it.
async fn make(edge: &Edge, holder: &Keypair, scope: &str) -> (String, Value) {
    let made = edge.post(holder, "/keys", &json!({"scope": scope, "name": "ci"})).await;
    assert_eq!(made.status, 201, "{made:?}");
    (made.body["key"].as_str().unwrap().to_owned(), made.body["info"].clone())
}

/// A request with a key in place of a signature.
fn keyed(edge: &Edge, key: &str, method: Method, path: &str) -> RequestBuilder {
    edge.client.request(method, edge.url(path)).bearer_auth(key)
}

async fn by_key(edge: &Edge, key: &str, method: Method, path: &str, body: Value) -> Answer {
    let request = keyed(edge, key, method, path);
    Answer::of(if body.is_null() { request } else { request.json(&body) }).await
}

async fn revoke(edge: &Edge, holder: &Keypair, id: &Value) -> Answer {
    let path = format!("/keys/{}", id.as_str().unwrap());
    Answer::of(edge.signed(holder, Method::DELETE, &path, b"")).await
}

#[tokio::test]
async fn a_key_is_shown_once_acts_for_its_wallet_and_opens_nothing_once_it_is_revoked() {
    let (edge, holder) = (Edge::start().await, holder());
    let (key, info) = make(&edge, &holder, "run").await;
    let wallet = holder.wallet().to_string();
    assert_eq!(key.len(), ApiKey::TEXT);
    assert!(key.starts_with(info["prefix"].as_str().unwrap()) && key.starts_with("pal_"), "{info}");
    assert_eq!((&info["wallet"], &info["scope"], &info["name"]), (&json!(wallet), &json!("run"), &json!("ci")));
    assert!(info["last_used_at"].is_null());
    let lasts = info["expires_at"].as_u64().unwrap() - info["created_at"].as_u64().unwrap();
    assert_eq!(lasts, 30 * 24 * 60 * 60 * 1000);
    let listed = edge.get(&holder, "/keys").await;
    assert_eq!(listed.body, json!({"keys": [info]}));

    let spawned = by_key(&edge, &key, Method::POST, "/spawn", json!({"agent_type": "echo"})).await;
    assert_eq!((spawned.status, &spawned.body["agent"]["wallet"]), (200, &json!(wallet)), "{spawned:?}");
    let id = spawned.body["agent"]["id"].as_str().unwrap();
    let with_header = edge.client.get(edge.url(&format!("/status/{id}"))).header("X-API-Key", &key);
    assert_eq!(Answer::of(with_header).await.body["agent"]["state"], "ready");
    let usage = by_key(&edge, &key, Method::GET, &format!("/usage/{wallet}"), Value::Null).await;
    assert_eq!(usage.body["active_agent"]["id"], json!(id));
    let own = by_key(&edge, &key, Method::GET, "/keys/self", Value::Null).await;
    assert_eq!((own.status, &own.body["id"], &own.body["wallet"]), (200, &info["id"], &json!(wallet)));
    assert_eq!(own.body["last_used_at"].as_u64().unwrap() % 60_000, 0, "coarse");
    let exec = format!("/agents/{id}/process.Process/Start");
    let exec = keyed(&edge, &key, Method::POST, &exec).header("Content-Type", "application/connect+json").body("frame");
    let exec = Answer::of(exec.header("X-API-Key", &key)).await;
    assert_eq!((exec.status, &exec.body), (200, &json!("frames")));
    {
        let passed = edge.setup.guests.passed.lock().unwrap();
        assert!(!passed[0].1.contains_key("authorization") && !passed[0].1.contains_key("x-api-key"), "{passed:?}");
    }
    assert_eq!(by_key(&edge, &key, Method::POST, &format!("/stop/{id}"), Value::Null).await.status, 200);

    let theirs = revoke(&edge, &crate::edge::holder(), &info["id"]).await;
    assert_eq!((theirs.status, theirs.code()), (404, "not_found"));
    let gone = revoke(&edge, &holder, &info["id"]).await;
    assert_eq!((gone.status, gone.body), (200, json!({"success": true, "id": info["id"]})));
    let late = by_key(&edge, &key, Method::GET, "/agents", Value::Null).await;
    assert_eq!((late.status, late.code(), late.header("www-authenticate")), (401, "invalid_key", "Bearer"));
    assert_eq!(revoke(&edge, &holder, &info["id"]).await.code(), "not_found");
    assert_eq!(edge.get(&holder, "/keys").await.body, json!({"keys": []}));
}

#[tokio::test]
async fn e2bs_sdks_get_a_key_in_their_own_form() {
    let (edge, holder) = (Edge::start().await, holder());
    let made = edge.post(&holder, "/keys", &json!({"scope": "read", "form": "e2b", "expires_in_s": 60})).await;
    let key = made.body["key"].as_str().unwrap();
    let digits = key.strip_prefix("e2b_").unwrap();
    assert!(digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')), "{key}");
    let listed = edge.client.get(edge.url("/agents")).header("X-API-Key", key);
    assert_eq!(Answer::of(listed).await.body, json!({"agents": []}));
}

#[tokio::test]
async fn a_key_opens_what_its_scope_says_and_no_route_that_is_its_wallets_own() {
    let (edge, holder) = (Edge::start().await, holder());
    let (read, run) = (make(&edge, &holder, "read").await.0, make(&edge, &holder, "run").await.0);
    let (id, _) = edge.agent(&holder, false).await;
    let wallet = holder.wallet();
    let scopes = |answer: &Answer| answer.code() != "key_scope";
    let exec = json!({"process": {"cmd": "ls"}});
    for (method, path, body, opened) in [
        (Method::GET, "/agents".to_owned(), Value::Null, [true, true]),
        (Method::GET, format!("/status/{id}"), Value::Null, [true, true]),
        (Method::GET, format!("/usage/{wallet}"), Value::Null, [true, true]),
        (Method::GET, format!("/agents/{id}/logs"), Value::Null, [true, true]),
        (Method::GET, format!("/agents/{id}/prices"), Value::Null, [true, true]),
        (Method::GET, "/keys/self".to_owned(), Value::Null, [true, true]),
        (Method::POST, "/spawn".to_owned(), json!({"agent_type": "echo"}), [false, true]),
        (Method::POST, format!("/agents/{id}/process.Process/List"), exec.clone(), [false, true]),
        (Method::POST, format!("/agents/{id}/process.Process/StreamInput"), exec, [false, true]),
        (Method::POST, format!("/stop/{id}"), Value::Null, [false, true]),
        (Method::GET, "/volumes".to_owned(), Value::Null, [true, true]),
        (Method::GET, "/volumes/1a2b3c4d5e6f7890".to_owned(), Value::Null, [true, true]),
        (Method::POST, "/volumes".to_owned(), json!({"name": "work"}), [false, true]),
        (Method::PUT, "/volumes/1a2b3c4d5e6f7890".to_owned(), json!({"size_mib": 64}), [false, true]),
        (Method::DELETE, "/volumes/1a2b3c4d5e6f7890".to_owned(), Value::Null, [false, false]),
        (Method::DELETE, format!("/agents/{id}"), Value::Null, [false, false]),
        (Method::PUT, format!("/agents/{id}/prices"), json!({"prices": {}}), [false, false]),
        (Method::POST, format!("/agents/{id}/vault"), json!({}), [false, false]),
        (Method::GET, "/images".to_owned(), Value::Null, [true, true]),
        (Method::GET, "/images/work".to_owned(), Value::Null, [true, true]),
        (Method::POST, "/images".to_owned(), json!({}), [false, false]),
        (Method::PUT, "/images/work".to_owned(), json!({"published": true}), [false, false]),
        (Method::DELETE, "/images/work".to_owned(), Value::Null, [false, false]),
        (Method::GET, "/links".to_owned(), Value::Null, [false, false]),
        (Method::POST, "/links".to_owned(), json!({}), [false, false]),
        (Method::GET, "/keys".to_owned(), Value::Null, [false, false]),
        (Method::POST, "/keys".to_owned(), json!({"scope": "read"}), [false, false]),
        (Method::DELETE, "/keys/1a2b3c4d5e6f7890".to_owned(), Value::Null, [false, false]),
    ] {
        for (key, opened) in [&read, &run].into_iter().zip(opened) {
            let answer = by_key(&edge, key, method.clone(), &path, body.clone()).await;
            assert_eq!(scopes(&answer), opened, "{method} {path}: {answer:?}");
            assert!(opened || answer.status == 403, "{method} {path}: {answer:?}");
        }
    }
    assert_eq!(edge.get(&holder, "/keys").await.body["keys"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn keys_open_what_the_document_says_and_nothing_else() {
    let (edge, holder) = (Edge::start().await, holder());
    let (read, run) = (make(&edge, &holder, "read").await.0, make(&edge, &holder, "run").await.0);
    let document: Value = serde_json::from_str(&palatine_gateway::openapi()).unwrap();
    let mut opened = Vec::new();
    for (template, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let Some(ways) = operation["security"].as_array() else { continue };
            let told = ["bearer", "api_key"].map(|name| ways.iter().any(|way| way[name].is_array()));
            let (method, path): (Method, _) = (method.to_uppercase().parse().unwrap(), filled(template));
            let by_run = by_key(&edge, &run, method.clone(), &path, Value::Null).await;
            let answered = by_run.code() != "key_scope";
            assert_eq!(told, [answered; 2], "{method} {path}: {by_run:?}");
            let by_read = by_key(&edge, &read, method.clone(), &path, Value::Null).await;
            assert_eq!(
                by_read.code() != "key_scope",
                answered && method == Method::GET,
                "{method} {path}: {by_read:?}"
            );
            if answered {
                opened.push(format!("{method} {template}"));
            }
        }
    }
    insta::assert_json_snapshot!("opened_by_a_key", opened);
}

#[tokio::test]
async fn the_holders_balance_is_asked_for_whoever_comes_in_its_name() {
    let (edge, holder) = (Edge::start().await, holder());
    let (key, _) = make(&edge, &holder, "run").await;
    edge.setup.balances.set(holder.wallet(), 5);
    let poor = by_key(&edge, &key, Method::POST, "/spawn", json!({"agent_type": "echo"})).await;
    assert_eq!((poor.status, poor.code()), (403, "insufficient_balance"));
}

#[tokio::test]
async fn a_spawn_by_key_is_repeated_by_its_idempotency_key() {
    let (edge, holder) = (Edge::start().await, holder());
    let (key, _) = make(&edge, &holder, "run").await;
    let spawn = |kind: &'static str| {
        let request = keyed(&edge, &key, Method::POST, "/spawn").json(&json!({"agent_type": kind}));
        Answer::of(request.header("Idempotency-Key", "one"))
    };
    let first = spawn("echo").await;
    assert_eq!(first.status, 200, "{first:?}");
    assert_eq!(spawn("echo").await.body["agent"]["id"], first.body["agent"]["id"]);
    assert_eq!(spawn("coding").await.code(), "idempotency_mismatch");
}

#[tokio::test]
async fn what_is_no_good_key_is_refused_by_what_is_wrong_with_it() {
    let (edge, holder) = (Edge::start().await, holder());
    let (key, info) = make(&edge, &holder, "run").await;
    let id: KeyId = info["id"].as_str().unwrap().parse().unwrap();
    let forged = ApiKey::new(KeyForm::Palatine, id, &[7; 32]);
    let unknown = ApiKey::new(KeyForm::Palatine, KeyId::from_bits(7), &[7; 32]);
    let mistyped = format!("{}{}", &key[..key.len() - 1], if key.ends_with('0') { "1" } else { "0" });
    for (wrong, said) in [
        (forged.text().expose_secret(), "knows no such API key"),
        (unknown.text().expose_secret(), "knows no such API key"),
        (mistyped.as_str(), "checksum"),
        (&key[..50], "hex digits"),
    ] {
        let answer = by_key(&edge, wrong, Method::GET, "/agents", Value::Null).await;
        assert_eq!((answer.status, answer.code()), (401, "invalid_key"), "{answer:?}");
        let error = answer.body["error"].as_str().unwrap();
        assert!(error.contains(said) && !answer.body.to_string().contains(&wrong[24..]), "{answer:?}");
    }
    let over = expired(&edge, &holder).await;
    let answer = by_key(&edge, &over, Method::GET, "/agents", Value::Null).await;
    assert_eq!((answer.status, answer.code()), (401, "expired_key"));
    let both = edge.signed(&holder, Method::GET, "/agents", b"").bearer_auth(&key);
    assert_eq!(Answer::of(both).await.code(), "invalid_request");
    let none = Answer::of(edge.client.get(edge.url("/agents"))).await;
    assert_eq!((none.status, none.code()), (401, "missing_signature"));
    let none = Answer::of(edge.client.get(edge.url("/keys/self"))).await;
    assert_eq!((none.status, none.code()), (401, "invalid_key"));
}

/// A key of this holder's whose time is over.
async fn expired(edge: &Edge, holder: &Keypair) -> String {
    let key = ApiKey::new(KeyForm::Palatine, KeyId::from_bits(99), &[9; 32]);
    let record = ApiKeyRecord {
        id: key.id(),
        wallet: holder.wallet(),
        name: None,
        form: KeyForm::Palatine,
        scope: KeyScope::Run,
        digest: key.digest(),
        created_at: UnixMillis(1),
        expires_at: UnixMillis(2),
        used_at: None,
    };
    edge.store.keep_api_key(NewApiKey { key: record, idempotency: None, most: 9 }).await.unwrap();
    key.text().expose_secret().to_owned()
}

#[tokio::test]
async fn only_a_fresh_signature_of_that_very_request_makes_a_key() {
    let (edge, holder) = (Edge::start().await, holder());
    let body = br#"{"scope":"run"}"#;
    let loose = Answer::of(edge.with(&bare(&holder), Method::POST, "/keys", body)).await;
    assert_eq!((loose.status, loose.code()), (401, "unbound_signature"));
    let headers = edge.sign(&holder, "POST", "/keys", body);
    let other = Answer::of(edge.with(&headers, Method::POST, "/keys", br#"{"scope":"read"}"#)).await;
    assert_eq!((other.status, other.code()), (401, "invalid_signature"));
    assert_eq!(Answer::of(edge.with(&headers, Method::POST, "/keys", body)).await.status, 201);
    let again = Answer::of(edge.with(&headers, Method::POST, "/keys", body)).await;
    assert_eq!((again.status, again.code()), (401, "replayed_signature"));
    assert_eq!(edge.get(&holder, "/keys").await.body["keys"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_asked_of_a_key_has_bounds_and_a_wallet_has_so_many() {
    let mut setup = Setup::default();
    setup.limits.keys_per_wallet = 2;
    let (edge, holder) = (setup.start().await, holder());
    let long = "x".repeat(65);
    for (body, field) in [
        (json!({}), "scope"),
        (json!({"scope": "run", "expires_in_s": 59}), "expires_in_s"),
        (json!({"scope": "run", "expires_in_s": 31_622_401}), "expires_in_s"),
        (json!({"scope": "run", "name": ""}), "name"),
        (json!({"scope": "run", "name": "a\nb"}), "name"),
        (json!({"scope": "run", "name": long}), "name"),
        (json!({"scope": "run", "secret": "mine"}), "secret"),
    ] {
        let refused = edge.post(&holder, "/keys", &body).await;
        assert_eq!((refused.status, refused.code(), &refused.body["field"]), (400, "invalid_request", &json!(field)));
    }
    let (_, first) = make(&edge, &holder, "read").await;
    make(&edge, &holder, "read").await;
    let more = edge.post(&holder, "/keys", &json!({"scope": "read"})).await;
    assert_eq!((more.status, more.code()), (403, "too_many_keys"), "{more:?}");
    make(&edge, &crate::edge::holder(), "read").await;
    assert_eq!(revoke(&edge, &holder, &first["id"]).await.status, 200);
    make(&edge, &holder, "read").await;
}

#[tokio::test]
async fn a_retry_leaves_one_key_whose_secret_is_the_last_that_was_shown() {
    let (edge, holder) = (Edge::start().await, holder());
    let make = |body: &'static [u8]| {
        let request = edge.signed(&holder, Method::POST, "/keys", body).header("Idempotency-Key", "k");
        Answer::of(request)
    };
    let (first, second) = (make(br#"{"scope":"run"}"#).await, make(br#"{"scope":"run"}"#).await);
    assert_eq!((first.status, second.status), (201, 201));
    let key = |answer: &Answer| answer.body["key"].as_str().unwrap().to_owned();
    assert_eq!(by_key(&edge, &key(&first), Method::GET, "/agents", Value::Null).await.code(), "invalid_key");
    assert_eq!(by_key(&edge, &key(&second), Method::GET, "/agents", Value::Null).await.status, 200);
    let other = make(br#"{"scope":"read"}"#).await;
    assert_eq!((other.status, other.code()), (422, "idempotency_mismatch"));
}

#[tokio::test]
async fn wrong_keys_are_counted_against_their_address_as_wrong_signatures_are() {
    let mut setup = Setup::default();
    setup.limits.address_per_second = 1;
    let edge = setup.start().await;
    let wrong = ApiKey::new(KeyForm::Palatine, KeyId::from_bits(7), &[7; 32]);
    let mut seen = Vec::new();
    for _ in 0..5 {
        seen.push(by_key(&edge, wrong.text().expose_secret(), Method::GET, "/agents", Value::Null).await.status);
    }
    assert!(seen.contains(&401) && seen.contains(&429), "{seen:?}");
}

#[tokio::test]
async fn keys_and_signatures_of_a_wallet_are_counted_together() {
    let mut setup = Setup::default();
    setup.limits.wallet_per_minute = 3;
    let (edge, holder) = (setup.start().await, holder());
    let (key, _) = make(&edge, &holder, "read").await;
    assert_eq!(edge.get(&holder, "/agents").await.status, 200);
    assert_eq!(by_key(&edge, &key, Method::GET, "/agents", Value::Null).await.status, 200);
    assert_eq!(by_key(&edge, &key, Method::GET, "/agents", Value::Null).await.code(), "rate_limited");
}

#[tokio::test]
async fn when_a_key_was_used_last_is_known_after_a_restart() {
    let (edge, holder) = (Edge::start().await, holder());
    let (key, _) = make(&edge, &holder, "read").await;
    assert_eq!(by_key(&edge, &key, Method::GET, "/agents", Value::Null).await.status, 200);
    let stored = edge.store.api_keys_of(holder.wallet()).await.unwrap();
    assert_eq!(stored[0].used_at, None, "it is written off the answer's way");
    let edge = edge.restart().await;
    let listed = edge.get(&holder, "/keys").await;
    assert!(listed.body["keys"][0]["last_used_at"].is_u64(), "{listed:?}");
}

#[tokio::test]
async fn what_a_key_opened_ends_when_it_is_revoked_and_goes_on_until_then() {
    let (edge, holder) = (Edge::start().await, holder());
    let (key, info) = make(&edge, &holder, "read").await;
    let (id, _) = edge.agent(&holder, false).await;
    let endless = || {
        let lines = futures_util::stream::once(async { Ok::<_, io::Error>(Bytes::from_static(b"line\n")) });
        Body::from_stream(lines.chain(futures_util::stream::pending()))
    };
    edge.setup.guests.logs.lock().unwrap().extend([endless(), endless()]);
    let path = format!("/agents/{id}/logs?follow=true");
    let mut by_key = keyed(&edge, &key, Method::GET, &path).send().await.unwrap();
    let mut signed = edge.signed(&holder, Method::GET, &path, b"").send().await.unwrap();
    for response in [&mut by_key, &mut signed] {
        assert_eq!(response.chunk().await.unwrap().unwrap(), "line\n");
    }
    assert_eq!(revoke(&edge, &holder, &info["id"]).await.status, 200);
    let ended = tokio::time::timeout(PATIENCE, by_key.chunk()).await.expect("it goes on");
    assert!(ended.is_err(), "what was read is no more than a part: {ended:?}");
    let signed = tokio::time::timeout(std::time::Duration::from_millis(50), signed.chunk()).await;
    assert!(signed.is_err(), "what a signature opened goes on: {signed:?}");
}

#[tokio::test]
async fn a_key_that_lets_agents_run_opens_its_holders_agents_and_they_never_see_it() {
    let (edge, owner, other) = (Edge::start().await, holder(), holder());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    let app = Router::new().route(
        "/",
        get(async move |headers: http::HeaderMap| {
            noted.lock().unwrap().push(headers);
            "hello"
        }),
    );
    edge.setup.guests.serves(app).await;
    let (id, _) = edge.agent(&owner, false).await;
    let (run, info) = make(&edge, &owner, "run").await;
    let (read, theirs) = (make(&edge, &owner, "read").await.0, make(&edge, &other, "run").await.0);
    let ask = |id: RunId, key: &str| Answer::of(edge.to_agent(id, Method::GET, "/").bearer_auth(key));
    assert_eq!(ask(id, &run).await.body, json!("hello"));
    assert!(!seen.lock().unwrap()[0].contains_key("authorization"));
    assert_eq!(ask(id, &theirs).await.code(), "invalid_token", "another holder learns nothing");
    let nobody = RunId::from_bits(5);
    for key in [&run, &theirs] {
        assert_eq!(ask(nobody, key).await.code(), "invalid_token");
    }
    for id in [id, nobody] {
        assert_eq!(ask(id, &read).await.code(), "key_scope", "the same whether there is such an agent or not");
    }
    assert_eq!(revoke(&edge, &owner, &info["id"]).await.status, 200);
    assert_eq!(ask(id, &run).await.code(), "invalid_key");
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn a_key_is_in_no_log_metric_list_error_or_file() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(log.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let metrics = metrics_exporter_prometheus::PrometheusBuilder::new().install_recorder().unwrap();
    let (edge, holder) = (Setup { metrics: Some(metrics.clone()), ..Setup::default() }.start().await, holder());
    let (key, info) = make(&edge, &holder, "run").await;
    let wrong = ApiKey::new(KeyForm::E2b, KeyId::from_bits(7), &[7; 32]);
    let wrong = wrong.text().expose_secret();
    let mut said = Vec::new();
    for key in [key.as_str(), wrong] {
        said.push(by_key(&edge, key, Method::POST, "/spawn", json!({"agent_type": "echo"})).await.body);
        said.push(by_key(&edge, key, Method::GET, "/agents", Value::Null).await.body);
        said.push(by_key(&edge, key, Method::GET, "/keys/self", Value::Null).await.body);
        said.push(by_key(&edge, key, Method::POST, "/keys", json!({"scope": "run"})).await.body);
    }
    said.push(edge.get(&holder, "/keys").await.body);
    said.push(revoke(&edge, &holder, &info["id"]).await.body);
    said.push(by_key(&edge, &key, Method::GET, "/agents", Value::Null).await.body);
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("a signature was verified"), "nothing was logged");
    let rendered = metrics.render();
    let home = edge.setup.home.path().to_owned();
    for secret in [&key[20..84], &wrong[20..84]] {
        assert!(!log.contains(secret), "{secret} is in the log");
        assert!(!rendered.contains(secret), "{secret} is in a metric");
        assert!(!said.iter().any(|body| body.to_string().contains(secret)), "{secret} is in an answer: {said:?}");
        for entry in std::fs::read_dir(&home).unwrap() {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(&path).unwrap_or_default();
            let raw = hex(secret);
            let holds = |needle: &[u8]| bytes.windows(needle.len()).any(|part| part == needle);
            assert!(!holds(secret.as_bytes()) && !holds(&raw), "{secret} is in {}", path.display());
        }
    }
}

/// The bytes of these hex digits.
fn hex(digits: &str) -> Vec<u8> {
    digits.as_bytes().chunks(2).map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect()
}
