//! A volume outlives the agents that have it, one at a time, and what is on it is looked at in
//! guests alone.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use fixtures::{Holder, SMALL, Stack, stdout_of, until};
use reqwest::Method;
use serde_json::{Value, json};

/// Three tries of a guest that cannot come up, and no long pauses between them.
const HASTY: &str = "[node]\nrestarts = 2\nbackoff_first_ms = 100\nbackoff_longest_ms = 200\n";

/// What a command of the CLI prints as JSON; it must go well.
fn cli(stack: &Stack, holder: &Holder, words: &[&str]) -> Value {
    let output = stack.cli(holder, &[words, &["--json"]].concat()).output().unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
    serde_json::from_str(&stdout_of(&output)).unwrap_or(Value::Null)
}

fn spawn(stack: &Stack, holder: &Holder) -> String {
    let spawned = cli(stack, holder, &["spawn", "-t", "echo", "--volume", "work:/workspace"]);
    spawned["agent"]["id"].as_str().unwrap().to_owned()
}

/// Copies a file out of an agent's volume.
fn read(stack: &Stack, holder: &Holder, id: &str) -> Vec<u8> {
    let copy = stack.path("copy");
    std::fs::remove_file(&copy).ok();
    cli(stack, holder, &["cp", &format!("{id}:/workspace/written"), copy.to_str().unwrap()]);
    std::fs::read(copy).unwrap()
}

fn disk_of(stack: &Stack, volume: &Value) -> PathBuf {
    stack.path("node").join("volumes").join(format!("{}.ext4", volume["volumeID"].as_str().unwrap()))
}

#[tokio::test]
async fn a_volume_goes_from_one_agent_to_the_next_with_all_that_is_on_it() {
    needs::needs!(root, network, tun, cgroups);
    let mut stack = Stack::start(HASTY).await;
    let holder = stack.holder(SMALL);
    let huge = stack.cli(&holder, &["volume", "create", "huge", "--size", "9000G"]).output().unwrap();
    assert!(!huge.status.success(), "{huge:?}");
    let volume = cli(&stack, &holder, &["volume", "create", "work", "--size", "128M"]);
    let first = spawn(&stack, &holder);
    let written: Vec<u8> =
        (0..3_000_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).take(3 << 20).collect();
    std::fs::write(stack.path("written"), &written).unwrap();
    cli(&stack, &holder, &["cp", stack.path("written").to_str().unwrap(), &format!("{first}:/workspace/written")]);

    // It is attached: nobody else gets it, and nobody removes it.
    let shown = cli(&stack, &holder, &["volume", "show", "work"]);
    assert_eq!(shown["attached"], json!({"agent_id": first, "path": "/workspace"}));
    until("the guest has written it to the disk", async || {
        let shown = cli(&stack, &holder, &["volume", "show", "work"]);
        (shown["bytes"].as_u64() >= Some(3 << 20)).then_some(())
    })
    .await;
    let removed = stack.cli(&holder, &["volume", "rm", "work"]).output().unwrap();
    assert!(!removed.status.success() && fixtures::stderr_of(&removed).contains(&first), "{removed:?}");

    // A stop and a start, and a VMM that dies with a journal to be replayed.
    stack.stop(&holder, &first).await.expect(200);
    cli(&stack, &holder, &["start", &first]);
    let run = stack.status(&holder, &first).await.expect(200)["agent"]["run"].as_str().unwrap().parse().unwrap();
    let before = stack.node_client().get(run).await.unwrap().unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(before.pid.unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    until("the agent is ready again", async || {
        let sandbox = stack.node_client().get(run).await.ok()??;
        (sandbox.restarts == 1 && sandbox.phase == wire::v1::node::SandboxPhase::Ready).then_some(())
    })
    .await;
    assert!(read(&stack, &holder, &first) == written);

    // The agent is removed, its volume is not; the next has it.
    stack.remove(&holder, &first).await.expect(200);
    cli(&stack, &holder, &["volume", "resize", "work", "--size", "256M"]);
    let second = spawn(&stack, &holder);
    assert!(read(&stack, &holder, &second) == written);
    // The room that it was grown by is the agent's: a file goes up in pieces, which become one.
    let large = stack.path("large");
    File::create(&large).unwrap().set_len(100 << 20).unwrap();
    cli(&stack, &holder, &["cp", large.to_str().unwrap(), &format!("{second}:/workspace/large")]);
    stack.remove(&holder, &second).await.expect(200);

    // A file system that cannot be repaired is left as it is, and its agent is not started without.
    let disk = OpenOptions::new().read(true).write(true).open(disk_of(&stack, &volume)).unwrap();
    let mut head = vec![0; 64 * 1024];
    disk.read_exact_at(&mut head, 0).unwrap();
    disk.write_all_at(&vec![0; 64 * 1024], 0).unwrap();
    let request = json!({"agent_type": "echo", "volumes": [{"name": "work", "path": "/workspace"}]});
    let refused = stack.ask(&holder, Method::POST, "/spawn", request).await;
    assert!(matches!(refused.status.as_u16(), 502 | 504), "{refused:?}");
    let why = refused.body["guest"]["last_exit"]["how"].as_str().unwrap_or_default();
    assert!(why.contains("the volume work cannot be mounted at /workspace"), "{refused:?}");
    let mut now = vec![1; 64 * 1024];
    disk.read_exact_at(&mut now, 0).unwrap();
    assert!(now.iter().all(|byte| *byte == 0), "nobody has made it anew");
    disk.write_all_at(&head, 0).unwrap();
    let third = spawn(&stack, &holder);
    assert!(read(&stack, &holder, &third) == written);

    stack.remove(&holder, &third).await.expect(200);
    cli(&stack, &holder, &["volume", "rm", "work"]);
    assert_eq!(cli(&stack, &holder, &["volume", "ls"]), json!([]));
    assert!(!disk_of(&stack, &volume).exists());
    assert!(stack.node_client().volumes().await.unwrap().volumes.is_empty());
    stack.end();
}

#[tokio::test]
async fn a_stopped_agent_is_given_a_volume_which_is_copied_and_put_back_and_metered() {
    needs::needs!(root, network, tun, cgroups);
    let mut stack = Stack::start(HASTY).await;
    let holder = stack.holder(SMALL);
    let volume = cli(&stack, &holder, &["volume", "create", "work", "--size", "64M"]);
    let spawned = cli(&stack, &holder, &["spawn", "-t", "echo"]);
    let id = spawned["agent"]["id"].as_str().unwrap().to_owned();
    let live = stack.cli(&holder, &["volume", "attach", "work:/workspace", &id]).output().unwrap();
    assert!(!live.status.success() && fixtures::stderr_of(&live).contains("stop it first"), "{live:?}");
    stack.stop(&holder, &id).await.expect(200);
    let has = cli(&stack, &holder, &["volume", "attach", "work:/workspace", &id]);
    assert_eq!((&has[0]["name"], &has[0]["volumeID"]), (&json!("work"), &volume["volumeID"]));
    let put = |text: &str| {
        std::fs::write(stack.path("written"), text).unwrap();
        cli(&stack, &holder, &["cp", stack.path("written").to_str().unwrap(), &format!("{id}:/workspace/written")]);
    };
    cli(&stack, &holder, &["start", &id]);
    put("first");
    // While its agent has it, it is not copied.
    let busy = stack.cli(&holder, &["volume", "snapshot", "work"]).output().unwrap();
    assert!(!busy.status.success() && fixtures::stderr_of(&busy).contains(&id), "{busy:?}");
    stack.stop(&holder, &id).await.expect(200);
    let snapshot = cli(&stack, &holder, &["volume", "snapshot", "work"]);
    assert_eq!(snapshot["state"], "ready", "{snapshot}");
    let name = snapshot["snapshotID"].as_str().unwrap();
    cli(&stack, &holder, &["start", &id]);
    put("second");
    assert_eq!(read(&stack, &holder, &id), b"second");
    stack.stop(&holder, &id).await.expect(200);
    cli(&stack, &holder, &["volume", "restore", "work", name]);
    cli(&stack, &holder, &["start", &id]);
    assert_eq!(read(&stack, &holder, &id), b"first");
    stack.stop(&holder, &id).await.expect(200);
    cli(&stack, &holder, &["volume", "detach", "work", &id]);
    until("the volume is on the bill", async || {
        let used = cli(&stack, &holder, &["usage"]);
        (used["stats"]["disk_byte_hours"].as_u64() > Some(0)).then_some(())
    })
    .await;
    cli(&stack, &holder, &["volume", "rm-snapshot", "work", name]);
    stack.remove(&holder, &id).await.expect(200);
    cli(&stack, &holder, &["volume", "rm", "work"]);
    assert!(stack.node_client().snapshots().await.unwrap().snapshots.is_empty());
    // What was erased is not paid for any more.
    let used = || cli(&stack, &holder, &["usage"])["stats"]["disk_byte_hours"].clone();
    let at_the_end = used();
    assert_eq!(used(), at_the_end);
    stack.end();
}
