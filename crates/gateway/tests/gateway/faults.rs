//! Every fault of the old gateway, each as a test that the old one would fail.
//! (The sum over all token accounts is tried in `chain`, the second look at
//! balances in `control`.)

use auth::{Keypair, MessageEncoding, SignedHeaders};
use domain::UnixMillis;
use reqwest::Method;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use palatine_gateway as gateway;

use crate::edge::{Answer, Edge, PATIENCE, Setup, bare, holder, instant};
use crate::guest::ECHO;

const ECHO_BODY: &[u8] = br#"{"agent_type":"echo"}"#;

// parseInt("x") is NaN, and NaN > 300000 is false.
#[tokio::test]
async fn a_signature_over_a_timestamp_that_is_no_number_is_refused() {
    let edge = Edge::start().await;
    for timestamp in ["x", "", "NaN", "17e11", "1700000000000x", "99999999999999"] {
        let headers = SignedHeaders { timestamp: timestamp.to_owned(), ..bare(&holder()) };
        let answer = Answer::of(edge.with(&headers, Method::POST, "/spawn", ECHO_BODY)).await;
        assert_eq!((answer.status, answer.code()), (401, "malformed_signature"), "{timestamp}");
    }
}

#[tokio::test]
async fn a_signature_that_is_too_old_or_of_the_future_is_refused() {
    let edge = Edge::start().await;
    let now = instant().0;
    for at in [now - 310_000, now + 60_000] {
        let headers = holder().sign_instant(MessageEncoding::Raw, UnixMillis(at));
        let answer = Answer::of(edge.with(&headers, Method::POST, "/spawn", ECHO_BODY)).await;
        assert_eq!((answer.status, answer.code()), (401, "expired_signature"));
    }
}

#[tokio::test]
async fn a_missing_header_is_said_to_be_missing() {
    let edge = Edge::start().await;
    let answer =
        Answer::of(edge.client.post(edge.url("/spawn")).header("Content-Type", "application/json").body(ECHO_BODY))
            .await;
    assert_eq!((answer.status, answer.code()), (401, "missing_signature"));
    insta::assert_json_snapshot!("missing_signature", answer.body);
}

// The signature bound nothing and there was no nonce.
#[tokio::test]
async fn a_captured_status_does_not_replay_as_a_spawn() {
    let (edge, holder) = (Edge::start().await, holder());
    let headers = bare(&holder);
    let status = Answer::of(edge.with(&headers, Method::GET, "/status/a1b2c3d4-e5f6-7890", b"")).await;
    assert_eq!(status.code(), "not_found");
    let spawn = Answer::of(edge.with(&headers, Method::POST, "/spawn", ECHO_BODY)).await;
    assert_eq!((spawn.status, spawn.code()), (401, "replayed_signature"));
    insta::assert_json_snapshot!("replayed_signature", spawn.body);
}

#[tokio::test]
async fn a_bound_signature_opens_its_own_request_alone() {
    let (edge, holder) = (Edge::start().await, holder());
    let headers = edge.sign(&holder, "GET", "/agents", b"");
    let spawn = Answer::of(edge.with(&headers, Method::POST, "/spawn", ECHO_BODY)).await;
    assert_eq!((spawn.status, spawn.code()), (401, "invalid_signature"));
    let headers = edge.sign(&holder, "POST", "/spawn", ECHO_BODY);
    let other = Answer::of(edge.with(&headers, Method::POST, "/spawn", br#"{"agent_type":"coding"}"#)).await;
    assert_eq!((other.status, other.code()), (401, "invalid_signature"));
    assert_eq!(Answer::of(edge.with(&headers, Method::POST, "/spawn", ECHO_BODY)).await.status, 200);
}

#[tokio::test]
async fn the_same_text_in_another_wrapping_is_the_same_request_again() {
    let (edge, holder) = (Edge::start().await, holder());
    let at = instant();
    for (form, code) in [
        (MessageEncoding::Legacy, ""),
        (MessageEncoding::Raw, "replayed_signature"),
        (MessageEncoding::V1, "replayed_signature"),
    ] {
        let headers = holder.sign_instant(form, at);
        assert_eq!(Answer::of(edge.with(&headers, Method::GET, "/agents", b"")).await.code(), code, "{form:?}");
    }
}

#[tokio::test]
async fn a_signature_stays_spent_across_a_restart() {
    let (edge, holder) = (Edge::start().await, holder());
    let headers = bare(&holder);
    assert_eq!(Answer::of(edge.with(&headers, Method::GET, "/agents", b"")).await.status, 200);
    let edge = edge.restart().await;
    let again = Answer::of(edge.with(&headers, Method::POST, "/spawn", ECHO_BODY)).await;
    assert_eq!((again.status, again.code()), (401, "replayed_signature"));
}

#[tokio::test]
async fn a_spawn_that_is_refused_has_spent_its_signature_too() {
    let (edge, holder) = (Edge::start().await, holder());
    edge.setup.balances.set(holder.wallet(), 1);
    let headers = bare(&holder);
    assert_eq!(Answer::of(edge.with(&headers, Method::POST, "/spawn", ECHO_BODY)).await.status, 403);
    let again = Answer::of(edge.with(&headers, Method::GET, "/agents", b"")).await;
    assert_eq!(again.code(), "replayed_signature");
}

// Check, then await: two spawns at once left an orphan.
#[tokio::test]
async fn fifty_concurrent_spawns_of_one_wallet_give_one_agent() {
    let (edge, holder) = (Edge::start().await, holder());
    let spawns = (0..50).map(|_| edge.spawn(&holder));
    let answers = futures_util::future::join_all(spawns).await;
    let won: Vec<_> = answers.iter().filter(|answer| answer.status == 200).collect();
    assert_eq!(won.len(), 1, "{answers:?}");
    let id = &won[0].body["agent"]["id"];
    for lost in answers.iter().filter(|answer| answer.status != 200) {
        assert_eq!((lost.status, lost.code(), &lost.body["agent_id"]), (409, "agent_exists", id));
    }
    assert_eq!(edge.store.of(holder.wallet(), 100).await.unwrap().len(), 1);
}

// State in memory: a restart forgot, and orphaned, every agent.
#[tokio::test]
async fn an_agent_is_known_after_a_restart() {
    let (edge, holder) = (Edge::start().await, holder());
    let (id, _) = edge.agent(&holder, false).await;
    let edge = edge.restart().await;
    assert_eq!(edge.get(&holder, &format!("/status/{id}")).await.body["agent"]["state"], "ready");
    let again = edge.spawn(&holder).await;
    assert_eq!((again.status, &again.body["agent_id"]), (409, &json!(id)));
}

// An RPC error became balance 0.
#[tokio::test]
async fn a_balance_that_cannot_be_read_is_503_and_never_403() {
    let (edge, holder) = (Edge::start().await, holder());
    edge.setup.balances.fail(true);
    let answer = edge.spawn(&holder).await;
    assert_eq!((answer.status, answer.code(), answer.header("retry-after")), (503, "balance_unknown", "5"));
    insta::assert_json_snapshot!("balance_unknown", answer.body);
    edge.setup.balances.fail(false);
    assert_eq!(edge.spawn(&holder).await.status, 200);
}

#[tokio::test]
async fn a_balance_below_the_lowest_tier_says_what_is_held_and_what_is_needed() {
    let (edge, holder) = (Edge::start().await, holder());
    edge.setup.balances.set_raw(holder.wallet(), domain::TokenAmount(99_999_999_999));
    let answer = edge.spawn(&holder).await;
    assert_eq!(answer.status, 403);
    insta::assert_json_snapshot!("insufficient_balance", answer.body);
}

// /stop asked for the balance, so that a holder who sold could not stop.
#[tokio::test]
async fn a_holder_who_sold_everything_can_still_stop() {
    let (edge, holder) = (Edge::start().await, holder());
    let (id, _) = edge.agent(&holder, false).await;
    edge.setup.balances.set(holder.wallet(), 0);
    edge.setup.balances.fail(true);
    let reads = edge.setup.balances.reads();
    let stopped = edge.post(&holder, &format!("/stop/{id}"), &json!(null)).await;
    assert_eq!((stopped.status, &stopped.body["state"]), (200, &json!("stopped")));
    assert_eq!(edge.setup.balances.reads(), reads);
    insta::assert_json_snapshot!("stop", stopped.masked());
}

#[tokio::test]
async fn somebody_elses_agent_is_not_found() {
    let (edge, owner, other) = (Edge::start().await, holder(), holder());
    let (id, _) = edge.agent(&owner, false).await;
    for path in ["status", "agents"] {
        let path = if path == "status" { format!("/status/{id}") } else { format!("/agents/{id}/logs") };
        assert_eq!(edge.get(&other, &path).await.code(), "not_found", "{path}");
    }
    assert_eq!(edge.get(&other, &format!("/agents/{id}/events")).await.code(), "not_found");
    assert_eq!(edge.post(&other, &format!("/stop/{id}"), &json!(null)).await.code(), "not_found");
    let start = edge.post(&other, &format!("/agents/{id}/process.Process/Start"), &json!({})).await;
    assert_eq!(start.code(), "not_found");
}

// /usage was public and showed the agent's URL.
#[tokio::test]
async fn usage_is_shown_to_its_own_wallet_alone() {
    let (edge, owner, other) = (Edge::start().await, holder(), holder());
    edge.agent(&owner, false).await;
    let path = format!("/usage/{}", owner.wallet());
    let nobody = Answer::of(edge.client.get(edge.url(&path))).await;
    assert_eq!((nobody.status, nobody.code()), (401, "missing_signature"));
    assert_eq!(edge.get(&other, &path).await.code(), "not_found");
    let own = edge.get(&owner, &path).await;
    insta::assert_json_snapshot!("usage", own.masked());
}

#[tokio::test]
async fn published_totals_never_show_the_agent() {
    let mut setup = Setup::default();
    setup.config.public_usage = true;
    let (edge, owner) = (setup.start().await, holder());
    edge.agent(&owner, false).await;
    let answer = Answer::of(edge.client.get(edge.url(&format!("/usage/{}", owner.wallet())))).await;
    assert_eq!((answer.status, &answer.body["active_agent"]), (200, &json!(null)));
    assert_eq!(answer.body["stats"]["spawns"], 1);
}

// /admin/agents had no authentication.
#[tokio::test]
async fn there_is_no_list_of_everybodys_agents() {
    let edge = Edge::start().await;
    let answer = Answer::of(edge.client.get(edge.url("/admin/agents"))).await;
    assert_eq!((answer.status, answer.code()), (404, "not_found"));
    assert_eq!(Answer::of(edge.client.get(edge.url("/agents"))).await.code(), "missing_signature");
    let metrics = Answer::of(edge.client.get(edge.url("/metrics"))).await;
    assert_eq!(metrics.code(), "not_found", "no recorder was given");
}

// Any image_ref was accepted.
#[tokio::test]
async fn an_image_of_ones_own_needs_a_tier_that_may() {
    let (edge, holder) = (Edge::start().await, holder());
    let body = json!({"agent_type": "mine", "image_ref": ECHO.to_string()});
    let refused = edge.post(&holder, "/spawn", &body).await;
    assert_eq!((refused.status, refused.code()), (403, "image_refused"));
    insta::assert_json_snapshot!("image_refused", refused.body);
    let mut setup = Setup::default();
    setup.config.byo_image_tiers.insert("pro".to_owned().try_into().unwrap());
    let edge = setup.start().await;
    let unknown = json!({"agent_type": "mine", "image_ref": format!("sha256:{}", "00".repeat(32))});
    assert_eq!(edge.post(&holder, "/spawn", &unknown).await.code(), "image_refused");
    let tag = json!({"agent_type": "mine", "image_ref": "docker.io/evil:latest"});
    assert_eq!(edge.post(&holder, "/spawn", &tag).await.code(), "invalid_request");
    assert_eq!(edge.post(&holder, "/spawn", &body).await.body["agent"]["image"], json!(ECHO));
}

// The agent got no credential of its own.
#[tokio::test]
async fn an_agents_token_is_shown_once_and_opens_nothing_else() {
    let (edge, holder) = (Edge::start().await, holder());
    let (id, token) = edge.agent(&holder, false).await;
    assert!(token.starts_with("plt_"));
    for path in [format!("/status/{id}"), "/agents".to_owned(), format!("/usage/{}", holder.wallet())] {
        let answer = edge.get(&holder, &path).await;
        assert_eq!(answer.status, 200);
        assert!(!answer.body.to_string().contains("plt_"), "{path}");
    }
    let status = Answer::of(edge.client.get(edge.url(&format!("/status/{id}"))).bearer_auth(&token)).await;
    assert_eq!(status.code(), "missing_signature");
}

#[tokio::test]
async fn a_gateway_that_wants_bound_signatures_refuses_the_others() {
    let mut setup = Setup::default();
    setup.config.require_bound = true;
    let (edge, holder) = (setup.start().await, holder());
    let answer = Answer::of(edge.with(&bare(&holder), Method::GET, "/agents", b"")).await;
    assert_eq!((answer.status, answer.code()), (401, "unbound_signature"));
    assert_eq!(edge.get(&holder, "/agents").await.status, 200);
}

#[tokio::test]
async fn a_canary_in_the_environment_is_in_no_answer() {
    let (edge, holder) = (Edge::start().await, holder());
    let canary = "canary-4711";
    let fine = json!({"agent_type": "echo", "env": {"OPENAI_API_KEY": canary}});
    let id = edge.post(&holder, "/spawn", &fine).await;
    assert!(!id.body.to_string().contains(canary));
    let listed = edge.get(&holder, "/agents").await;
    assert!(!listed.body.to_string().contains(canary));
    for env in [json!(canary), json!({"1BAD": canary}), json!({"A": [canary]}), json!({"A": format!("{canary}\0")})] {
        let other = Keypair::generate(&[9; 32]);
        let refused = edge.post(&other, "/spawn", &json!({"agent_type": "echo", "env": env})).await;
        assert_eq!(refused.status, 400);
        assert!(!refused.body.to_string().contains(canary), "{refused:?}");
    }
}

// Beyond the old gateway's: a caller that hangs up between the two halves.
#[tokio::test]
async fn a_caller_that_hangs_up_leaves_no_half_made_agent() {
    let edge = Edge::start().await;
    let holders: Vec<Keypair> = (0..50).map(|_| holder()).collect();
    for (at, holder) in holders.iter().enumerate() {
        let headers = edge.sign(holder, "POST", "/spawn", ECHO_BODY);
        let request = format!(
            "POST /spawn HTTP/1.1\r\nHost: x\r\nX-Wallet: {}\r\nX-Signature: {}\r\nX-Timestamp: {}\r\nX-Audience: {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            headers.wallet,
            headers.signature,
            headers.timestamp,
            edge.address,
            ECHO_BODY.len()
        );
        let mut stream = TcpStream::connect(edge.address).await.unwrap();
        stream.write_all(&[request.as_bytes(), ECHO_BODY].concat()).await.unwrap();
        for _ in 0..at {
            tokio::task::yield_now().await;
        }
    }
    let deadline = tokio::time::Instant::now() + PATIENCE;
    for holder in &holders {
        // None yet is one that was never begun: the caller was gone too early.
        let settled = async || {
            let agents = edge.store.of(holder.wallet(), 10).await.unwrap();
            assert!(agents.iter().all(|agent| agent.state.is_live()), "it was given up: {agents:?}");
            agents.iter().all(|agent| agent.state == domain::State::Ready)
        };
        while !settled().await {
            assert!(tokio::time::Instant::now() < deadline, "a reservation that nobody completes");
        }
    }
}

/// Two operators. What a holder signs for one is worth nothing at the other.
#[tokio::test]
async fn fault_2_5_an_operator_cannot_replay_a_spawn_at_another() {
    let (here, there, holder) = (Edge::start().await, Edge::start().await, holder());
    let headers = here.sign(&holder, "POST", "/spawn", ECHO_BODY);
    let replayed = Answer::of(there.with(&headers, Method::POST, "/spawn", ECHO_BODY)).await;
    assert_eq!((replayed.status, replayed.code()), (401, "other_gateway"), "{replayed:?}");
    // Nor by giving it the other's name.
    let renamed = SignedHeaders { audience: Some(there.address.to_string().parse().unwrap()), ..headers.clone() };
    let replayed = Answer::of(there.with(&renamed, Method::POST, "/spawn", ECHO_BODY)).await;
    assert_eq!((replayed.status, replayed.code()), (401, "invalid_signature"));
    assert!(there.store.of(holder.wallet(), 10).await.unwrap().is_empty());
    assert_eq!(Answer::of(here.with(&headers, Method::POST, "/spawn", ECHO_BODY)).await.status, 200);
}

/// Romulus's own text opens its routes and reading, as the document says, and nothing
/// else; and not even that where the operator closed it.
#[tokio::test]
async fn fault_2_5_the_bare_text_opens_what_the_document_says_and_nothing_else() {
    let mut closed = Setup::default();
    closed.config.require_bound = true;
    let (edge, closed) = (Edge::start().await, closed.start().await);
    let document: serde_json::Value = serde_json::from_str(&gateway::openapi()).unwrap();
    let mut open = Vec::new();
    for (template, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let Some(ways) = operation["security"].as_array() else { continue };
            let by_key = |way: &serde_json::Value| {
                ["bearer", "api_key", "upload", "content"].iter().any(|name| way[name].is_array())
            };
            let ways: Vec<_> = ways.iter().filter(|way| !by_key(way)).collect();
            if ways.is_empty() {
                continue;
            }
            assert!(ways.iter().all(|way| way["wallet"].is_array()), "{template}");
            let (method, path): (Method, _) = (method.to_uppercase().parse().unwrap(), filled(template));
            let told = ways.iter().any(|way| way["audience"].is_null());
            let body = if method == Method::GET { b"" } else { ECHO_BODY };
            let answer = Answer::of(edge.with(&bare(&holder()), method.clone(), &path, body)).await;
            assert_eq!(answer.code() != "unbound_signature", told, "{method} {path}: {answer:?}");
            let answer = Answer::of(closed.with(&bare(&holder()), method.clone(), &path, body)).await;
            assert_eq!((answer.status, answer.code()), (401, "unbound_signature"), "{method} {path}");
            if told {
                open.push(format!("{method} {template}"));
            }
        }
    }
    insta::assert_json_snapshot!("opened_by_the_bare_text", open);
}

/// A path of this template, of somebody's who is not there.
fn filled(template: &str) -> String {
    template
        .replace("{id}", "a1b2c3d4-e5f6-7890")
        .replace("{wallet}", "2iXtA8oeZqUU5pofxK971TCEvFGfems2AcDRaZHKD2pQ")
        .replace("{task}", &format!("0x{}", "11".repeat(32)))
        .replace("{method}", "List")
        .replace("{name}", "work")
        .replace("{snapshot}", "1a2b3c4d5e6f7890")
}
