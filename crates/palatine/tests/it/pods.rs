//! A POD lasts: what a stop keeps, what a start finds, what a removal leaves.

use fixtures::{Answer, Holder, PLAIN, SMALL, SpawnedAgent, Stack};
use reqwest::Method;
use serde_json::{Value, json};

async fn spawn(stack: &Stack, holder: &Holder, request: Value) -> Answer {
    stack.ask(holder, Method::POST, "/spawn", request).await
}

/// What the agent counts in its state directory, which is its POD's data.
async fn counts(stack: &Stack, method: Method, agent: &SpawnedAgent) -> (u64, u64) {
    let counts = Answer::of(stack.request(method, agent, "/state").send().await.unwrap()).await.expect(200);
    (counts["starts"].as_u64().unwrap(), counts["count"].as_u64().unwrap())
}

#[tokio::test]
async fn an_agent_that_is_stopped_and_started_has_its_id_url_prices_history_and_data() {
    needs::needs!(root, network, tun, cgroups);
    let mut stack = Stack::start(PLAIN).await;
    let (holder, other) = (stack.holder(SMALL), stack.holder(SMALL));
    let first = spawn(&stack, &holder, json!({"agent_type": "echo", "name": "agent-123", "public": true})).await;
    let first = SpawnedAgent::of(&first.expect(200));
    assert_eq!(first.id, "agent-123");
    assert!(first.text("url").starts_with("http://agent-123."), "{}", first.json);
    assert_eq!(counts(&stack, Method::POST, &first).await, (1, 1));

    let stopped = stack.stop(&holder, &first.id).await.expect(200);
    assert!(stopped["data_kept_until"].is_u64() && stopped["data_bytes"].as_u64() > Some(0), "{stopped}");
    let rests = stack.status(&holder, &first.id).await.expect(200)["agent"].clone();
    assert_eq!((&rests["state"], &rests["data_kept_until"]), (&json!("stopped"), &stopped["data_kept_until"]));
    // Nobody else may start it, have its id, or learn whether it is there.
    assert_eq!(spawn(&stack, &other, json!({"pod": "agent-123"})).await.expect(404)["code"], "not_found");
    let taken = spawn(&stack, &other, json!({"agent_type": "echo", "name": "agent-123"})).await.expect(409);
    assert_eq!((&taken["code"], &taken["field"]), (&json!("id_taken"), &json!("name")));

    let second = SpawnedAgent::of(&spawn(&stack, &holder, json!({"pod": "agent-123"})).await.expect(200));
    assert_eq!((second.text("id"), second.text("url")), (first.text("id"), first.text("url")));
    assert_eq!((&second.json["public"], &second.json["created_at"]), (&json!(true), &first.json["created_at"]));
    assert_ne!((second.text("run"), second.text("token")), (first.text("run"), first.text("token")));
    assert_eq!(counts(&stack, Method::POST, &second).await, (2, 2));
    let said = Answer::of(stack.chat(&second, "are you there?").send().await.unwrap()).await;
    assert_eq!(said.status, 200, "{said:?}");

    // A node that starts anew, and a gateway too, know it as it was.
    stack.kill_node();
    stack.kill_gateway();
    stack.start_node().await;
    stack.start_gateway().await;
    assert_eq!(counts(&stack, Method::GET, &second).await, (2, 2));
    stack.remove(&holder, "agent-123").await.expect(200);
    assert!(stack.agents(&holder).await.is_empty());
    assert!(stack.node_client().disks().await.unwrap().kept.is_empty());
    assert_eq!(stack.usage(&holder).await["stats"]["spawns"], 2);
    // The id stays its holder's: with nothing of what was there before.
    assert_eq!(spawn(&stack, &other, json!({"agent_type": "echo", "name": "agent-123"})).await.status, 409);
    let anew = spawn(&stack, &holder, json!({"agent_type": "echo", "name": "agent-123"})).await.expect(200);
    assert_eq!(counts(&stack, Method::GET, &SpawnedAgent::of(&anew)).await, (1, 0));
    stack.end();
}

#[tokio::test]
async fn names_that_are_no_labels_or_the_gateways_own_are_refused_and_spend_no_slot() {
    let mut stack = Stack::start(PLAIN).await;
    let holder = stack.holder(SMALL);
    for name in ["", "-a", "A", "a.b", "8080-x", "a1b2c3d4-e5f6-7890", "xn--a", "api", "www", &"x".repeat(58)] {
        let refused = spawn(&stack, &holder, json!({"agent_type": "echo", "name": name})).await.expect(400);
        assert_eq!((&refused["code"], &refused["field"]), (&json!("invalid_request"), &json!("name")), "{name}");
    }
    let both = spawn(&stack, &holder, json!({"pod": "agent-1", "name": "agent-2"})).await.expect(400);
    assert_eq!(both["field"], "name");
    let neither = spawn(&stack, &holder, json!({})).await.expect(400);
    assert_eq!(neither["field"], "agent_type");
    assert!(stack.agents(&holder).await.is_empty());
    stack.end();
}

#[tokio::test]
async fn the_token_of_a_run_that_is_over_opens_no_later_one() {
    needs::needs!(root, network, tun, cgroups);
    let mut stack = Stack::start(PLAIN).await;
    let holder = stack.holder(SMALL);
    let first = stack.agent(&holder).await;
    stack.stop(&holder, &first.id).await.expect(200);
    let second = SpawnedAgent::of(&spawn(&stack, &holder, json!({"pod": first.id})).await.expect(200));
    let ask =
        async |agent: &SpawnedAgent| Answer::of(stack.chat(agent, "hello").send().await.unwrap()).await.status.as_u16();
    assert_eq!((ask(&first).await, ask(&second).await), (401, 200));
    stack.end();
}
