//! `kill -9` of gateway and node at their durable writes, each by its name. A plain
//! run takes some of them; a soak takes all.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use domain::RunId;
use fixtures::{Failpoint, Holder, SMALL, Stack, until};
use reqwest::Method;
use serde_json::{Value, json};
use wire::v1::node::DataPolicy;

use crate::crash::{QUICK, assert_same, rounds, settled};

/// How often the programs are looked after while an answer is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// From so many rounds on, every point is taken.
const ALL: u32 = 20;

/// How an agent comes to its end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    /// Its owner stops it.
    Stopped,
    /// Its node is told to end it and to keep its disks; then its owner has them erased.
    Kept,
}

/// An agent's life, from its spawn. `None` when a program died on the way.
async fn live(stack: &mut Stack, holder: &Holder, life: Life) -> Option<()> {
    let agent = answered(stack, holder, Method::POST, "/spawn", json!({"agent_type": "echo"})).await?["agent"].clone();
    let id = agent["id"].as_str()?;
    if life == Life::Kept {
        set_aside(stack, id.parse().ok()?).await?;
    }
    answered(stack, holder, Method::POST, &format!("/stop/{id}"), Value::Null).await?;
    answered(stack, holder, Method::DELETE, &format!("/agents/{id}"), Value::Null).await?;
    Some(())
}

async fn set_aside(stack: &mut Stack, id: RunId) -> Option<()> {
    let node = stack.node_client();
    match node.delete(id, id.into(), Duration::ZERO, DataPolicy::Keep).await {
        Ok(gone) => return gone.kept.map(drop),
        Err(error) => eprintln!("{error}"),
    }
    until("the killed program is gone", async || stack.reap().then_some(())).await;
    None
}

/// All that this wallet has left is erased.
async fn erased(stack: &Stack, holder: &Holder) {
    for agent in stack.agents(holder).await.iter() {
        stack.remove(holder, agent["id"].as_str().unwrap()).await.expect(200);
    }
    let node = stack.node_client();
    until("no disks are kept", async || node.disks().await.ok()?.kept.is_empty().then_some(())).await;
    assert_same(&node, None).await;
}

async fn answered(stack: &mut Stack, holder: &Holder, method: Method, path: &str, body: Value) -> Option<Value> {
    let mut asked = std::pin::pin!(stack.signed(holder, method, path, &body).send());
    // The gateway waits for a node that died for as long as a spawn may take; we do not.
    let answer = loop {
        tokio::select! {
            answer = &mut asked => break answer,
            () = tokio::time::sleep(LOOK_EVERY) => if stack.reap() { return None },
        }
    };
    match answer {
        Ok(answer) if answer.status().is_success() => return answer.json().await.ok(),
        Ok(answer) => eprintln!("{path}: {} {}", answer.status(), answer.text().await.unwrap_or_default()),
        Err(error) => eprintln!("{path}: {error}"),
    }
    until("the killed program is gone", async || stack.reap().then_some(())).await;
    None
}

/// The points that a program passes in such a life.
async fn points(program: &'static str, life: Life) -> Vec<String> {
    let mut stack = Stack::prepare(QUICK);
    let list = stack.path("points");
    let seen = Failpoint { program, variable: durable::SEEN, value: list.display().to_string() };
    assert!(stack.come_up(Some(seen)).await);
    let holder = stack.holder(SMALL);
    live(&mut stack, &holder, life).await.expect("nobody is killed");
    assert_same(&stack.node_client(), None).await;
    let points: BTreeSet<_> = fs::read_to_string(list).unwrap().lines().map(str::to_owned).collect();
    stack.end();
    points.into_iter().collect()
}

/// Kills the program there; then nothing is lost, doubled or stuck.
async fn survive(program: &'static str, point: String, life: Life) {
    let mut stack = Stack::prepare(QUICK);
    let holder = stack.holder(SMALL);
    let at = Failpoint { program, variable: durable::AT, value: point.clone() };
    let mut died = !stack.come_up(Some(at)).await;
    if !died {
        died = live(&mut stack, &holder, life).await.is_none();
    }
    if !died {
        // What follows an answer may be what kills it.
        until(&format!("{program} is killed at {point}"), async || stack.reap().then_some(())).await;
    }
    assert!(stack.come_up(None).await, "{program} does not start after {point}");
    match life {
        // The gateway takes a while to know that the node has it no more.
        Life::Kept => erased(&stack, &holder).await,
        Life::Stopped => {
            if let Some(id) = settled(&stack, &holder).await {
                assert_same(&stack.node_client(), Some(id)).await;
                stack.remove(&holder, &id.to_string()).await.expect(200);
            }
        }
    }
    live(&mut stack, &holder, life).await.unwrap_or_else(|| panic!("a second life dies after {point}"));
    assert_same(&stack.node_client(), None).await;
    let (agents, usage) = (stack.agents(&holder).await, stack.usage(&holder).await);
    assert!(agents.len() <= 1, "{point}: {agents:?}");
    assert!(usage["stats"]["spawns"].as_u64().is_some_and(|spawns| spawns <= 2), "{point}: {usage}");
    stack.end();
}

async fn each(program: &'static str, needed: &[&str], life: Life) {
    let mut points = points(program, life).await;
    if life == Life::Kept {
        // The others are passed by an agent that its owner stops.
        points.retain(|point| point.starts_with("kept."));
    }
    for point in needed {
        assert!(points.iter().any(|passed| passed == point), "{program} does not pass {point}: {points:?}");
    }
    let some = if rounds() < ALL { rounds() as usize } else { points.len() };
    let stride = (points.len() / some.max(1)).max(1);
    for point in points.into_iter().step_by(stride).take(some) {
        eprintln!("{program}: {point}");
        survive(program, point, life).await;
    }
}

#[tokio::test]
async fn fault_1_4_a_node_killed_at_a_durable_write_comes_back_with_the_same_agent() {
    each("hypercore", &["node.key.written", "record.torn", "marks.kept", "disk.copied"], Life::Stopped).await;
}

#[tokio::test]
async fn fault_1_4_a_node_killed_while_disks_are_set_aside_or_erased_keeps_or_erases_them() {
    each("hypercore", &["kept.taken", "kept.erasing"], Life::Kept).await;
}

#[tokio::test]
async fn fault_1_4_a_gateway_killed_at_a_durable_write_comes_back_with_the_same_agent() {
    each("palatine", &["sealing.key.written", "reserve an agent.committing"], Life::Stopped).await;
}
