//! What a stack leaves on the machine: nothing.

use std::process::Command;
use std::time::{Duration, Instant};

use fixtures::{LocalStack, MachineInventory, PLAIN, SMALL, SpawnedAgent, Stack};
use reqwest::Method;
use serde_json::{Value, json};

/// How long an `up` may take that finds kernel and image made.
const QUICK: Duration = Duration::from_secs(5);

fn rounds() -> u32 {
    std::env::var("PALATINE_ROUNDS").map_or(3, |rounds| rounds.parse().unwrap())
}

#[tokio::test]
async fn spawns_and_removals_leave_the_host_as_it_was() {
    needs::needs!(root, network, tun, cgroups);
    let untouched = MachineInventory::take();
    let mut stack = Stack::start(PLAIN).await;
    let holder = stack.holder(SMALL);
    // The first agent brings what the node keeps while it runs, such as its rules.
    let mut idle = None;
    for round in 0..=rounds() {
        // An agent that is to leave nothing is removed by its stop.
        let ephemeral = round % 2 == 1;
        let request = json!({"agent_type": "echo", "ephemeral": ephemeral});
        let id = SpawnedAgent::of(&stack.ask(&holder, Method::POST, "/spawn", request).await.expect(200)).id;
        let running = untouched.changes(&MachineInventory::take()).join("\n");
        for kind in ["process", "link", "namespace", "rules", "cgroup"] {
            assert!(running.contains(&format!("+ {kind}: ")), "a {kind} of a running agent is not seen: {running}");
        }
        let ended = if ephemeral { stack.stop(&holder, &id).await } else { stack.remove(&holder, &id).await };
        assert_eq!(ended.expect(200)["data_kept_until"], Value::Null);
        assert!(stack.agents(&holder).await.is_empty());
        match &idle {
            None => idle = Some((MachineInventory::take(), files(&stack))),
            Some((machine, there)) => {
                machine.comes_back();
                assert_eq!(&files(&stack), there);
            }
        }
    }
    stack.end();
    untouched.comes_back();
}

/// The files of the node, without those that are written all the time.
fn files(stack: &Stack) -> Vec<String> {
    let output = Command::new("find").arg(stack.path("node")).args(["-mindepth", "1"]).output().unwrap();
    let mut files: Vec<_> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    files.sort();
    files
}

/// Brings it up, and says how long that took.
fn timed_up(stack: &LocalStack) -> Duration {
    let since = Instant::now();
    stack.up(&["--no-agent"]);
    since.elapsed()
}

#[tokio::test]
async fn up_and_down_leave_nothing_and_the_second_up_is_quick() {
    needs::needs!(root, network, tun, cgroups);
    let untouched = MachineInventory::take();
    let stack = LocalStack::new();
    timed_up(&stack);
    let status = stack.status().unwrap();
    assert_eq!(status["gateway"], format!("http://{}", stack.listen));
    assert!(status["holder_keypair"].as_str().unwrap().ends_with("holder.json"));
    stack.live();
    stack.down();
    untouched.comes_back();

    let took = timed_up(&stack);
    assert!(took < QUICK, "the second up took {took:?}");
    // An agent that is left running goes down with the stack, and comes back with it.
    assert!(stack.answers(&stack.spawn("echo")));
    stack.down();
    untouched.comes_back();
    stack.up(&["--no-agent"]);
    let agents = stack.json(&["ls"]);
    assert!(agents["agents"][0]["state"] == "ready" || agents["agents"][0]["state"] == "booting", "{agents}");
    stack.down();
    untouched.comes_back();
}
