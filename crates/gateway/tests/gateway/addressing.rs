//! The three ways to name an agent: its host, a path, a header.

use std::sync::atomic::Ordering;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::any;
use domain::RunId;
use http_body_util::BodyExt;
use reqwest::{Method, RequestBuilder};
use serde_json::json;

use crate::edge::{Answer, Edge, holder};
use crate::ingress::mirror;
use crate::raw;

async fn with_mirror() -> Edge {
    let edge = Edge::start().await;
    edge.setup.guests.serves(Router::new().fallback(any(mirror))).await;
    edge
}

/// The same request, in each way.
fn ways(edge: &Edge, id: RunId, method: &Method, path: &str) -> [(&'static str, RequestBuilder); 3] {
    let ask = |url: String| edge.client.request(method.clone(), url);
    [
        ("host", edge.to_agent(id, method.clone(), path)),
        ("path", ask(format!("http://{}/{id}{path}", edge.paths_address))),
        ("header", ask(edge.url(path)).header("E2b-Sandbox-Id", id.to_string())),
    ]
}

#[tokio::test]
async fn fault_2_11_an_agent_is_the_same_whichever_way_it_is_named() {
    let (edge, holder) = (with_mirror().await, holder());
    let (id, token) = edge.agent(&holder, false).await;
    let mut seen = Vec::new();
    for (way, request) in ways(&edge, id, &Method::POST, "/v1/chat?x=%2F") {
        let answer = Answer::of(request.bearer_auth(&token).body("hello")).await;
        assert_eq!((answer.status, &answer.body["path"]), (200, &json!("/v1/chat?x=%2F")), "{way}: {answer:?}");
        let mut asked = answer.body;
        let headers = asked["headers"].as_object_mut().unwrap();
        let prefix = headers.remove("x-forwarded-prefix");
        assert_eq!(prefix, (way == "path").then(|| json!(format!("/{id}"))), "{way}");
        let host = match way {
            "host" => format!("{id}.localhost:{}", edge.address.port()),
            "path" => edge.paths_address.to_string(),
            _ => edge.address.to_string(),
        };
        assert_eq!((&headers["host"], &headers["x-forwarded-host"]), (&json!(host), &json!(host)), "{way}");
        for differs in ["host", "x-forwarded-host", "traceparent"] {
            headers.remove(differs);
        }
        seen.push(asked);
    }
    assert!(seen.iter().all(|asked| *asked == seen[0]), "{seen:#?}");
}

#[tokio::test]
async fn fault_2_11_no_way_to_an_agent_is_open_without_its_token() {
    let (edge, holder) = (with_mirror().await, holder());
    let (id, _) = edge.agent(&holder, false).await;
    let (_, others) = edge.agent(&crate::edge::holder(), false).await;
    let nobody: RunId = "00000000-0000-0001".parse().unwrap();
    let mut refusals = Vec::new();
    for id in [id, nobody] {
        for (_, request) in ways(&edge, id, &Method::GET, "/") {
            refusals.push(Answer::of(request).await);
        }
        for (_, request) in ways(&edge, id, &Method::GET, "/") {
            refusals.push(Answer::of(request.bearer_auth(&others)).await);
        }
    }
    for refusal in &refusals {
        assert_eq!((refusal.status, refusal.code(), &refusal.body), (401, "invalid_token", &refusals[0].body));
    }
}

#[tokio::test]
async fn fault_2_11_an_agents_addresses_are_told_and_lead_to_it() {
    let (edge, holder) = (with_mirror().await, holder());
    let spawned = edge.post(&holder, "/spawn", &json!({"agent_type": "echo", "public": true})).await;
    let agent = &spawned.body["agent"];
    let id = agent["id"].as_str().unwrap();
    assert_eq!(agent["host"], format!("{id}.localhost:{}", edge.address.port()));
    assert_eq!(agent["url"], format!("http://{}", agent["host"].as_str().unwrap()));
    assert_eq!(agent["path_url"], format!("http://{}/{id}", edge.paths_address));
    let listed = edge.get(&holder, "/agents").await.body["agents"][0].clone();
    let status = edge.get(&holder, &format!("/status/{id}")).await.body["agent"].clone();
    for told in [&listed, &status] {
        assert_eq!((&told["host"], &told["path_url"]), (&agent["host"], &agent["path_url"]));
    }
    let answer = Answer::of(edge.client.get(format!("{}/x", agent["path_url"].as_str().unwrap()))).await;
    assert_eq!((answer.status, &answer.body["path"]), (200, &json!("/x")));
}

#[tokio::test]
async fn fault_2_11_a_listener_for_paths_has_agents_alone() {
    let (edge, holder) = (with_mirror().await, holder());
    let (id, _) = edge.agent(&holder, true).await;
    let ask = |path: String| Answer::of(edge.client.get(format!("http://{}{path}", edge.paths_address)));
    for path in ["/", "/health", "/metrics", "/openapi.json", "/agents"] {
        let answer = ask(path.to_owned()).await;
        assert_eq!((answer.status, answer.code()), (404, "not_found"), "{path}");
    }
    // A root without a slash would have relative links lead elsewhere.
    let bare = raw::exchange_at(
        edge.paths_address,
        &format!("GET /{id}?x=1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
    )
    .await;
    assert!(bare.starts_with("HTTP/1.1 308") && bare.contains(&format!("location: {id}/?x=1\r\n")), "{bare}");
    let (there, followed) = (format!("/{id}"), format!("/{id}?x=1"));
    assert_eq!((ask(there).await.body["path"].clone(), ask(followed).await.body["path"].clone()), {
        (json!("/"), json!("/?x=1"))
    });
    // An agent's own host has no other agents under it, and other names are not ours.
    for host in [format!("{id}.localhost"), "evil.example".to_owned()] {
        let request = format!("GET /{id}/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = raw::exchange_at(edge.paths_address, &request).await;
        assert!(answer.starts_with("HTTP/1.1 421"), "{host}: {answer}");
    }
}

#[tokio::test]
async fn fault_2_11_the_node_is_asked_once_for_an_agents_port_and_again_where_it_did_not_say() {
    let (edge, holder) = (with_mirror().await, holder());
    let (id, token) = edge.agent(&holder, false).await;
    edge.setup.guests.silent_at_first.store(true, Ordering::SeqCst);
    let ask = |port: Option<&'static str>| {
        let request = edge.client.get(edge.url("/x")).header("E2b-Sandbox-Id", id.to_string()).bearer_auth(&token);
        Answer::of(port.into_iter().fold(request, |request, port| request.header("E2b-Sandbox-Port", port)))
    };
    // Who names no port has nobody asked for one.
    assert_eq!(ask(None).await.status, 200);
    assert_eq!(edge.setup.guests.ports.load(Ordering::SeqCst), 0);
    assert_eq!(ask(Some("8080")).await.code(), "agent_unreachable");
    for (port, status) in [("8080", 200), ("8080", 200), ("80", 502), ("8080", 200)] {
        assert_eq!(ask(Some(port)).await.status, status, "{port}");
    }
    assert_eq!(edge.setup.guests.ports.load(Ordering::SeqCst), 2);
    // Another agent's is asked for by itself.
    let (other, token) = edge.agent(&crate::edge::holder(), false).await;
    let request = edge.client.get(edge.url("/x")).header("E2b-Sandbox-Id", other.to_string()).bearer_auth(&token);
    assert_eq!(Answer::of(request.header("E2b-Sandbox-Port", "8080")).await.status, 200);
    assert_eq!(edge.setup.guests.ports.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn fault_2_11_a_header_chooses_an_agent_and_who_has_its_token_any_port_of_it() {
    let (edge, holder) = (with_mirror().await, holder());
    let (id, token) = edge.agent(&holder, false).await;
    let other = "00000000-0000-0001";
    let ask = |id: String, port: &'static str| {
        let request = edge.client.get(edge.url("/x")).header("E2b-Sandbox-Id", id);
        let request = if port.is_empty() { request } else { request.header("E2b-Sandbox-Port", port) };
        Answer::of(request.bearer_auth(&token))
    };
    for port in ["", "8080"] {
        let answer = ask(id.to_string(), port).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(!answer.body["headers"].to_string().contains("e2b"), "{answer:?}");
    }
    for port in ["0", "x", "-1", "65536"] {
        let answer = ask(id.to_string(), port).await;
        assert_eq!((answer.status, answer.code()), (400, "invalid_request"), "{port}");
    }
    assert_eq!(ask("not_an_id".to_owned(), "").await.status, 404);
    // Who has no token learns no port.
    let stranger = edge.client.get(edge.url("/x")).header("E2b-Sandbox-Id", id.to_string());
    assert_eq!(Answer::of(stranger.header("E2b-Sandbox-Port", "80")).await.status, 401);
    // Two names of which a proxy might read the other one.
    let two = edge.to_agent(id, Method::GET, "/x").bearer_auth(&token);
    assert_eq!(Answer::of(two.header("E2b-Sandbox-Id", other)).await.status, 400);
    let two = edge.client.get(edge.url("/x")).bearer_auth(&token).header("E2b-Sandbox-Id", id.to_string());
    assert_eq!(Answer::of(two.header("E2b-Sandbox-Id", other)).await.status, 400);
    let same = edge.to_agent(id, Method::GET, "/x").bearer_auth(&token).header("E2b-Sandbox-Id", id.to_string());
    assert_eq!(Answer::of(same).await.status, 200);
}

#[tokio::test]
async fn who_has_an_agents_token_reaches_every_port_of_it_by_host_and_by_header_and_nobody_else_does() {
    let (edge, holder) = (with_mirror().await, holder());
    let (id, token) = edge.agent(&holder, true).await;
    edge.setup.guests.serves_at(3000, Router::new().fallback(async || "the other port")).await;
    let by_host = |port: u16| at_port(&edge, id, Method::GET, port, "/x");
    let by_header = |port: u16| {
        let request = edge.client.get(edge.url("/x")).header("E2b-Sandbox-Id", id.to_string());
        request.header("E2b-Sandbox-Port", port.to_string())
    };
    for request in [by_host(3000), by_header(3000)] {
        let answer = request.bearer_auth(&token).send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "the other port");
    }
    // The agent is public: at its own port, and at no other.
    assert_eq!(Answer::of(by_host(8080)).await.status, 200);
    for request in [by_host(3000), by_header(3000), by_host(3000).bearer_auth("plt_other")] {
        assert_eq!(Answer::of(request).await.code(), "invalid_token");
    }
    assert_eq!(Answer::of(by_host(3001).bearer_auth(&token)).await.code(), "agent_unreachable");
    let two = by_host(3000).bearer_auth(&token).header("E2b-Sandbox-Port", "3001");
    assert_eq!(Answer::of(two).await.status, 400);
}

/// A call at the port of E2B's daemon.
fn envd(edge: &Edge, id: RunId, method: Method, path: &str) -> RequestBuilder {
    at_port(edge, id, method, 49_983, path)
}

/// A request to a port of an agent, by its host.
fn at_port(edge: &Edge, id: RunId, method: Method, port: u16, path: &str) -> RequestBuilder {
    let host = format!("{port}-{id}.localhost:{}", edge.address.port());
    edge.client.request(method, edge.url(path)).header("Host", host)
}

#[tokio::test]
async fn the_daemons_port_is_opened_by_the_token_and_a_file_by_a_signed_url() {
    let (edge, holder) = (with_mirror().await, holder());
    let (id, token) = edge.agent(&holder, true).await;
    let passed = || std::mem::take(&mut *edge.setup.guests.passed.lock().unwrap());
    // The agent is public, and its files are not.
    for (method, path) in [
        (Method::GET, "/files?path=x"),
        (Method::GET, "/files?path=x&signature=v1_x"),
        (Method::POST, "/process.Process/Start"),
        (Method::POST, "/filesystem.Filesystem/Stat"),
        (Method::GET, "/health"),
        (Method::GET, "/nothing"),
    ] {
        let answer = Answer::of(envd(&edge, id, method, path)).await;
        assert_eq!((answer.status, &answer.body["code"]), (401, &json!(401)), "{path}: {answer:?}");
        let other = envd(&edge, id, Method::GET, path).header("X-Access-Token", "plt_other");
        assert_eq!(Answer::of(other).await.status, 401, "{path}");
    }
    assert!(passed().is_empty());
    let user = "Basic dXNlcjo=";
    let call = envd(&edge, id, Method::POST, "/filesystem.Filesystem/Stat").header("X-Access-Token", &token);
    let call = call.header("Authorization", user).header("Cookie", "a=1").header("Content-Type", "application/json");
    assert_eq!(call.body("{}").send().await.unwrap().status(), 200);
    let (to, headers, body) = passed().remove(0);
    assert_eq!((to.as_str(), &body[..]), ("/filesystem.Filesystem/Stat", &b"{}"[..]));
    assert_eq!(headers["authorization"], user);
    for ours in ["x-access-token", "cookie", "e2b-sandbox-id", "e2b-sandbox-port"] {
        assert!(!headers.contains_key(ours), "{ours}: {headers:?}");
    }
    let url = |operation, expires| auth::FileUrl { path: "a b.txt", operation, username: "user", expires };
    let secret = token.clone().into();
    let signed = |url: auth::FileUrl<'_>| {
        let until = url.expires.map(|until| format!("&signature_expiration={until}")).unwrap_or_default();
        let signature = url.sign(&secret).replace('+', "%2B");
        format!("/files?path=a%20b.txt&username=user&signature={signature}{until}")
    };
    let read = signed(url(auth::FileOperation::Read, None));
    assert_eq!(envd(&edge, id, Method::GET, &read).send().await.unwrap().status(), 200);
    assert_eq!(passed().remove(0).0, "/files?path=a+b.txt&username=user");
    let write = signed(url(auth::FileOperation::Write, Some(i64::MAX)));
    assert_eq!(envd(&edge, id, Method::POST, &write).body("x").send().await.unwrap().status(), 200);
    for (method, path, said) in [
        (Method::POST, read.clone(), "invalid signature"),
        (Method::GET, read.replace("user&", "root&"), "invalid signature"),
        (Method::GET, signed(url(auth::FileOperation::Read, Some(1))), "signature is already expired"),
    ] {
        let answer = Answer::of(envd(&edge, id, method, &path)).await;
        assert_eq!(answer.body, json!({"code": 401, "message": said}), "{path}");
    }
    assert_eq!(passed().len(), 1);
    for (method, path) in [(Method::POST, "/init"), (Method::GET, "/v1/status"), (Method::POST, "/v1/stop")] {
        let answer = Answer::of(envd(&edge, id, method, path).bearer_auth(&token)).await;
        assert_eq!((answer.status, &answer.body["code"]), (404, &json!(404)), "{path}");
    }
}

/// An agent that sends its clients on, and gives them cookies.
async fn wanderer(request: Request) -> Response {
    let uri = request.uri().to_string();
    let _ = request.into_body().collect().await;
    let response = Response::builder().status(302).header("Location", "/login").header("X-Path", uri);
    let response = response.header("Set-Cookie", "a=1; Domain=localhost; Path=/; HttpOnly");
    response.header("Set-Cookie", "__Host-b=2; Secure; Path=/").body("".into()).unwrap()
}

#[tokio::test]
async fn fault_2_7_what_an_agent_sets_and_where_it_sends_clients_stays_with_it() {
    let (edge, holder) = (Edge::start().await, holder());
    edge.setup.guests.serves(Router::new().fallback(any(wanderer))).await;
    let (id, _) = edge.agent(&holder, true).await;
    let client = crate::edge::client().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    for (way, request) in ways(&edge, id, &Method::GET, "/") {
        let response = client.execute(request.build().unwrap()).await.unwrap();
        let all = |name: &str| -> Vec<String> {
            response.headers().get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
        };
        let (cookies, there): (Vec<&str>, String) = match way {
            "host" => (vec!["a=1; Path=/; HttpOnly", "__Host-b=2; Secure; Path=/"], "/login".to_owned()),
            "path" => (vec![], format!("/{id}/login")),
            _ => (vec![], "/login".to_owned()),
        };
        let of_path = format!("a=1; HttpOnly; Path=/{id}/");
        let cookies = if way == "path" { vec![of_path.as_str()] } else { cookies };
        assert_eq!(
            (all("set-cookie"), all("location")),
            (cookies.iter().map(ToString::to_string).collect(), vec![there]),
            "{way}"
        );
    }
}

#[tokio::test]
async fn fault_2_11_where_there_is_no_listener_for_paths_none_is_told() {
    let config = palatine_gateway::Config { listen: vec!["0.0.0.0:0".parse().unwrap()], ..Default::default() };
    let listeners = palatine_gateway::Listeners::bind(&config, &Default::default()).await.unwrap();
    assert!(listeners.paths.is_empty());
    let public = palatine_gateway::Config {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        agent_url: Some("https://{id}.agents.example.com".to_owned()),
        ..Default::default()
    };
    let listeners = palatine_gateway::Listeners::bind(&public, &Default::default()).await.unwrap();
    assert!(listeners.paths.is_empty());
    let local = palatine_gateway::Config { agent_url: None, ..public };
    let listeners = palatine_gateway::Listeners::bind(&local, &Default::default()).await.unwrap();
    assert_eq!(listeners.paths.len(), 1);
    let off = palatine_gateway::Config { path_listen: Some(vec![]), ..local };
    assert!(palatine_gateway::Listeners::bind(&off, &Default::default()).await.unwrap().paths.is_empty());
}
