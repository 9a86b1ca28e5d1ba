//! What the last version left: its database, its node's records, its guests, its agents' keys and vaults. `./dev soak`
//! builds that version, of the commit in `tests/last-version`.

use std::process::Stdio;

use fixtures::{Answer, EvmChain, Holder, SMALL, SpawnedAgent, Stack, stderr_of};
use reqwest::Method;
use serde_json::{Value, json};

use crate::money::{endow, holdings, whole};

/// How often the agent was started, and how far it has counted, both on its own disk.
async fn counts(stack: &Stack, method: Method, agent: &SpawnedAgent) -> [Value; 2] {
    let counts = Answer::of(stack.request(method, agent, "/state").send().await.unwrap()).await.expect(200);
    [counts["starts"].clone(), counts["count"].clone()]
}

async fn spawns(stack: &Stack, holder: &Holder) -> Value {
    stack.usage(holder).await["stats"]["spawns"].clone()
}

#[tokio::test]
async fn soak_upgrade_takes_over_the_last_versions_guests_alive_with_all_that_its_holders_had() {
    let evm = EvmChain::start().await;
    let mut stack = Stack::prepare_last_version(&evm.sections());
    stack.start_node().await;
    stack.start_gateway().await;
    stack.until_chain_answers().await;
    let (holder, gone) = (stack.holder(SMALL), stack.holder(SMALL));
    let agent = stack.agent(&holder).await;
    assert_eq!(counts(&stack, Method::POST, &agent).await, [json!(1), json!(1)]);
    endow(&evm, &stack, &holder, &agent, whole(3)).await;
    let had = holdings(&stack, &holder, &agent).await;
    let stopped = stack.agent(&gone).await;
    stack.stop(&gone, &stopped.id).await.expect(200);

    stack.kill_gateway();
    stack.kill_node();
    stack.upgrade();
    stack.start_node().await;
    stack.start_gateway().await;
    stack.until_chain_answers().await;
    // The guest went on: by the same URL, with the same token, it has never been started again.
    assert_eq!(counts(&stack, Method::POST, &agent).await, [json!(1), json!(2)]);
    assert_eq!(stack.status(&holder, &agent.id).await.expect(200)["agent"]["state"], "ready");
    assert_eq!(holdings(&stack, &holder, &agent).await, had);
    assert_eq!((spawns(&stack, &holder).await, spawns(&stack, &gone).await), (json!(1), json!(1)));

    // It is a POD like any other now.
    stack.stop(&holder, &agent.id).await.expect(200);
    let again = stack.ask(&holder, Method::POST, "/spawn", json!({"pod": agent.id})).await.expect(200);
    let again = SpawnedAgent::of(&again);
    assert_eq!(counts(&stack, Method::GET, &again).await, [json!(2), json!(2)]);
    assert_eq!(holdings(&stack, &holder, &again).await, had);
    stack.remove(&holder, &agent.id).await.expect(200);
    assert!(stack.node_client().disks().await.unwrap().kept.is_empty());
    stack.remove(&gone, &stopped.id).await.expect(200);
    let other = stack.agent(&gone).await;
    assert_eq!(counts(&stack, Method::GET, &other).await, [json!(1), json!(0)]);

    // Who goes back by mistake is told so, and nothing is changed.
    stack.kill_gateway();
    let output = stack.last_version_gateway().stdin(Stdio::null()).output().unwrap();
    assert!(!output.status.success(), "the last version's gateway works on what a newer one wrote");
    assert!(stderr_of(&output).contains("use the newer version"), "{}", stderr_of(&output));
    stack.start_gateway().await;
    assert_eq!(counts(&stack, Method::GET, &other).await, [json!(1), json!(0)]);
    stack.end();
}
