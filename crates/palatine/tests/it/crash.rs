//! Programs that die at any instant. Each scenario runs `PALATINE_ROUNDS` times
//! (2 if unset) with random timing; `./dev soak` runs twenty.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use client::NodeClient;
use domain::RunId;
use fixtures::{Holder, SMALL, SpawnedAgent, Stack, until};
use reqwest::{Method, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use wire::v1::node::Sandbox;

/// Quick restarts and reconciling, so that a round takes seconds.
pub(crate) const QUICK: &str =
    "[control]\nreconcile_ms = 500\n[node]\nbackoff_first_ms = 100\nbackoff_longest_ms = 400\nrestarts = 50\n";

pub(crate) fn rounds() -> u32 {
    std::env::var("PALATINE_ROUNDS").map_or(2, |rounds| rounds.parse().unwrap())
}

pub(crate) fn random_below(limit: Duration) -> Duration {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).unwrap();
    limit.mul_f64(f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX))
}

/// A running agent of a test, with the instants that bound its bill.
struct Running {
    holder: Holder,
    agent: SpawnedAgent,
    asked: Instant,
    ready: Instant,
}

impl Running {
    async fn spawn(stack: &mut Stack) -> Self {
        let holder = stack.holder(SMALL);
        let asked = Instant::now();
        let agent = stack.agent(&holder).await;
        Self { holder, agent, asked, ready: Instant::now() }
    }

    fn id(&self) -> &str {
        &self.agent.id
    }

    async fn answers(&self, stack: &Stack) -> bool {
        let answer = stack.request(Method::GET, &self.agent, "/health").send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    /// Stops it; the bill must lie between the shortest and the longest time it
    /// can have been ready, less `down`.
    async fn stop(self, stack: &Stack, down: Duration) -> u64 {
        let sure = self.ready.elapsed().saturating_sub(down);
        let uptime = stack.stop(&self.holder, self.id()).await.expect(200)["uptime_ms"].as_u64().unwrap();
        let most = self.asked.elapsed();
        let billed = Duration::from_millis(uptime);
        assert!(
            billed + Duration::from_millis(50) >= sure && billed <= most,
            "{billed:?} is not in {sure:?}..{most:?}"
        );
        let usage = stack.usage(&self.holder).await;
        assert_eq!(usage["stats"]["total_uptime_ms"], uptime);
        assert_eq!(usage["stats"]["spawns"], 1);
        uptime
    }
}

async fn sandboxes(node: &NodeClient) -> Vec<Sandbox> {
    node.list().await.unwrap().sandboxes
}

#[tokio::test]
async fn a_killed_daemon_comes_back_to_the_same_guests() {
    let mut stack = Stack::start(QUICK).await;
    let mut guests = Vec::new();
    for _ in 0..3 {
        guests.push(Running::spawn(&mut stack).await);
    }
    let node = stack.node_client();
    let before = sandboxes(&node).await;
    for _ in 0..rounds() {
        tokio::time::sleep(random_below(Duration::from_millis(1500))).await;
        stack.kill_node();
        tokio::time::sleep(random_below(Duration::from_millis(800))).await;
        stack.start_node().await;
        for guest in &guests {
            until("the guest answers through the new daemon", async || guest.answers(&stack).await.then_some(())).await;
        }
        assert_eq!(sandboxes(&node).await, before, "an id, a process or a restart count changed");
    }
    for guest in guests {
        guest.stop(&stack, Duration::ZERO).await;
    }
    assert!(sandboxes(&node).await.is_empty());
    stack.end();
}

#[tokio::test]
async fn a_guest_that_dies_is_started_again_under_its_id_and_url_and_not_billed_meanwhile() {
    let mut stack = Stack::start(QUICK).await;
    let guest = Running::spawn(&mut stack).await;
    let node = stack.node_client();
    let mut down = Duration::ZERO;
    for round in 1..=rounds() {
        tokio::time::sleep(random_below(Duration::from_millis(1500))).await;
        let pid = sandboxes(&node).await[0].pid.unwrap();
        let died = Instant::now();
        kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL).unwrap();
        let status = until("the guest is ready again", async || {
            let status = stack.status(&guest.holder, guest.id()).await.expect(200);
            (status["agent"]["restarts"] == round && status["agent"]["state"] == "ready").then_some(status)
        })
        .await;
        assert_eq!(
            (&status["agent"]["id"], &status["agent"]["url"]),
            (&guest.agent.json["id"], &guest.agent.json["url"])
        );
        assert!(guest.answers(&stack).await);
        down += died.elapsed();
    }
    let whole = guest.asked.elapsed();
    let uptime = guest.stop(&stack, down).await;
    // Each restart boots for a second at least, and none of that is billed.
    let billed = Duration::from_millis(uptime);
    assert!(billed + Duration::from_secs(1) * rounds() <= whole, "{billed:?} of {whole:?}");
    stack.end();
}

#[tokio::test]
async fn a_guest_that_keeps_dying_fails_with_the_reason_and_frees_its_wallet() {
    let strict = "[control]\nreconcile_ms = 500\n[node]\nbackoff_first_ms = 50\nrestarts = 1\n";
    let mut stack = Stack::start(strict).await;
    let guest = Running::spawn(&mut stack).await;
    let node = stack.node_client();
    let status = until("the agent has failed", async || {
        if let Some(pid) = sandboxes(&node).await.first().and_then(|sandbox| sandbox.pid) {
            kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL).ok();
        }
        let status = stack.status(&guest.holder, guest.id()).await.expect(200);
        (status["agent"]["state"] == "failed").then_some(status)
    })
    .await;
    assert_eq!(status["agent"]["reason"], "crash_loop");
    assert!(sandboxes(&node).await.is_empty());
    stack.spawn(&guest.holder).await.expect(200);
    stack.end();
}

#[tokio::test]
async fn a_gateway_killed_in_the_middle_of_a_spawn_leaves_a_ready_agent_or_a_free_wallet() {
    let mut stack = Stack::start(QUICK).await;
    let node = stack.node_client();
    for _ in 0..rounds() {
        let holder = stack.holder(SMALL);
        let request = stack.signed(&holder, Method::POST, "/spawn", &json!({"agent_type": "echo"}));
        let spawn = tokio::spawn(request.send());
        tokio::time::sleep(random_below(Duration::from_secs(4))).await;
        stack.kill_gateway();
        let answered = spawn.await.unwrap().is_ok_and(|answer| answer.status() == StatusCode::OK);
        stack.start_gateway().await;
        let live = settled(&stack, &holder).await;
        assert!(live.is_some() || !answered, "an agent that was promised is gone");
        assert_same(&node, live).await;
        match live {
            Some(id) => stack.stop(&holder, &id.to_string()).await.expect(200),
            None => stack.spawn(&holder).await.expect(200),
        };
        if live.is_none() {
            let id = settled(&stack, &holder).await.unwrap();
            stack.stop(&holder, &id.to_string()).await.expect(200);
        }
        assert_same(&node, None).await;
    }
    stack.end();
}

/// Waits until the wallet's agents are ready or over; the live one, if any.
pub(crate) async fn settled(stack: &Stack, holder: &Holder) -> Option<RunId> {
    until("the wallet's agent is ready or gone", async || {
        let agents = stack.agents(holder).await;
        let live: Vec<_> =
            agents.iter().filter(|agent| agent["state"] != "stopped" && agent["state"] != "failed").collect();
        match live.as_slice() {
            [] => Some(None),
            [agent] if agent["state"] == "ready" => Some(Some(agent["id"].as_str().unwrap().parse().unwrap())),
            [_] => None,
            more => panic!("more than one live agent: {more:?}"),
        }
    })
    .await
}

/// Waits until the node runs these agents and no others.
pub(crate) async fn assert_same(node: &NodeClient, live: Option<RunId>) {
    let live: BTreeSet<RunId> = live.into_iter().collect();
    until("the node runs what the gateway knows, and nothing else", async || {
        let there: BTreeSet<RunId> = sandboxes(node).await.iter().map(|sandbox| sandbox.id).collect();
        (there == live).then_some(())
    })
    .await;
}
