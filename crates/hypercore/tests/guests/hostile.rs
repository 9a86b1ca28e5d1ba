//! A tenant who is root in its guest and takes the place of `pod`: the guest is its tenant's, and
//! what the node knows, bills and ends does not depend on what it says.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use domain::{MarkKind, RunId};
use tokio::time::timeout;
use wire::v1::node::{RuntimeName, Sandbox, SandboxPhase};

use crate::machine::{self, Residue};
use crate::node::{NodeProcess, PATIENCE, id};

/// How long somebody waits for the answer of a `pod` that is no more.
const ANSWER: Duration = Duration::from_secs(15);

/// What the node says of a sandbox that the guest cannot have said: of its guest's report alone
/// nothing is made.
fn facts(sandbox: &Sandbox) -> Sandbox {
    Sandbox { guest: None, ..sandbox.clone() }
}

async fn usurp(node: &NodeProcess, run: RunId, how: &str) -> Option<String> {
    timeout(ANSWER, node.try_run(run, &["/usr/bin/agent-echo", "usurp", how])).await.ok()?
}

async fn marks(node: &NodeProcess, run: RunId) -> Vec<MarkKind> {
    let marks = node.client().marks(0, Duration::ZERO).await.unwrap().marks;
    marks.iter().filter(|mark| mark.agent == run).map(|mark| mark.mark.kind).collect()
}

const BOTH: &str =
    "runtimes = [\"qemu\", \"container-runc\"]\nbackoff_first_ms = 100\npower_off_ms = 500\nhealth_failures = 3";

/// Has an agent that is root run there.
async fn with_root(mut node: NodeProcess, runtime: RuntimeName) -> NodeProcess {
    node.configure("restarts = 3", "restarts = 100");
    node.image = machine::echo_as_root();
    node.runtime = Some(runtime);
    node.start().await;
    node.create(id(1)).await;
    assert_eq!(node.ready(id(1)).await.runtime, runtime);
    assert_eq!(node.run(id(1), &["/usr/bin/agent-echo", "tell", "user"]).await.trim(), "0");
    node
}

#[tokio::test]
async fn root_in_a_machine_that_ends_or_silences_its_pod_is_unready_and_starts_over() {
    let before = Residue::of("pltwm");
    let node = NodeProcess::plan("pltwm", 29, BOTH, "uplinks = [\"lo\"]");
    let node = with_root(node, RuntimeName::QemuTcg).await;
    let mut shown = node.ready(id(1)).await;
    for (restarts, (how, told)) in
        (1..).zip([("kill", "ended"), ("hang", "no answer"), ("noise", "no answer"), ("flood", "no answer")])
    {
        let said = node.log().len();
        usurp(&node, id(1), how).await;
        let again =
            node.until(id(1), |sandbox| sandbox.restarts == restarts && sandbox.phase == SandboxPhase::Ready).await;
        // Started over as what it was, and told as the end of its guest.
        assert_ne!(again.pid, shown.pid, "{how}");
        let wanted = Sandbox { pid: again.pid, restarts, ..facts(&shown) };
        assert_eq!(facts(&again), wanted, "{how}");
        let log = node.log();
        assert!(log[said..].contains(told), "{how} is not told: {}", &log[said..]);
        shown = again;
    }
    let kinds = marks(&node, id(1)).await;
    let paid = |kind| kinds.iter().filter(|it| **it == kind).count();
    assert_eq!((paid(MarkKind::Ready), paid(MarkKind::Unready)), (5, 4), "{kinds:?}");
    node.delete(id(1)).await;
    node.end(&before);
}

#[tokio::test]
async fn root_in_a_machine_that_answers_in_the_place_of_its_pod_is_shown_and_not_believed() {
    let before = Residue::of("pltwl");
    let node = NodeProcess::plan("pltwl", 30, BOTH, "uplinks = [\"lo\"]");
    let node = with_root(node, RuntimeName::QemuTcg).await;
    let shown = node.ready(id(1)).await;
    let taken = marks(&node, id(1)).await;
    assert_eq!(usurp(&node, id(1), "lie").await, None, "pod still answers");
    // Who asks it gets its own words.
    let lies = node.client().guest_metrics(id(1)).await.unwrap();
    assert!(lies.contains("all is well"), "{lies}");
    let heard = |sandbox: &Sandbox| sandbox.guest.as_ref().is_some_and(|guest| guest.exits == 4_000_000_000);
    let liar = node.until(id(1), heard).await;
    assert_eq!(facts(&liar), facts(&shown));
    let said = serde_json::to_string(&liar.guest).unwrap();
    assert!(said.contains("all is well") && !said.contains("u001b"), "{said}");
    assert_eq!(marks(&node, id(1)).await, taken, "a guest has written marks");
    let info = node.client().info().await.unwrap();
    assert_eq!((info.sandboxes, info.runtime), (1, RuntimeName::QemuTcg));

    // It says that it ends, and does not: its node ends it.
    timeout(PATIENCE, node.delete(id(1))).await.expect("it is ended all the same");
    let mut ended = taken;
    ended.extend([MarkKind::Unready, MarkKind::Gone]);
    assert_eq!(marks(&node, id(1)).await, ended);
    node.end(&before);
}

#[tokio::test]
async fn root_in_a_container_cannot_touch_its_pod_but_ask_it_to_end() {
    let before = Residue::of("pltwc");
    let node = NodeProcess::plan("pltwc", 31, BOTH, "uplinks = [\"lo\"]");
    let node = with_root(node, RuntimeName::ContainerRunc).await;
    let shown = node.ready(id(1)).await;
    for how in ["kill", "hang", "file", "lie", "flood", "noise"] {
        let said = usurp(&node, id(1), how).await.expect("pod answers as before");
        assert!(said.contains("process 1 is what it was"), "{how}: {said}");
    }
    // A first process hears of no signal from inside that would end or stop it.
    for signal in ["9", "19", "11"] {
        node.run(id(1), &["/usr/bin/agent-echo", "signal", "1", signal]).await;
    }
    assert_eq!(facts(&node.ready(id(1)).await), facts(&shown));
    assert_eq!(node.run(id(1), &["/usr/bin/agent-echo", "tell", "user"]).await.trim(), "0");

    let said = node.log().len();
    timeout(ANSWER, node.try_run(id(1), &["/usr/bin/agent-echo", "signal", "1", "15"])).await.ok();
    let again = node.until(id(1), |sandbox| sandbox.restarts == 1 && sandbox.phase == SandboxPhase::Ready).await;
    assert_eq!(facts(&again), Sandbox { pid: again.pid, restarts: 1, ..facts(&shown) });
    assert!(node.log()[said..].contains("ended"), "its end is not told: {}", &node.log()[said..]);
    let kinds = marks(&node, id(1)).await;
    assert_eq!(kinds.iter().filter(|kind| **kind == MarkKind::Unready).count(), 1, "{kinds:?}");
    node.delete(id(1)).await;
    node.end(&before);
}
