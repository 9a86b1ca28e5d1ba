//! A time to live, as holders ask for it.

use domain::UnixMillis;
use fixtures::PATIENCE;
use serde_json::{Value, json};

use crate::edge::{Answer, Edge, Setup, holder};

/// Waits for the last word of an agent's life.
async fn until_state(edge: &Edge, holder: &auth::Keypair, id: &str, state: &str) -> Value {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let agent = edge.get(holder, &format!("/status/{id}")).await.body["agent"].clone();
        if agent["state"] == state {
            return agent;
        }
        assert!(tokio::time::Instant::now() < deadline, "never {state}: {agent}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

fn left_s(answer: &Value, now: UnixMillis) -> u64 {
    UnixMillis(answer["expires_at"].as_u64().unwrap()).since(now).div_ceil(1000)
}

fn refused(answer: &Answer) -> (u16, &str, &Value) {
    (answer.status, answer.code(), &answer.body["field"])
}

#[tokio::test]
async fn a_time_to_live_is_shown_set_anew_taken_away_and_kept_over_a_restart() {
    let setup = Setup { control: control::Config { reconcile_ms: 50, ..Default::default() }, ..Setup::default() };
    let (edge, holder) = (setup.start().await, holder());
    let before = domain::Clock::now(&domain::SystemClock);
    let body = json!({"agent_type": "echo", "timeout_seconds": 900});
    let spawned = edge.post(&holder, "/spawn", &body).await;
    assert_eq!(spawned.status, 200, "{spawned:?}");
    let agent = &spawned.body["agent"];
    assert!((900..=960).contains(&left_s(agent, before)), "{agent}");
    let id = agent["id"].as_str().unwrap().to_owned();
    let path = format!("/agents/{id}/timeout");
    assert_eq!(edge.get(&holder, "/agents").await.body["agents"][0]["expires_at"], agent["expires_at"]);

    let set = edge.post(&holder, &path, &json!({"timeout_seconds": 60})).await;
    assert_eq!((set.status, &set.body["success"]), (200, &json!(true)), "{set:?}");
    assert!((60..=120).contains(&left_s(&set.body, before)), "{set:?}");
    let edge = edge.restart().await;
    let status = edge.get(&holder, &format!("/status/{id}")).await.body["agent"].clone();
    assert_eq!((&status["state"], &status["expires_at"]), (&json!("ready"), &set.body["expires_at"]));
    let endless = edge.post(&holder, &path, &json!({"timeout_seconds": null})).await;
    assert_eq!((endless.status, endless.body), (200, json!({"success": true})));
    assert!(edge.get(&holder, &format!("/status/{id}")).await.body["agent"].get("expires_at").is_none());

    assert_eq!(edge.post(&holder, &path, &json!({"timeout_seconds": 1})).await.status, 200);
    let ended = until_state(&edge, &holder, &id, "stopped").await;
    assert_eq!(ended["reason"], "expired");
    assert!(ended["data_kept_until"].is_u64() && ended.get("expires_at").is_none(), "{ended}");
    let late = edge.post(&holder, &path, &json!({"timeout_seconds": 60})).await;
    assert_eq!((late.status, late.code()), (409, "wrong_state"), "{late:?}");
    // A start has a time of its own, or none.
    let again = edge.post(&holder, "/spawn", &json!({"pod": id})).await;
    assert!(again.status == 200 && again.body["agent"].get("expires_at").is_none(), "{again:?}");
}

#[tokio::test]
async fn a_time_to_live_out_of_bounds_or_of_another_holders_agent_is_refused_and_changes_nothing() {
    let (edge, holder, other) = (Edge::start().await, holder(), holder());
    for seconds in [json!(0), json!(2_592_001), json!(u64::MAX)] {
        let body = json!({"agent_type": "echo", "timeout_seconds": seconds});
        let answer = edge.post(&holder, "/spawn", &body).await;
        assert_eq!(refused(&answer), (400, "invalid_request", &json!("timeout_seconds")), "{answer:?}");
        assert!(answer.body["error"].as_str().unwrap().contains("from 1 to 2592000"), "{answer:?}");
    }
    assert!(edge.setup.node.running().is_empty());
    let spawned = edge.post(&holder, "/spawn", &json!({"agent_type": "echo", "timeout_seconds": 500})).await;
    let id = spawned.body["agent"]["id"].as_str().unwrap().to_owned();
    let path = format!("/agents/{id}/timeout");
    for body in [json!({"timeout_seconds": 0}), json!({"timeout_seconds": 2_592_001})] {
        let answer = edge.post(&holder, &path, &body).await;
        assert_eq!(refused(&answer), (400, "invalid_request", &json!("timeout_seconds")), "{body}");
    }
    // That it is left out is no wish that there be none.
    let empty = edge.post(&holder, &path, &json!({})).await;
    assert_eq!(refused(&empty), (400, "invalid_request", &json!("timeout_seconds")), "{empty:?}");
    for body in [json!({"timeout_seconds": "15m"}), json!({"timeout_seconds": -1}), json!({"seconds": 1}), Value::Null]
    {
        assert_eq!(edge.post(&holder, &path, &body).await.code(), "invalid_request", "{body}");
    }
    let stranger = edge.post(&other, &path, &json!({"timeout_seconds": 1})).await;
    assert_eq!((stranger.status, stranger.code()), (404, "not_found"));
    let agent = edge.get(&holder, &format!("/status/{id}")).await.body["agent"].clone();
    assert_eq!((&agent["state"], &agent["expires_at"]), (&json!("ready"), &spawned.body["agent"]["expires_at"]));
}
