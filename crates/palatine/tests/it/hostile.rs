//! A tenant who is root in its guest and takes the place of `pod`: what is allowed, recorded and
//! billed is what the gateway and the node have seen.

use std::process::Stdio;
use std::time::{Duration, Instant};

use fixtures::{Holder, SMALL, SpawnedAgent, Stack, until};
use reqwest::Method;
use serde_json::{Value, json};

const BOTH: &str = "[node]\nruntimes = [\"qemu\", \"container-runc\"]\npower_off_ms = 500\n\
                    [tiers.small]\nmin = 100000\ncores = 1\nmemory = 192\nruntimes = [\"qemu\", \"container-runc\"]\n";
/// How far two clocks may differ in what they say of one bill.
const SLACK: Duration = Duration::from_millis(50);

/// What is recorded of an agent: what its guest says of it stands beside that.
async fn record(stack: &Stack, holder: &Holder, id: &str) -> Value {
    stack.status(holder, id).await.expect(200)["agent"].take()
}

async fn is_billed_and_recorded_as_before(stack: &mut Stack, runtime: &str, name: &str) {
    let (holder, asked) = (stack.holder(SMALL), Instant::now());
    let wish = json!({"agent_type": "rooted", "runtime": runtime});
    let agent = SpawnedAgent::of(&stack.ask(&holder, Method::POST, "/spawn", wish.clone()).await.expect(200));
    let (ready, before) = (Instant::now(), record(stack, &holder, &agent.id).await);
    assert_eq!(before["runtime"], name);

    // In a machine this one ends with the guest; in a container it has no luck.
    let mut usurper = stack.exec_echo(&holder, &agent.id, &["usurp", "lie"]);
    let mut usurper = usurper.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let run = before["run"].as_str().unwrap().parse().unwrap();
    let node = stack.node_client();
    if runtime == "qemu" {
        let lies = async || node.guest_metrics(run).await.ok().filter(|said| said.contains("all is well"));
        until("pod is replaced", lies).await;
    } else {
        assert!(!usurper.wait().unwrap().success(), "a container's pod is replaced");
    }
    assert_eq!(record(stack, &holder, &agent.id).await, before);
    let again = stack.ask(&holder, Method::POST, "/spawn", wish).await;
    assert_eq!((again.status.as_u16(), stack.agents(&holder).await.len()), (409, 1), "{again:?}");

    let sure = ready.elapsed();
    let uptime = stack.stop(&holder, &agent.id).await.expect(200)["uptime_ms"].as_u64().unwrap();
    let billed = Duration::from_millis(uptime);
    assert!(billed + SLACK >= sure && billed <= asked.elapsed(), "{billed:?} where it was ready for {sure:?}");
    let usage = stack.usage(&holder).await;
    assert_eq!((&usage["stats"]["total_uptime_ms"], &usage["stats"]["spawns"]), (&json!(uptime), &json!(1)));
    assert!(stack.node_client().list().await.unwrap().sandboxes.is_empty(), "it runs on");
    usurper.kill().ok();
    usurper.wait().unwrap();
}

#[tokio::test]
async fn a_hostile_root_that_takes_the_place_of_pod_changes_no_record_no_limit_and_no_bill() {
    let mut stack = Stack::start(BOTH).await;
    stack.offer_with("rooted", "user = \"1000:1000\"", "user = \"0:0\"");
    is_billed_and_recorded_as_before(&mut stack, "qemu", "qemu-tcg").await;
    is_billed_and_recorded_as_before(&mut stack, "container", "container-runc").await;
    stack.end();
}
