//! Romulus's routes and JSON, and what we add to them.

use auth::MessageEncoding;
use reqwest::Method;
use serde_json::{Value, json};

use palatine_gateway::Config;

use crate::edge::{Answer, Edge, Setup, holder, instant};

#[tokio::test]
async fn a_spawn_answers_with_the_seeds_json_and_ours_beside_it() {
    let (edge, holder) = (Edge::start().await, holder());
    let answer = edge.spawn(&holder).await;
    assert_eq!(answer.status, 200);
    insta::assert_json_snapshot!("spawn", answer.masked());
    let id = answer.body["agent"]["id"].as_str().unwrap();
    assert_eq!(answer.body["agent"]["url"], format!("http://{id}.localhost:{}", edge.address.port()));
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.header("x-trace-id").len(), 32);
}

#[tokio::test]
async fn romulus_own_form_spawns_in_each_of_its_three_wrappings() {
    let edge = Edge::start().await;
    for form in MessageEncoding::ALL {
        let headers = holder().sign_instant(form, instant());
        let answer = Answer::of(edge.with(&headers, Method::POST, "/spawn", br#"{"agent_type": "coding"}"#)).await;
        assert_eq!((answer.status, &answer.body["agent"]["agent_type"]), (200, &json!("coding")), "{form:?}");
    }
}

#[tokio::test]
async fn a_spawn_that_does_not_wait_answers_202_at_reserved() {
    let (edge, holder) = (Edge::start().await, holder());
    let answer = edge.post(&holder, "/spawn?wait=false", &json!({"agent_type": "echo"})).await;
    assert_eq!(answer.status, 202);
    insta::assert_json_snapshot!("spawn_detached", answer.masked());
}

#[tokio::test]
async fn status_lists_and_second_spawns_show_the_live_agent() {
    let (edge, holder) = (Edge::start().await, holder());
    let (id, _) = edge.agent(&holder, false).await;
    insta::assert_json_snapshot!("status", edge.get(&holder, &format!("/status/{id}")).await.masked());
    insta::assert_json_snapshot!("agents", edge.get(&holder, "/agents").await.masked());
    let busy = edge.spawn(&holder).await;
    assert_eq!((busy.status, &busy.body["agent_id"]), (409, &json!(id)));
    insta::assert_json_snapshot!("agent_exists", busy.masked());
}

#[tokio::test]
async fn an_agent_that_was_stopped_frees_its_wallet_and_stays_in_the_list() {
    let (edge, holder) = (Edge::start().await, holder());
    let (id, _) = edge.agent(&holder, false).await;
    let stop = format!("/stop/{id}");
    assert_eq!(edge.post(&holder, &stop, &Value::Null).await.status, 200);
    let again = edge.post(&holder, &stop, &Value::Null).await;
    assert_eq!((again.status, &again.body["state"]), (200, &json!("stopped")));
    edge.agent(&holder, false).await;
    let agents = edge.get(&holder, "/agents").await;
    let states: Vec<_> = agents.body["agents"].as_array().unwrap().iter().map(|agent| &agent["state"]).collect();
    assert_eq!(states, ["ready", "stopped"]);
    let logs = edge.get(&holder, &format!("/agents/{id}/logs")).await;
    assert_eq!((logs.status, logs.code()), (409, "wrong_state"));
}

#[tokio::test]
async fn what_is_no_id_is_not_found() {
    let (edge, holder) = (Edge::start().await, holder());
    for id in ["a1b2c3d4-e5f6-7890", "x", "..", "a1b2c3d4-e5f6-7890;drop", "%00"] {
        let answer = edge.get(&holder, &format!("/status/{id}")).await;
        assert_eq!((answer.status, answer.code()), (404, "not_found"), "{id}");
    }
}

#[tokio::test]
async fn an_unknown_agent_type_is_answered_with_the_known_ones() {
    let (edge, holder) = (Edge::start().await, holder());
    let answer = edge.post(&holder, "/spawn", &json!({"agent_type": "browser"})).await;
    assert_eq!(answer.status, 400);
    insta::assert_json_snapshot!("unknown_agent_type", answer.body);
}

#[tokio::test]
async fn images_that_no_node_has_told_yet_are_503() {
    let setup = Setup::default();
    setup.node.set_down(true);
    let (edge, holder) = (setup.start().await, holder());
    let answer = edge.spawn(&holder).await;
    assert_eq!((answer.status, answer.code()), (503, "node_unavailable"));
    let ready = edge.ready(503, "the only node is down").await;
    assert_eq!(ready["status"], json!("node: no node answers"));
}

#[tokio::test]
async fn a_retry_with_its_key_gets_the_first_answer_again() {
    let (edge, holder) = (Edge::start().await, holder());
    let body = br#"{"agent_type":"echo"}"#;
    let send = |key: &'static str, body: &'static [u8]| {
        Answer::of(edge.signed(&holder, Method::POST, "/spawn", body).header("Idempotency-Key", key))
    };
    let first = send("one", body).await;
    let second = send("one", body).await;
    assert_eq!((second.status, &second.body["agent"]), (200, &first.body["agent"]));
    let other = send("one", br#"{"agent_type":"coding"}"#).await;
    assert_eq!((other.status, other.code()), (422, "idempotency_mismatch"));
    let fresh = send("two", body).await;
    assert_eq!((fresh.status, fresh.code()), (409, "agent_exists"));
    let endless = Box::leak("k".repeat(300).into_boxed_str());
    assert_eq!(send(endless, body).await.code(), "invalid_request");
}

#[tokio::test]
async fn retries_at_once_with_one_key_all_get_the_one_agent() {
    let (edge, holder) = (Edge::start().await, holder());
    let sends = (0..20).map(|_| {
        let request = edge.signed(&holder, Method::POST, "/spawn", br#"{"agent_type":"echo"}"#);
        Answer::of(request.header("Idempotency-Key", "same"))
    });
    let answers = futures_util::future::join_all(sends).await;
    for answer in &answers {
        assert_eq!((answer.status, &answer.body["agent"]), (200, &answers[0].body["agent"]));
    }
}

#[tokio::test]
async fn bodies_of_the_wrong_shape_are_named() {
    let (edge, holder) = (Edge::start().await, holder());
    let endless = format!(r#"{{"agent_type":"{}"}}"#, "x".repeat(65));
    let cases: [(&[u8], &str, u16, &str); 7] = [
        (endless.as_bytes(), "application/json", 400, "invalid_request"),
        (b"{", "application/json", 400, "invalid_request"),
        (b"", "application/json", 400, "invalid_request"),
        (b"{}", "application/json; charset=utf-8", 400, "invalid_request"),
        (br#"{"agent_type":"echo","cores":64}"#, "application/json", 400, "invalid_request"),
        (br#"{"agent_type":"echo","env":{"A-B":"x"}}"#, "application/json", 400, "invalid_environment"),
        (br#"{"agent_type":"echo"}"#, "text/plain", 415, "unsupported_media_type"),
    ];
    for (body, kind, status, code) in cases {
        let headers = edge.sign(&holder, "POST", "/spawn", body);
        let request = edge.with(&headers, Method::POST, "/spawn", body);
        let mut request = request.build().unwrap();
        request.headers_mut().insert("content-type", kind.parse().unwrap());
        let answer = Answer::read(edge.client.execute(request).await.unwrap()).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{}", String::from_utf8_lossy(body));
    }
    let query = edge.post(&holder, "/spawn?wait=perhaps", &json!({"agent_type": "echo"})).await;
    assert_eq!(query.code(), "invalid_request");
}

#[tokio::test]
async fn tiers_health_and_the_document_are_open() {
    let edge = Edge::start().await;
    let get = |path: &'static str| Answer::of(edge.client.get(edge.url(path)));
    insta::assert_json_snapshot!("tiers", get("/tiers").await.body);
    insta::assert_json_snapshot!("health", get("/health").await.masked());
    edge.ready(200, "nothing is wrong").await;
    let document = get("/openapi.json").await;
    assert_eq!(document.body, serde_json::from_str::<Value>(&palatine_gateway::openapi()).unwrap());
}

#[tokio::test]
async fn an_unknown_path_and_a_wrong_method_say_so_in_json() {
    let edge = Edge::start().await;
    let path = Answer::of(edge.client.get(edge.url("/nothing"))).await;
    assert_eq!((path.status, path.code()), (404, "not_found"));
    let method = Answer::of(edge.client.delete(edge.url("/spawn"))).await;
    assert_eq!((method.status, method.code()), (405, "method_not_allowed"));
    assert_eq!(method.header("content-type"), "application/json");
}

#[tokio::test]
async fn a_callers_trace_comes_back_under_its_own_id() {
    let edge = Edge::start().await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let answer = Answer::of(edge.client.get(edge.url("/health")).header("traceparent", trace)).await;
    assert_eq!(answer.header("x-trace-id"), "4bf92f3577b34da6a3ce929d0e0e4736");
}

#[tokio::test]
async fn a_command_for_ones_own_agent_goes_to_the_guest_without_the_signature() {
    let (edge, holder) = (Edge::start().await, holder());
    let (id, _) = edge.agent(&holder, false).await;
    let path = format!("/agents/{id}/process.Process/Start");
    let request = edge.signed(&holder, Method::POST, &path, b"frame").header("Keepalive-Ping-Interval", "50");
    let answer = Answer::of(request.header("Authorization", "Bearer x")).await;
    assert_eq!((answer.status, &answer.body), (200, &json!("frames")));
    let passed = edge.setup.guests.passed.lock().unwrap();
    let (to, headers, body) = &passed[0];
    assert_eq!((to.as_str(), body.as_ref()), ("/process.Process/Start", b"frame".as_slice()));
    assert_eq!(headers["keepalive-ping-interval"], "50");
    assert!(headers.contains_key("traceparent"));
    for gone in ["x-signature", "x-wallet", "x-timestamp", "x-audience", "authorization"] {
        assert!(!headers.contains_key(gone), "{gone}");
    }
}

#[tokio::test]
async fn case_exec_stdin_input_streams_to_the_guest_under_the_signature_of_its_beginning() {
    let (edge, holder) = (Edge::start().await, holder());
    let (id, _) = edge.agent(&holder, false).await;
    let path = format!("/agents/{id}/process.Process/StreamInput");
    let envelope = |message: &[u8]| {
        let mut bytes = bytes::BytesMut::new();
        wire::connect::Envelope { end: false, message: message.to_vec().into() }.encode(&mut bytes);
        bytes.freeze()
    };
    let start = envelope(br#"{"start":{"process":{"pid":7}}}"#);
    let headers = edge.sign(&holder, "POST", &path, &start);
    let ask = |pieces: Vec<bytes::Bytes>| {
        let pieces = futures_util::stream::iter(pieces.into_iter().map(Ok::<_, std::io::Error>));
        Answer::of(edge.with(&headers, Method::POST, &path, b"").body(reqwest::Body::wrap_stream(pieces)))
    };
    let other = ask(vec![envelope(br#"{"start":{"process":{"pid":1}}}"#)]).await;
    assert_eq!((other.status, other.code()), (401, "invalid_signature"));
    let none = ask(vec![start.slice(..9)]).await;
    assert_eq!((none.status, none.code()), (400, "invalid_request"));
    // More than the body of any other call may have, and the head is cut in two.
    let mut pieces = vec![start.slice(..9), start.slice(9..)];
    pieces.extend((0..40).map(|_| envelope(&[b'x'; 64 * 1024])));
    let whole = pieces.concat();
    assert_eq!(ask(pieces).await.status, 200);
    let passed = edge.setup.guests.passed.lock().unwrap();
    assert_eq!((passed.len(), passed[0].0.as_str()), (1, "/process.Process/StreamInput"));
    assert!(passed[0].2 == whole);
}

#[tokio::test]
async fn only_the_protocols_own_calls_go_to_the_guest() {
    let (edge, holder) = (Edge::start().await, holder());
    let (id, _) = edge.agent(&holder, false).await;
    for call in ["Evil", "..", "start"] {
        let answer = edge.post(&holder, &format!("/agents/{id}/process.Process/{call}"), &json!({})).await;
        assert_eq!((answer.status, answer.code()), (404, "not_found"), "{call}");
    }
}

#[tokio::test]
async fn an_agent_that_is_not_ready_in_time_is_504_and_its_slot_is_free() {
    let mut setup = Setup::default();
    setup.control.spawn_timeout_ms = 200;
    setup.node.set_boot(None);
    let (edge, holder) = (setup.start().await, holder());
    let late = edge.spawn(&holder).await;
    assert_eq!((late.status, late.code()), (504, "spawn_timeout"));
    insta::assert_json_snapshot!("spawn_timeout", late.body);
    assert_eq!(edge.setup.node.running(), []);
    edge.setup.node.set_boot(Some(std::time::Duration::ZERO));
    assert_eq!(edge.spawn(&holder).await.status, 200);
}

#[tokio::test]
async fn a_node_without_room_and_one_that_is_away_are_503() {
    let setup = Setup::default();
    let (edge, holder) = (setup.start().await, holder());
    edge.setup.node.set_refusal(Some(wire::fault::Code::NoCapacity));
    let full = edge.spawn(&holder).await;
    assert_eq!((full.status, full.code(), full.header("retry-after")), (503, "no_capacity", "2"));
    edge.setup.node.set_refusal(None);
    edge.setup.node.set_down(true);
    let away = edge.spawn(&holder).await;
    assert_eq!((away.status, away.code()), (503, "node_unavailable"));
    assert!(!away.body.to_string().contains("connection refused"), "internal text is shown");
}

#[tokio::test]
async fn a_stop_whose_node_is_away_is_202_and_still_happens() {
    let (edge, holder) = (Edge::start().await, holder());
    let (id, _) = edge.agent(&holder, false).await;
    edge.setup.node.set_down(true);
    let stopping = edge.post(&holder, &format!("/stop/{id}"), &Value::Null).await;
    assert_eq!((stopping.status, &stopping.body["state"]), (202, &json!("stopping")));
    edge.setup.node.set_down(false);
    let deadline = tokio::time::Instant::now() + crate::edge::PATIENCE;
    while edge.store.get(id).await.unwrap().unwrap().state.is_live() {
        assert!(tokio::time::Instant::now() < deadline, "it never ends");
        tokio::task::yield_now().await;
    }
    assert_eq!(edge.setup.node.running(), []);
}

#[tokio::test]
async fn where_too_many_agents_are_starting_a_retry_has_its_answer_and_a_new_spawn_is_503() {
    let mut setup = Setup::default();
    setup.control.spawns_at_once = 1;
    setup.node.set_boot(None);
    let (edge, first, second) = (setup.start().await, holder(), holder());
    let body = br#"{"agent_type":"echo"}"#;
    let send = |holder| {
        let request = edge.signed(holder, Method::POST, "/spawn?wait=false", body);
        Answer::of(request.header("Idempotency-Key", "one"))
    };
    let started = send(&first).await;
    assert_eq!(started.status, 202, "{started:?}");
    let again = send(&first).await;
    assert_eq!((again.status, &again.body["agent"]["id"]), (202, &started.body["agent"]["id"]));
    let headers = edge.sign(&second, "POST", "/spawn?wait=false", body);
    let new = || edge.with(&headers, Method::POST, "/spawn?wait=false", body);
    let refused = Answer::of(new()).await;
    assert_eq!((refused.status, refused.code(), refused.header("retry-after")), (503, "no_capacity", "2"));
    let spent = Answer::of(new()).await;
    assert_eq!((spent.status, spent.code()), (401, "replayed_signature"), "its signature is spent");
}

#[tokio::test]
async fn a_retry_of_a_spawn_that_failed_says_so_again() {
    let mut setup = Setup::default();
    setup.control.spawn_timeout_ms = 200;
    setup.node.set_boot(None);
    let (edge, holder) = (setup.start().await, holder());
    for _ in 0..2 {
        let request = edge.signed(&holder, Method::POST, "/spawn", br#"{"agent_type":"echo"}"#);
        let answer = Answer::of(request.header("Idempotency-Key", "one")).await;
        assert_eq!((answer.status, answer.code()), (504, "spawn_timeout"));
    }
    assert_eq!(edge.setup.node.created(), 1);
}

#[tokio::test]
async fn metrics_are_for_those_the_operator_named() {
    let handle = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder().handle();
    let setup = Setup { metrics: Some(handle.clone()), ..Setup::default() };
    let edge = setup.start().await;
    let seen = Answer::of(edge.client.get(edge.url("/metrics"))).await;
    assert_eq!((seen.status, seen.header("content-type")), (200, "text/plain; version=0.0.4"));
    let mut setup = Setup { metrics: Some(handle), ..Setup::default() };
    setup.config.metrics_addresses = Some(std::collections::BTreeSet::new());
    let edge = setup.start().await;
    let hidden = Answer::of(edge.client.get(edge.url("/metrics"))).await;
    assert_eq!((hidden.status, hidden.code()), (404, "not_found"));
}

#[tokio::test]
async fn fault_1_0_ready_says_which_part_fails_and_since_when() {
    let config = Config { probe_ms: 20, ..Config::default() };
    let edge = Setup { config, ..Setup::default() }.start().await;
    let part = |body: &Value, name: &str| {
        let parts = body["parts"].as_array().unwrap().clone();
        parts.into_iter().find(|part| part["part"] == name).unwrap()
    };
    let well = edge.ready(200, "all parts answer").await;
    assert_eq!((&well["status"], &part(&well, "solana")["state"]), (&json!("ok"), &json!("ok")));
    // The chain hangs: nobody spawns anything, and yet it is noticed.
    edge.setup.balances.fail(true);
    let sick = edge.ready(503, "a chain that does not answer is noticed").await;
    assert_eq!(sick["status"], "solana: no Solana endpoint gives a balance");
    let since = part(&sick, "solana")["since"].as_u64().unwrap();
    assert!(since >= part(&well, "solana")["since"].as_u64().unwrap());
    assert_eq!(part(&edge.ready(503, "it stays so").await, "solana")["since"], since, "the first sight is what counts");
    assert_eq!(part(&sick, "store")["state"], "ok");
    edge.setup.balances.fail(false);
    assert_eq!(edge.ready(200, "it answers again").await["status"], "ok");
}

#[tokio::test]
async fn fault_2_13_a_path_that_is_no_text_is_refused_by_its_part() {
    let (edge, holder) = (Edge::start().await, holder());
    for (path, field) in [("/vaults/%ff", "address"), ("/vaults/%ff/tasks", "address"), ("/meta/nonce/%ff", "address")]
    {
        let answer = Answer::of(edge.client.get(edge.url(path))).await;
        assert_eq!(
            (answer.status, answer.code(), &answer.body["field"]),
            (400, "invalid_request", &json!(field)),
            "{path}"
        );
    }
    for path in ["/agents/%ff/tasks/0x00/submit", "/agents/%ff/tasks/0x00/decline"] {
        let answer = edge.post(&holder, path, &Value::Null).await;
        assert_eq!(
            (answer.status, answer.code(), &answer.body["field"]),
            (400, "invalid_request", &json!("id")),
            "{path}"
        );
    }
    for path in ["/agents/%ff/logs", "/status/%ff", "/agents/%ff/vault"] {
        let answer = edge.get(&holder, path).await;
        assert_eq!((answer.status, answer.code()), (404, "not_found"), "{path}");
    }
}

/// A path of the document with its parts filled in.
pub(crate) fn filled(path: &str) -> String {
    [
        ("/keys/{id}", "/keys/1a2b3c4d5e6f7890"),
        ("/images/uploads/{id}", "/images/uploads/1a2b3c4d5e6f7890"),
        ("{image}", "work:v2"),
        ("{id}", "a1b2c3d4-e5f6-7890"),
        ("{wallet}", "11111111111111111111111111111111"),
        ("{address}", "0x00000000000000000000000000000000000000aa"),
        ("{task}", "0x00000000000000000000000000000000000000000000000000000000000000aa"),
        ("{method}", "List"),
        ("{name}", "work"),
        ("{snapshot}", "1a2b3c4d5e6f7890"),
    ]
    .iter()
    .fold(path.to_owned(), |path, (part, value)| path.replace(part, value))
}

#[tokio::test]
async fn every_route_of_the_document_is_served_under_its_method_and_counted_under_its_path() {
    let handle = metrics_exporter_prometheus::PrometheusBuilder::new().install_recorder().unwrap();
    let edge = Edge::start().await;
    let document: Value = serde_json::from_str(&palatine_gateway::openapi()).unwrap();
    let mut asked = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            let method: Method = method.to_uppercase().parse().unwrap();
            let answer = Answer::of(edge.client.request(method.clone(), edge.url(&filled(path)))).await;
            let no_route = answer.body["error"].as_str().is_some_and(|said| said.contains("nothing at this path; see"));
            assert!(!no_route && answer.code() != "method_not_allowed", "{method} {path}: {answer:?}");
            asked.push(path);
        }
    }
    Answer::of(edge.client.get(edge.url("/no/such/path"))).await;
    let counted = handle.render();
    for path in asked {
        assert!(counted.contains(&format!("palatine_gateway_requests_total{{route=\"{path}\"")), "{path}: {counted}");
    }
    assert!(counted.contains("route=\"other\""), "{counted}");
    assert!(!counted.contains("a1b2c3d4") && !counted.contains("/no/such"), "a path that clients choose is no label");
}
