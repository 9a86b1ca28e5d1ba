//! Agents as others make them: how they listen, as whom they run, how they end.

use fixtures::{Answer, LARGE, PLAIN, SMALL, SpawnedAgent, Stack, stdout_of, until};
use reqwest::Method;
use serde_json::json;

#[tokio::test]
async fn an_agent_that_listens_on_127_0_0_1_or_1_alone_answers_as_any_other() {
    let mut stack = Stack::start(PLAIN).await;
    for host in ["127.0.0.1", "::1"] {
        let holder = stack.holder(SMALL);
        let request = json!({"agent_type": "echo", "env": {"HOST": host}});
        let agent = SpawnedAgent::of(&stack.ask(&holder, Method::POST, "/spawn", request).await.expect(200));
        let said = Answer::of(stack.chat(&agent, "are you there?").send().await.unwrap()).await.expect(200);
        assert!(said["choices"][0]["message"]["content"].as_str().unwrap().contains("are you there?"), "{said}");
    }
    stack.end();
}

#[tokio::test]
async fn an_image_whose_user_is_root_or_nobody_runs_as_its_guests_root_and_gains_nothing_outside() {
    let mut stack = Stack::start(PLAIN).await;
    stack.offer_with("rooted", "user = \"1000:1000\"", "user = \"root\"");
    stack.offer_with("nobodys", "user = \"1000:1000\"", "");
    for image in ["rooted", "nobodys"] {
        let holder = stack.holder(LARGE);
        let request = json!({"agent_type": image});
        let agent = SpawnedAgent::of(&stack.ask(&holder, Method::POST, "/spawn", request).await.expect(200));
        let inside = |words: &[&str]| stack.exec_echo(&holder, &agent.id, words).output().unwrap();
        assert_eq!(stdout_of(&inside(&["tell", "user"])).trim(), "0");
        // The node's end of its link, and what a cloud keeps at its door.
        let probed = inside(&["probe", "tcp", "10.200.0.1:49983", "169.254.169.254:80", "10.200.0.1:22"]);
        assert_eq!(probed.status.code(), Some(0), "{probed:?}");
        // PID 1 is the node's way in: no signal from inside ends it.
        for signal in ["9", "15", "19"] {
            assert_eq!(inside(&["signal", "1", signal]).status.code(), Some(0));
        }
        let said = Answer::of(stack.chat(&agent, "still there?").send().await.unwrap()).await;
        assert_eq!(said.status, 200, "{said:?}");
        let stopped = stack.stop(&holder, &agent.id).await.expect(200);
        assert_eq!(stopped["state"], "stopped");
        let usage = stack.usage(&holder).await;
        assert_eq!(usage["stats"]["total_uptime_ms"], stopped["uptime_ms"]);
    }
    stack.end();
}

#[tokio::test]
async fn a_guests_programs_find_their_own_streams_in_dev() {
    let mut stack = Stack::start(PLAIN).await;
    let holder = stack.holder(SMALL);
    let id = stack.agent(&holder).await.id;
    for name in ["fd", "stdin", "stdout", "stderr"] {
        let told = stack.exec_echo(&holder, &id, &["tell", "open", &format!("/dev/{name}")]).output().unwrap();
        assert_eq!(stdout_of(&told).trim(), "opened", "/dev/{name}");
    }
    stack.end();
}

#[tokio::test]
async fn an_agent_that_dies_again_and_again_shows_how_and_what_it_wrote_before_it_is_given_up() {
    let mut stack = Stack::start(PLAIN).await;
    let (holder, other) = (stack.holder(SMALL), stack.holder(SMALL));
    let request = json!({"agent_type": "echo", "env": {"PORT": "none"}});
    let begun = stack.ask(&holder, Method::POST, "/spawn?wait=false", request.clone()).await.expect(202);
    let id = SpawnedAgent::of(&begun).id;
    let guest = until("its ends are told", async || {
        let guest = stack.status(&holder, &id).await.expect(200)["guest"].clone();
        (guest["exits"].as_u64() >= Some(2) && guest["last_lines"].is_array()).then_some(guest)
    })
    .await;
    assert_eq!(guest["last_exit"]["how"], "exit status 1", "{guest}");
    assert!(guest["last_lines"].to_string().contains("PORT is no port"), "{guest}");
    let told = stdout_of(&stack.cli(&holder, &["status", &id]).output().unwrap());
    assert!(told.contains("exit status 1") && told.contains("PORT is no port"), "{told}");
    stack.stop(&holder, &id).await.expect(200);
    // Who waits for it is told the same with the refusal.
    let refused = stack.ask(&other, Method::POST, "/spawn", request).await;
    assert!(matches!(refused.status.as_u16(), 502 | 504), "{refused:?}");
    assert_eq!(refused.body["guest"]["last_exit"]["how"], "exit status 1", "{refused:?}");
    stack.end();
}
